"""A model as a chain of stages, and a system as what makes such chains.

Whoever counts, cross-checks, times or runs a model walks its stages one after the other and knows none of
them by name: each says how it is built, how it is called and whether its work depends on the image.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from segmeter.encoders.naming import Naming
from segmeter.encoders.options import Option, Options

Size = tuple[int, int]
SIZE_DIVISOR = 32


@dataclass(frozen=True)
class Sizes:
    """Sizes (H, W) in pixels that hold for a whole batch.

    Attributes:
        padded: of the tensor that the network sees.
        image: of the image inside it, at its top left.
        original: of the results.
    """

    padded: Size
    image: Size
    original: Size


@dataclass(frozen=True)
class Pixels:
    """How images are normalised: mean and deviation of R, G and B on 0..255, by default ImageNet's."""

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)


DEFAULT_PIXELS = Pixels()


@dataclass(frozen=True)
class Choice:
    """What a user chose of a system.

    Attributes:
        backbone: its name; "" where the system has none to choose.
        options: complete, by name.
        num_classes: classes of the data set, without "no object".
        num_queries: 0 where the system has none.
    """

    backbone: str
    options: Mapping[str, Any]
    num_classes: int
    num_queries: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a model. Two stages are equal if their names and keys are.

    Attributes:
        name: of the component and of the submodule; "" for a model that is one whole.
        key: what the module is made of: equal keys are equal modules.
        build: makes the module with random weights on the current default device, given the earlier modules
            that ``needs`` names.
        call: runs it: the module, what the stage before returned (the images, for the first), the sizes.
            Tensors, dicts, lists, tuples and dataclasses of them come and go.
        needs: earlier stages whose modules ``build`` looks at.
        depends_on_image: whether its work depends on what the image shows.
        reads_sizes: whether ``call`` looks at the sizes.
        full_precision: whether its inputs are float32 even where the network runs in half precision.
    """

    name: str
    key: tuple[Hashable, ...]
    build: Callable[[Mapping[str, nn.Module]], nn.Module] = field(compare=False)
    call: Callable[[nn.Module, Any, Sizes], Any] = field(compare=False)
    needs: tuple[str, ...] = field(default=(), compare=False)
    depends_on_image: bool = field(default=False, compare=False)
    reads_sizes: bool = field(default=False, compare=False)
    full_precision: bool = field(default=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class System:
    """Models of one kind: what a user may choose, and the stages that follow from it.

    Two systems are equal if their names and identities are.

    Attributes:
        name: as a user writes it.
        title: as a paper writes it.
        summary: what it is, in one line.
        source: the paper.
        options: see :class:`encoders.options.Options`, as ``chooser`` and ``further``.
        stages: the stages of a choice, in the order in which they run.
        together: checks that need several options' values; raises ValueError in one line.
        backbones: the backbones that it takes; None for any of :mod:`encoders.backbones`; empty for none.
        default_backbone: the one taken where none is named.
        default_queries: a backbone -> number of queries of its published models.
        size_divisor: both sides of the padded input are multiples of it.
        takes_any: whether options of other names are taken as they are.
        titled: a model's title by its options; None for the title with the options that are not defaults.
        identity: tells two of the user's own of one name apart.
        own_part: for the user's own code, the submodule that is theirs ("" for the whole); None for ours.
        fits: checks that need the backbone or the number of classes; raises ValueError in one line.
        pixels: how its images are normalised.
        default_size: a backbone and the options as written -> the size (H, W) it is counted at where none
            is given; None for the default of all.
        default_classes: classes of its published models; None for the data set's.
        naming: how the authors' checkpoints name its weights; None where they do as Mask2Former's.
        code_option: the option whose value may name code of the user's own; "" for none.
        with_code: the system and that code -> the same, in which the code's name is one of that option's.
        compared: values of that option that a what-if puts beside each other: their cost needs no training.
    """

    name: str
    title: str = field(compare=False)
    summary: str = field(compare=False)
    source: str = field(compare=False)
    stages: Callable[[Choice], Sequence[Stage]] = field(compare=False)
    options: tuple[Option, ...] = field(default=(), compare=False)
    together: Callable[[Mapping[str, Any]], None] = field(default=lambda values: None, compare=False)
    chooser: str = field(default="", compare=False)
    further: Mapping[str, tuple[Option, ...]] = field(default_factory=dict, compare=False)
    backbones: tuple[str, ...] | None = field(default=None, compare=False)
    default_backbone: str = field(default="swin-t", compare=False)
    default_queries: Callable[[str], int] = field(default=lambda backbone: 0, compare=False)
    size_divisor: int = field(default=SIZE_DIVISOR, compare=False)
    takes_any: bool = field(default=False, compare=False)
    titled: Callable[[Mapping[str, Any]], str] | None = field(default=None, compare=False)
    identity: Hashable = None
    own_part: str | None = field(default=None, compare=False)
    fits: Callable[[Choice], None] = field(default=lambda choice: None, compare=False)
    pixels: Pixels = field(default=DEFAULT_PIXELS, compare=False)
    default_size: Callable[[str, Mapping[str, str]], Size] | None = field(default=None, compare=False)
    default_classes: int | None = field(default=None, compare=False)
    naming: Naming | None = field(default=None, compare=False)
    code_option: str = field(default="", compare=False)
    with_code: Callable[["System", Any], "System"] | None = field(default=None, compare=False)
    compared: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own code, in part or as a whole."""
        return self.own_part is not None

    @property
    def is_own_whole(self) -> bool:
        """Whether all of it is the user's own code: an image goes in, anything comes out."""
        return self.own_part == ""

    @property
    def settings(self) -> Options:
        """Its options, to read, check and title them."""
        return Options(
            owner=self.name,
            known=self.options,
            takes_any=self.takes_any,
            takes_components=self.is_own,
            together=self.together,
            chooser=self.chooser,
            further=self.further,
        )


class Model(nn.Module):
    """A whole model: its stages in a row, each a submodule of the stage's name.

    Args:
        stages: in the order in which they run.
        modules: one for each stage.
        size_divisor: both sides of the images must be multiples of it.
        pixels: how the images were normalised.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        modules: Sequence[nn.Module],
        size_divisor: int = SIZE_DIVISOR,
        pixels: Pixels = DEFAULT_PIXELS,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.size_divisor = size_divisor
        self.pixels = pixels
        for stage, module in zip(self.stages, modules, strict=True):
            self.add_module(stage.name, module)

    def forward(
        self, images: Tensor, image_size: Size | None = None, original_size: Size | None = None
    ) -> Any:
        """Run all stages on a batch of images.

        Args:
            images: (B, 3, H, W), normalised and padded.
            image_size: (height, width) of the images without padding; None for the padded size.
            original_size: (height, width) of the results; None for the padded size.

        Raises:
            ValueError: the images have another shape, or H or W is no multiple of the size divisor.
        """
        value: Any = images
        sizes = self.sizes_of(images, image_size, original_size)
        for stage in self.stages:
            value = stage.call(self.get_submodule(stage.name), value, sizes)
        return value

    def sizes_of(
        self, images: Tensor, image_size: Size | None = None, original_size: Size | None = None
    ) -> Sizes:
        """The sizes of a batch, checked; see :meth:`forward`."""
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {shape}")
        padded = (shape[2], shape[3])
        fitting = next_multiple(padded, self.size_divisor)
        if padded != fitting:
            raise ValueError(
                f"image height and width must be multiples of {self.size_divisor}, got "
                f"{shape[2]}x{shape[3]}; pad_to_multiple makes it {fitting[0]}x{fitting[1]}"
            )
        return Sizes(padded, image_size or padded, original_size or padded)


def build_stages(stages: Sequence[Stage]) -> list[nn.Module]:
    """The modules of a chain, with random weights on the current default device."""
    built: dict[str, nn.Module] = {}
    for stage in stages:
        built[stage.name] = stage.build({name: built[name] for name in stage.needs})
    return list(built.values())


def next_multiple(size: Size, multiple: int) -> Size:
    """The next size up, at least one multiple each way.

    >>> next_multiple((800, 1067), 32)
    (800, 1088)
    """
    height, width = (max(1, -(-side // multiple)) * multiple for side in size)
    return height, width
