"""A command that has commands of its own, such as ``segmeter op``."""

from typing import Any

from typer.core import TyperGroup


class CommandGroup(TyperGroup):
    """The list of commands in its help says each sentence to its end."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section."""
        rows = [(name, c.get_short_help_str(200)) for name, c in self.commands.items() if not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
