"""The data sets, one module each, found by name: to add a data set, add a file to this folder.

Each module but `download` has a function `load(root: Path | None) -> helpers.data.Dataset`, which
reads the data set that is named after the module. `root` is where it lies; None means the place
where that data set is usually kept.
"""

import os
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from helpers.data import Dataset

NOT_A_DATASET = {"download"}


def names() -> list[str]:
    """The data sets, in alphabetical order."""
    found = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(found - NOT_A_DATASET)


def load(name: str, root: Path | None = None) -> Dataset:
    """The data set `name`, read by its own module; see `helpers.data.load`."""
    if name == "auto":
        return load_cifar10_or_shapes(root)
    if name not in names():
        choices = ", ".join(["auto", *names()])
        raise ValueError(f"unknown data set {name!r}: choose one of {choices}")
    module = import_module(f"{__name__}.{name}")
    return module.load(root)


def load_cifar10_or_shapes(root: Path | None) -> Dataset:
    """CIFAR-10, or `shapes` with a loud notice if CIFAR-10 can be neither found nor downloaded."""
    try:
        return load("cifar10", root)
    except OSError as reason:
        if root or os.environ.get("CIFAR10_ROOT"):  # what was named is never replaced
            raise
        notice = [
            "THIS IS NOT CIFAR-10, which could be neither found nor downloaded. The embedded data",
            "set `shapes` is used instead: every number and every image below is about `shapes`.",
            f"Reason: {reason}",
        ]
    line = "=" * 100
    print(line, *notice, line, sep="\n", file=sys.stderr, flush=True)
    return load("shapes")


def mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, of the pixel values of uint8 (N, 3, H, W) scaled to 0–1, to four digits."""
    values = torch.arange(256).double() / 255
    means, stds = [], []
    for channel in images.unbind(dim=1):
        counts = torch.bincount(channel.flatten(), minlength=256)
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / (counts.sum() - 1)
        means.append(round(mean.item(), 4))
        stds.append(round(variance.sqrt().item(), 4))
    return tuple(means), tuple(stds)
