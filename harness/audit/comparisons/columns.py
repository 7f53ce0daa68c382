"""Columns by the names that people use; what headers and footnotes say of size, device and so on."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.harness.audit.comparisons.devices import find_device
from segmeter.harness.audit.comparisons.figures import clean
from segmeter.harness.audit.comparisons.table import CONTEXTS, FIGURES, Column

# Header names that a TOML header's [columns] may give.
KINDS = (*FIGURES, *CONTEXTS, "model", "backbone", "baseline", "change", "source", "other")
_METRIC = re.compile(
    r"\b(m?iou|pq|sq|rq|m?ap|ap[a-z0-9]*|ar|box ap|mask ap|top-?[15]|acc(uracy)?|dice|f1|psnr|ssim"
    r"|miou.*|pq.*|m?ap[_@ ].*|m[_ ]?iou.*)\b",
    re.IGNORECASE,
)
_COST = re.compile(
    r"(?P<prefix>[kmgt]|giga|mega|tera)?[- ]?(?P<unit>flops?|macs?|madds?|mult(?:iply)?-?adds?)(?![a-z])",
    re.IGNORECASE,
)
_CHANGE = re.compile(
    r"change|delta|Δ|reduc|saving|saved|decrement|speed-?up|relative|\bgain\b|^%|% of", re.IGNORECASE
)
_FPS = re.compile(
    r"\bfps\b|im(?:g|age)?s?\s*/\s*s|(?:image|frame|sample)s? per s|throughput|samples?/s", re.IGNORECASE
)
_LATENCY = re.compile(
    r"latenc|runtime|run time|inf(?:er(?:ence)?)?\.? time|speed|\(ms\)|\bms\b|time", re.IGNORECASE
)
_MEMORY = re.compile(r"\bmem(?:ory)?\b|\bvram\b", re.IGNORECASE)
_SIZE = re.compile(
    r"^(?:(?:input|image|img|crop|test|infer(?:ence)?)[ _-]*){0,3}(?:size|resolution|res\.?|crop)$|^input$",
    re.I,
)
_EXACT = {
    "model": r"(models?|methods?|names?|arch(itecture)?s?|networks?|variants?|systems?)",
    "backbone": r"backbones?|encoders?",
    "device": r"devices?|gpus?|hardware|cpus?|platform",
    "dtype": r"d-?types?|precision|data ?types?",
    "batch": r"(?:infer(?:ence)?[ _-]?)?(?:batch|batch[ _-]?size|bs)",
    "form": r"forms?|mode|phase",
    "counter": r"counters?|tools?|counted (with|by)",
    "dataset": r"data[ _-]?sets?|split",
    "baseline": r"baselines?|relative to|compared (to|with)",
    "source": r"sources?|refs?\.?|references?|papers?|links?|urls?|configs?|downloads?|venues?|years?|ids?",
}
_PARTS = {
    "pixel decoder": r"pixel[ _-]?decoder",
    "backbone": r"backbone",
    "encoder": r"encoder|\benc\b",
    "decoder": r"decoder|\bdec\b",
    "neck": r"\bneck\b",
    "head": r"\bheads?\b",
    "total": r"total|whole|overall|\ball\b|end-to-end",
}
_DTYPES = {
    "float16": r"fp16|float16|half|amp",
    "bfloat16": r"bf16|bfloat16",
    "tf32": r"tf32",
    "float32": r"fp32|float32|single",
    "int8": r"int8|w8a8",
}
_DTYPE = {
    name: re.compile(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", re.IGNORECASE)
    for name, words in _DTYPES.items()
}
_PIXELS = re.compile(r"(?<![\w.])(\d{2,5})\s*[x\u00d7*,]\s*(\d{2,5})(?!\w|\.\d)")
_SQUARE = re.compile(r"@\s*(\d{2,5})(?!\w|\.\d)|(\d{2,5})\s*(?:²|\^2|px)")
_BATCH = re.compile(r"(?:batch(?:[ _-]?size)?|\bbs)\s*(?:of|=|:)?\s*(\d{1,5})", re.IGNORECASE)
_G = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "b": 1e9}
_COLUMN_UNIT = re.compile(
    r"[(\[/]\s*(?:[\u00d7x]?\s*10\^?)?(?P<unit>k|m|g|b|t|ms|s|sec|mi?b|gi?b|9|6)"
    r"(?:\s*/\s*(?:im(?:g|age)?|frame|sample))?\s*[)\]]?\s*$",
    re.I,
)


def read_size(text: str) -> tuple[int, int] | None:
    """Height and width: "512x1024", "640", "@512"; None where it says none, or several.

    >>> read_size("1024 x 2048"), read_size("640"), read_size("long side")
    ((1024, 2048), (640, 640), None)
    """
    text = text.strip()
    if text.isdecimal():
        return (int(text), int(text)) if 1 < len(text) < 6 else None
    found = {(int(h), int(w)) for h, w in _PIXELS.findall(text)}
    found = found or {(int(a or b), int(a or b)) for a, b in _SQUARE.findall(text)}
    return found.pop() if len(found) == 1 else None


def read_dtype(text: str) -> str | None:
    """The one precision that a text names."""
    found = [name for name, words in _DTYPE.items() if words.search(text)]
    return found[0] if len(found) == 1 else None


def said(text: str) -> dict[str, Any]:
    """What a header, caption or footnote says of size, device, dtype, batch and form, where it says one."""
    found: dict[str, Any] = {}
    size, dtype, device = (
        read_size(text) if not text.strip().isdecimal() else None,
        read_dtype(text),
        find_device(text),
    )
    batches = set(_BATCH.findall(text))
    if size:
        found["size"] = size
    if dtype:
        found["dtype"] = dtype
    if device:
        found["device"] = device.name
    if len(batches) == 1:
        found["batch"] = int(batches.pop())
    if re.search(r"\btrain(ing)?\b", text, re.IGNORECASE):
        found["form"] = "training"
    return found


def read_context(kind: str, text: str) -> Any:
    """A describing cell: (height, width), a device's name, a precision, a batch; else its letters."""
    text = text.strip()
    if not text or text == "-":
        return None
    if kind == "size":
        return read_size(text) or text.lower()
    if kind == "dtype":
        return read_dtype(text) or text.lower()
    if kind == "device":
        device = find_device(text)
        return device.name if device else text.lower()
    if kind == "batch":
        return int(text) if text.isdecimal() and 0 < len(text) < 6 else None
    return text.lower()


def read_columns(headers: Sequence[str], given: Mapping[str, str]) -> tuple[Column, ...]:
    """What each column prints.

    Args:
        headers: markup taken away.
        given: header -> kind, as the TOML header's [columns] says.
    """
    columns: list[Column] = []
    for index, header in enumerate(headers):
        column = _column(index, header, columns)
        if header in given and given[header] != column.kind:
            column = Column(index, header, given[header], scale=None if given[header] == "cost" else 1.0)
        columns.append(column)
    if not any(column.kind == "model" for column in columns):
        # A first column without a name, or a backbone's: that is what the rows are called by.
        for column in columns:
            if column.kind == "backbone" or (column.index == 0 and not column.header):
                columns[column.index] = Column(column.index, column.header, "model")
                break
    return tuple(columns)


def names_figures(header: str) -> bool:
    """Whether a header's cell, markup and all, names a kind of figure.

    >>> names_figures("Params (M)"), names_figures("SegNet-B")
    (True, False)
    """
    return _column(0, clean(header), ()).kind in FIGURES


def _column(index: int, header: str, before: Sequence[Column]) -> Column:
    # An arrow says which way is better.
    low = " ".join(re.sub("[↓↑⬆⬇]", " ", header.lower()).split())
    bare = re.sub(r"\s*[(\[].*?[)\]]\s*", " ", low).strip(" .:#")
    part = next((name for name, words in _PARTS.items() if re.search(words, low)), "")
    context = said(header)
    for kind, words in _EXACT.items():
        if re.fullmatch(words, bare):
            return Column(index, header, kind)
    if _SIZE.match(bare):
        return Column(index, header, "size")
    if _METRIC.match(low):
        # Before "ms" of "mIoU (ms)" passes for milliseconds: it is multi-scale.
        return Column(index, header, "metric", name=low, context=context)
    kind, unit, scale = _figure_kind(low)
    if _CHANGE.search(header):
        left = next((c for c in reversed(before) if c.kind in FIGURES), None)
        of = kind if kind != "other" else (left.kind if left else "")
        ratio = "factor" if re.search(r"[(\[]x[)\]]|\u00d7", low) else ""
        ratio = "percent" if "%" in low or "percent" in low else ratio
        return Column(
            index, header, "change", part or (left.part if left else ""), unit, name=of, ratio=ratio
        )
    if kind == "other":
        if _METRIC.search(low.replace("_", " ")):
            return Column(index, header, "metric", name=low, context=context)
        return Column(index, header, "other")
    return Column(index, header, kind, part, unit, scale, context=context)


def _figure_kind(low: str) -> tuple[str, str, float | None]:
    """Kind of figure, cost's unit, and the scale that the header gives."""
    low = low.replace("_", " ")
    written = _COLUMN_UNIT.search(low)
    unit = written["unit"].lower() if written else ""
    cost = _COST.search(low)
    if cost and not re.search(r"flop/?s/|tflops? achieved", low):
        prefix = (cost["prefix"] or unit or "")[:1].lower()
        prefix = {"9": "g", "6": "m"}.get(prefix, prefix)
        name = "FLOPs" if cost["unit"].startswith("flop") else "MACs"
        return "cost", name, _G[prefix] / 1e9 if prefix in _G else None
    if re.search(r"param|#p\b", low):
        prefix = {"6": "m", "9": "g"}.get(unit, unit)
        return "params", "", _G[prefix] / 1e6 if prefix in _G else None
    if _FPS.search(low):
        return "fps", "", 1.0
    if _MEMORY.search(low):
        scales = {"mb": 1.0, "mib": 1.048576, "m": 1.0, "gb": 1e3, "gib": 1073.741824, "g": 1e3}
        return "memory", "", scales.get(unit)
    if _LATENCY.search(low) and not re.search(r"train|epoch|hour|month|day", low):
        if unit in ("s", "sec"):
            return "latency", "", 1e3
        if unit == "ms" or "ms" in re.split(r"\W+", low):
            return "latency", "", 1.0
        if "latenc" in low:
            return "latency", "", None
    return "other", "", 1.0
