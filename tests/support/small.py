"""A network and settings so small that a training takes a fraction of a second."""

import torch
from torch import nn

from helpers.training import TrainConfig, set_seed

CONFIG = TrainConfig(
    model="resnet20", dataset="shapes", epochs=2, batch_size=64, lr=0.1, device="cpu",
    precision="float32",
)  # fmt: skip


def small_net(num_classes: int = 10) -> nn.Module:
    """A convolution, a BatchNorm and a linear layer: always the same weights."""
    set_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, num_classes),
    )


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold the same bits."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
