"""The claims of a paper that cuts tokens, as text."""

from segmeter.reports.text.reduction_audit import reduction_audit_tables


def claim(table: str, model: str) -> dict[str, object]:
    said = {"what": "speedup", "printed": "1.4", "measured": None, "verdict": "needs a clock", "note": ""}
    return {"table": table, "model": model, **said}


def test_each_printed_table_has_its_own_with_its_rows() -> None:
    """One model's inference and training speed-ups are two figures, told apart by their table alone."""
    claims = [claim("Inference [1]", "hq"), claim("Training", "hq"), claim("Inference [1]", "fast")]
    tables = reduction_audit_tables({"claims": claims})
    assert [(str(table.title), list(table.columns[0].cells)) for table in tables] == [
        ("Inference [1]", ["hq", "fast"]),
        ("Training", ["hq"]),
    ]
