"""What the commands share: option declarations, reading input, printing, progress."""

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from segmeter.harness.inputs.sizes import SizeSet
    from segmeter.harness.models.spec import ModelSpec

MODEL_SYNTAX = (
    "ENCODER[@BACKBONE][:OPTION=VALUE]..., e.g. pro-scale@r50:stages=1,1,3; a preset; or your own: "
    "mine.py:MyEncoder, package.module:attribute, mine.toml"
)
EXIT_FAILED = 1  # a check did not hold
EXIT_MISUSE = 2

ModelArg = Annotated[str | None, typer.Argument(help=MODEL_SYNTAX)]
EncoderOpt = Annotated[str | None, typer.Option(help="m2f, lite-m2f, rt-m2f or pro-scale.")]
BackboneOpt = Annotated[str | None, typer.Option(help="See `segmeter models`; default swin-t.")]
StagesOpt = Annotated[str | None, typer.Option(help="PRO-SCALE's p1,p2,p3.")]
PixelEmbeddingOpt = Annotated[str | None, typer.Option(help="conv, lpe or lpe-avg.")]
RecalibrationOpt = Annotated[str | None, typer.Option(help="linear, conv, paper or none.")]
TemperatureOpt = Annotated[float | None, typer.Option(help="Temperature of the recalibration.")]
LayersOpt = Annotated[int | None, typer.Option(help="M2F's deformable layers.")]
HighLayersOpt = Annotated[int | None, typer.Option(help="Lite-M2F's high-level layers.")]
FullLayersOpt = Annotated[int | None, typer.Option(help="Lite-M2F's full layers.")]
ClassesOpt = Annotated[int | None, typer.Option(help="Default: 19 at Cityscapes' size, otherwise 133.")]
QueriesOpt = Annotated[int | None, typer.Option(help="Default: 200 for swin-l, otherwise 100.")]
PaddedOpt = Annotated[str | None, typer.Option(help="HxW that the network sees, multiples of 32.")]
ImageOpt = Annotated[str | None, typer.Option(help="HxW of an image; the resize rule applies.")]
RuleOpt = Annotated[
    str, typer.Option(help="coco (short side 800, long at most 1333) or cityscapes (1024, 2048).")
]
DatasetOpt = Annotated[str | None, typer.Option(help="cityscapes, coco-val2017 or coco-val2017:100.")]
AnnotationsOpt = Annotated[
    Path | None, typer.Option(help="COCO-format JSON; averages over its images' sizes.")
]
OriginalOpt = Annotated[
    str | None, typer.Option(help="HxW that results are resized to; default: before resizing.")
]
ConventionOpt = Annotated[str, typer.Option(help="published, macs or flops.")]
PhotoOpt = Annotated[
    list[Path] | None,
    typer.Option(help="Photo or folder, for a model whose work depends on its input; may be repeated."),
]


def _set_verbose(verbose: bool) -> bool:
    global _verbose
    _verbose = verbose
    return verbose


_verbose = False
VerboseOpt = Annotated[
    bool,
    typer.Option(
        "--verbose", callback=_set_verbose, is_eager=True, help="Show the traceback if your own model fails."
    ),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class InputError(Exception):
    """Bad input, told in one line."""


@contextmanager
def user_input() -> Iterator[None]:
    """Turn what the library says of bad input into one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        if _verbose and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise InputError(one_line(error)) from None


def chosen_spec(
    model: str | None,
    encoder: str | None,
    backbone: str | None,
    num_classes: int,
    num_queries: int | None,
    stages: str | None = None,
    **options: Any,
) -> "ModelSpec":
    """A model from its written form, from single options, or from both."""
    from segmeter.harness.models.spec import model_from_parts
    from segmeter.harness.published.cells import resolve_preset

    model = resolve_preset(model)
    if stages is not None:
        options["stages"] = stages
    given = {name: value for name, value in options.items() if value is not None}
    return model_from_parts(model, encoder, backbone, num_classes, num_queries, given)


def chosen_sizes(
    padded_size: str | None,
    image_size: str | None,
    resize_rule: str,
    dataset: str | None,
    annotations: Path | None,
    original_size: str | None,
) -> "SizeSet":
    """The sizes to count at, from the options given."""
    from segmeter.harness.inputs.sizes import choose_sizes

    return choose_sizes(
        padded_size=padded_size,
        image_size=image_size,
        resize_rule=resize_rule,
        dataset=dataset,
        annotations=annotations,
        original_size=original_size,
    )


def chosen_classes(num_classes: int | None, sizes: "SizeSet") -> int:
    """The number of classes given, or the data set's."""
    from segmeter.harness.inputs.sizes import default_classes

    return default_classes(sizes) if num_classes is None else num_classes


def check_convention(convention: str) -> None:
    """Raise ValueError unless it is one of the three conventions."""
    from segmeter.harness.counting.conventions import CONVENTIONS
    from segmeter.words import nearest

    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}{nearest(convention, list(CONVENTIONS))}")


def count_at(spec: "ModelSpec", sizes: "SizeSet", convention: str, photos: Sequence[Path] = ()) -> Any:
    """The record of one model at one size, or its mean over a data set, with a progress bar.

    ``photos`` are for a model of the user's own whose work depends on its input.
    """
    from segmeter.harness.counting.count import count_dataset, count_model
    from segmeter.harness.counting.record import flops_record
    from segmeter.harness.inputs.photos import find_photos

    with user_input():
        if len(sizes.images) == 1:
            found = find_photos(photos) if photos else []
            return flops_record(count_model(spec, next(iter(sizes.images)), convention, found))
        with progress_bar(f"counting {spec.title}", len(sizes.images)) as advance:
            return flops_record(count_dataset(spec, sizes, convention, lambda done: advance()))


@contextmanager
def progress_bar(what: str, steps: int) -> Iterator[Any]:
    """A progress bar on stderr, gone when done; yields a function that advances it by one."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=steps)

        def advance(description: str | None = None) -> None:
            if description:
                bar.update(task, description=description)
            bar.advance(task)

        yield advance


def show(*things: Any) -> None:
    """Print tables and lines; plain text is never read as markup."""
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if not sys.stdout.isatty():
        # A pipe or a file has no width: tables keep their own.
        console = Console(width=200, highlight=False)
    for thing in things:
        console.print(thing, markup=False) if isinstance(thing, str) else console.print(thing)


def show_json(content: Any) -> None:
    """Print one JSON document."""
    from segmeter.harness.records.flops import to_json

    sys.stdout.write(to_json(content))


def warn(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"segmeter: {line}\n")


def one_line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
