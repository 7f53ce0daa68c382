"""Measured quality of checkpoints and of folders of predictions."""

import hashlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands import predict as predict_commands
from segmeter.commands import weights as weights_commands
from segmeter.commands.console import EXIT_FAILED, progress_bar, show, show_json, user_input, warn
from segmeter.commands.grouped import grouped
from segmeter.commands.options import (
    WEIGHT_DTYPES,
    BackboneOpt,
    DeviceOpt,
    DtypeOpt,
    EncoderOpt,
    JsonOpt,
    RenamedCommand,
    precision,
)
from segmeter.commands.weights import WeightsOpt, given_spec, load, named_failures

if TYPE_CHECKING:
    from segmeter.harness.models import ModelSpec
    from segmeter.harness.quality import Entry, PanopticSet, Scores

LISTED_FAULTS = 20


def register(app: typer.Typer) -> None:
    """Add everything that works on checkpoints: evaluate, convert, predict, datasets."""
    app.command(cls=RenamedCommand)(evaluate)
    weights_commands.register(app)
    predict_commands.register(app)


@dataclass(frozen=True)
class Scored:
    """What is scored: a checkpoint's model, or a folder of predictions."""

    encoder: EncoderOpt = None
    backbone: BackboneOpt = None
    weights: WeightsOpt = None
    predictions: Annotated[
        Path | None, typer.Option(help="Score this folder of COCO-format predictions instead of a model.")
    ] = None


@dataclass(frozen=True)
class Part:
    """Which images of the data set."""

    split: Annotated[str, typer.Option(help="Split of the data set.")] = "val"
    limit: Annotated[int | None, typer.Option(help="Only the first N images by id.", min=1)] = None


@dataclass(frozen=True)
class Running:
    """How a model runs."""

    batch: Annotated[int, typer.Option(help="Images at a time. Where neighbours have one size.")] = 1
    device: DeviceOpt = "cpu"
    dtype: DtypeOpt = "fp32"


@dataclass(frozen=True)
class Written:
    """Where predictions and the record go, and what the record calls the model."""

    out: Annotated[
        Path | None,
        typer.Option(help="Where to write. A folder; a stopped run goes on there. Default: in predictions/."),
    ] = None
    record: Annotated[
        Path | None, typer.Option(help="File for the record. Default: a new one in results/runs/quality/.")
    ] = None
    title: Annotated[str | None, typer.Option(help="What the record and the plots call it.")] = None


@grouped
def evaluate(
    *,
    dataset: Annotated[str, typer.Option(help="A data set. One of coco, cityscapes or ade20k.")],
    data: Annotated[Path, typer.Option(help="The data set's folder. See `segmeter datasets check`.")],
    scored: Scored,
    part: Part,
    running: Running,
    written: Written,
    gflops: Annotated[
        float | None,
        typer.Option(
            "--total-gflops",
            help="With --predictions: total GFLOPs of a system that segmeter has no model of.",
        ),
    ] = None,
    skip_faulty: Annotated[
        bool, typer.Option("--skip-faulty", help="Score without the images that cannot be scored.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Measure PQ, AP and mIoU of a checkpoint, or of a folder of predictions.

    Predictions and a line for each finished image are kept, so that a stopped run goes on when the same
    command is given again. The record has the GFLOPs over the same images, for `segmeter plot pareto`.
    """
    weights, predictions, encoder = scored.weights, scored.predictions, scored.encoder
    with user_input():
        # Before torch is loaded: what is plainly wrong is told at once.
        from segmeter.harness.quality import open_dataset

        dtype = precision(running.dtype, WEIGHT_DTYPES)
        if running.batch < 1:
            raise ValueError(f"batch must be at least 1, got {running.batch}")
        if (weights is None) == (predictions is None):
            raise ValueError("give either --weights FILE or --predictions DIR")
        if gflops is not None and (weights is not None or encoder is not None or not 0 < gflops < math.inf):
            raise ValueError(
                "--total-gflops is a positive number, for --predictions of a system without --encoder"
            )
        if predictions is not None and not predictions.is_dir():
            raise ValueError(f"no such folder of predictions: {predictions}")
        truth = open_dataset(dataset, data, part.split)
    from segmeter.harness.quality import model_cost, process_group, quality_record, wait_for_all

    rank, world = process_group()
    with user_input(), named_failures():
        entries = list(truth.entries[: part.limit])
        faults: list[str] = []
        spec: ModelSpec | None
        if weights is not None:
            folder = written.out or Path("predictions") / f"{weights.stem}-{dataset}-{part.split}"
            asked = given_spec(encoder, scored.backbone, weights)
            how, where = (running.device, dtype, running.batch), (rank, world)
            spec, about, faults = _predict_all(weights, asked, truth, entries, folder, how, where)
        else:
            assert predictions is not None
            folder = predictions
            asked = given_spec(encoder, scored.backbone, None)
            spec = replace(asked, num_classes=len(truth.categories)) if asked else None
            about = {"title": str(predictions), **_about_model(spec), "predictions": str(predictions)}
        if written.title is not None:
            about["title"] = written.title
    faults = wait_for_all(faults)
    if rank:
        return
    with user_input(), named_failures():
        about["images_asked"] = len(entries)
        if weights is not None:
            entries, about["seconds_per_image"] = _predicted(folder, entries, faults)
        scores = _score(truth, entries, folder, faults, skip_faulty)
        if spec is not None:
            about["cost"] = model_cost(spec, entries, truth.rule)
        elif gflops is not None:
            about["cost"] = {"convention": "as given", "total_gmacs": gflops, "basis": "as given"}
        result = quality_record(scores, truth, about)
        path = _write_record(result, written.record)
    if json:
        return show_json(result)
    from segmeter.reports.text.quality import quality_table

    show(*quality_table(result), f"record {path}")


def _predicted(
    folder: Path, entries: "list[Entry]", faults: list[str]
) -> "tuple[list[Entry], dict[str, float] | None]":
    """The images that have predictions, and the spread of their seconds.

    An image without predictions is left out of every score alike.
    """
    from segmeter.harness.quality import gather

    seconds = gather(folder, entries)
    found = [entry for entry in entries if entry.image_id in seconds]
    if not found:
        _list_faults(faults)
        raise ValueError("no image could be predicted; there is nothing to score")
    return found, _spread(list(seconds.values()))


def _score(
    truth: "PanopticSet", entries: "list[Entry]", folder: Path, faults: list[str], skip_faulty: bool
) -> "Scores":
    """Score the predictions; what cannot be scored is named, and ends it unless it may be skipped."""
    from segmeter.harness.quality import score_folder

    with progress_bar("scoring", len(entries)) as advance:

        def done(images: int) -> None:
            for _ in range(images):
                advance()

        scores = score_folder(truth, entries, folder, None, done)
    scores.faults[:0] = faults
    if scores.faults:
        _list_faults(scores.faults)
        if not skip_faulty:
            count = len(scores.faults)
            told = f"{count} fault{'s' * (count != 1)} in all"
            warn(f"{told}; no score was made (--skip-faulty leaves those out)")
            raise typer.Exit(EXIT_FAILED)
    return scores


def _list_faults(faults: list[str]) -> None:
    for fault in faults[:LISTED_FAULTS]:
        warn(fault)
    if len(faults) > LISTED_FAULTS:
        warn(f"and {len(faults) - LISTED_FAULTS} more")


def _write_record(result: dict[str, Any], path: Path | None) -> Path:
    from segmeter.harness.records import DEFAULT_FOLDER, new_id, write_json

    path = path or DEFAULT_FOLDER / "quality" / f"{new_id()}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    except OSError as error:
        raise OSError(f"cannot write the record {path}: {error.strerror or error}") from None
    return path


def _about_model(spec: "ModelSpec | None") -> dict[str, Any]:
    if spec is None:
        return {"model": None}
    return {
        "model": spec.text,
        "encoder": spec.encoder,
        "encoder_title": spec.encoder_title,
        "encoder_options": dict(spec.options),
        "backbone": spec.backbone,
        "num_classes": spec.num_classes,
        "num_queries": spec.num_queries,
    }


def _predict_all(
    weights: Path,
    spec: "ModelSpec | None",
    truth: "PanopticSet",
    entries: "list[Entry]",
    out: Path,
    how: tuple[str, str, int],
    share: tuple[int, int],
) -> "tuple[ModelSpec, dict[str, Any], list[str]]":
    """Predict this process's share of the images: the model, what it is, and the images that failed."""
    from segmeter.harness.quality import Settings, predict_dataset, thing_ids

    settings = Settings(*how)
    settings.check()
    rank, world = share
    if settings.device == "cuda" and world > 1:
        settings = Settings(f"cuda:{os.environ.get('LOCAL_RANK', '0')}", settings.dtype, settings.batch)
    model, found = load(weights, spec, settings)
    try:
        things = thing_ids(truth.categories, found.num_classes, model)
    except ValueError as error:
        raise ValueError(f"{weights.name} {error}") from None
    about = {
        "title": found.title,
        **_about_model(found),
        "weights": weights.name,
        "weights_sha256": _sha256(weights),
        "device": how[0],
        "dtype": settings.dtype,
        "batch": settings.batch,
    }
    identity = {
        **{key: about[key] for key in ("model", "weights", "weights_sha256", "dtype")},
        "dataset": truth.name,
        "split": truth.split,
        "annotations_sha256": _sha256(truth.source),
    }
    with progress_bar(f"predicting {found.title}", len(entries[rank::world])) as advance:
        faults = predict_dataset(
            model, truth, entries, out, settings, identity, rank, world, lambda: advance(), things
        )
    return found, about, faults


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _spread(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return {
        "mean": sum(seconds) / len(seconds),
        "median": ordered[len(ordered) // 2],
        "min": ordered[0],
        "max": ordered[-1],
    }
