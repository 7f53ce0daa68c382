"""Reducers of tokens: a file and a line of the table for each."""
