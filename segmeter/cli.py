"""The command line as ``segmeter.cli``, wherever segmeter is installed; the checkout's ``cli.py`` runs it."""

from segmeter.commands.main import app, main

__all__ = ["app", "main"]
