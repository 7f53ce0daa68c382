"""The deformable-attention op: what runs here, building it ahead, timing it."""

from pathlib import Path
from typing import Annotated

import typer

from segmeter.commands.console import EXIT_FAILED, progress_bar, show, show_json, user_input
from segmeter.commands.groups import CommandGroup
from segmeter.commands.known import check_word
from segmeter.commands.options import DeviceOpt, JsonOpt, precision
from segmeter.files import prepare_folder

op = typer.Typer(
    help="The compiled deformable-attention op: build it ahead, time it.",
    cls=CommandGroup,
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(op, name="op")
    app.command()(doctor)


def doctor(json: JsonOpt = False) -> None:
    """Show which implementation of the op runs, why, and which libraries' models it would speed up."""
    from segmeter.harness.op import diagnose
    from segmeter.reports.text.op import doctor_notes, drop_in_lines, implementations_table, library_lines

    with user_input():
        record = diagnose()
    if json:
        show_json(record)
    else:
        show(
            *doctor_notes(record),
            implementations_table(record),
            *library_lines(record),
            *drop_in_lines(record),
        )


@op.command()
def build(
    arch: Annotated[
        list[int] | None,
        typer.Option(help="70, 75, 80, 86, 89, 90, 100 or 120; may be repeated. Default: the GPUs at hand."),
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Build the op's kernels now, so that the first use does not."""
    from segmeter.harness.op import build_ahead
    from segmeter.reports.text.op import build_lines

    with user_input():
        rows = build_ahead(arch or [])
    show_json(rows) if json else show(*build_lines(rows))
    if not all(row["ok"] for row in rows):
        raise typer.Exit(EXIT_FAILED)


@op.command()
def hub(
    owner: Annotated[str, typer.Option(help="Whose kernel it will be on the Hub.")],
    out: Annotated[Path, typer.Option(help="Where to write. A new folder.")] = Path("segmeter-deform-attn"),
    json: JsonOpt = False,
) -> None:
    """Write the op as a project of Hugging Face's kernel-builder."""
    from segmeter.harness.op import write_project

    with user_input():
        files = write_project(out, owner)
    if json:
        show_json({"folder": str(out), "files": [str(file) for file in files]})
        return
    show(
        f"written     {len(files)} files, {out}",
        "publish     kernel-builder build-and-upload (needs Nix); see docs/op.md",
    )


@op.command()
def bench(
    device: DeviceOpt = "cpu",
    shapes: Annotated[
        str | None, typer.Option(help="Comma-separated, e.g. m2f-1024x2048,decoder-100; default: all.")
    ] = None,
    dtypes: Annotated[str, typer.Option(help="Comma-separated: fp32, fp16, bf16, fp64; or all.")] = "fp32",
    rounds: Annotated[int, typer.Option(help="How often each implementation runs.")] = 7,
    cold: Annotated[
        bool, typer.Option("--cold", help="Fill the caches with other data before each call.")
    ] = False,
    compiled_reference: Annotated[
        bool,
        typer.Option(help="Also time torch.compile of the reference; compiling takes a few seconds a case."),
    ] = True,
    out: Annotated[Path, typer.Option(help="Where to write. A folder for the record.")] = Path(
        "results/runs/op"
    ),
    json: JsonOpt = False,
) -> None:
    """Time the op at the encoders' shapes against the reference and the peers installed."""
    from segmeter.harness.op import DTYPE_NAMES, PASSES, PLACES, SHAPES

    names = shapes.split(",") if shapes else list(SHAPES)
    with user_input():
        for name in names:
            check_word("shape", name, list(SHAPES))
        words = dtypes.split(",")
        kinds = list(DTYPE_NAMES) if dtypes == "all" else [precision(word, DTYPE_NAMES) for word in words]
        if rounds < 3:
            raise ValueError(f"rounds must be at least 3, got {rounds}")
        prepare_folder(out)
    from segmeter.harness.op import Options, run_benchmark, write_record
    from segmeter.reports.text.op import bench_notes, bench_table

    steps = len(names) * len(kinds) * len(PLACES) * len(PASSES)
    with user_input(), progress_bar("timing", steps) as advance:
        options = Options(rounds=rounds, cold=cold, compiled_reference=compiled_reference)
        record = run_benchmark(device, names, kinds, options, progress=advance)
        path = write_record(record, out)
    if json:
        show_json(record)
    else:
        show(bench_table(record), *bench_notes(record), f"record      {path}")
