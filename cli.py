"""The command line: parse, call, print. Heavy imports happen inside commands, so that help is instant."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from harness.sizes import SizeSet
    from harness.spec import ModelSpec

app = typer.Typer(
    name="segmeter",
    help="What a segmentation model costs, where the cost sits, and whether the printed figure is true.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

MODEL_SYNTAX = "ENCODER[@BACKBONE][:OPTION=VALUE]..., e.g. pro-scale@r50:stages=1,1,3"
EXIT_UNCOUNTED = 1
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
ClassesOpt = Annotated[
    int | None, typer.Option(help="Default: 19 at Cityscapes' size, otherwise 133.")
]
QueriesOpt = Annotated[int | None, typer.Option(help="Default: 200 for swin-l, otherwise 100.")]
PaddedOpt = Annotated[str | None, typer.Option(help="HxW that the network sees, multiples of 32.")]
ImageOpt = Annotated[str | None, typer.Option(help="HxW of an image; the resize rule applies.")]
RuleOpt = Annotated[
    str, typer.Option(help="coco (short side 800, long at most 1333) or cityscapes (1024, 2048).")
]
DatasetOpt = Annotated[
    str | None, typer.Option(help="cityscapes, coco-val2017 or coco-val2017:100.")
]
AnnotationsOpt = Annotated[
    Path | None, typer.Option(help="COCO-format JSON; averages over its images' sizes.")
]
OriginalOpt = Annotated[
    str | None, typer.Option(help="HxW that results are resized to; default: before resizing.")
]
ConventionOpt = Annotated[str, typer.Option(help="published, macs or flops.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class InputError(Exception):
    """Bad input, told in one line."""


@contextmanager
def user_input() -> Iterator[None]:
    """Turn what the library says of bad input into one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise InputError(_one_line(error)) from None


@app.command()
def models(json: JsonOpt = False) -> None:
    """List encoders with their options, backbones, data sets and the papers' rows."""
    from harness.catalogue import catalogue
    from reports.terminal import catalogue_tables

    listed = catalogue()
    if json:
        return _print_json(listed)
    _print(*catalogue_tables(listed))


@app.command()
def flops(
    model: ModelArg = None,
    encoder: EncoderOpt = None,
    backbone: BackboneOpt = None,
    stages: StagesOpt = None,
    pixel_embedding: PixelEmbeddingOpt = None,
    recalibration: RecalibrationOpt = None,
    recalibration_temperature: TemperatureOpt = None,
    layers: LayersOpt = None,
    high_level_layers: HighLayersOpt = None,
    full_layers: FullLayersOpt = None,
    num_classes: ClassesOpt = None,
    num_queries: QueriesOpt = None,
    padded_size: PaddedOpt = None,
    image_size: ImageOpt = None,
    resize_rule: RuleOpt = "coco",
    dataset: DatasetOpt = None,
    annotations: AnnotationsOpt = None,
    original_size: OriginalOpt = None,
    convention: ConventionOpt = "published",
    depth: Annotated[int, typer.Option(min=1, help="Levels of components to show.")] = 3,
    strict: Annotated[
        bool, typer.Option(help="Exit 1 if anything is uncounted beyond what the convention names.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Count one model: GMACs or GFLOPs per component, and what was not counted."""
    with user_input():
        _check_convention(convention)
        sizes = _sizes(padded_size, image_size, resize_rule, dataset, annotations, original_size)
        spec = _spec(
            model,
            encoder,
            backbone,
            _classes(num_classes, sizes),
            num_queries,
            stages=stages,
            pixel_embedding=pixel_embedding,
            recalibration=recalibration,
            recalibration_temperature=recalibration_temperature,
            layers=layers,
            high_level_layers=high_level_layers,
            full_layers=full_layers,
        )
    from reports.terminal import flops_notes, flops_tree

    record = _count(spec, sizes, convention)
    if json:
        _print_json(record)
    else:
        _print(flops_tree(record, depth), *flops_notes(record))
    unknown = [name for name, figure in record["not_counted"].items() if figure is None]
    if strict and unknown:
        _warn(f"not counted, no formula: {', '.join(unknown)}")
        raise typer.Exit(EXIT_UNCOUNTED)


@app.command()
def compare(
    model: Annotated[list[str], typer.Argument(metavar="MODEL MODEL...", help=MODEL_SYNTAX)],
    backbone: BackboneOpt = None,
    num_classes: ClassesOpt = None,
    num_queries: QueriesOpt = None,
    padded_size: PaddedOpt = None,
    image_size: ImageOpt = None,
    resize_rule: RuleOpt = "coco",
    dataset: DatasetOpt = None,
    annotations: AnnotationsOpt = None,
    original_size: OriginalOpt = None,
    convention: ConventionOpt = "published",
    json: JsonOpt = False,
) -> None:
    """Count several models at one size, with each change against the first."""
    with user_input():
        _check_convention(convention)
        sizes = _sizes(padded_size, image_size, resize_rule, dataset, annotations, original_size)
        classes = _classes(num_classes, sizes)
        specs = [_spec(text, None, backbone, classes, num_queries) for text in model]
        if len(specs) < 2:
            raise ValueError("compare needs two models or more, e.g. compare m2f pro-scale")
    from reports.comparison import comparison_summary
    from reports.terminal import comparison, flops_notes

    records = [_count(spec, sizes, convention) for spec in specs]
    if json:
        return _print_json({"models": records, "changes": comparison_summary(records)})
    _print(comparison(records), flops_notes(records[0])[0])


@app.command()
def crosscheck(
    model: ModelArg = None,
    encoder: EncoderOpt = None,
    backbone: BackboneOpt = None,
    stages: StagesOpt = None,
    pixel_embedding: PixelEmbeddingOpt = None,
    recalibration: RecalibrationOpt = None,
    recalibration_temperature: TemperatureOpt = None,
    layers: LayersOpt = None,
    high_level_layers: HighLayersOpt = None,
    full_layers: FullLayersOpt = None,
    num_classes: ClassesOpt = None,
    num_queries: QueriesOpt = None,
    padded_size: PaddedOpt = None,
    image_size: ImageOpt = None,
    resize_rule: RuleOpt = "coco",
    json: JsonOpt = False,
) -> None:
    """Run fvcore, ptflops and torch's counter beside segmeter's, and explain every difference."""
    with user_input():
        sizes = _sizes(padded_size, image_size, resize_rule, None, None, None)
        spec = _spec(
            model,
            encoder,
            backbone,
            _classes(num_classes, sizes),
            num_queries,
            stages=stages,
            pixel_embedding=pixel_embedding,
            recalibration=recalibration,
            recalibration_temperature=recalibration_temperature,
            layers=layers,
            high_level_layers=high_level_layers,
            full_layers=full_layers,
        )
    from harness.crosscheck import COUNTERS, REASONS, cross_check, cross_check_record
    from harness.model_count import PARTS
    from reports.terminal import crosscheck_notes, crosscheck_table

    size = next(iter(sizes.images))
    with _progress("counting with three tools", len(PARTS) * len(COUNTERS)) as advance:
        record = cross_check_record(spec, size, cross_check(spec, size, lambda done: advance()))
    if json:
        return _print_json(record)
    _print(crosscheck_table(record), *crosscheck_notes(record, REASONS))


@app.command()
def reproduce(
    table: Annotated[int | None, typer.Option(help="One of the paper's tables, 1 to 7.")] = None,
    json: JsonOpt = False,
) -> None:
    """Measure every published GFLOPs cell of the M2F family beside the printed figure."""
    with user_input():
        from harness.published import family_cells

        cells = family_cells(table)
    from harness.report_run import reproduction_row
    from harness.reproduce import CONVENTION, VERDICTS
    from harness.reproduce import reproduce as measure
    from reports.terminal import reproduction_notes, reproduction_tables

    with _progress("measuring published cells", len(cells)) as advance:
        rows = [reproduction_row(r) for r in measure(cells, lambda done: advance())]
    if json:
        return _print_json({"convention": CONVENTION, "verdicts": VERDICTS, "cells": rows})
    _print(*reproduction_tables(rows), *reproduction_notes(rows, VERDICTS))


@app.command()
def report(
    images: Annotated[
        list[Path] | None, typer.Option(help="A photo or a folder of photos; may be repeated.")
    ] = None,
    backbone: BackboneOpt = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("results/latest"),
    json: JsonOpt = False,
) -> None:
    """Measure all four models on real photos and at the data sets' sizes; write report and figure."""
    with user_input():
        from harness.photos import find_photos
        from harness.report_files import prepare_folder

        photos = find_photos(images or [])
        chosen = _spec(None, "m2f", backbone, 133, None).backbone
        prepare_folder(out)
    from harness.report_run import count_steps, run_report
    from reports.write import write_report

    with _progress("measuring", count_steps(photos)) as advance:
        record = run_report(photos, chosen, advance)
    with user_input():
        files = write_report(record, out)
    if json:
        return _print_json(record)
    from reports.terminal import comparison

    _print(*(comparison(group) for group in record["records"].values()))
    _print("written:", *(f"  {path}" for path in files))


def _spec(
    model: str | None,
    encoder: str | None,
    backbone: str | None,
    num_classes: int,
    num_queries: int | None,
    stages: str | None = None,
    **options: Any,
) -> "ModelSpec":
    """A model from its written form, from single options, or from both."""
    from harness.spec import model_from_parts

    if stages is not None:
        options["stages"] = stages
    given = {name: value for name, value in options.items() if value is not None}
    return model_from_parts(model, encoder, backbone, num_classes, num_queries, given)


def _sizes(
    padded_size: str | None,
    image_size: str | None,
    resize_rule: str,
    dataset: str | None,
    annotations: Path | None,
    original_size: str | None,
) -> "SizeSet":
    from harness.sizes import choose_sizes

    return choose_sizes(
        padded_size=padded_size,
        image_size=image_size,
        resize_rule=resize_rule,
        dataset=dataset,
        annotations=annotations,
        original_size=original_size,
    )


def _classes(num_classes: int | None, sizes: "SizeSet") -> int:
    from harness.sizes import default_classes

    return default_classes(sizes) if num_classes is None else num_classes


def _check_convention(convention: str) -> None:
    from encoders.interface import nearest
    from harness.conventions import CONVENTIONS

    if convention not in CONVENTIONS:
        raise ValueError(
            f"unknown convention {convention!r}{nearest(convention, list(CONVENTIONS))}"
        )


def _count(spec: "ModelSpec", sizes: "SizeSet", convention: str) -> Any:
    from harness.flops_record import flops_record
    from harness.model_count import count_dataset, count_model

    with user_input():
        if len(sizes.images) == 1:
            return flops_record(count_model(spec, next(iter(sizes.images)), convention))
        with _progress(f"counting {spec.title}", len(sizes.images)) as advance:
            return flops_record(count_dataset(spec, sizes, convention, lambda done: advance()))


@contextmanager
def _progress(what: str, steps: int) -> Iterator[Any]:
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


def _print(*things: Any) -> None:
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if not sys.stdout.isatty():
        # A pipe or a file has no width: tables keep their own.
        console = Console(width=200, highlight=False)
    for thing in things:
        console.print(thing, markup=False) if isinstance(thing, str) else console.print(thing)


def _print_json(content: Any) -> None:
    from harness.record import to_json

    sys.stdout.write(to_json(content))


def _warn(line: str) -> None:
    sys.stderr.write(f"segmeter: {line}\n")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 fine, 1 a check failed, 2 misuse."""
    command = typer.main.get_command(app)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = command.main(given, prog_name="segmeter", standalone_mode=False)
    except InputError as error:
        _warn(str(error))
        code = EXIT_MISUSE
    except (typer.Abort, KeyboardInterrupt):
        _warn("stopped")
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`.
        sys.stderr.close()
        code = 0
    except Exception as error:
        # The parser's own errors carry this method under every version of typer.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        if not given:
            sys.stdout.write(message() + "\n")
            code = 0
        else:
            _warn(_one_line(Exception(message())))
            code = EXIT_MISUSE
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
