"""``python cli.py COMMAND``: the command line of a checkout; see :mod:`commands.main`."""

from segmeter.commands.main import main

if __name__ == "__main__":
    main()
