"""What only the ablations of notebook 07 need: helpers.resnet with one thing changed at a time.

"The paper" is He et al. 2015 (arXiv:1512.03385), "the sequel" their *Identity Mappings in Deep
Residual Networks* (2016, arXiv:1603.05027).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from helpers.resnet import (
    BasicBlock,
    Block,
    Bottleneck,
    CifarResNet,
    ResNet,
    Shortcut,
    ZeroPad,
    conv3x3,
    projection,
)


class ProjectedBlock(BasicBlock):
    """A basic block with a projection even where the shapes agree (the paper's option C)."""

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut | None = projection
    ):
        super().__init__(in_channels, width, stride, shortcut)
        self.downsample = projection(in_channels, width, stride)


class BottleneckV1(Bottleneck):
    """The paper's bottleneck: the stride is in the first 1×1, which skips three of four pixels."""

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut | None = projection
    ):
        super().__init__(in_channels, width, stride, shortcut)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


class PreActivationBlock(nn.Module):
    """y = F(x) + x with F = BN → ReLU → conv → BN → ReLU → conv (the sequel's figure 1b).

    Nothing follows the addition. Maps (N, in_channels, H, W) to (N, width, H/stride, W/stride).
    `shortcut` as in `BasicBlock`; it gets x as it is.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut = ZeroPad):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != width:
            self.downsample = shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        return out + (x if self.downsample is None else self.downsample(x))


class PreActivationResNet(CifarResNet):
    """A CIFAR ResNet of pre-activation blocks: BN and ReLU follow the last block, not the stem."""

    def __init__(self, depths: tuple[int, int, int], num_classes: int = 10):
        super().__init__(PreActivationBlock, depths, num_classes)
        self.bn1 = nn.BatchNorm2d(self.fc.in_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.relu(self.bn1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def without_batchnorm(model: nn.Module) -> nn.Module:
    """Removes every BatchNorm2d of `model` in place, gives its convolutions a bias; returns it."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return model


def small(
    depth: int,
    num_classes: int = 10,
    block: Block | type[ProjectedBlock] = BasicBlock,
    shortcut: Shortcut | None = ZeroPad,
    stem: str = "cifar",
    batchnorm: bool = True,
    zero_gamma: bool = False,
) -> CifarResNet:
    """A network of the paper's CIFAR family with another block, shortcut or stem.

    `depth` counts the stem, the convolutions in the blocks and the linear layer. Raises ValueError
    for one that three equal stages cannot have, and for `zero_gamma` without BatchNorm.
    """
    if zero_gamma and not batchnorm:
        raise ValueError("zero_gamma is about BatchNorm's scale: there is none without BatchNorm")
    layers = 3 if issubclass(block, Bottleneck) else 2  # in a block
    n, rest = divmod(depth - 2, 3 * layers)
    if rest or n < 1:
        raise ValueError(f"depth {depth} is not of the form {3 * layers}n + 2")
    depths = (n, n, n)
    model = CifarResNet(block, depths, num_classes, stem, shortcut=shortcut, zero_gamma=zero_gamma)
    return model if batchnorm else without_batchnorm(model)


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(small, 8),
    "plain8": partial(small, 8, shortcut=None),
    "resnet20-B": partial(small, 20, shortcut=projection),
    "resnet20-C": partial(small, 20, block=ProjectedBlock, shortcut=projection),
    "resnet20-preact": partial(PreActivationResNet, (3, 3, 3)),
    "resnet20-no-bn": partial(small, 20, batchnorm=False),
    "plain20-no-bn": partial(small, 20, shortcut=None, batchnorm=False),
    "resnet20-imagenet-stem": partial(small, 20, stem="imagenet"),
    "bottleneck11": partial(small, 11, block=Bottleneck, shortcut=projection),
    "bottleneck11-v1": partial(small, 11, block=BottleneckV1, shortcut=projection),
    "resnet14": partial(ResNet, Bottleneck, (1, 1, 1, 1)),
    # the network of the notebook that this course started from
    "resnet50-half": partial(ResNet, Bottleneck, (3, 4, 6, 3), stem="imagenet", width=32),
}
