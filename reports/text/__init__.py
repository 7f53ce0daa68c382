"""Records as text: terminal, Markdown, CSV, CI; one file for each record."""
