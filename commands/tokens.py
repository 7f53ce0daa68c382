"""Token redundancy: which tokens an encoder could do without."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands.asked import chosen_spec
from segmeter.commands.console import progress_bar, show, show_json, user_input, warn
from segmeter.commands.grouped import grouped
from segmeter.commands.options import JsonOpt
from segmeter.model_text import ModelText, library_name

if TYPE_CHECKING:
    from segmeter.harness.models import ModelSpec
    from segmeter.harness.tokens import TokensRecord

EXIT_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(tokens)


@dataclass(frozen=True)
class Looked:
    """What is looked into, and its weights."""

    backbone: Annotated[
        str | None,
        typer.Option(help="A backbone, see `segmeter models`. Default: the file's, or the offline one."),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            help="An encoder: m2f, lite-m2f, rt-m2f or pro-scale, with options as in MODEL. It is "
            "looked into, and the what-if counts its cost; also segmenter or segformer, "
            "or a library's model with blocks of tokens: timm:vit_tiny_patch16_224."
        ),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A checkpoint. Or timm or timm:TAG to fetch timm's; default: offline."
        ),
    ] = None
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Give random weights to parts that have no others.")
    ] = False


@dataclass(frozen=True)
class Drawn:
    """The photos, and how some of them are drawn."""

    images: Annotated[
        list[Path] | None, typer.Option(help="A photo or a folder of photos; may be repeated.")
    ] = None
    num_images: Annotated[int, typer.Option(help="Draw at most so many of them.")] = 100
    seed: Annotated[int, typer.Option(help="Of the draw, the sampled tokens and random weights.")] = 0


@dataclass(frozen=True)
class Analysis:
    """Where tokens are looked at, and what is measured of them."""

    at: Annotated[
        str | None, typer.Option(help="backbone, layer:N or all; default: all with an encoder that can run.")
    ] = None
    threshold: Annotated[float, typer.Option(help="Cosine from which tokens count as alike.")] = 0.9
    distance: Annotated[int, typer.Option(help="Farthest tokens of the curve along the sequence.")] = 64
    radius: Annotated[int, typer.Option(help="Farthest ring of the curve on the map.")] = 32
    sample: Annotated[int, typer.Option(help="Tokens of a map whose best match is sought; 0 for all.")] = 1024
    labels: Annotated[
        Path | None, typer.Option(help="PNGs of class ids, named as the photos. For segmenter and segformer.")
    ] = None
    short_side: Annotated[int, typer.Option(help="Short side of the resized photos.")] = 800


@grouped
def tokens(
    *,
    looked: Looked,
    drawn: Drawn,
    analysis: Analysis,
    out: Annotated[
        Path, typer.Option(help="Where to write. A folder for record, CSV, text and figures.")
    ] = Path("results/tokens"),
    json: JsonOpt = False,
) -> None:
    """Measure how much tokens resemble each other, per scale and layer, and what merging them would save."""
    with user_input():
        if looked.encoder is not None and _is_of_blocks(looked.encoder):
            return _by_block(looked.encoder, looked, drawn, analysis, out, json)
        if analysis.labels is not None:
            raise ValueError(
                "--labels goes with a model that is looked into block by block, such as --encoder segmenter "
                "or a library's"
            )
        record, asked = _by_scale(looked, drawn, analysis, out)
        files = _write(record, out)
    for fault in record["skipped"]:
        warn(f"skipped: {fault}")
    if json:
        show_json(record)
    else:
        from segmeter.reports.text.tokens import ordering_lines, source_lines, tables

        show(*source_lines(record), *tables(record), *(f"- {line}" for line in ordering_lines(record)))
        show(_cost_line(record), "written:", *(f"  {file}" for file in files))
    if record["interrupted"]:
        warn(f"interrupted: the figures are of {len(record['images'])} of {asked} images")
        raise typer.Exit(EXIT_INTERRUPTED)


def _by_scale(looked: Looked, drawn: Drawn, analysis: Analysis, out: Path) -> "tuple[TokensRecord, int]":
    """Tokens of a backbone and its encoder, scale by scale: the record, and the number of photos asked."""
    from segmeter.files import prepare_folder
    from segmeter.harness.inputs import MAX_SIDE, ResizeRule, choose_photos
    from segmeter.harness.tokens import Settings, chosen_places, run_tokens
    from segmeter.harness.weights import load_network

    settings = Settings(
        analysis.distance, analysis.radius, analysis.threshold, analysis.sample or None, drawn.seed
    )
    short = analysis.short_side
    if not 32 <= short <= MAX_SIDE:
        raise ValueError(f"--short-side must be from 32 to {MAX_SIDE} pixels, got {short}")
    rule = ResizeRule(short, min(MAX_SIDE, round(short * 1333 / 800)))
    spec = None if looked.encoder is None else _encoder(looked.encoder, looked.backbone)
    photos, faults = choose_photos(drawn.images or [], drawn.num_images, drawn.seed)
    at = analysis.at or ("backbone" if spec is None else "all")
    # An encoder that is only counted needs no weights.
    wanted = None if at == "backbone" else spec
    network = load_network(
        looked.backbone, wanted, looked.weights, allow_random=looked.random_weights, seed=drawn.seed
    )
    chosen_places(at, network)
    prepare_folder(out)
    try:
        with progress_bar("images", len(photos)) as advance:
            record = run_tokens(
                network, photos, settings, at=at, encoder=spec, rule=rule, skipped=faults, step=advance
            )
    except KeyboardInterrupt:
        warn("interrupted before the first image was done; nothing written")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    return record, len(photos)


def _is_of_blocks(text: str) -> bool:
    """Whether a model is looked into block by block: a library's, or one without an encoder on a backbone."""
    if library_name(text):
        return True
    from segmeter.harness.models import encoder_stage

    spec = chosen_spec(text, None, None, 133, None)
    return not spec.system.is_own_whole and encoder_stage(spec) is None


def _by_block(encoder: str, looked: Looked, drawn: Drawn, analysis: Analysis, out: Path, json: bool) -> None:
    """Tokens of a system without an encoder of its own, block by block, at the system's own size."""
    from segmeter.files import prepare_folder
    from segmeter.harness.inputs import choose_photos, parse_size
    from segmeter.harness.models import inputs_of, real_model, usual_input
    from segmeter.harness.tokens import run_blocks
    from segmeter.harness.weights import load_model

    threshold, weights = analysis.threshold, looked.weights
    if not -1 <= threshold <= 1:
        raise ValueError(f"--threshold must be from -1 to 1, got {threshold}")
    size, classes = usual_input(encoder, looked.backbone)
    spec = chosen_spec(encoder, None, looked.backbone, classes or 150, None)
    inputs = inputs_of(spec)
    if weights is None and not looked.random_weights:
        raise ValueError(
            f"no weights for {encoder}: give --weights FILE, or ask for random ones with --random-weights "
            "(their similarities mean nothing)"
        )
    photos, faults = choose_photos(drawn.images or [], drawn.num_images, drawn.seed)
    if weights is None:
        model, source = real_model(spec), "random, from one seed"
    else:
        model, spec, _ = load_model(Path(weights), spec)
        source = Path(weights).name
    prepare_folder(out)
    with progress_bar("images", len(photos)) as advance:
        record = run_blocks(
            spec,
            model,
            photos,
            inputs.size if inputs else parse_size(size or "512x512"),
            threshold,
            weights=source,
            labels=analysis.labels,
            skipped=faults,
            step=advance,
        )
    files = _write_blocks(record, out)
    for fault in faults:
        warn(f"skipped: {fault}")
    if json:
        return show_json(record)
    from segmeter.reports.text.blocks import blocks_notes, blocks_tables

    show(*blocks_tables(record), *blocks_notes(record), "written:", *(f"  {file}" for file in files))


def _encoder(text: str, backbone: str | None) -> "ModelSpec":
    """The encoder as written; its backbone, if it names one, must be the other option's."""
    spec = chosen_spec(text, None, None, 133, None)
    if not spec.backbone:
        raise ValueError(f"{text} is a whole model; --encoder takes an encoder")
    written = ModelText.named(text).backbone
    if written and written != backbone:
        raise ValueError(f"give the backbone with --backbone {written}, not inside --encoder")
    return spec


def _write_blocks(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """As :func:`_write`, of a record block by block."""
    from segmeter.reports.text.blocks import TITLES, blocks_csv, blocks_markdown, figures

    return _write_all(record, folder, blocks_csv(record), blocks_markdown(record), figures(record), TITLES)


def _write(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Record, CSV, text and figures; everything is made before the first file is touched."""
    from segmeter.reports.text.tokens import TITLES, figures, markdown_section, tokens_csv

    section = markdown_section(record, level=1)
    return _write_all(record, folder, tokens_csv(record), section, figures(record), TITLES)


def _write_all(
    record: Mapping[str, Any],
    folder: Path,
    csv: str,
    section: str,
    drawn: Mapping[str, Any],
    titles: Mapping[str, str],
) -> list[Path]:
    from segmeter.harness.records import to_json, write_bytes
    from segmeter.reports.plots.breakdown import FORMATS, figure_bytes

    links = "".join(f"\n![{titles[name]}]({name}.png)\n" for name in drawn)
    content = {
        "tokens.json": to_json(record).encode(),
        "tokens.csv": csv.encode(),
        "tokens.md": (section + links).encode(),
    }
    for name, figure in drawn.items():
        content |= {f"{name}.{kind}": figure_bytes(figure, kind) for kind in FORMATS}
    for name, data in content.items():
        write_bytes(folder / name, data)
    return [folder / name for name in content]


def _cost_line(record: Mapping[str, Any]) -> str:
    """Where the time went, and the memory."""
    seconds, memory = record["seconds"], record["memory"]
    peak = memory["peak_rss_bytes"]
    return (
        f"seconds: {seconds['reading']:.1f} reading, {seconds['backbone']:.1f} backbone, "
        f"{seconds['encoder']:.1f} encoder, {seconds['analysis']:.1f} analysis; memory: analysis at most "
        f"{memory['analysis_bound_bytes'] / 2**20:.0f} MiB at once"
        + ("" if peak is None else f", whole process {peak / 2**20:.0f} MiB at its peak")
    )
