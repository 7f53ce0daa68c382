"""The shapes that the op is timed at; loads no torch, so that a wrong name is told at once."""

PLACES = ("realistic", "uniform")
PASSES = ("forward", "backward")
# Names of numbers, as torch has them.
DTYPE_NAMES = ("float32", "float16", "bfloat16", "float64")
_CITYSCAPES = ((32, 64), (64, 128), (128, 256))
# Name -> levels (H, W), low to high resolution, and the number of queries (None: every token).
SHAPES: dict[str, tuple[tuple[tuple[int, int], ...], int | None]] = {
    "m2f-800x1088": (((25, 34), (50, 68), (100, 136)), None),
    "m2f-1024x2048": (_CITYSCAPES, None),
    "pro-scale-stage-1": (_CITYSCAPES[:1], None),
    "pro-scale-stage-2": (_CITYSCAPES[:2], None),
    "pro-scale-stage-3": (_CITYSCAPES, None),
    "lite-m2f-10240": (_CITYSCAPES, 10240),
    "decoder-100": (_CITYSCAPES, 100),
}
