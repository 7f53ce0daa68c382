"""The papers' figures, held to measurement: audit, reconcile."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmeter.commands.asked import chosen_spec
from segmeter.commands.console import EXIT_FAILED, InputError, progress_bar, show, show_json, user_input
from segmeter.commands.options import (
    BackboneOpt,
    EncoderOpt,
    JsonOpt,
    ModelArg,
    ModelCommand,
    RenamedCommand,
    encoder_options,
)
from segmeter.commands.written import check_model

if TYPE_CHECKING:
    from segmeter.harness.audit import Subject

# Papers that cut tokens, whose claims have an audit of their own.
REDUCTION_PAPERS = ("algm", "segformer", "segformer++", "step")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(cls=RenamedCommand)(audit)
    app.command(cls=ModelCommand)(reconcile)


def audit(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TABLE]...", help="Anybody's tables: CSV, Markdown (.md) or LaTeX (.tex)."),
    ] = None,
    header: Annotated[
        Path | None, typer.Option(help="TOML: what the given tables do not say (size, device, unit, ...).")
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Exit 1 on doubts too. With given tables: what is suspicious.")
    ] = False,
    paper: Annotated[
        str, typer.Option(help="Whose figures. One of: pro-scale, algm, segformer, segformer++ or step.")
    ] = "pro-scale",
    table: Annotated[
        str | None, typer.Option(help="One of the paper's tables. 1 to 11, 15 or 16; default all.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO-format JSON; averages over its images' sizes.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of records. Default: results/runs and results/records."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="text|md|csv|latex|sarif|json",
            help="Form of the output. Default text; csv and latex of papers' tables, sarif of given ones.",
        ),
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Audit the papers' tables, or given ones, and say what does not hold: exit 1 if those contradict."""
    if format in ("text", "json") and not json:
        # What is printed without --format, and by --json.
        format, json = None, format == "json"
    if files:
        if table or annotations or records or paper != "pro-scale":
            raise InputError(
                "--paper, --table, --annotations and --from go with the papers' tables, not with files"
            )
        return _audit_files(files, header, strict, format, json)
    with user_input():
        if header or strict:
            raise ValueError("--header and --strict go with tables of your own: segmeter audit TABLE.csv")
        from segmeter.reports.text.audit import FORMATS
        from segmeter.words import nearest

        if format is not None and format not in FORMATS:
            raise ValueError(f"unknown format {format!r}{nearest(format, FORMATS)}")
        if format and json:
            raise ValueError("give --format or --json, not both")
        if records is not None and not records.is_dir():
            raise ValueError(f"no records: {records} is not a folder")
        if paper.lower() in REDUCTION_PAPERS:
            if table or annotations or format:
                raise ValueError(f"--table, --annotations and --format go with pro-scale, not with {paper}")
            return _audit_reduction(paper.lower(), json)
        # Before torch is loaded: which tables there are is data.
        from segmeter.harness.audit import GFLOPS_TABLES, check_tables, find_table

        tables = [find_table(table)] if table else list(GFLOPS_TABLES)
        check_tables(tables, paper)
        from segmeter.harness.audit import RECORD_FOLDERS, audit_steps, run_audit

        folders = RECORD_FOLDERS if records is None else (records,)
        with progress_bar("auditing", audit_steps()) as advance:
            record = run_audit(tables, advance, annotations=annotations, records=folders)
    from segmeter.reports.text.audit import audit_notes, audit_tables, audit_text, count_lines

    if json:
        return show_json(record)
    if format:
        typer.echo(audit_text(record, format), nl=False)
        return
    # The answer, and what the verdicts mean, before the many rows; the notes end with it again.
    show(*count_lines(record), "", *audit_tables(record), *audit_notes(record))


def _audit_files(
    files: list[Path], header: Path | None, strict: bool, format: str | None, json: bool
) -> None:
    """Anybody's tables."""
    with user_input():
        from segmeter.reports.text.comparisons import FORMATS, comparison_notes, comparison_tables, rendered
        from segmeter.words import nearest

        if format is not None and format not in FORMATS:
            raise ValueError(f"unknown format {format!r}{nearest(format, FORMATS)}")
        if format and json:
            raise ValueError("give --format or --json, not both")
        from segmeter.harness.audit import audit_comparisons, named_rows, read_comparisons

        tables = read_comparisons(files, header)
        named = named_rows(tables)
        with progress_bar("counting", len(named)) as advance:
            record = audit_comparisons(tables, named, advance)
    if json:
        show_json(record)
    elif format:
        typer.echo(rendered(record, format), nl=False)
    else:
        show(*comparison_tables(record), *comparison_notes(record))
    found = record["counts"]["findings"]
    if found["contradiction"] or (strict and found["suspicious"]):
        raise typer.Exit(EXIT_FAILED)


def _audit_reduction(paper: str, json: bool) -> None:
    """Claims of a paper that cuts tokens."""
    from segmeter.harness.audit import audit_reduction, reduction_steps

    with progress_bar("auditing", reduction_steps(paper)) as advance:
        record = audit_reduction(paper, advance)
    from segmeter.reports.text.reduction_audit import reduction_audit_notes, reduction_audit_tables

    if json:
        return show_json(record)
    show(*reduction_audit_tables(record), *reduction_audit_notes(record))


def reconcile(
    context: typer.Context,
    model: ModelArg = None,
    published: Annotated[str | None, typer.Option(help="The figure as printed, e.g. 117.0.")] = None,
    what: Annotated[str, typer.Option(metavar="encoder|total", help="What it is said to be.")] = "encoder",
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="MODEL=FIGURE",
            help="Another figure of the source, solved at once. Repeatable.",
        ),
    ] = None,
    encoder: EncoderOpt = None,
    backbone: BackboneOpt = None,
    json: JsonOpt = False,
) -> None:
    """Find which unit, counting path, component boundary and image size gives a printed figure."""
    with user_input():
        if published is None:
            raise ValueError("no figure given; add --published, e.g. --published 117.0")
        check_model(model)
        check_model(encoder)
        from segmeter.harness.audit import WHATS, read_figure
        from segmeter.words import nearest

        read_figure(published)
        if what not in WHATS:
            raise ValueError(f"unknown --what {what!r}{nearest(what, WHATS)}")
        others = [_other_figure(text) for text in beside or ()]
        spec = chosen_spec(model, encoder, backbone, 133, None, encoder_options(context))
        if not spec.backbone:
            raise ValueError(f"reconcile needs an encoder with a backbone, {model} is a whole model")
        from segmeter.harness.audit import (
            Subject,
            joint_steps,
            reconcile_figure,
            reconcile_jointly,
            reconcile_steps,
        )

        subject = Subject.of(spec, model or "")
        if beside:
            figures = [(subject, published), *(_subject_of(each, figure) for each, figure in others)]
            with progress_bar("trying sizes", joint_steps(len(figures))) as advance:
                joint = reconcile_jointly(figures, what, advance)
        else:
            with progress_bar("trying sizes", reconcile_steps()) as advance:
                record = reconcile_figure(subject, published, what, step=advance)
    if beside:
        if json:
            return show_json(joint)
        from segmeter.reports.text.reconcile import joint_notes, joint_table

        return show(joint_table(joint), *joint_notes(joint))
    if json:
        return show_json(record)
    from segmeter.reports.text.reconcile import reconcile_notes, reconcile_table

    table = reconcile_table(record)
    show(*([table] if record["matches"] else []), *reconcile_notes(record))


def _other_figure(text: str) -> tuple[str, str]:
    """MODEL=FIGURE; the model's own options hold "=" too."""
    from segmeter.harness.audit import read_figure

    model, mark, published = text.rpartition("=")
    if not mark or not model:
        raise ValueError(f"--with must be MODEL=FIGURE such as m2f@r50=226, got {text!r}")
    read_figure(published)
    check_model(model)
    return model, published


def _subject_of(model: str, published: str) -> tuple["Subject", str]:
    from segmeter.harness.audit import Subject

    spec = chosen_spec(model, None, None, 133, None)
    if not spec.backbone:
        raise ValueError(f"reconcile needs an encoder with a backbone, {model} is a whole model")
    return Subject.of(spec, model), published
