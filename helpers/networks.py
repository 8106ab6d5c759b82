"""The one registry of networks, and ResNet-9, the workhorse of the laptop recipes."""

import copy
import inspect
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import resnet, variants
from helpers.resnet import BasicBlock, Bottleneck, conv3x3, initialize


@torch.no_grad()
def whiten(conv: nn.Conv2d, images: Tensor, epsilon: float = 2.5e-3) -> None:
    """Makes the filters of `conv` the whitened principal components of image patches; freezes them.

    Each component is scaled to variance 1 and comes with both signs, since a ReLU follows. The
    layers after it need not learn first to undo the correlation of neighbouring pixels. `images`
    is (N, C, H, W), normalised. The idea is D. Page's, the form that of K. Jordan, 94% on CIFAR-10
    in 3.29 Seconds on a Single GPU (2024, arXiv:2404.00498), section 3.2.
    Raises ValueError for images that do not fit `conv`, and for a number of filters that is odd or
    larger than twice the number of values in a patch.
    """
    if len(images) == 0 or images.shape[1] != conv.in_channels:
        expected = f"(N, {conv.in_channels}, H, W)"
        raise ValueError(f"expected normalised images {expected}, got {tuple(images.shape)}")
    filters, size = conv.weight.shape[0], conv.weight[0].numel()
    if filters % 2 or filters // 2 > size:
        raise ValueError(f"cannot whiten {filters} filters: an even number up to {2 * size} can be")
    patches = F.unfold(images.contiguous(), conv.kernel_size).transpose(1, 2).reshape(-1, size)
    covariance = patches.T @ patches / len(patches)
    variances, components = torch.linalg.eigh(covariance)  # in ascending order, in columns
    scaled = (components / (variances + epsilon).sqrt()).T.flip(0)
    largest = scaled[: filters // 2].view(-1, *conv.weight.shape[1:])
    conv.weight.copy_(torch.cat([largest, -largest]))
    conv.weight.requires_grad_(False)


def conv_pool(in_channels: int, out_channels: int) -> list[nn.Module]:
    """A convolution that changes the channels, and a max-pool that halves H and W."""
    return [
        conv3x3(in_channels, out_channels),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class ResNet9(nn.Module):
    """A wide, shallow residual network for two CPU cores: (N, 3, H, W) to logits (N, num_classes).

    Eight convolutions and a linear layer; two basic blocks carry the only shortcuts, max-pools
    halve the resolution. A few large convolutions suit a CPU. Its shape follows D. Page's DAWNBench
    entry at half the width (github.com/davidcpage/cifar10-fast). The logits are scaled down, which
    keeps the softmax soft at high learning rates.
    """

    def __init__(self, num_classes: int = 10, width: int = 32, zero_gamma: bool = False):
        super().__init__()
        self.conv1 = conv3x3(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        block1, block3 = BasicBlock(2 * width, 2 * width), BasicBlock(8 * width, 8 * width)
        self.layer1 = nn.Sequential(*conv_pool(width, 2 * width), block1)
        self.layer2 = nn.Sequential(*conv_pool(2 * width, 4 * width))
        self.layer3 = nn.Sequential(*conv_pool(4 * width, 8 * width), block3)
        self.fc = nn.Linear(8 * width, num_classes, bias=False)
        initialize(self, zero_gamma)
        for stage in (self.layer1, self.layer2, self.layer3):
            conv = stage[0]  # half of its channels start as copies of those before
            nn.init.dirac_(conv.weight[: conv.in_channels].detach())

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # (N, width, 32, 32)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 8·width, 4, 4)
        x = torch.amax(x, dim=(2, 3))  # (N, 8·width): the strongest response of each channel
        return 0.125 * self.fc(x)


# name → constructor; each takes num_classes, most take zero_gamma
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet9": ResNet9,  # 1,646,112 parameters for ten classes
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "plain50": partial(resnet.resnet50, residual=False),
    "resnet20": resnet.resnet20,
    "resnet32": resnet.resnet32,
    "resnet44": resnet.resnet44,
    "resnet56": resnet.resnet56,
    "resnet110": resnet.resnet110,
    "plain20": resnet.plain20,
    "plain32": resnet.plain32,
    "plain44": resnet.plain44,
    "plain56": resnet.plain56,
    "plain110": resnet.plain110,
    # of the ablations (notebook 07)
    **variants.VARIANTS,
}


def first_blocks(model: nn.Module) -> nn.Module:
    """`model` with the first block of each stage only: the ResNet-14 within a ResNet-50.

    It shares its parameters with `model`: training one trains the other.
    Raises ValueError for a network without residual blocks that could be left out.
    """
    view = copy.copy(model)
    view._modules = dict(model._modules)
    for name, stage in residual_stages(model).items():
        setattr(view, name, stage[:1])
    return view


@torch.no_grad()
def grow(model: nn.Module, gamma: float) -> None:
    """Prepares the blocks that `first_blocks` leaves out for being trained, too: their last
    BatchNorm gets the scale `gamma`. With 0 they change nothing at first.
    """
    for stage in residual_stages(model).values():
        for block in stage[1:]:
            last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            last.weight.fill_(gamma)


def residual_stages(model: nn.Module) -> dict[str, nn.Sequential]:
    """The stages of `model` of which only the first block is needed, by name."""
    stages = {}
    for name, stage in model.named_children():
        kinds = [isinstance(part, (BasicBlock, Bottleneck)) for part in stage.children()]
        if len(kinds) > 1 and all(kinds) and stage[0].residual:
            stages[name] = stage
    if not stages:
        raise ValueError(f"this {type(model).__name__} has no residual blocks to be left out")
    return stages


def build_model(name: str, num_classes: int = 10, **options) -> nn.Module:
    """The untrained network called `name`, drawn from torch's global generator.

    Raises ValueError for an unknown name and for an option that this network does not take.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NETWORKS)}")
    known = inspect.signature(NETWORKS[name]).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"{name} does not take {', '.join(unknown)}")
    return NETWORKS[name](num_classes=num_classes, **options)
