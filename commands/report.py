"""The main job: report."""

from pathlib import Path
from typing import Annotated

import typer

from commands.common import (
    BackboneOpt,
    JsonOpt,
    chosen_spec,
    progress_bar,
    show,
    show_json,
    user_input,
)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(report)


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
        chosen = chosen_spec(None, "m2f", backbone, 133, None).backbone
        prepare_folder(out)
    from harness.report_run import count_steps, run_report
    from reports.write import write_report

    with progress_bar("measuring", count_steps(photos)) as advance:
        record = run_report(photos, chosen, advance)
    with user_input():
        files = write_report(record, out)
    if json:
        return show_json(record)
    from reports.terminal import comparison

    show(*(comparison(group) for group in record["records"].values()))
    show("written:", *(f"  {path}" for path in files))
