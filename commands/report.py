"""The main job: report."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from segmeter.commands.console import progress_bar, show, show_json, user_input, warn
from segmeter.commands.options import BackboneOpt, JsonOpt, chosen_spec

DEFAULT_RECORDS = Path("results")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(report)


def report(
    images: Annotated[
        list[Path] | None, typer.Option(help="A photo or a folder of photos; may be repeated.")
    ] = None,
    backbone: BackboneOpt = None,
    add: Annotated[
        Path | None, typer.Option(help="CSV of your own points; docs/figures.md has its columns.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Folder of records. Of time and quality; default: results, if it is there."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write. A folder.")] = Path("results/latest"),
    json: JsonOpt = False,
) -> None:
    """Measure all four models, audit the papers' tables, draw every figure; write it all as one report."""
    with user_input():
        from segmeter.files import prepare_folder
        from segmeter.harness.inputs import find_photos

        photos = find_photos(images or [])
        chosen = chosen_spec(None, "m2f", backbone, 133, None).backbone
        folder = _records(records)
        if add is not None:
            from segmeter.harness.tradeoff import own_points

            own_points(add)
        prepare_folder(out)
    from segmeter.harness.report import count_steps, run_report
    from segmeter.reports.write import write_report

    given = [*(("--images", path) for path in images or ()), ("--backbone", backbone)]
    given += [("--add", add), ("--from", records)]
    words = [str(word) for option in given if option[1] for word in option]
    with user_input(), progress_bar("measuring", count_steps(photos)) as advance:
        record = run_report(
            photos,
            chosen,
            advance,
            records_dir=folder,
            add=add,
            command=shlex.join(["segmeter", "report", *words]),
        )
    with user_input():
        files = write_report(record, out)
    if json:
        return show_json(record)
    from segmeter.reports.text.audit import count_lines
    from segmeter.reports.text.flops import comparison

    show(*(comparison(group) for group in record["records"].values()))
    show(*count_lines(record["audit"]))
    show("written:", *(f"  {path}" for path in files))


def _records(folder: Path | None) -> Path | None:
    """The folder of records to take in; its damaged files are named and passed over."""
    if folder is None and not DEFAULT_RECORDS.is_dir():
        return None
    from segmeter.harness.tradeoff import read_records

    folder = folder or DEFAULT_RECORDS
    for damaged in read_records(folder).damaged:
        warn(f"passed over {damaged.path}: {damaged.reason}")
    return folder
