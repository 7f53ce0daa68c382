"""Anybody's comparison tables: arithmetic, comparability, physics and measurement, one module for each."""
