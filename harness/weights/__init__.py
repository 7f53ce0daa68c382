"""Checkpoint files, read without running code, into models."""
