"""Records as one page."""
