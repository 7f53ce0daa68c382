"""The main job: report."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from segmeter.commands.asked import check_convention, chosen_spec
from segmeter.commands.console import progress_bar, show, show_json, user_input, warn
from segmeter.commands.options import BackboneOpt, ConventionOpt, JsonOpt, PaddedOpt

DEFAULT_RECORDS = Path("results")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(report)


def report(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RECORDS]...", help="With --site: record files and folders of them."),
    ] = None,
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
    site: Annotated[
        Path | None, typer.Option(help="Write a leaderboard of the given RECORDS into this folder instead.")
    ] = None,
    padded_size: PaddedOpt = None,
    convention: ConventionOpt = "published",
    json: JsonOpt = False,
) -> None:
    """Measure all four models, audit the papers' tables, draw every figure; write it all as one report."""
    if site is not None:
        with user_input():
            if images or add:
                raise ValueError("--images and --add go with the report, not with --site")
            folders = [*(files or []), *([records] if records else [])] or [DEFAULT_RECORDS]
            return _site(site, folders, padded_size, convention, json)
    with user_input():
        if files or padded_size or convention != "published":
            raise ValueError("RECORDS, --padded-size and --convention go with --site DIR")
        from segmeter.files import prepare_folder
        from segmeter.harness.inputs import find_photos

        photos = find_photos(images or [])
        folder = _records(records)
        chosen = chosen_spec(None, "m2f", backbone, 133, None).backbone
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


def _site(out: Path, paths: list[Path], padded_size: str | None, convention: str, json: bool) -> None:
    """Write the leaderboard's page, ``index.html``."""
    check_convention(convention)
    from segmeter.files import prepare_folder
    from segmeter.harness.inputs import parse_padded_size
    from segmeter.harness.records import read_paths

    size = parse_padded_size(padded_size) if padded_size else None
    found = read_paths(paths)
    for damaged in found.damaged:
        warn(f"passed over {damaged.path}: {damaged.reason}")
    if not (found.runs or found.cards or found.qualities):
        raise ValueError(f"no timing, quality record or card in {', '.join(map(str, paths))}")
    prepare_folder(out)
    from segmeter.harness.leaderboard import distinct_models, leaderboard
    from segmeter.harness.records import write_text
    from segmeter.reports.html.site import site_html

    with progress_bar("counting", len(distinct_models(found))) as advance:
        record = leaderboard(found, size, convention, advance)
    words = shlex.join(["segmeter", "report", "--site", str(out), *map(str, paths)])
    page = out / "index.html"
    write_text(page, site_html(record, words))
    if json:
        return show_json({**record, "files": [str(page)]})
    rows, size_text = len(record["rows"]), record["size"]
    show(f"{rows} rows, counted at {size_text}, convention '{convention}'", f"written: {page}")
    return None


def _records(folder: Path | None) -> Path | None:
    """The folder of records to take in; its damaged files are named and passed over."""
    if folder is None and not DEFAULT_RECORDS.is_dir():
        return None
    from segmeter.harness.tradeoff import read_records

    folder = folder or DEFAULT_RECORDS
    for damaged in read_records(folder).damaged:
        warn(f"passed over {damaged.path}: {damaged.reason}")
    return folder
