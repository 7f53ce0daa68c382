"""Did it become dearer? Budgets, snapshots, changes, baselines."""
