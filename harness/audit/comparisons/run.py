"""The audit of anybody's tables: files into one plain record of findings."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segmeter.harness.audit.comparisons import arithmetic, comparability, physics
from segmeter.harness.audit.comparisons.naming import Named, named_rows
from segmeter.harness.audit.comparisons.reading import read_header, read_tables
from segmeter.harness.audit.comparisons.table import (
    CONTEXTS,
    CONTRADICTION,
    FIGURES,
    LEVELS,
    SURENESS,
    SUSPICIOUS,
    Finding,
    Table,
)

SCHEMA = "segmeter.comparison_audit/1"
# Findings of one rule that are told; all are counted.
TOLD = 100


def read_comparisons(files: Sequence[Path], header: Path | None = None) -> list[Table]:
    """The tables of these files.

    Args:
        files: CSV, Markdown (.md) or LaTeX (.tex).
        header: TOML: context for all of them.

    Raises:
        ValueError: a file that holds no table, or a damaged header; one line.
    """
    context = read_header(header) if header else {}
    return [table for path in files for table in read_tables(path, context)]


def audit_comparisons(
    tables: Sequence[Table],
    named: Sequence[Named] | None = None,
    step: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Audit tables on all four levels.

    Args:
        tables: what :func:`read_comparisons` returns.
        named: rows to count; default all that name a known model. None of them loads torch if there are none.
        step: called with what is counted next, once for each named row.

    Returns:
        The record, ready for JSON.
    """
    named = named_rows(tables) if named is None else named
    findings: list[Finding] = [
        *arithmetic.arithmetic(tables),
        *comparability.comparability(tables),
        *physics.physics(tables),
    ]
    rules = {
        **_rules(arithmetic.LEVEL, arithmetic.RULES),
        **_rules(comparability.LEVEL, comparability.RULES),
        **_rules(physics.LEVEL, physics.RULES),
    }
    measured: list[dict[str, Any]] = []
    verdicts: Mapping[str, str] = {}
    if named:
        from segmeter.harness.audit.comparisons import measurement

        counted, faults = measurement.measure(named, step)
        findings += faults
        measured = [measurement.measured_record(one) for one in counted]
        rules |= _rules(measurement.LEVEL, measurement.RULES)
        verdicts = measurement.VERDICTS
    findings = _once_a_file(findings)
    sure = Counter(one.sure for one in findings)
    by_rule: Counter[str] = Counter()
    told = []
    for one in findings:
        by_rule[one.rule] += 1
        if by_rule[one.rule] <= TOLD:
            told.append(one)
    order = list(SURENESS)
    told.sort(key=lambda one: order.index(one.sure))
    accused = {
        (cell.file, cell.table, cell.row, cell.column)
        for one in findings
        if one.sure in (CONTRADICTION, SUSPICIOUS)
        for cell in one.cells
    }
    return {
        "schema": SCHEMA,
        "levels": list(LEVELS),
        "sureness": SURENESS,
        "rules": rules,
        "tables": [_table_record(table) for table in tables],
        "findings": [asdict(one) for one in told],
        "left_out": {rule: n - TOLD for rule, n in by_rule.items() if n > TOLD},
        "measured": measured,
        "verdicts": verdicts,
        "counts": {
            "figures": sum(len(row.figures) for table in tables for row in table.rows),
            "accused": len(accused),
            "findings": {name: sure[name] for name in SURENESS},
            "verdicts": dict(Counter(one["verdict"] for one in measured)),
        },
    }


def _once_a_file(findings: Sequence[Finding]) -> list[Finding]:
    """What is said of whole tables, once for all tables of a file of which it holds."""
    tables: dict[tuple[str, str, str], list[int]] = {}
    for one in findings:
        if not one.cells:
            tables.setdefault((one.rule, one.text, one.table[0]), []).append(one.table[1])
    kept = []
    for one in findings:
        numbers = [] if one.cells else tables[one.rule, one.text, one.table[0]]
        if not numbers or one.table[1] == numbers[0]:
            more = f" (tables {', '.join(map(str, numbers))})" if len(numbers) > 1 else ""
            kept.append(replace(one, text=one.text + more))
    return kept


def _rules(level: str, rules: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"level": level, "text": text} for name, text in rules.items()}


def _table_record(table: Table) -> dict[str, Any]:
    return {
        "file": table.source,
        "number": table.number,
        "title": table.header.get("title"),
        "citation": table.header.get("citation"),
        "rows": len(table.rows),
        "columns": [
            {"header": c.header, "kind": c.kind, "part": c.part, "unit": c.unit, "of": c.name}
            for c in table.columns
        ],
        "figures": sum(c.kind in FIGURES for c in table.columns),
        "context": {
            what: _plain(table.header.get(what) or table.noted.get(what))
            for what in CONTEXTS
            if table.header.get(what) or table.noted.get(what)
        },
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
