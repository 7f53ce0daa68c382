"""What does it take in time, memory, energy? One measurement, or a sweep of them."""
