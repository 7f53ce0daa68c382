"""The options that commands share, and what is made of them: a model, sizes, its count.

The encoders' own options (``--stages``, ``--layers``) are flags of every :class:`ModelCommand`. They are not
written here: ``known.json`` is made from the encoders (:mod:`commands.known`),
so that ``--help`` needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from segmeter.commands.console import InputError, progress_bar, set_verbose, user_input
from segmeter.commands.known import check_model, check_word, known
from segmeter.model_text import library_name

if TYPE_CHECKING:
    from segmeter.harness.inputs import SizeSet
    from segmeter.harness.models import ModelSpec

GIVEN = "segmeter.encoder_options"
MODEL_SYNTAX = (
    "ENCODER[@BACKBONE][:OPTION=VALUE]..., e.g. pro-scale@r50:stages=1,1,3; a preset; your own: "
    "mine.py:MyEncoder, package.module:attribute, mine.toml; or a library's: hf:ORG/NAME or a folder, "
    "timm:NAME, torchvision:NAME"
)
ModelArg = Annotated[str | None, typer.Argument(help=MODEL_SYNTAX)]
EncoderOpt = Annotated[
    str | None, typer.Option(help="An encoder: m2f, lite-m2f, rt-m2f or pro-scale, with options as in MODEL.")
]
BackboneOpt = Annotated[
    str | None, typer.Option(help="A backbone, see `segmeter models`. Default: swin-t, or the file's.")
]
ClassesOpt = Annotated[int | None, typer.Option(help="Default: 19 at Cityscapes' size, otherwise 133.")]
QueriesOpt = Annotated[int | None, typer.Option(help="Default: 200 for swin-l, otherwise 100.")]
PaddedOpt = Annotated[str | None, typer.Option(help="HxW that the network sees.")]
ImageOpt = Annotated[str | None, typer.Option(help="HxW of an image; the resize rule applies.")]
RuleOpt = Annotated[
    str,
    typer.Option(
        metavar="coco|cityscapes", help="Short side 800, long at most 1333; or 1024 and 2048 (cityscapes)."
    ),
]
DatasetOpt = Annotated[
    str | None,
    typer.Option(help="A data set. Its image sizes: cityscapes, coco-val2017 or coco-val2017:100."),
]
AnnotationsOpt = Annotated[
    Path | None, typer.Option(help="COCO-format JSON; averages over its images' sizes.")
]
OriginalOpt = Annotated[
    str | None, typer.Option(help="HxW that results are resized to; default: before resizing.")
]
ConventionOpt = Annotated[
    str, typer.Option(metavar="published|macs|flops", help="What is counted; docs/counting.md explains.")
]
DeviceOpt = Annotated[str, typer.Option(metavar="cpu|cuda|cuda:N", help="Where to run.")]
DtypeOpt = Annotated[
    str, typer.Option(metavar="fp32|fp16|bf16", help="Precision. profile: by autocast; otherwise of weights.")
]
InputOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help="NAME=SHAPE[:DTYPE] of a library's model, e.g. input_ids=1x16; may be repeated."
    ),
]
PhotoOpt = Annotated[list[Path] | None, typer.Option(hidden=True)]
ImagesOpt = Annotated[
    list[Path] | None,
    typer.Option("--images", help="A photo or a folder of photos; may be repeated."),
]

VerboseOpt = Annotated[
    bool,
    typer.Option(
        "--verbose", callback=set_verbose, is_eager=True, help="Show the traceback if your own model fails."
    ),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


# Command -> option by an older name -> by today's. They work and are not shown.
OLD_NAMES = {
    "audit": {"--records": "--from"},
    "check": {"--output": "--out"},
    "compare": {"--photo": "--images", "--published": "--beside-published"},
    "make": {"--output": "--out", "--size": "--padded-size"},
    "evaluate": {"--gflops": "--total-gflops"},
    "export": {"--output": "--out", "--size": "--padded-size"},
    "update": {"--output": "--out"},
}
# A precision by the names that torch, papers and other tools have for it.
PRECISIONS = {
    "fp32": ("fp32", "float32", "float"),
    "fp16": ("fp16", "float16", "half"),
    "bf16": ("bf16", "bfloat16"),
    "fp64": ("fp64", "float64", "double"),
}


def precision(text: str, known: Iterable[str]) -> str:
    """The one of the ``known`` names that means what was written, ``fp32`` and ``float32`` alike.

    Raises:
        ValueError: it means none of them, with the nearest.

    >>> precision("bfloat16", ["fp32", "bf16"]), precision("fp32", ["float32", "bfloat16"])
    ('bf16', 'float32')
    """
    names = list(known)
    for alike in PRECISIONS.values():
        if text.lower() in alike:
            for name in names:
                if name in alike:
                    return name
    short = [name for name, alike in PRECISIONS.items() if set(alike) & set(names)]
    check_word("dtype", text, short)
    return text


class RenamedCommand(TyperCommand):
    """A command that still knows its options' older names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, older names as today's."""
        old = OLD_NAMES.get(self.name or "", {})
        end = args.index("--") if "--" in args else len(args)
        words = [_renamed(word, old) for word in args[:end]] + args[end:]
        return super().parse_args(ctx, words)


def _renamed(word: str, old: Mapping[str, str]) -> str:
    name, equals, value = word.partition("=")
    return f"{old[name]}{equals}{value}" if name in old else word


class ModelCommand(TyperCommand):
    """A command on one model, with a flag for each of the encoders' options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the encoders' flags out, then read the command's own.

        Raises:
            InputError: a flag without a value.
        """
        flags = {_flag(name): name for name in known()["flags"]}
        given: dict[str, str] = ctx.meta.setdefault(GIVEN, {})
        rest: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
                break
            flag, equals, value = word.partition("=")
            if flag not in flags:
                rest.append(word)
                continue
            text = value if equals else next(words, None)
            if text is None:
                raise InputError(f"{flag} needs a value")
            given[flags[flag]] = text
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The command's own options, then the encoders'."""
        super().format_options(ctx, formatter)
        with formatter.section("Encoder options"):
            formatter.write_dl([(f"{_flag(name)} TEXT", text) for name, text in known()["flags"].items()])


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def encoder_options(context: typer.Context) -> Mapping[str, str]:
    """The encoder's options that were given as flags, name -> text."""
    given: Mapping[str, str] = context.meta.get(GIVEN, {})
    return given


def chosen_spec(
    model: str | None,
    encoder: str | None,
    backbone: str | None,
    num_classes: int,
    num_queries: int | None,
    options: Mapping[str, str] | None = None,
    inputs: Sequence[str] | None = None,
) -> "ModelSpec":
    """A model from its written form, from single options, or from both."""
    # Before torch is loaded: a typo is answered at once.
    check_model(model)
    check_model(encoder)
    from segmeter.harness.models import model_from_parts, resolve_preset, written_input

    if inputs and not library_name(model or ""):
        raise ValueError("--input is for a library's model, such as hf:ORG/NAME")
    given = {**(options or {}), **dict(written_input(text) for text in inputs or ())}
    return model_from_parts(resolve_preset(model), encoder, backbone, num_classes, num_queries, given)


def chosen_sizes(
    padded_size: str | None,
    image_size: str | None,
    resize_rule: str,
    dataset: str | None,
    annotations: Path | None,
    original_size: str | None,
    model: str | None = None,
    backbone: str | None = None,
) -> "SizeSet":
    """The sizes to count at, from the options given; where none is, the model's own size if it has one."""
    from segmeter.harness.inputs import choose_sizes
    from segmeter.harness.models import usual_input

    if model and not any((padded_size, image_size, dataset, annotations)):
        padded_size = usual_input(model, backbone)[0]
    return choose_sizes(
        padded_size=padded_size,
        image_size=image_size,
        resize_rule=resize_rule,
        dataset=dataset,
        annotations=annotations,
        original_size=original_size,
    )


def sizes_of(spec: "ModelSpec", sizes: "SizeSet", *given: object) -> "SizeSet":
    """The sizes to count a model at: a library's model's own, where the user ``given`` none."""
    from segmeter.harness.inputs import ImageSize, SizeSet, format_size
    from segmeter.harness.models import inputs_of

    inputs = inputs_of(spec)
    if inputs is None or any(given):
        return sizes
    return SizeSet(format_size(inputs.size), {ImageSize(inputs.size, inputs.size): 1}, inputs.source)


def chosen_classes(num_classes: int | None, sizes: "SizeSet", model: str | None = None) -> int:
    """The number of classes given, or the data set's; away from Cityscapes' size the model's own, if any."""
    from segmeter.harness.inputs import CITYSCAPES_CLASSES, default_classes
    from segmeter.harness.models import usual_input

    if num_classes is not None:
        return num_classes
    classes = default_classes(sizes)
    own = usual_input(model, None)[1] if model else None
    return classes if own is None or classes == CITYSCAPES_CLASSES else own


def check_convention(convention: str) -> None:
    """Raise ValueError unless it is one of the three conventions."""
    check_word("convention", convention, known()["conventions"])


def count_on_images(
    spec: "ModelSpec",
    sizes: "SizeSet",
    convention: str,
    images: Sequence[Path],
    batch: int,
    weights: Path | None = None,
) -> Any:
    """The record of one model counted on each photo, with a progress bar."""
    from segmeter.harness.counting import count_images, images_record, readable_photos
    from segmeter.harness.weights import load_model

    with user_input():
        if len(sizes.images) != 1:
            raise ValueError("--images goes with one size: --padded-size HxW")
        model, source = None, "random, from one seed"
        if weights is not None:
            model, spec, _ = load_model(weights, spec)
            source = str(weights)
        photos, faults = readable_photos(images)
        steps = len(photos) * (2 if batch > 1 else 1)
        with progress_bar(f"counting {spec.title}", steps) as advance:
            counted = count_images(
                spec,
                next(iter(sizes.images)),
                photos,
                convention,
                batch=batch,
                model=model,
                weights=source,
                skipped=faults,
                progress=advance,
            )
        return images_record(counted)


def count_at(spec: "ModelSpec", sizes: "SizeSet", convention: str, photos: Sequence[Path] = ()) -> Any:
    """The record of one model at one size, or its mean over a data set, with a progress bar.

    ``photos`` are for a model of the user's own whose work depends on its input.
    """
    from segmeter.harness.counting import count_dataset, count_model, flops_record
    from segmeter.harness.inputs import find_photos

    with user_input():
        if len(sizes.images) == 1:
            found = find_photos(photos) if photos else []
            return flops_record(count_model(spec, next(iter(sizes.images)), convention, found))
        with progress_bar(f"counting {spec.title}", len(sizes.images)) as advance:
            return flops_record(count_dataset(spec, sizes, convention, lambda done: advance()))
