"""ResNet-50 and -101 as a trunk of four maps, with the stride in the 3x3 convolution.

Source: ResNet (arXiv 1512.03385) as detectron2 and torchvision run it; the ``deep`` form, three 3x3
convolutions at the head and shortcuts that pool before they project, is ResNet-D (arXiv 1812.01187). The
state-dict names are timm's and torchvision's. It is written out here, so that counting a model need not
import timm, which takes longer than the count itself.
"""

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
CHANNELS = tuple(EXPANSION * width for width in WIDTHS)
STEM = 64


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, a norm behind each, and a shortcut."""

    def __init__(
        self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, norm: type[nn.Module]
    ) -> None:
        super().__init__()
        channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = norm(width)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = norm(channels)
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / stride, W / stride), rounded up."""
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.act3(y)


class ResNet(nn.Module):
    """The trunk. Weights are random."""

    def __init__(self, depths: tuple[int, ...], norm: type[nn.Module], deep: bool = False) -> None:
        """Build it.

        Args:
            depths: blocks of each stage.
            norm: a norm's class, from channels to a module.
            deep: ResNet-D's head and shortcuts.
        """
        super().__init__()
        self.conv1 = _deep_head(norm) if deep else nn.Conv2d(3, STEM, 7, 2, 3, bias=False)
        self.bn1 = norm(STEM)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        in_channels = STEM
        for number, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
            first_stride = 1 if number == 0 else 2
            shortcut = _shortcut(in_channels, EXPANSION * width, first_stride, norm, deep)
            blocks = [Bottleneck(in_channels, width, first_stride, shortcut, norm)]
            in_channels = EXPANSION * width
            blocks += [Bottleneck(in_channels, width, 1, None, norm) for _ in range(depth - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, C, h, w) at strides 4, 8, 16 and 32, sides rounded up."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        maps = []
        for number in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{number + 1}")(x)
            maps.append(x)
        return maps


def _deep_head(norm: type[nn.Module]) -> nn.Sequential:
    half = STEM // 2
    return nn.Sequential(
        nn.Conv2d(3, half, 3, 2, 1, bias=False),
        norm(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, half, 3, 1, 1, bias=False),
        norm(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, STEM, 3, 1, 1, bias=False),
    )


def _shortcut(
    in_channels: int, channels: int, stride: int, norm: type[nn.Module], deep: bool
) -> nn.Sequential:
    """A projection, with the stride in it; or behind a pooling, as ResNet-D has it."""
    if not deep:
        return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm(channels))
    pool = nn.Identity() if stride == 1 else nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, nn.Conv2d(in_channels, channels, 1, bias=False), norm(channels))
