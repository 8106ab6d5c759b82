"""The residual networks of the course, built in notebook 02 one definition at a time.

Attribute names (`conv1`, `bn1`, `layer1` … `layer4`, `downsample`, `fc`) are torchvision's, so that
weights move freely between the two. "The paper" is He, Zhang, Ren and Sun, *Deep Residual Learning
for Image Recognition* (2015), arXiv:1512.03385.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps H and W (stride 1) or halves them (stride 2).

    No bias: the BatchNorm after it has one.
    """
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1×1 convolution: the same small linear map of the channels at every pixel."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The projection shortcut W_s x of the paper's equation 2 (option B)."""
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class ZeroPad(nn.Module):
    """The shortcut without parameters (the paper's option A).

    It keeps every `stride`-th row and column, and fills the new channels with zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.extra = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))  # pads W, H, then C: zeros follow the channels


# (in_channels, out_channels, stride) → the module on the shortcut
Shortcut = Callable[[int, int, int], nn.Module]


class BasicBlock(nn.Module):
    """y = ReLU(F(x) + x) with two 3×3 convolutions in F (the paper's figure 5, left).

    Maps (N, in_channels, H, W) to (N, width, H/stride, W/stride). `shortcut` makes the module that
    carries x past F where the two shapes differ; where they agree x is added as it is. With
    `shortcut=None` nothing is added: a plain block.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut | None = projection
    ):
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.residual = shortcut is not None
        self.downsample = None
        if self.residual and (stride != 1 or in_channels != width):
            self.downsample = shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))  # F(x); no ReLU before the addition
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)


class Bottleneck(nn.Module):
    """y = ReLU(F(x) + x) with 1×1, 3×3, 1×1 convolutions in F: narrow, filter, widen (the paper's
    figure 5, right).

    Maps (N, in_channels, H, W) to (N, 4·width, H/stride, W/stride). The stride sits in the 3×3
    convolution ("v1.5", as in torchvision), so that no activation is skipped; the paper has it in
    the first 1×1. `shortcut` as in `BasicBlock`.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut | None = projection
    ):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = conv1x1(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.residual = shortcut is not None
        self.downsample = None
        if self.residual and (stride != 1 or in_channels != out_channels):
            self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))  # F(x); no ReLU before the addition
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)


Block = type[BasicBlock] | type[Bottleneck]


def make_stage(
    block: Block,
    in_channels: int,
    width: int,
    depth: int,
    stride: int,
    shortcut: Shortcut | None = projection,
) -> nn.Sequential:
    """`depth` blocks of one width. The first changes channels and resolution; the others keep the
    shape they get.
    """
    blocks = [block(in_channels, width, stride, shortcut)]
    for _ in range(depth - 1):
        blocks.append(block(width * block.expansion, width, 1, shortcut))
    return nn.Sequential(*blocks)


def initialize(model: nn.Module, zero_gamma: bool = False) -> None:
    """Kaiming initialisation (He et al. 2015, arXiv:1502.01852) of every convolution: variance 2 /
    (out_channels · k²).

    With `zero_gamma` the last BatchNorm of each residual block starts at scale 0, so that it starts
    as ReLU(shortcut(x)) (Goyal et al. 2017, arXiv:1706.02677). Raises ValueError for a plain
    network: without a shortcut, a scale of 0 stops the signal and every gradient below.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif zero_gamma and isinstance(module, (BasicBlock, Bottleneck)):
            if not module.residual:
                raise ValueError("zero_gamma needs shortcuts: it stops a plain network's signal")
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            nn.init.zeros_(last.weight)


def make_stem(stem: str, width: int) -> tuple[nn.Conv2d, nn.Module]:
    """The first convolution and what follows it: for "cifar" a 3×3 convolution that keeps 32
    pixels, for "imagenet" a 7×7 convolution and a 3×3 max-pool, each of stride 2 (224 → 56). Raises
    ValueError for another name.
    """
    if stem == "cifar":
        return conv3x3(3, width), nn.Identity()
    if stem == "imagenet":
        conv = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        return conv, nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    raise ValueError(f"unknown stem {stem!r}: choose 'cifar' or 'imagenet'")


class ResNet(nn.Module):
    """Stem → four stages → global average pooling → one linear layer: (N, 3, H, W) to logits (N,
    num_classes).

    `depths` gives the number of blocks of each stage. The first stage has `width` channels (times
    the block's expansion); each of the others doubles the channels and halves H and W.
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        num_classes: int = 10,
        stem: str = "cifar",
        width: int = 64,
        shortcut: Shortcut | None = projection,
        zero_gamma: bool = False,
    ):
        super().__init__()
        out = block.expansion  # a block of width w has w · out output channels
        self.conv1, self.maxpool = make_stem(stem, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = make_stage(block, width, width, depths[0], 1, shortcut)
        self.layer2 = make_stage(block, width * out, 2 * width, depths[1], 2, shortcut)
        self.layer3 = make_stage(block, 2 * width * out, 4 * width, depths[2], 2, shortcut)
        self.layer4 = make_stage(block, 4 * width * out, 8 * width, depths[3], 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width * out, num_classes)
        initialize(self, zero_gamma)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = torch.flatten(self.avgpool(x), 1)  # (N, C)
        return self.fc(x)


class CifarResNet(nn.Module):
    """The paper's networks for CIFAR-10 (section 4.2): as `ResNet`, with three stages of 16, 32 and
    64 channels.
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int],
        num_classes: int = 10,
        stem: str = "cifar",
        width: int = 16,
        shortcut: Shortcut | None = ZeroPad,
        zero_gamma: bool = False,
    ):
        super().__init__()
        out = block.expansion
        self.conv1, self.maxpool = make_stem(stem, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = make_stage(block, width, width, depths[0], 1, shortcut)
        self.layer2 = make_stage(block, width * out, 2 * width, depths[1], 2, shortcut)
        self.layer3 = make_stage(block, 2 * width * out, 4 * width, depths[2], 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width * out, num_classes)
        initialize(self, zero_gamma)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = torch.flatten(self.avgpool(x), 1)  # (N, C)
        return self.fc(x)


def resnet18(
    num_classes: int = 10, stem: str = "cifar", residual: bool = True, zero_gamma: bool = False
) -> ResNet:
    """ResNet-18 (the paper's table 1); with `residual=False` its plain twin."""
    shortcut = projection if residual else None
    return ResNet(
        BasicBlock, (2, 2, 2, 2), num_classes, stem, shortcut=shortcut, zero_gamma=zero_gamma
    )


def resnet34(
    num_classes: int = 10, stem: str = "cifar", residual: bool = True, zero_gamma: bool = False
) -> ResNet:
    """ResNet-34 (the paper's table 1); with `residual=False` its plain twin."""
    shortcut = projection if residual else None
    return ResNet(
        BasicBlock, (3, 4, 6, 3), num_classes, stem, shortcut=shortcut, zero_gamma=zero_gamma
    )


def resnet50(
    num_classes: int = 10, stem: str = "cifar", residual: bool = True, zero_gamma: bool = False
) -> ResNet:
    """ResNet-50 (the paper's table 1, in the v1.5 form); with `residual=False` its plain twin."""
    shortcut = projection if residual else None
    return ResNet(
        Bottleneck, (3, 4, 6, 3), num_classes, stem, shortcut=shortcut, zero_gamma=zero_gamma
    )


def cifar_resnet(
    depth: int, num_classes: int = 10, residual: bool = True, zero_gamma: bool = False
) -> CifarResNet:
    """The paper's CIFAR networks (section 4.2): depth = 6n + 2, three stages of n basic blocks,
    16-32-64 channels, option A.

    Raises ValueError for a depth that is not 6n + 2.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise ValueError(f"depth {depth} is not of the form 6n + 2 (8, 14, 20, 32, 44, 56, 110, …)")
    shortcut = ZeroPad if residual else None
    return CifarResNet(BasicBlock, (n, n, n), num_classes, shortcut=shortcut, zero_gamma=zero_gamma)


resnet20 = partial(cifar_resnet, 20)
resnet32 = partial(cifar_resnet, 32)
resnet44 = partial(cifar_resnet, 44)
resnet56 = partial(cifar_resnet, 56)
resnet110 = partial(cifar_resnet, 110)

plain20 = partial(cifar_resnet, 20, residual=False)
plain32 = partial(cifar_resnet, 32, residual=False)
plain44 = partial(cifar_resnet, 44, residual=False)
plain56 = partial(cifar_resnet, 56, residual=False)
plain110 = partial(cifar_resnet, 110, residual=False)
