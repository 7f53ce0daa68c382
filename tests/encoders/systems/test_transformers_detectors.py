"""RT-DETR and DINO's deformable layers give what transformers' modules give from the same random weights.

Backbones are left out: features go in. RT-DETR's maps are square, since on others the authors' code, which
this system follows, gives a token another place's position code, and transformers its own place's.
"""

import re

import pytest
import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Sizes
from segmeter.encoders.parts.layers import Levels
from segmeter.encoders.parts.query_layers import deformable_query_layer
from segmeter.harness.models.spec import parse_model
from tests.encoders.systems.test_official_outputs import CHANNELS, Backbone, features
from tests.helpers.parity_recipe import load_recipe

transformers = pytest.importorskip("transformers")
# Of each output's largest value: float32 noise stays below 1e-5.
TOLERANCE = 1e-4
SIZES = Sizes((64, 64), (64, 64), (64, 64))
QUERIES, CLASSES = 40, 19

LAYER_NAMES = (
    (r"self_attn\.out_proj\.", "self_attn.o_proj."),
    (r"cross_attn\.", "encoder_attn."),
    (r"linear(\d)\.", r"mlp.fc\1."),
)
RT_DETR_NAMES = (
    *LAYER_NAMES,
    (r"^encoder\.input_proj\.", "model.encoder_input_proj."),
    (r"^encoder\.encoder\.", "model.encoder.aifi."),
    (r"^encoder\.(?=[lfdp])", "model.encoder."),
    (r"^decoder\.input_proj\.(\d)\.conv", r"model.decoder_input_proj.\1.0"),
    (r"^decoder\.input_proj\.(\d)\.norm", r"model.decoder_input_proj.\1.1"),
    (r"^decoder\.dec_score_head", "model.decoder.class_embed"),
    (r"^decoder\.dec_bbox_head", "model.decoder.bbox_embed"),
    (r"^decoder\.query_pos_head", "model.decoder.query_pos_head"),
    (r"^decoder\.decoder\.", "model.decoder."),
    (r"^decoder\.", "model."),
    (r"^(model\.encoder\.aifi.*)norm1\.", r"\1self_attn_layer_norm."),
    (r"^(model\.encoder\.aifi.*)norm2\.", r"\1final_layer_norm."),
    (r"^(model\.decoder\.layers.*)norm1\.", r"\1self_attn_layer_norm."),
    (r"^(model\.decoder\.layers.*)norm2\.", r"\1encoder_attn_layer_norm."),
    (r"^(model\.decoder\.layers.*)norm3\.", r"\1final_layer_norm."),
)


def renamed(weights: dict[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Weights under transformers' names, fused projections in three."""
    found = {}
    for name, tensor in weights.items():
        thirds = tensor.chunk(3) if ".in_proj_" in name else ()
        for pattern, replacement in () if name.startswith("model.") else rules:
            name = re.sub(pattern, replacement, name)
        for letter, third in zip("qkv", thirds, strict=False):
            found[re.sub(r"in_proj_(\w+)", rf"{letter}_proj.\1", name)] = third
        if not thirds:
            found[name] = tensor
    return found


def agree(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error < TOLERANCE, f"{error:.2e} of the largest value"


class Given(nn.Module):
    """Stands for transformers' backbone: the same features as ours, none of them padded."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, pixels: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(m, torch.ones(len(m), *m.shape[-2:], dtype=torch.bool)) for m in self.maps]


@torch.no_grad()
def test_rt_detr_agrees_with_transformers() -> None:
    spec = parse_model(f"rt-detr@r50vd:num_queries={QUERIES}", num_classes=CLASSES)
    inputs = features(CHANNELS["r50"], 64, 64)
    stages = [stage for stage in spec.stages if stage.name in ("encoder", "decoder")]
    built: dict[str, nn.Module] = {"backbone": Backbone("r50")}
    value: object = inputs
    weights: dict[str, Tensor] = {}
    for stage in stages:
        module = stage.build({name: built[name] for name in stage.needs}).eval()
        load_recipe(module, lambda name: name, variant="full")
        weights |= {f"{stage.name}.{name}": entry for name, entry in module.state_dict().items()}
        value = stage.call(module, value, SIZES)
    config = transformers.RTDetrConfig(num_labels=CLASSES, num_queries=QUERIES)
    with torch.device("meta"):
        model = transformers.RTDetrForObjectDetection(config).eval()
    model.model.backbone = Given([inputs[name] for name in ("res3", "res4", "res5")])
    model.load_state_dict(renamed(weights, RT_DETR_NAMES), strict=True, assign=True)
    theirs = model(torch.zeros(2, 3, 64, 64))
    agree(value.class_logits[-1], theirs.logits)  # type: ignore[attr-defined]
    agree(value.boxes[-1], theirs.pred_boxes)  # type: ignore[attr-defined]


DEFORMABLE_NAMES = (*LAYER_NAMES, (r"norm1\.", "self_attn_layer_norm."), (r"norm2\.", "final_layer_norm."))
QUERY_NAMES = (
    *LAYER_NAMES,
    (r"norm1\.", "encoder_attn_layer_norm."),
    (r"norm2\.", "self_attn_layer_norm."),
    (r"norm3\.", "final_layer_norm."),
)
GEOMETRY = {"valid_ratios": torch.ones(2, 4, 2)}


def geometry(levels: Levels) -> dict[str, object]:
    sizes = list(levels.sizes)
    starts = torch.tensor([0, *(h * w for h, w in sizes[:-1])]).cumsum(0)
    return {"spatial_shapes": torch.tensor(sizes), "spatial_shapes_list": sizes, "level_start_index": starts}


@torch.no_grad()
def test_dinos_deformable_layers_agree_with_deformable_detr_in_transformers() -> None:
    """Six encoder layers over four levels, and a decoder layer of queries with boxes."""
    spec = parse_model("dino@r50", num_classes=CLASSES)
    stage = next(stage for stage in spec.stages if stage.name == "encoder")
    encoder = stage.build({"backbone": Backbone("r50")}).eval()
    load_recipe(encoder, lambda name: name, variant="full")
    stack = encoder.get_submodule("transformer.encoder")
    seen: list[tuple[Tensor, Tensor, Levels]] = []
    stack.register_forward_pre_hook(lambda module, given: seen.append(given))
    stage.call(encoder, features(CHANNELS["r50"]), SIZES)
    tokens, position, levels = seen[0]
    updated = stack(tokens, position, levels)
    config = transformers.DeformableDetrConfig(
        encoder_ffn_dim=2048, decoder_ffn_dim=2048, decoder_layers=1, num_feature_levels=4
    )
    deformable = transformers.models.deformable_detr.modeling_deformable_detr
    with torch.device("meta"):
        theirs = deformable.DeformableDetrEncoder(config).eval()
        decoder = deformable.DeformableDetrDecoder(config).eval()
    theirs.load_state_dict(renamed(stack.state_dict(), DEFORMABLE_NAMES), assign=True)
    found = theirs(
        inputs_embeds=tokens,
        spatial_position_embeddings=position.expand_as(tokens),
        **geometry(levels),
        **GEOMETRY,
    )
    agree(updated, found.last_hidden_state)

    layer = deformable_query_layer(256, 2048, 4).eval()
    load_recipe(layer, lambda name: name, variant="full")
    decoder.load_state_dict(
        {f"layers.0.{n}": e for n, e in renamed(layer.state_dict(), QUERY_NAMES).items()}, assign=True
    )
    queries, places = torch.randn(2, 2, QUERIES, 256, generator=torch.Generator().manual_seed(0))
    boxes = torch.rand(2, QUERIES, 4, generator=torch.Generator().manual_seed(1))
    answer = decoder(
        inputs_embeds=queries,
        encoder_hidden_states=updated,
        object_queries_position_embeddings=places,
        reference_points=boxes,
        **geometry(levels),
        **GEOMETRY,
    )
    agree(layer(queries, places, boxes, updated, levels), answer.last_hidden_state)
