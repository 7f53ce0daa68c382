"""An export as a table and lines; reads the record only."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from segmeter.plain import plain
from segmeter.reports.units import amount

Record = Mapping[str, Any]

# github.com/NVIDIA/TensorRT, issues 4813 (deformable attention as GridSample, wrong outputs of TensorRT 10.14
# and 11.1 where 10.13 was right) and 4646 (GridSample of opset 20 wrong in 10.13.3, of opset 18 right).
MISTRANSLATED = (
    "TensorRT 10.14 and 11.1 are reported to run deformable attention as GridSample, which this file has {} "
    "times, silently wrong (github.com/NVIDIA/TensorRT/issues/4813): for TensorRT write --plugin, and "
    "compare its outputs in any case"
)


def outputs_table(record: Record) -> Table:
    """Each output's shape, and how far it is from eager at the sizes checked."""
    table = Table(title=f"{plain(record['title'])}: {record['part']} as ONNX", title_justify="left")
    table.add_column("output")
    table.add_column("shape")
    for check in record["checks"]:
        table.add_column(f"error at {check['size']}, batch {check['batch']}", justify="right")
    for output in record["outputs"]:
        name = output["name"]
        table.add_row(
            plain(name),
            shape_text(output["shape"]),
            *(f"{check['errors'][name]:.2g}" for check in record["checks"]),
        )
    return table


def export_lines(record: Record) -> list[str]:
    """What was written, how it was checked, and what to beware of."""
    inputs = ", ".join(f"{plain(each['name'])} {shape_text(each['shape'])}" for each in record["inputs"])
    calls = record["deformable_attention"]
    lines = [
        f"inputs      {inputs}, float32",
        f"checked     in ONNX Runtime {record['versions']['onnxruntime']} against eager: an error is the "
        f"largest difference over the output's largest entry; tolerance {record['tolerance']:g}",
        f"weights     {plain(record['weights'])}",
    ]
    if record["form"] == "plugin":
        lines.append(
            f"plugin      {calls} nodes MultiscaleDeformableAttnPlugin_TRT of TensorRT's own plugins; ONNX "
            "Runtime has none, so each was written out for the check"
        )
        if not calls:
            lines.append("plugin      this part has no deformable attention that is known: no node is one")
    if record["fixed"]:
        words = " and ".join(record["fixed"])
        lines.append(f"fixed       {words}: the model's own code takes no other")
    lines += [f"kept        {plain(each)}" for each in record["kept_layers"]]
    if record["grid_samples"]:
        lines.append(f"beware      {MISTRANSLATED.format(record['grid_samples'])}")
    return [*lines, f"written     {plain(record['file'])}, {amount(record['bytes'], 'bytes')}"]


def shape_text(shape: Sequence[int | str]) -> str:
    """A shape as it is written, dynamic sizes by name.

    >>> shape_text(["batch", 3, 512, 1024])
    '(batch, 3, 512, 1024)'
    """
    return f"({', '.join(map(str, shape))})"
