"""What does a model cost, and where? The counter, formulas, conventions, cost by size and on photos."""
