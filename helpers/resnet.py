"""Residual networks, line by line: the blocks, the stages and the named depths that the notebooks build and train.

Shapes are (N, C, H, W). The names of attributes (`conv1, bn1, layer1 … layer4, downsample, fc`) are torchvision's, so that
weights move freely between the two. "The paper" is He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition*
(2015), arXiv:1512.03385.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps H and W (stride 1) or halves them (stride 2). No bias: the BatchNorm behind it has one."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1×1 convolution: the same small linear map of the channels at every pixel."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The projection shortcut W_s x of the paper's equation 2 (option B): a strided 1×1 convolution and BatchNorm."""
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class ZeroPad(nn.Module):
    """The shortcut without parameters (the paper's option A): keep every `stride`-th row and column, zeros in new channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.extra = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))  # pads W, H, then C; zeros go behind the old channels


Shortcut = Callable[[int, int, int], nn.Module]  # (in_channels, out_channels, stride) → the module on the shortcut


class BasicBlock(nn.Module):
    """y = ReLU(F(x) + x) with two 3×3 convolutions in F (the paper's figure 5, left).

    Maps (N, in_channels, H, W) to (N, width, H/stride, W/stride). `shortcut` makes the module that carries x past F where
    the two shapes differ; where they agree x is added as it is. With `shortcut=None` nothing is added: a plain block.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut | None = projection):
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
    """y = ReLU(F(x) + x) with 1×1, 3×3, 1×1 convolutions in F: narrow, filter, widen (the paper's figure 5, right).

    Maps (N, in_channels, H, W) to (N, 4·width, H/stride, W/stride). The stride sits in the 3×3 convolution ("v1.5", as in
    torchvision), so that no activation is skipped; the paper has it in the first 1×1. `shortcut` as in `BasicBlock`.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut | None = projection):
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
    block: Block, in_channels: int, width: int, depth: int, stride: int, shortcut: Shortcut | None = projection
) -> nn.Sequential:
    """`depth` blocks of one width. The first changes channels and resolution; the others keep the shape they get."""
    blocks = [block(in_channels, width, stride, shortcut)]
    for _ in range(depth - 1):
        blocks.append(block(width * block.expansion, width, 1, shortcut))
    return nn.Sequential(*blocks)


def initialize(model: nn.Module, zero_gamma: bool = False) -> None:
    """Kaiming initialisation (He et al. 2015, arXiv:1502.01852) of every convolution: variance 2 / (out_channels · k²).

    With `zero_gamma` the last BatchNorm of each residual block starts at scale 0, so that it starts as ReLU(shortcut(x))
    (Goyal et al. 2017, arXiv:1706.02677). Raises ValueError for a plain network: without a shortcut, a scale of 0 stops
    the signal and every gradient below.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif zero_gamma and isinstance(module, (BasicBlock, Bottleneck)):
            if not module.residual:
                raise ValueError("zero_gamma needs shortcuts: in a plain network it stops the signal and every gradient")
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            nn.init.zeros_(last.weight)


class ResNet(nn.Module):
    """Stem → stages → global average pooling → one linear layer: (N, 3, H, W) to logits (N, num_classes).

    `depths` gives the number of blocks of each stage; stage i has `width`·2^i channels (times the block's expansion) and,
    from the second on, halves H and W. `stem="imagenet"` starts with a 7×7 convolution of stride 2 and a 3×3 max-pool of
    stride 2 (224 → 56 pixels), `stem="cifar"` with one 3×3 convolution (32 → 32). Raises ValueError for another stem.
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, ...],
        num_classes: int = 10,
        stem: str = "cifar",
        width: int = 64,
        shortcut: Shortcut | None = projection,
        zero_gamma: bool = False,
    ):
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        elif stem == "cifar":
            self.conv1 = conv3x3(3, width)
            self.maxpool = nn.Identity()
        else:
            raise ValueError(f"unknown stem {stem!r}: choose 'cifar' or 'imagenet'")
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

        in_channels = width
        self.stages = [f"layer{i + 1}" for i in range(len(depths))]
        for i, name in enumerate(self.stages):
            stage_width = width * 2**i
            stride = 1 if i == 0 else 2
            self.add_module(name, make_stage(block, in_channels, stage_width, depths[i], stride, shortcut))
            in_channels = stage_width * block.expansion

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)
        initialize(self, zero_gamma)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        x = torch.flatten(self.avgpool(x), 1)  # (N, C)
        return self.fc(x)


def resnet18(num_classes: int = 10, stem: str = "cifar", residual: bool = True, zero_gamma: bool = False) -> ResNet:
    """ResNet-18 (the paper's table 1); with `residual=False` its plain twin."""
    shortcut = projection if residual else None
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, stem, shortcut=shortcut, zero_gamma=zero_gamma)


def resnet34(num_classes: int = 10, stem: str = "cifar", residual: bool = True, zero_gamma: bool = False) -> ResNet:
    """ResNet-34 (the paper's table 1); with `residual=False` its plain twin."""
    shortcut = projection if residual else None
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, stem, shortcut=shortcut, zero_gamma=zero_gamma)


def resnet50(num_classes: int = 10, stem: str = "cifar", residual: bool = True, zero_gamma: bool = False) -> ResNet:
    """ResNet-50 (the paper's table 1, in the v1.5 form); with `residual=False` its plain twin."""
    shortcut = projection if residual else None
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, stem, shortcut=shortcut, zero_gamma=zero_gamma)


def cifar_resnet(depth: int, num_classes: int = 10, residual: bool = True, zero_gamma: bool = False) -> ResNet:
    """The paper's CIFAR networks (section 4.2): depth = 6n + 2, three stages of n basic blocks, 16-32-64 channels, option A.

    Raises ValueError for a depth that is not 6n + 2.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise ValueError(f"depth {depth} is not of the form 6n + 2 (8, 14, 20, 32, 44, 56, 110, …)")
    shortcut = ZeroPad if residual else None
    return ResNet(BasicBlock, (n, n, n), num_classes, width=16, shortcut=shortcut, zero_gamma=zero_gamma)


def resnet20(num_classes: int = 10, residual: bool = True, zero_gamma: bool = False) -> ResNet:
    return cifar_resnet(20, num_classes, residual, zero_gamma)


def resnet32(num_classes: int = 10, residual: bool = True, zero_gamma: bool = False) -> ResNet:
    return cifar_resnet(32, num_classes, residual, zero_gamma)


def resnet44(num_classes: int = 10, residual: bool = True, zero_gamma: bool = False) -> ResNet:
    return cifar_resnet(44, num_classes, residual, zero_gamma)


def resnet56(num_classes: int = 10, residual: bool = True, zero_gamma: bool = False) -> ResNet:
    return cifar_resnet(56, num_classes, residual, zero_gamma)


def resnet110(num_classes: int = 10, residual: bool = True, zero_gamma: bool = False) -> ResNet:
    return cifar_resnet(110, num_classes, residual, zero_gamma)


def plain20(num_classes: int = 10) -> ResNet:
    return resnet20(num_classes, residual=False)


def plain32(num_classes: int = 10) -> ResNet:
    return resnet32(num_classes, residual=False)


def plain44(num_classes: int = 10) -> ResNet:
    return resnet44(num_classes, residual=False)


def plain56(num_classes: int = 10) -> ResNet:
    return resnet56(num_classes, residual=False)


def plain110(num_classes: int = 10) -> ResNet:
    return resnet110(num_classes, residual=False)


@torch.no_grad()
def whiten(conv: nn.Conv2d, images: Tensor, epsilon: float = 2.5e-3) -> None:
    """Makes the filters of `conv` the principal components of patches of `images`, scaled to variance 1, and freezes them.

    Each component comes with both signs, since a ReLU follows. The network behind it need not learn first to undo the
    correlation of neighbouring pixels. `images` is (N, C, H, W), normalised; the idea is D. Page's, the form that of K. Jordan,
    94% on CIFAR-10 in 3.29 Seconds on a Single GPU (2024, arXiv:2404.00498), section 3.2.
    Raises ValueError for a convolution with more filters than twice the values of a patch, or an odd number of them, and for
    pictures it cannot take.
    """
    if len(images) == 0 or images.shape[1] != conv.in_channels:
        raise ValueError(f"expected normalised pictures (N, {conv.in_channels}, H, W), got {tuple(images.shape)}")
    filters, size = conv.weight.shape[0], conv.weight[0].numel()
    if filters % 2 or filters // 2 > size:
        raise ValueError(f"{filters} filters cannot be whitened: an even number up to {2 * size} can")
    patches = F.unfold(images.contiguous(), conv.kernel_size).transpose(1, 2).reshape(-1, size)
    variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))  # in ascending order
    scaled = (components / (variances + epsilon).sqrt()).T.flip(0)[: filters // 2].view(-1, *conv.weight.shape[1:])
    conv.weight.copy_(torch.cat([scaled, -scaled]))
    conv.weight.requires_grad_(False)


class ResNet9(nn.Module):
    """A wide, shallow residual network for two CPU cores: (N, 3, 32, 32) to logits (N, num_classes).

    Eight convolutions and a linear layer; two basic blocks carry the only shortcuts, max-pools halve the resolution. Much
    work in few large convolutions suits a CPU. Its shape follows D. Page's DAWNBench entry at half the width
    (github.com/davidcpage/cifar10-fast). The logits are scaled down, which keeps the softmax soft at high learning rates.
    """

    def __init__(self, num_classes: int = 10, width: int = 32, zero_gamma: bool = False):
        super().__init__()

        def conv_pool(in_channels: int, out_channels: int) -> list[nn.Module]:
            return [conv3x3(in_channels, out_channels), nn.MaxPool2d(2), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]

        self.conv1 = conv3x3(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(*conv_pool(width, 2 * width), BasicBlock(2 * width, 2 * width))
        self.layer2 = nn.Sequential(*conv_pool(2 * width, 4 * width))
        self.layer3 = nn.Sequential(*conv_pool(4 * width, 8 * width), BasicBlock(8 * width, 8 * width))
        self.fc = nn.Linear(8 * width, num_classes, bias=False)
        initialize(self, zero_gamma)
        for stage in (self.layer1, self.layer2, self.layer3):  # half of the channels start as copies of those before
            nn.init.dirac_(stage[0].weight[: stage[0].in_channels].detach())

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # (N, width, 32, 32)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 8·width, 4, 4)
        x = torch.amax(x, dim=(2, 3))  # (N, 8·width): the strongest response of each channel
        return 0.125 * self.fc(x)


def resnet9(num_classes: int = 10, zero_gamma: bool = False) -> ResNet9:
    return ResNet9(num_classes, zero_gamma=zero_gamma)


MODELS = {
    model.__name__: model
    for model in (
        *(resnet9, resnet18, resnet34, resnet50),
        *(resnet20, resnet32, resnet44, resnet56, resnet110),
        *(plain20, plain32, plain44, plain56, plain110),
    )
}
