"""The command line of segmeter: ``segmeter COMMAND``, also ``python cli.py COMMAND``."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from segmeter.commands import (
    audit,
    card,
    count,
    evaluate,
    export,
    gate,
    miou,
    op,
    paper,
    plot,
    profile,
    report,
    results,
    sweep,
    tokens,
)
from segmeter.commands.console import EXIT_MISUSE, InputError, is_output_fault, warn
from segmeter.commands.early import choices_of, told_early
from segmeter.plain import one_line

EXIT_STOPPED = 130  # by Ctrl-C, as shells have it

# The commands by what each is about; what is in none comes last.
GROUPS = {
    "Cost": ("flops", "compare", "card", "tokens", "models"),
    "Speed on this machine": ("profile", "sweep", "results", "op", "doctor"),
    "Truth of printed figures": ("audit", "reproduce", "reconcile", "crosscheck", "table"),
    "What the cost buys": ("report", "plot"),
    "A paper's own numbers": ("paper",),
    "Quality of predictions": ("evaluate", "miou", "predict", "convert", "datasets"),
    "Gate for CI": ("check", "baseline"),
    "Other runtimes": ("export",),
}


class Grouped(TyperGroup):
    """The list of commands, in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each group."""
        left = dict(self.commands)
        sections = [
            (group, [(name, left.pop(name)) for name in names if name in left])
            for group, names in GROUPS.items()
        ]
        for group, commands in [*sections, ("Others", list(left.items()))]:
            rows = [
                (name, command.get_short_help_str(200)) for name, command in commands if not command.hidden
            ]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"segmeter {version('segmeter')}\n")
        raise typer.Exit


app = typer.Typer(
    name="segmeter",
    cls=Grouped,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What a segmentation model costs, where the cost sits, and whether the printed figure is true.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group in (
    audit,
    card,
    count,
    evaluate,
    export,
    gate,
    miou,
    op,
    paper,
    plot,
    profile,
    report,
    results,
    sweep,
    tokens,
):
    group.register(app)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _tell_early(command: Any) -> None:
    """Let every command look at what it was given before it loads anything."""
    for each in getattr(command, "commands", {}).values():
        _tell_early(each)
    if command.callback is not None and not hasattr(command, "commands"):
        command.callback = told_early(command.callback, command.name or "", choices_of(command))


@cache
def _command() -> Any:
    """The commands as typer makes them of their functions: once in a process, for that takes a while."""
    command = typer.main.get_command(app)
    _tell_early(command)
    return command


def _drop_output() -> None:
    """Let go of what could not be written, or Python tries again as it ends, and exits with 120."""
    with suppress(OSError):
        sys.stdout.close()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 fine, 1 a check failed, 2 misuse."""
    command = _command()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = command.main(given, prog_name="segmeter", standalone_mode=False)
        if code == EXIT_STOPPED:
            # Newer versions of typer turn Ctrl-C into this code without a word.
            warn("stopped")
        # Here, and not as the process ends: by then nobody could tell a full disk.
        sys.stdout.flush()
    except InputError as error:
        warn(str(error))
        code = EXIT_MISUSE
    except (typer.Abort, KeyboardInterrupt):
        warn("stopped")
        code = EXIT_STOPPED
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`.
        sys.stderr.close()
        _drop_output()
        code = 0
    except OSError as error:
        if not is_output_fault(error):
            raise
        warn(f"cannot write the output: {error.strerror or error}")
        _drop_output()
        code = EXIT_MISUSE
    except Exception as error:
        # The parser's own errors carry this method under every version of typer.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        if not given:
            sys.stdout.write(message() + "\n")
            code = 0
        else:
            warn(one_line(Exception(message())))
            code = EXIT_MISUSE
    sys.exit(code if isinstance(code, int) else 0)
