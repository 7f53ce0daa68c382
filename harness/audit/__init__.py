"""Is the printed figure true? Cells, percentages, speeds, findings, the paper's tables."""
