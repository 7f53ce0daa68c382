"""Real weights: evaluate, convert, predict, datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.common import (
    EXIT_FAILED,
    BackboneOpt,
    EncoderOpt,
    JsonOpt,
    chosen_spec,
    progress_bar,
    show,
    show_json,
    user_input,
    warn,
)

if TYPE_CHECKING:
    from torch import nn

    from harness.datasets import Entry, PanopticSet
    from harness.spec import ModelSpec

WeightsOpt = Annotated[Path | None, typer.Option(help="Checkpoint: .pkl, .pth, .pt, .bin or .safetensors.")]
DeviceOpt = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
DtypeOpt = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
LISTED_FAULTS = 20


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(evaluate)
    app.command()(convert)
    app.command()(predict)
    group = typer.Typer(help="Data sets on disk; nothing is ever downloaded.", no_args_is_help=True)
    group.callback()(_datasets)
    group.command()(check)
    app.add_typer(group, name="datasets")


def _datasets() -> None:
    """Data sets on disk; nothing is ever downloaded."""


def evaluate(
    dataset: Annotated[str, typer.Option(help="coco, cityscapes or ade20k.")],
    data: Annotated[Path, typer.Option(help="The data set's folder; see `segmeter datasets check`.")],
    encoder: EncoderOpt = None,
    backbone: BackboneOpt = None,
    weights: WeightsOpt = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Score this folder of COCO-format predictions instead of a model.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "val",
    limit: Annotated[int | None, typer.Option(help="Only the first N images by id.", min=1)] = None,
    batch: Annotated[int, typer.Option(help="Images at once, where neighbours have one size.")] = 1,
    device: DeviceOpt = "cpu",
    dtype: DtypeOpt = "float32",
    out: Annotated[Path, typer.Option(help="Folder for predictions; a stopped run goes on there.")] = Path(
        "results/runs/evaluate"
    ),
    record: Annotated[Path | None, typer.Option(help="Also write the record to this file.")] = None,
    skip_faulty: Annotated[
        bool, typer.Option("--skip-faulty", help="Score without the images that cannot be scored.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Measure PQ, AP and mIoU of a checkpoint, or of a folder of predictions."""
    from harness.evaluate import process_group, quality_record, score_folder, wait_for_all

    rank, world = process_group()
    with user_input():
        from harness.datasets import open_dataset

        if (weights is None) == (predictions is None):
            raise ValueError("give either --weights FILE or --predictions DIR")
        truth = open_dataset(dataset, data, split)
        entries = list(truth.entries[:limit])
        faults: list[str] = []
        about: dict[str, Any] = {"title": str(predictions), "model": None, "predictions": str(predictions)}
        folder = predictions
        if weights is not None:
            folder = out
            spec = _given_spec(encoder, backbone)
            about, faults = _predict_all(
                weights, spec, truth, entries, out, (device, dtype, batch), (rank, world)
            )
    faults = wait_for_all(faults)
    if rank:
        return
    with user_input():
        if weights is not None:
            from harness.inference import gather

            about["seconds_per_image"] = _spread(gather(out, entries))
        assert folder is not None
        with progress_bar("scoring", len(entries)) as advance:

            def done(images: int) -> None:
                for _ in range(images):
                    advance()

            scores = score_folder(truth, entries, folder, None, done)
        scores.faults[:0] = faults
        if scores.faults:
            for fault in scores.faults[:LISTED_FAULTS]:
                warn(fault)
            if not skip_faulty:
                warn(
                    f"{len(scores.faults)} faults in all; no score was made (--skip-faulty leaves those out)"
                )
                raise typer.Exit(EXIT_FAILED)
        result = quality_record(scores, truth, about)
        if record is not None:
            from harness.record import write_json

            write_json(record, result)
    if json:
        return show_json(result)
    from reports.quality import quality_table

    show(*quality_table(result))


def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint of Mask2Former, PRO-SCALE or transformers.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    encoder: EncoderOpt = None,
    backbone: BackboneOpt = None,
) -> None:
    """Write a checkpoint as safetensors in segmeter's names; every entry that does not fit is listed."""
    from harness.checkpoints import CheckpointMismatchError
    from harness.checkpoints import convert as convert_file

    with user_input():
        try:
            spec, report = convert_file(source, target, _given_spec(encoder, backbone))
        except CheckpointMismatchError as error:
            show(*error.report.lines())
            raise
    show(f"{spec.text}: {report.matched} entries, {spec.num_classes} classes, {spec.num_queries} queries")
    show(*(f"ignored     {name}" for name in report.ignored))
    show(f"written: {target}")


def predict(
    images: Annotated[list[Path], typer.Argument(help="Photos or folders of photos.")],
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Checkpoint; may be repeated, the encoders then stand side by side."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="coco, cityscapes or ade20k: how images are resized, class names.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Panoptic annotation file or data set folder to take class names from."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("results/runs/predict"),
    device: DeviceOpt = "cpu",
    dtype: DtypeOpt = "float32",
) -> None:
    """Draw panoptic, instance and semantic results over photos, with a legend."""
    with user_input():
        from harness.inference import Settings
        from harness.photos import find_photos
        from harness.predict import class_names, predict_photo

        if not weights:
            raise ValueError("give at least one --weights FILE")
        settings = Settings(device, dtype)
        settings.check()
        photos = find_photos(images)
        models = [_load(path, None, settings) for path in weights]
        names = [class_names(spec, dataset, data) for _, spec in models]
        out.mkdir(parents=True, exist_ok=True)
        from harness.record import write_bytes
        from reports.overlays import overlay_figure, picture_bytes

        written = []
        with progress_bar("predicting", len(photos) * len(models)) as advance:
            for photo in photos:
                results = []
                for (model, spec), categories in zip(models, names, strict=True):
                    results.append(predict_photo(model, spec, photo.path, categories, dataset, settings))
                    advance()
                path = out / f"{photo.path.stem}.png"
                write_bytes(path, picture_bytes(overlay_figure(results)))
                written.append(path)
    show("written:", *(f"  {path}" for path in written))


def check(
    folder: Annotated[Path, typer.Argument(help="A data set's folder.")],
    split: Annotated[str, typer.Option(help="Split to look for.")] = "val",
    json: JsonOpt = False,
) -> None:
    """Say what is there of a data set, what is missing, and where to get it."""
    with user_input():
        from harness.datasets import check_folder

        pieces = check_folder(folder, split)
    if json:
        return show_json(
            [
                {
                    "dataset": p.dataset,
                    "what": p.what,
                    "path": str(p.path),
                    "found": p.found,
                    "files": p.files,
                }
                for p in pieces
            ]
        )
    for piece in pieces:
        if piece.found:
            files = f" ({piece.files:,} files)" if piece.path.is_dir() else ""
            show(f"found    {piece.dataset:<10} {piece.what}: {piece.path}{files}")
        else:
            show(f"missing  {piece.dataset:<10} {piece.what}: expected {piece.path}; {piece.hint}")


def _given_spec(encoder: str | None, backbone: str | None) -> "ModelSpec | None":
    """None where the checkpoint itself says what it is."""
    if encoder is None and backbone is None:
        return None
    if encoder is None:
        raise ValueError("--backbone needs --encoder; without both the checkpoint says what it is")
    return chosen_spec(None, encoder, backbone, 133, None)


def _load(path: Path, spec: "ModelSpec | None", settings: Any) -> "tuple[nn.Module, ModelSpec]":
    from harness.checkpoints import CheckpointMismatchError, load_model
    from harness.inference import DTYPES

    try:
        model, found, _ = load_model(path, spec)
    except CheckpointMismatchError as error:
        for line in error.report.lines():
            warn(line)
        raise
    return model.to(settings.device, DTYPES[settings.dtype]), found


def _predict_all(
    weights: Path,
    spec: "ModelSpec | None",
    truth: "PanopticSet",
    entries: "list[Entry]",
    out: Path,
    how: tuple[str, str, int],
    share: tuple[int, int],
) -> tuple[dict[str, Any], list[str]]:
    """Predict this process's share of the images; what the model is, and the images that failed."""
    import os

    from harness.inference import Settings, predict_dataset

    settings = Settings(*how)
    settings.check()
    rank, world = share
    if settings.device == "cuda" and world > 1:
        settings = Settings(f"cuda:{os.environ.get('LOCAL_RANK', '0')}", settings.dtype, settings.batch)
    model, found = _load(weights, spec, settings)
    if found.num_classes != len(truth.categories):
        raise ValueError(
            f"{weights.name} has {found.num_classes} classes, the data set {len(truth.categories)}: "
            "weights of another data set?"
        )
    stat = weights.stat()
    about = {
        "model": found.text,
        "title": found.title,
        "encoder": found.encoder,
        "encoder_title": found.encoder_title,
        "encoder_options": dict(found.options),
        "backbone": found.backbone,
        "num_classes": found.num_classes,
        "num_queries": found.num_queries,
        "weights": weights.name,
        "weights_bytes": stat.st_size,
        "device": how[0],
        "dtype": settings.dtype,
        "batch": settings.batch,
    }
    identity = {
        **{key: about[key] for key in ("model", "weights", "weights_bytes", "dtype")},
        "dataset": truth.name,
        "split": truth.split,
    }
    with progress_bar(f"predicting {found.title}", len(entries[rank::world])) as advance:
        faults = predict_dataset(
            model, truth, entries, out, settings, identity, rank, world, lambda: advance()
        )
    return about, faults


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
