"""From records to tables, plots and text. Nothing here imports torch or runs a model."""
