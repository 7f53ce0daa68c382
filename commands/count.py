"""Counting: models, flops, compare, crosscheck, reproduce."""

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands.answers import answer_file, keep_answer, kept_answer
from segmeter.commands.asked import (
    check_convention,
    chosen_classes,
    chosen_sizes,
    chosen_spec,
    count_at,
    count_on_images,
    sizes_of,
)
from segmeter.commands.console import (
    EXIT_FAILED,
    progress_bar,
    show,
    show_json,
    user_input,
    warn,
)
from segmeter.commands.grouped import grouped
from segmeter.commands.known import known
from segmeter.commands.options import (
    MODEL_SYNTAX,
    ConventionOpt,
    DataSize,
    EncoderOpt,
    Heads,
    ImagesOpt,
    InputOpt,
    InputSize,
    JsonOpt,
    ModelArg,
    ModelCommand,
    PhotoOpt,
    RenamedCommand,
    VerboseOpt,
    encoder_options,
)
from segmeter.commands.written import check_model
from segmeter.words import nearest

if TYPE_CHECKING:
    from segmeter.harness.inputs import SizeSet
    from segmeter.harness.models import ModelSpec


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(models)
    app.command(cls=ModelCommand)(flops)
    app.command(cls=RenamedCommand)(compare)
    app.command(cls=ModelCommand)(crosscheck)
    app.command()(reproduce)


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="As --find: what there is under a name.")
    ] = None,
    find: Annotated[
        str | None, typer.Option(help="Also what installed libraries have under a name, e.g. mask2former.")
    ] = None,
    json: JsonOpt = False,
) -> None:
    """List encoders with their options, backbones, data sets and the papers' rows."""
    find = name if find is None else find
    if find is not None:
        return _find(find, json)
    from segmeter.harness.catalogue import catalogue
    from segmeter.reports.text.catalogue import catalogue_tables

    with user_input():
        listed = catalogue()
    if json:
        return show_json(listed)
    show(*catalogue_tables(listed))


def _find(word: str, json: bool) -> None:
    from segmeter.commands.foreign import check_found

    with user_input():
        check_found(word, known()["systems"])
    from segmeter.harness.catalogue import found_models
    from segmeter.reports.text.catalogue import found_table

    with user_input():
        found = found_models(word)
    if json:
        return show_json(found)
    show(found_table(word, found))


@dataclass(frozen=True)
class Training:
    """Whether a step of training is counted too, and of what kind."""

    training: Annotated[
        bool, typer.Option("--training", help="One step of training beside it: backward, optimiser, memory.")
    ] = False
    freeze: Annotated[
        list[str] | None, typer.Option(help="With --training: a component without gradients; repeatable.")
    ] = None
    optimiser: Annotated[str, typer.Option(metavar="adamw|sgd", help="With --training.")] = "adamw"

    @property
    def is_asked(self) -> bool:
        """Whether it is counted."""
        return self.training or bool(self.freeze)


@dataclass(frozen=True)
class OnPhotos:
    """Photos to count on, one by one."""

    images: ImagesOpt = None
    batch: Annotated[
        int, typer.Option(min=1, help="Images at a time. With --images: batches beside each alone.")
    ] = 1
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint. With --images; default: random weights.")
    ] = None


@grouped
def flops(
    context: typer.Context,
    *,
    model: ModelArg = None,
    encoder: EncoderOpt = None,
    heads: Heads,
    at: DataSize,
    convention: ConventionOpt = "published",
    depth: Annotated[int, typer.Option(min=1, help="Levels of components.")] = 2,
    strict: Annotated[
        bool, typer.Option(help="Exit 1 on doubts too. Anything uncounted beyond what the convention names.")
    ] = False,
    input: InputOpt = None,
    training: Training,
    photo: PhotoOpt = None,
    photos: OnPhotos,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Count one model: GMACs or GFLOPs per component, and what was not counted."""
    with user_input():
        check_convention(convention)
        if not (model or encoder):
            some = nearest("", known()["systems"])
            raise ValueError(f"no encoder given{some}; `segmeter models` lists all")
    place = None
    if not any((photos.images, photo, photos.weights, input, at.annotations, training.is_asked)):
        options = encoder_options(context)
        place = answer_file("flops", (model, encoder), *astuple(heads), at, convention, *options.items())
    record = kept_answer(place)
    trained: list[Any] = []
    if record is None:
        spec, sizes = _chosen(context, model, encoder, heads, at, input)
        if photos.images:
            record = count_on_images(spec, sizes, convention, photos.images, photos.batch, photos.weights)
            for fault in record["skipped"]:
                warn(f"skipped: {fault}")
        else:
            record = count_at(spec, sizes, convention, photo or [])
            keep_answer(place, record)
        if training.is_asked:
            trained = _add_training(record, spec, sizes, training.optimiser, training.freeze or [])
    from segmeter.reports.text.flops import flops_notes, flops_tree
    from segmeter.reports.text.images import images_notes, images_tables

    if json:
        show_json(record)
    else:
        show(flops_tree(record, depth), *images_tables(record), *flops_notes(record), *images_notes(record))
        show(*trained)
    unknown = [name for name, figure in record["not_counted"].items() if figure is None]
    if strict and unknown:
        warn(f"not counted, no formula: {', '.join(unknown)}")
        raise typer.Exit(EXIT_FAILED)


def _chosen(
    context: typer.Context,
    model: str | None,
    encoder: str | None,
    heads: Heads,
    at: InputSize,
    inputs: list[str] | None,
) -> tuple["ModelSpec", "SizeSet"]:
    """The model that was asked for, and the sizes to count it at."""
    with user_input():
        named = model or encoder
        sizes = chosen_sizes(at, named, heads.backbone)
        classes = chosen_classes(heads.num_classes, sizes, named)
        options = encoder_options(context)
        spec = chosen_spec(model, encoder, heads.backbone, classes, heads.num_queries, options, inputs)
        return spec, sizes_of(spec, sizes, at)


def _add_training(
    record: Any, spec: "ModelSpec", sizes: "SizeSet", optimiser: str, freeze: list[str]
) -> list[Any]:
    """Put a step of training into the record; returns its table and notes."""
    from segmeter.harness.counting import train_model, training_record
    from segmeter.reports.text.training import training_notes, training_table

    with user_input():
        if len(sizes.images) > 1:
            raise ValueError("--training goes with one size; a data set has many")
        counted = train_model(spec, next(iter(sizes.images)), freeze)
        record["training"] = training_record(spec, counted, optimiser, freeze)
    return [training_table(record), *training_notes(record)]


@dataclass(frozen=True)
class Recorded:
    """Measurements to compare, in the place of counts."""

    records: Annotated[
        Path | None, typer.Option("--from", help="Folder of records. Compares those measurements instead.")
    ] = None
    published: Annotated[
        bool,
        typer.Option(
            "--beside-published", help="With --from: ratios to M2F beside those of the paper's FPS."
        ),
    ] = False
    markdown: Annotated[bool, typer.Option("--markdown", help="With --from: print markdown.")] = False


@grouped
def compare(
    *,
    model: Annotated[list[str] | None, typer.Argument(metavar="MODEL MODEL...", help=MODEL_SYNTAX)] = None,
    heads: Heads,
    at: DataSize,
    convention: ConventionOpt = "published",
    images: ImagesOpt = None,
    recorded: Recorded,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Count several models at one size, with each change against the first; or compare measurements."""
    model = model or []
    if recorded.records is not None:
        from segmeter.commands.compare_records import compare_records

        return compare_records(recorded.records, model, recorded.published, recorded.markdown, json)
    with user_input():
        if recorded.published or recorded.markdown:
            raise ValueError(
                "--beside-published and --markdown need --from FOLDER, e.g. --from results/records"
            )
        check_convention(convention)
        if len(model) < 2:
            raise ValueError("compare needs two models or more, e.g. compare m2f pro-scale")
        for text in model:
            check_model(text)
    place = None
    if not images and not at.annotations:
        place = answer_file("compare", model, *astuple(heads), convention, at)
    counted = kept_answer(place)
    if counted is None:
        with user_input():
            sizes = chosen_sizes(at, model[0], heads.backbone)
            classes = chosen_classes(heads.num_classes, sizes, model[0])
            specs = [chosen_spec(text, None, heads.backbone, classes, heads.num_queries) for text in model]
        counted = [count_at(spec, sizes_of(spec, sizes, at), convention, images or []) for spec in specs]
        keep_answer(place, counted)
    from segmeter.reports.text.flops import comparison, comparison_summary, flops_notes

    if json:
        return show_json({"models": counted, "changes": comparison_summary(counted)})
    show(comparison(counted), flops_notes(counted[0])[0])


@grouped
def crosscheck(
    context: typer.Context,
    *,
    model: ModelArg = None,
    encoder: EncoderOpt = None,
    heads: Heads,
    at: InputSize,
    input: InputOpt = None,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Run fvcore, ptflops and torch's counter beside segmeter's, and explain every difference."""
    spec, sizes = _chosen(context, model, encoder, heads, at, input)
    from segmeter.harness.crosscheck import (
        COUNTERS,
        REASONS,
        cross_check,
        cross_check_record,
        crosscheck_subject,
    )
    from segmeter.reports.text.crosscheck import crosscheck_notes, crosscheck_table

    size = next(iter(sizes.images))
    with user_input():
        subject = crosscheck_subject(spec, size)
    with progress_bar("counting with three tools", len(subject.parts) * len(COUNTERS)) as advance:
        checks = cross_check(subject, lambda done: advance())
    record = cross_check_record(spec, size, checks, subject.reason)
    if json:
        return show_json(record)
    show(crosscheck_table(record), *crosscheck_notes(record, REASONS))


def reproduce(
    table: Annotated[
        str | None, typer.Option(help="One of the paper's tables. 1 to 11, 15 or 16; default all.")
    ] = None,
    format: Annotated[str, typer.Option(metavar="text|md|csv|latex", help="Form of the output.")] = "text",
    json: JsonOpt = False,
) -> None:
    """Measure every published GFLOPs cell beside the printed figure, in the PRO-SCALE paper's order."""
    with user_input():
        # Before torch is loaded: which tables there are is data.
        from segmeter.harness.audit import TABLES, find_table
        from segmeter.reports.text.reproduce import (
            FORMATS,
            reproduction_notes,
            reproduction_tables,
            reproduction_text,
        )
        from segmeter.words import nearest

        tables = list(TABLES) if table is None else [find_table(table)]
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}{nearest(format, FORMATS)}")
        if format != "text" and json:
            raise ValueError("give --format or --json, not both")
    from segmeter.harness.audit import (
        CONSISTENT,
        REPRODUCED,
        VERDICTS,
        reproduce_steps,
        reproduced_cells,
        reproduced_speeds,
        reproduction_row,
    )
    from segmeter.harness.counting import CONVENTION

    with progress_bar("measuring published cells", reproduce_steps(tables)) as advance:
        rows = [reproduction_row(found) for found in reproduced_cells(tables, advance)]
    speeds = reproduced_speeds(tables)
    if json:
        verdicts = {"verdicts": VERDICTS, "reproduced": REPRODUCED, "consistent": CONSISTENT}
        return show_json({"convention": CONVENTION, **verdicts, "cells": rows, "fps": speeds})
    if format != "text":
        typer.echo(reproduction_text(rows, speeds, VERDICTS, format), nl=False)
        return
    show(*reproduction_tables(rows, speeds), *reproduction_notes(rows, VERDICTS, speeds))
