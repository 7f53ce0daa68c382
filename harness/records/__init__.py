"""What is written down: the types, reading, comparing; no torch."""
