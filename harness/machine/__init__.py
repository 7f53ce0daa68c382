"""Where a measurement runs: environment, memory, energy, who else computes."""
