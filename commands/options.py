"""The options that commands share, alone and in groups; :mod:`commands.asked` makes a model or sizes of them.

The encoders' own options (``--stages``, ``--layers``) are flags of every :class:`ModelCommand`. They are not
written here: ``known.json`` is made from the encoders (:mod:`commands.known`),
so that ``--help`` needs no torch.
"""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from segmeter.commands.console import InputError, set_verbose
from segmeter.commands.known import check_word, known

GIVEN = "segmeter.encoder_options"
# The encoders' flags of the command that runs, for whoever looks at them before it does.
FLAGS: ContextVar[Mapping[str, str] | None] = ContextVar("flags", default=None)
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


@dataclass(frozen=True)
class Heads:
    """A model's backbone, and how large its heads are."""

    backbone: BackboneOpt = None
    num_classes: ClassesOpt = None
    num_queries: QueriesOpt = None


@dataclass(frozen=True)
class InputSize:
    """One size to count at."""

    padded_size: PaddedOpt = None
    image_size: ImageOpt = None
    resize_rule: RuleOpt = "coco"

    @property
    def is_given(self) -> bool:
        """Whether the user gave a size, in whatever way."""
        return bool(self.padded_size or self.image_size)


@dataclass(frozen=True)
class ResultSize(InputSize):
    """One size to count at, and the results' size."""

    original_size: OriginalOpt = None


@dataclass(frozen=True)
class DataSize(InputSize):
    """One size to count at, or a data set's sizes."""

    dataset: DatasetOpt = None
    annotations: AnnotationsOpt = None
    original_size: OriginalOpt = None

    @property
    def is_given(self) -> bool:
        """See :class:`InputSize`."""
        return super().is_given or bool(self.dataset or self.annotations)


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
# The precisions of weights, as torch names them.
WEIGHT_DTYPES = ("float32", "bfloat16", "float16")
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
        FLAGS.set(given)
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
