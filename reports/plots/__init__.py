"""Records as figures; one file for each kind."""
