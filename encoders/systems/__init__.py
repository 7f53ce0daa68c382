"""Whole models: a file and a line of the table for each."""
