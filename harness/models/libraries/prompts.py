"""What models of transformers are asked beside an image: tasks, texts, points. One line for each family.

A prompt's length decides its cost; its words do not. Texts of free length have 16 tokens here, with the
special tokens that the family's tokenizer puts at the ends.
"""

from collections.abc import Callable
from typing import Any

from segmeter.harness.models.libraries.inputs import Extra

TEXT = 16
# BERT's: [CLS], a word, the full stop that ends a phrase, [SEP].
BERT_ENDS = (101, 4937, 1012, 102)
FRAMES = 2
# Encoders of texts for images are called with whole rows of so many tokens at most, padding included.
PADDED_TO = 128


def _text(length: int = TEXT, **settings: Any) -> tuple[Extra, ...]:
    return (Extra("input_ids", (length,)), Extra("attention_mask", (length,), values=(1,)))


def _bert(config: Any) -> tuple[Extra, ...]:
    start, word, stop, end = BERT_ENDS
    phrase = (start, *[word] * (TEXT - 3), stop, end)
    return (Extra("input_ids", (TEXT,), values=phrase), Extra("attention_mask", (TEXT,), values=(1,)))


def _clip(config: Any) -> tuple[Extra, ...]:
    return _text(config.text_config.max_position_embeddings)


def _classes(config: Any) -> tuple[Extra, ...]:
    """One text for each class that is looked for, here one; the texts are no batch of images."""
    length = config.text_config.max_position_embeddings
    return (
        Extra("input_ids", (1, length), batched=False),
        Extra("attention_mask", (1, length), values=(1,), batched=False),
    )


def _point(config: Any) -> tuple[Extra, ...]:
    return (
        Extra("input_points", (1, 1, 2), "float32", (100,)),
        Extra("input_labels", (1, 1), values=(1,)),
    )


def _example(config: Any) -> tuple[Extra, ...]:
    """An image with its mask, which the network puts above the image: both have half the config's height."""
    height, width = config.image_size
    shape = (3, height // 2, width)
    return (Extra("prompt_pixel_values", shape, "float32"), Extra("prompt_masks", shape, "float32"))


def any_text(config: Any) -> tuple[Extra, ...]:
    """A text for a model that has a text encoder and no line in the table: as long as texts are padded to."""
    text = getattr(config, "text_config", None)
    longest = getattr(text, "max_position_embeddings", None)
    if text is None:
        return ()
    return _text(longest if isinstance(longest, int) and 0 < longest <= PADDED_TO else TEXT)


PROMPTS: dict[str, Callable[[Any], tuple[Extra, ...]]] = {
    "oneformer": lambda config: (Extra("task_inputs", (config.task_seq_len,)),),
    "clipseg": _clip,
    "owlvit": _classes,
    "owlv2": _classes,
    "grounding-dino": _bert,
    "mm-grounding-dino": _bert,
    "sam": _point,
    "sam_hq": _point,
    "sam2": _point,
    "sam2_video": _point,
    "edgetam": _point,
    "edgetam_video": _point,
    "sam3_tracker": _point,
    "sam3_video": _point,
    "sam3": _clip,
    "sam3_lite_text": _clip,
    "seggpt": _example,
    # One task, one class to look for.
    "omdet-turbo": lambda config: (
        Extra("classes_input_ids", (TEXT,)),
        Extra("classes_attention_mask", (TEXT,), values=(1,)),
        Extra("tasks_input_ids", (TEXT,)),
        Extra("tasks_attention_mask", (TEXT,), values=(1,)),
        Extra("classes_structure", (), values=(1,)),
    ),
}
# Whose `pixel_values` are several images: a video's frames, or the two that are matched.
_IN_IMAGES = frozenset({"videomae", "timesformer", "vivit", "videoprism", "xclip", "tvp"})
_PAIRS = frozenset({"lightglue", "superglue", "efficientloftr"})


def frames_in_images(config: Any) -> int:
    """Images in one ``pixel_values``; 0 for models of single ones."""
    if config.model_type in _PAIRS:
        return 2
    return frames_of(config) if config.model_type in _IN_IMAGES else 0


def frames_of(config: Any) -> int:
    """Frames of a video in one call."""
    found = getattr(getattr(config, "vision_config", config), "num_frames", None)
    return found if isinstance(found, int) and found > 0 else FRAMES
