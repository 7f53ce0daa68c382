"""Efficiency cards: made, shown, and counted again."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands.asked import chosen_classes, chosen_sizes, chosen_spec, sizes_of
from segmeter.commands.console import EXIT_FAILED, progress_bar, show, show_json, user_input, warn
from segmeter.commands.grouped import grouped
from segmeter.commands.groups import CommandGroup
from segmeter.commands.known import known
from segmeter.commands.options import (
    MODEL_SYNTAX,
    DeviceOpt,
    DtypeOpt,
    Heads,
    JsonOpt,
    RenamedCommand,
    ResultSize,
    VerboseOpt,
    precision,
)
from segmeter.commands.written import check_model

if TYPE_CHECKING:
    from segmeter.harness.inputs import ImageSize
    from segmeter.harness.models import ModelSpec
    from segmeter.harness.records import Card, Run

DEFAULT = "make"
CardArg = Annotated[Path, typer.Argument(metavar="CARD", help="A card's file (JSON).")]
OutOpt = Annotated[Path | None, typer.Option(help="Where to write. A file; its ending says the form.")]
FormatOpt = Annotated[
    str | None,
    typer.Option(
        metavar="text|json|md|svg|hub", help="Form of the output. Default: by the file's ending, else text."
    ),
]
HubOpt = Annotated[bool, typer.Option("--hub", help="As --format hub. YAML for a model card on the Hub.")]
ProfileOpt = Annotated[bool, typer.Option("--profile", help="Time the models too.")]
ThreadsOpt = Annotated[int | None, typer.Option(help="CPU threads; default: torch's choice.")]
SecondsOpt = Annotated[float, typer.Option(help="Time for the rounds of all models together.")]


ImagesOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        help="A photo or a folder of photos; may be repeated. For models whose work depends on the image.",
    ),
]
WeightsOpt = Annotated[
    Path | None, typer.Option(help="A checkpoint. With --images; default: random weights.")
]


class CardGroup(CommandGroup):
    """The commands on cards, where a model in a command's place means ``make``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    group = typer.Typer(
        help="Make, show and verify efficiency cards: `card MODEL...` makes one, see `card make -h`.",
        cls=CardGroup,
        no_args_is_help=True,
    )
    group.command(DEFAULT, cls=RenamedCommand)(make)
    group.command("show")(show_card)
    group.command()(verify)
    app.add_typer(group, name="card")


@dataclass(frozen=True)
class Times:
    """Whether and how the models are timed too."""

    profile: ProfileOpt = False
    device: DeviceOpt = "cpu"
    dtype: DtypeOpt = "fp32"
    batch: Annotated[int, typer.Option(min=1, help="Images at a time. Of times; costs are of one.")] = 1
    threads: ThreadsOpt = None
    seconds: SecondsOpt = 30.0


@dataclass(frozen=True)
class Form:
    """Where a card goes, and as what."""

    out: OutOpt = None
    format: FormatOpt = None
    hub: HubOpt = False


@grouped
def make(
    *,
    model: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_SYNTAX)],
    heads: Heads,
    at: ResultSize,
    times: Times,
    images: ImagesOpt = None,
    weights: WeightsOpt = None,
    form: Form,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Make a card: cost by component in whole numbers, parameters; with --profile time, memory, energy."""
    with user_input():
        written = _form(form, json, len(model))
        dtype = precision(times.dtype, known()["dtypes"])
        for text in model:
            check_model(text)
        sizes = chosen_sizes(at, model[0], heads.backbone)
        classes = chosen_classes(heads.num_classes, sizes, model[0])
        specs = [chosen_spec(text, None, heads.backbone, classes, heads.num_queries) for text in model]
        inputs = [next(iter(sizes_of(spec, sizes, at).images)) for spec in specs]
        from segmeter.harness.card import make_card
        from segmeter.harness.inputs import find_photos

        photos = find_photos(images) if images else []
        if weights is not None and not photos:
            raise ValueError("--weights goes with --images: without photos no choice is made by weights")
        with progress_bar("counting", len(specs)) as advance:
            card = make_card(specs, inputs, step=advance, photos=photos, weights=weights)
        if photos and not any("photos" in one for one in card["models"]):
            raise ValueError("--images is for models whose work depends on what the image shows")
        if times.profile:
            how = (times.device, dtype, times.batch, times.threads, times.seconds)
            _time(card, specs, inputs, _settings(inputs[0], *how))
        _write(card, written, form.out)


@grouped
def show_card(*, card: CardArg, form: Form, json: JsonOpt = False) -> None:
    """Show a card, or write it as Markdown, as an SVG badge or as metadata for the Hub."""
    with user_input():
        from segmeter.harness.records import read_card

        _write(read_card(card), _form(form, json, None), form.out)


def verify(
    card: CardArg,
    model: Annotated[
        list[str] | None,
        typer.Argument(help="What to count instead of what the card names: the way to code of your own."),
    ] = None,
    images: ImagesOpt = None,
    weights: WeightsOpt = None,
    profile: ProfileOpt = False,
    seconds: SecondsOpt = 30.0,
    strict: Annotated[
        bool, typer.Option(help="Exit 1 on doubts too. Times that can be compared and do not agree.")
    ] = False,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Count a card's models again: exit 0 if every figure is the same, 1 if one differs, 2 if unread."""
    with user_input():
        from segmeter.harness.records import read_card

        read = read_card(card)
        entries = read["models"]
        if model and len(model) != len(entries):
            raise ValueError(f"the card has {len(entries)} models, {len(model)} are named beside it")
        specs = [
            chosen_spec(text, None, None, entry["num_classes"] or 1, entry["num_queries"] or None)
            for text, entry in zip(model or [], entries, strict=False)
        ]
        from segmeter.harness.card import AGREE, DIFFERS, DISAGREE, verify_card

        with progress_bar("counting", len(entries)) as advance:
            check = verify_card(read, specs, advance, images or (), weights)
        _compare_times(read, check, specs, profile, seconds)
    if json:
        show_json(check)
    else:
        from segmeter.reports.text.card import check_notes, check_tables

        show(*check_tables(check), *check_notes(check))
    times = [one["times"]["verdict"] for one in check["models"] if one.get("times")]
    if profile and times and AGREE not in times and DISAGREE not in times:
        warn("no time could be compared")
    if check["verdict"] == DIFFERS or (strict and DISAGREE in times):
        raise typer.Exit(EXIT_FAILED)


def _form(wanted: Form, json: bool, models: int | None) -> str:
    """The form that was asked for.

    Raises:
        ValueError: two forms at once, an unknown one, or one that several models do not have.
    """
    from segmeter.reports.text.card import BY_SUFFIX, FORMATS
    from segmeter.words import nearest

    out = wanted.out
    asked = {
        "--format": wanted.format,
        "--hub": "hub" if wanted.hub else None,
        "--json": "json" if json else None,
    }
    named = [option for option, form in asked.items() if form]
    if len(named) > 1:
        raise ValueError(f"give one of {', '.join(asked)}; got {' and '.join(named)}")
    if out is not None and not named and out.suffix not in BY_SUFFIX:
        raise ValueError(f"--out {out.name!r} must end in {', '.join(BY_SUFFIX)}, or give --format")
    form = next((form for form in asked.values() if form), BY_SUFFIX.get(out.suffix, "") if out else "text")
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}{nearest(form, FORMATS)}")
    if out is not None and form == "text":
        raise ValueError("--out needs --format json, md, svg or hub")
    if models is not None and models > 1 and form in ("svg", "hub"):
        raise ValueError(f"--format {form} is of one model, got {models}")
    return form


def _write(card: "Card", form: str, out: Path | None) -> None:
    from segmeter.reports.text.card import card_notes, card_tables, rendered

    if out is None:
        if form == "text":
            return show(*card_tables(card), *card_notes(card))
        sys.stdout.write(rendered(card, form))
        return None
    from segmeter.files import prepare_folder
    from segmeter.harness.records import write_text

    text = rendered(card, form)
    prepare_folder(out.parent)
    write_text(out, text)
    show(f"written: {out}")
    return None


def _settings(
    size: "ImageSize", device: str, dtype: str, batch: int, threads: int | None, seconds: float, **how: Any
) -> Any:
    from segmeter.harness.profiling import Plan, Settings

    return Settings(
        padded_size=size.padded,
        device=device,
        dtype=dtype,
        batch=batch,
        threads=threads,
        depth=1,
        plan=Plan(seconds, 5, 1000, 0.01),
        **how,
    )


def _timed(specs: Sequence["ModelSpec"], settings: Any) -> "list[Run]":
    from segmeter.harness.profiling import OutOfMemory
    from segmeter.harness.profiling import profile as measure

    try:
        with progress_bar("timing", 2 * len(specs) + 2) as advance:
            return measure(specs, settings, advance)
    except OutOfMemory as error:
        raise ValueError(str(error)) from None


def _time(card: "Card", specs: Sequence["ModelSpec"], inputs: Sequence["ImageSize"], settings: Any) -> None:
    """Time the models in turn and put it on their card."""
    from segmeter.harness.card import measured

    if any(size.padded != settings.padded_size for size in inputs):
        raise ValueError("--profile times models at one size; give --padded-size")
    for entry, run in zip(card["models"], _timed(specs, settings), strict=True):
        entry["measured"] = measured(run)


def _compare_times(
    card: "Card", check: Any, specs: Sequence["ModelSpec"], profile: bool, seconds: float
) -> None:
    """Say of each time on the card whether it agrees with one taken now, as it was taken."""
    from segmeter.harness.card import compare_times, measured, named
    from segmeter.harness.inputs import ImageSize, parse_size

    for place, (entry, one) in enumerate(zip(card["models"], check["models"], strict=True)):
        taken = entry["measured"]
        if taken is None:
            continue
        now = None
        if profile:
            spec = specs[place] if specs else named(entry)
            how = taken["settings"]
            size = parse_size(how["padded_size"])
            ways: dict[str, Any] = {
                name: bool(how.get(name)) for name in ("compile", "cuda_graph", "keep_memory")
            }
            settings = _settings(
                ImageSize(size, size),
                *(how["device"], how["dtype"], how["batch"], how.get("threads"), seconds),
                **ways,
            )
            now = measured(_timed([spec], settings)[0])
        one["times"] = compare_times(taken, now)
