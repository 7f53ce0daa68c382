"""The gate's record in the formats of continuous-integration services. Reads records only."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from segmeter.plain import json_text, plain
from segmeter.reports.text.gate import markdown_report, outcome, text_report, verdict_line

FORMATS = ("text", "json", "junit", "github", "markdown", "sarif")


def rendered(record: Mapping[str, Any], form: str) -> str:
    """The record in one of :data:`FORMATS`."""
    if form == "json":
        return json_text(record) + "\n"
    return {
        "text": text_report,
        "markdown": markdown_report,
        "github": github_annotations,
        "junit": junit_xml,
        "sarif": sarif,
    }[form](record)


def github_annotations(record: Mapping[str, Any]) -> str:
    """Workflow commands: one error on the file and line of the class behind each figure over budget."""
    lines = []
    for model, verdict in _failures(record):
        place = f"file={_property(verdict['file'])},line={verdict['line']}," if verdict["file"] else ""
        title = _property(f"segmeter: {model['name']}")
        lines.append(f"::error {place}title={title}::{_message(verdict_line(verdict, record['against']))}")
    return "\n".join([*lines, outcome(record)]) + "\n"


def junit_xml(record: Mapping[str, Any]) -> str:
    """JUnit XML: a suite for each model, a case for each figure."""
    root = ElementTree.Element("testsuites", name="segmeter")
    for model in record["models"]:
        verdicts = model["verdicts"]
        failed = sum(v["status"] != "within" for v in verdicts)
        suite = ElementTree.SubElement(
            root, "testsuite", name=plain(model["name"]), tests=str(len(verdicts)), failures=str(failed)
        )
        for verdict in verdicts:
            case = ElementTree.SubElement(
                suite, "testcase", classname=plain(f"segmeter.{model['name']}"), name=plain(verdict["what"])
            )
            if verdict["status"] != "within":
                line = verdict_line(verdict, record["against"])
                failure = ElementTree.SubElement(case, "failure", message=line, type=verdict["status"])
                failure.text = "\n".join([line, *(plain(c["text"]) for c in verdict["causes"][1:])])
    ElementTree.indent(root)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(root, encoding="unicode") + "\n"


def sarif(record: Mapping[str, Any]) -> str:
    """SARIF 2.1.0, as code-scanning services read it."""
    results = []
    for model, verdict in _failures(record):
        result: dict[str, Any] = {
            "ruleId": verdict["status"],
            "level": "error",
            "message": {"text": f"{plain(model['name'])}: {verdict_line(verdict, record['against'])}"},
        }
        if verdict["file"]:
            result["locations"] = [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": quote(verdict["file"]), "uriBaseId": "%SRCROOT%"},
                        "region": {"startLine": verdict["line"]},
                    }
                }
            ]
        results.append(result)
    rules = [
        {"id": "over", "shortDescription": {"text": "A figure is over its budget"}},
        {"id": "uncounted", "shortDescription": {"text": "An operator without a formula appeared"}},
    ]
    run = {"tool": {"driver": {"name": "segmeter", "rules": rules}}, "results": results}
    content = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }
    return json_text(content) + "\n"


def _failures(record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for model in record["models"]:
        for verdict in model["verdicts"]:
            if verdict["status"] != "within":
                yield model, verdict


def _message(text: str) -> str:
    """A workflow command's message: one line, in which percent signs are escaped."""
    return plain(text).replace("%", "%25")


def _property(text: str) -> str:
    """A workflow command's property: its separators are escaped too."""
    return _message(text).replace(":", "%3A").replace(",", "%2C")
