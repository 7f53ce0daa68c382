"""The papers' tables as tidy data."""
