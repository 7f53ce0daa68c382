"""The papers' figures as data, and the systems' names; no torch."""
