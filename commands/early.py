"""What is plainly wrong in an option is said before torch is loaded, the same in all commands.

An option's name means one thing everywhere, so one look at the options that were given serves every command.
What is not plain here (a model of the user's own, a value that only its encoder can judge) is told later.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from segmeter.commands.console import user_input
from segmeter.commands.known import check_word, known
from segmeter.commands.options import FLAGS
from segmeter.commands.written import (
    MAX_CLASSES,
    MAX_QUERIES,
    check_backbone_name,
    check_model,
    check_number,
    check_parts,
    check_size,
    check_stages,
)
from segmeter.model_text import is_source, library_name
from segmeter.words import nearest

DEVICES = ("cpu", "cuda")
# Options whose words have further names or parts: those that read them answer.
JUDGED_LATER = ("device", "dtype", "dtypes")
# Number options: the least and the most that they may be, and what is said otherwise.
BOUNDS = {
    "batch": (1, math.inf, "batch must be at least 1, got {}"),
    "threads": (1, math.inf, "threads must be at least 1, got {}"),
    "min_rounds": (1, math.inf, "rounds must be at least 1, got {}"),
    "window_batch": (1, math.inf, "--window-batch must be at least 1, got {}"),
    "num_images": (1, math.inf, "the number of images must be at least 1, got {}"),
    "threshold": (-1, 1, "threshold must be a cosine from -1 to 1, such as 0.9; got {}"),
    "distance": (1, math.inf, "distance must be at least 1 token, got {}"),
    "radius": (1, math.inf, "radius must be at least 1 token, got {}"),
    "width": (0, math.inf, "width must not be negative, got {}"),
    "sample": (0, math.inf, "the sample must be at least 2 tokens, or 0 for all; got {}"),
}
# How an option is named in an error line where its name alone would not do.
SPELT = {"what": "--what"}
# Commands that count one model, which they cannot do without.
OF_ONE_MODEL = ("flops", "crosscheck", "reconcile")
# The shortest side that a backbone's maps are made of.
SHORTEST = 32
# Pictures that a figure is written as.
PICTURES = (".pdf", ".svg", ".png")
# Commands whose --out is a folder, and those whose --out is a file.
INTO_FOLDERS = ("predict", "tokens", "profile", "sweep", "report", "evaluate", "bench", "hub")
INTO_FILES = ("check", "update", "export", "table")
# Folders of records by default: they need not be there.
USUAL_FOLDERS = (Path("results/runs"), Path("results/records"))
# Bytes of annotations that are read before anything is loaded; larger files are read once, later.
MOST_READ = 1 << 23
# Devices that some commands take beside these.
OTHER_DEVICES = ("mps", "xpu")
SIZE_OPTIONS = ("--padded-size", "--image-size", "--dataset", "--annotations")
# Files and folders that are to be read, and what is said where there is none.
MISSING = {
    "images": "no such photo or folder",
    "weights": "no such checkpoint",
    "source": "no such checkpoint",
    "budgets": "no such budget file",
    "add": "no such file of points",
}


def told_early(
    callback: Callable[..., Any], name: str = "", choices: Mapping[str, list[str]] | None = None
) -> Callable[..., Any]:
    """The command of that name, which first looks at what it was given, and at its words."""

    @wraps(callback)
    def run(**given: Any) -> Any:
        with user_input():
            for option, words in (choices or {}).items():
                for value in _texts(given, option):
                    check_word(
                        SPELT.get(option, option.replace("_", " ")), str(value).replace("_", "-"), words
                    )
            if name in OF_ONE_MODEL and not given.get("model") and not given.get("encoder"):
                raise ValueError(f"no encoder given; choose from {', '.join(known()['systems'])}")
            check_early(given)
            _check_of_command(name, given)
            _check_outputs(name, given)
        return callback(**given)

    return run


def choices_of(command: Any) -> dict[str, list[str]]:
    """Option -> the words that it takes, of those whose help lists them as ``one|another``."""
    found = {each.name: (each.metavar or "").split("|") for each in command.params}
    return {name: words for name, words in found.items() if len(words) > 1 and name not in JUDGED_LATER}


def check_early(given: Mapping[str, Any]) -> None:
    """Refuse options that are plainly wrong.

    Args:
        given: options and arguments by name, as they were read; None where they were left out.

    Raises:
        ValueError: what is wrong, what is expected, and the nearest choice.
    """
    _check_models(given)
    _check_inputs(given)
    _check_sizes(given)
    _check_places(given)
    device = given.get("device")
    kind = str(device).partition(":")[0]
    if device is not None and kind not in (*DEVICES, *OTHER_DEVICES):
        raise ValueError(f"unknown device {device!r}{nearest(kind, DEVICES)}")
    _check_numbers(given)


def _check_numbers(given: Mapping[str, Any]) -> None:
    for name, (least, most, words) in BOUNDS.items():
        value = given.get(name)
        if isinstance(value, int | float) and not least <= value <= most:
            raise ValueError(words.format(f"{value:g}"))
    seconds = given.get("seconds")
    if seconds is not None and not 0 <= seconds < math.inf:
        raise ValueError(f"seconds must not be negative, and finite; got {seconds:g}")
    at = given.get("at")
    if isinstance(at, str) and not re.fullmatch(r"backbone|all|layer:\d+", at):
        raise ValueError(f"--at must be backbone, layer:N or all; got {at!r}")


def _check_of_command(name: str, given: Mapping[str, Any]) -> None:
    """What one command alone asks of its options."""
    if name == "flops":
        _check_training(given)
    elif name == "export" and "tolerance" in given:
        # `results export` has the name too.
        if not 0 < given["tolerance"] < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {given['tolerance']}")
        if given["part"] != "model":
            check_stages(given["model"], given["part"].split("..", 1), "stage {!r}", ["model"])
    elif name == "profile":
        _check_profile(given)
    elif name == "tokens":
        from segmeter.harness.inputs import MAX_SIDE

        short = given["short_side"]
        if not SHORTEST <= short <= MAX_SIDE:
            raise ValueError(f"--short-side must be from {SHORTEST} to {MAX_SIDE} pixels, got {short}")
        if str(given["at"]).startswith("layer:") and not given.get("encoder"):
            raise ValueError(f"--at {given['at']} needs an encoder: give --encoder")
    elif name == "build":
        for architecture in given.get("arch") or ():
            if architecture not in known()["architectures"]:
                among = ", ".join(map(str, known()["architectures"]))
                raise ValueError(f"unknown architecture {architecture}: expected one of {among}")
    elif name == "hub":
        from segmeter.harness.op import check_owner

        check_owner(given["owner"])
    elif name == "plot" and given.get("kind") == "pareto":
        if not any(given.get(other) for other in ("add", "records", "models")):
            for option, words in known()["drawn"].items():
                for value in _texts(given, option):
                    check_word(f"--{option}", value, ["all", *words] if option == "paper" else words)
    elif name == "sweep":
        from segmeter.harness.profiling import read_plan

        for cell in read_plan(given["file"]).cells:
            check_model(cell.model)


def _check_training(given: Mapping[str, Any]) -> None:
    frozen = given.get("freeze") or ()
    model = str(given.get("model") or given.get("encoder") or "")
    if frozen:
        check_stages(model, [part.partition(".")[0] for part in frozen], "part {!r} to freeze")
    if (frozen or given.get("training")) and (given.get("dataset") or given.get("annotations")):
        raise ValueError("--training goes with one size; a data set has many")


def _check_profile(given: Mapping[str, Any]) -> None:
    roofline, device = given.get("roofline"), str(given["device"]).partition(":")[0]
    if roofline is not None and roofline.suffix not in PICTURES:
        raise ValueError(f"--roofline must end in .pdf, .svg or .png, got {roofline.name!r}")
    if device not in DEVICES:
        raise ValueError(f"unknown device {given['device']!r}{nearest(device, DEVICES)}")
    if given.get("cuda_graph") and device != "cuda":
        raise ValueError("--cuda-graph needs --device cuda")
    if given.get("compile") and given.get("runtime"):
        raise ValueError("--compile is --runtime compile: give one of the two")


def _texts(given: Mapping[str, Any], *names: str) -> Iterator[str]:
    for name in names:
        value = given.get(name)
        yield from (each for each in (value if isinstance(value, list | tuple) else [value]) if each)


def _check_models(given: Mapping[str, Any]) -> None:
    """The models, their backbones and heads."""
    heads = {name: given.get(name) for name in ("num_classes", "num_queries")}
    for (name, value), most in zip(heads.items(), (MAX_CLASSES, MAX_QUERIES), strict=True):
        if value is not None:
            check_number(name, value, 1, most)
    backbone = given.get("backbone")
    for name in _texts(given, "backbone"):
        # Of several, or of a model of the user's own, whoever draws them answers.
        if name != "all" and not is_source(name):
            check_backbone_name(name)
    if given.get("from_") or given.get("records"):
        # Names are those of the records.
        return
    one = backbone if isinstance(backbone, str) else None
    if "model" in given and "encoder" in given:
        if given["model"] or given["encoder"]:
            check_parts(given["model"], given["encoder"], one, **heads, flags=FLAGS.get())
        return
    for text in _texts(given, "model", "models", "encoder"):
        check_model(text, one, **heads)


def _check_inputs(given: Mapping[str, Any]) -> None:
    """``--input``, which library's models alone take."""
    for text in _texts(given, "input"):
        from segmeter.harness.models import written_input

        written_input(text)
        for model in _texts(given, "model"):
            if not library_name(model):
                raise ValueError("--input is for a library's model, such as hf:ORG/NAME")


def _check_sizes(given: Mapping[str, Any]) -> None:
    from segmeter.harness.inputs import annotation_sizes, choose_sizes, parse_size

    annotations = given.get("annotations")
    small = annotations is None or not annotations.is_file() or annotations.stat().st_size < MOST_READ
    if annotations is not None and small:
        annotation_sizes(annotations)
    for name in ("padded_size", "image_size", "original_size"):
        for text in _texts(given, name):
            parse_size(text, name.replace("_", " "))
    if given.get("padded_size") and isinstance(given["padded_size"], str):
        for text in _texts(given, "model", "encoder"):
            check_size(text, parse_size(given["padded_size"]))
    if "image_size" not in given:
        # To these commands a data set is more than its images' sizes.
        return
    ways = [way for way in SIZE_OPTIONS if given.get(way[2:].replace("-", "_")) is not None]
    if len(ways) > 1:
        raise ValueError(f"give one of {', '.join(SIZE_OPTIONS)}; got {' and '.join(ways)}")
    sizes = ("padded_size", "image_size", "resize_rule", "dataset", "original_size")
    asked = {name: given[name] for name in sizes if given.get(name) is not None}
    if small or "original_size" not in asked:
        choose_sizes(**asked)


def _check_places(given: Mapping[str, Any]) -> None:
    """Files and folders that are to be read."""
    for name in ("records", "from_"):
        value = given.get(name)
        if isinstance(value, Path) and not value.is_dir() and value not in USUAL_FOLDERS:
            raise ValueError(f"no records: {value} is not a folder")
    for name, message in MISSING.items():
        value = given.get(name)
        for path in value if isinstance(value, list | tuple) else [value]:
            if isinstance(path, Path) and not path.exists():
                raise ValueError(f"{message}: {path}")
        if name in ("weights", "source"):
            _check_checkpoints(value)
    if isinstance(given.get("add"), Path):
        from segmeter.harness.tradeoff import own_points

        own_points(given["add"])
    for name in ("images", "photo"):
        # A site takes no photos, and says so.
        if given.get(name) and not given.get("site"):
            from segmeter.harness.inputs import check_some_photo

            check_some_photo(given[name])


def _check_checkpoints(value: Any) -> None:
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, Path) or (isinstance(each, str) and each.partition(":")[0] != "timm"):
            from segmeter.harness.weights import SUFFIXES, check_checkpoint

            if isinstance(each, str) and not Path(each).is_file():
                kinds = ", ".join(SUFFIXES)
                raise ValueError(f"no such weights: {each}; expected a file ({kinds}), or timm or timm:TAG")
            check_checkpoint(Path(each))


def _check_outputs(name: str, given: Mapping[str, Any]) -> None:
    """Whether one can write where a command is to."""
    for option in ("out", "summary", "target", "record"):
        path = given.get(option)
        if not isinstance(path, Path):
            continue
        if option == "out" and name in INTO_FOLDERS and path.exists() and not path.is_dir():
            raise ValueError(f"cannot write to {path}: it is a file, expected a folder")
        if (option != "out" or name in INTO_FILES) and path.is_dir():
            raise ValueError(f"cannot write to {path}: it is a folder, expected a file")
        above = next((each for each in path.parents if each.exists()), None)
        if above is not None and not above.is_dir():
            raise ValueError(f"cannot write to {path}: {above} is a file, expected a folder")
