"""``python -m segmeter COMMAND``."""

from segmeter.commands.main import main

main()
