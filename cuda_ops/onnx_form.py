"""The op in ONNX: as one node, which TensorRT's plugin takes, and written out in ONNX's own operators.

An exporter translates each call of the op into a node with the inputs of TensorRT's
``MultiscaleDeformableAttnPlugin_TRT`` (github.com/NVIDIA/TensorRT, plugin/multiscaleDeformableAttnPlugin):
value (B, S, M, D), spatial shapes (L, 2) int32, level starts (L,) int32, sampling locations
(B, Q, M, L, P, 2), attention weights (B, Q, M, L, P); its output is (B, Q, M, D). :func:`with_plugin` gives
it that name; for every other runtime :func:`written_out` puts ``GridSample`` and sums in its place. Batch,
tokens and queries may be dynamic.

Needs onnx and onnxscript, which this module alone loads.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
import onnx.inliner
import onnx.parser
import torch
from onnxscript import opset18, values

PLUGIN = "MultiscaleDeformableAttnPlugin_TRT"
# TensorRT's parser goes by the node's name alone; the domain only keeps ONNX's own apart.
DOMAIN = "segmeter"
NODE = "DeformableAttention"
# Its stubs tell of tensors; what is traced are values of a graph.
op: Any = opset18
# GridSample of opset 20 differs by its modes' names, and TensorRT is reported to run it wrong.
OPSET = 18
INPUTS = ("value", "spatial_shapes", "level_start_index", "sampling_locations", "attention_weights")


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The op's two forms -> what writes a call of theirs as nodes, for ``torch.onnx.export``.

    And products with a number, which the exporter has for constants only, not for the ratio of two dynamic
    sizes.
    """
    ops = torch.ops.segmeter
    return {
        ops.ms_deform_attn.default: _plain,
        ops.ms_deform_attn_fused.default: _fused,
        torch.ops.aten.mul.Scalar: _times,
    }


def _times(tensor: Any, number: Any) -> Any:
    if isinstance(number, int | float):
        number = op.Constant(value=onnx.helper.make_tensor("number", onnx.TensorProto.DOUBLE, [], [number]))
    return op.Mul(tensor, op.CastLike(number, tensor))


def _plain(
    value: Any,
    spatial_shapes: Any,
    level_start_index: Any,
    sampling_locations: Any,
    attention_weights: Any,
) -> Any:
    heads, dim = (int(size) for size in value.shape[2:])
    sampled = _node(int(spatial_shapes.shape[0]))(
        value,
        op.Cast(spatial_shapes, to=onnx.TensorProto.INT32),
        op.Cast(level_start_index, to=onnx.TensorProto.INT32),
        sampling_locations,
        attention_weights,
    )
    return op.Reshape(sampled, op.Constant(value_ints=[0, 0, heads * dim]))


def _fused(
    value: Any,
    spatial_shapes: Any,
    level_start_index: Any,
    reference_points: Any,
    offsets: Any,
    logits: Any,
) -> Any:
    heads, levels, points = (int(size) for size in logits.shape[2:])
    # Offsets are pixels of each level: (H, W) -> (W, H).
    sides = op.Gather(spatial_shapes, op.Constant(value_ints=[1, 0]), axis=1)
    sides = op.Reshape(op.CastLike(sides, offsets), op.Constant(value_ints=[1, 1, 1, levels, 1, 2]))
    begin = op.Unsqueeze(op.CastLike(reference_points, offsets), op.Constant(value_ints=[2, 4]))
    locations = op.Add(begin, op.Div(offsets, sides))
    row = op.Reshape(logits, op.Constant(value_ints=[0, 0, heads, levels * points]))
    weights = op.Reshape(op.Softmax(row, axis=-1), op.Constant(value_ints=[0, 0, heads, levels, points]))
    return _plain(value, spatial_shapes, level_start_index, locations, weights)


@cache
def _node(levels: int) -> Any:
    """The node of a call with that many levels, callable while a graph is traced."""
    schemas = onnx.defs.OpSchema
    kinds = {name: "I" if name in INPUTS[1:3] else "T" for name in INPUTS}
    schema = schemas(
        f"{NODE}{levels}",
        DOMAIN,
        1,
        inputs=[schemas.FormalParameter(name, kind) for name, kind in kinds.items()],
        outputs=[schemas.FormalParameter("output", "T")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)"], "value's"),
            ("I", ["tensor(int32)"], "of sizes"),
        ],
    )
    return values.Op(values.Opset(DOMAIN, 1), schema.name, op_schema=schema)


def with_plugin(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported model in which each call of the op is TensorRT's plugin."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node, _ in _calls(copy):
        node.op_type = PLUGIN
        attributes = {"plugin_version": "1", "plugin_namespace": ""}
        node.attribute.extend(onnx.helper.make_attribute(*each) for each in attributes.items())
    return copy


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported model in which ONNX's own operators stand for each call of the op."""
    counts = sorted({levels for _, levels in _calls(model)})
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for count in counts:
        copy.functions.append(onnx.parser.parse_function(_function(count)))
    if counts:
        copy = onnx.inliner.inline_local_functions(copy)
    for opset in [each for each in copy.opset_import if each.domain == DOMAIN]:
        copy.opset_import.remove(opset)
    return copy


def number_of_calls(model: onnx.ModelProto) -> int:
    """How many of an exported model's nodes are calls of the op."""
    return len(_calls(model))


def _calls(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, int]]:
    """Each call of the op with its number of levels."""
    return [
        (node, int(node.op_type.removeprefix(NODE)))
        for node in model.graph.node
        if node.domain == DOMAIN and node.op_type.startswith(NODE)
    ]


def _function(levels: int) -> str:
    """The node's work in ONNX's text form, for a number of levels.

    Legend as in :mod:`cuda_ops.op`; ``bm`` is B*M. Each level is a map that ``GridSample`` reads with zeros
    outside, at pixel centres, as the op does.
    """
    lines = [
        "one = Constant <value_ints = [1]> ()",
        "axis = Constant <value_ints = [3]> ()",
        "rest = Constant <value_ints = [-1]> ()",
        "two = Constant <value_ints = [2]> ()",
        f"count = Constant <value_ints = [{levels}]> ()",
        "b = Shape <start = 0, end = 1> (value)",
        "m = Shape <start = 2, end = 3> (value)",
        "d = Shape <start = 3, end = 4> (value)",
        "q = Shape <start = 1, end = 2> (places)",
        "p = Shape <start = 4, end = 5> (places)",
        "bm = Mul (b, m)",
        "by_head = Transpose <perm = [0, 2, 3, 1]> (value)",
        "rows_shape = Concat <axis = 0> (bm, d, rest)",
        "rows = Reshape (by_head, rows_shape)",
        "sizes = Cast <to = 7> (shapes)",
        "first = Cast <to = 7> (starts)",
        "twice = Add (places, places)",
        "unit = CastLike (one, twice)",
        "grid = Sub (twice, unit)",
        "grid_by_head = Transpose <perm = [0, 2, 3, 1, 4, 5]> (grid)",
        "grids_shape = Concat <axis = 0> (bm, count, q, p, two)",
        "grids = Reshape (grid_by_head, grids_shape)",
        "weights_by_head = Transpose <perm = [0, 2, 3, 1, 4]> (weights)",
        "shares_shape = Concat <axis = 0> (bm, count, q, p)",
        "shares = Reshape (weights_by_head, shares_shape)",
    ]
    for i in range(levels):
        lines += [
            f"i{i} = Constant <value_ints = [{i}]> ()",
            f"n{i} = Constant <value_int = {i}> ()",
            f"size{i} = Gather <axis = 0> (sizes, n{i})",
            f"tokens{i} = ReduceProd <keepdims = 1> (size{i})",
            f"start{i} = Gather <axis = 0> (first, i{i})",
            f"end{i} = Add (start{i}, tokens{i})",
            f"slice{i} = Slice (rows, start{i}, end{i}, two)",
            f"map_shape{i} = Concat <axis = 0> (bm, d, size{i})",
            f"map{i} = Reshape (slice{i}, map_shape{i})",
            f"grid{i} = Gather <axis = 1> (grids, n{i})",
            f'samples{i} = GridSample <mode = "bilinear", padding_mode = "zeros", align_corners = 0>'
            f" (map{i}, grid{i})",
            f"share{i} = Gather <axis = 1> (shares, i{i})",
            f"weighted{i} = Mul (samples{i}, share{i})",
            f"sum{i} = ReduceSum <keepdims = 0> (weighted{i}, axis)",
            f"total{i} = Add (total{i - 1}, sum{i})" if i else "total0 = Identity (sum0)",
        ]
    lines += [
        "whole_shape = Concat <axis = 0> (b, m, d, q)",
        f"whole = Reshape (total{levels - 1}, whole_shape)",
        "output = Transpose <perm = [0, 3, 1, 2]> (whole)",
    ]
    body = "\n".join(f"  {line}" for line in lines)
    return (
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
        f"{NODE}{levels} (value, shapes, starts, places, weights) => (output)\n{{\n{body}\n}}"
    )
