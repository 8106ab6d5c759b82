"""CIFAR-100 (Krizhevsky 2009): 100 classes of 600 images, in the same format as CIFAR-10."""

from pathlib import Path

from torchvision import datasets

from helpers.data import Dataset, stratified_split
from helpers.datasets import mean_and_std
from helpers.datasets.cifar10 import find, read


class CIFAR100(datasets.CIFAR100):
    """torchvision's, with the size of the archive in bytes; no further source is known."""

    size = 169_001_437
    mirrors = ()


def load(root: Path | None = None) -> Dataset:
    """CIFAR-100 with its 100 fine labels, split 45,000 / 5,000 / 10,000.

    Read from `root`, else CIFAR100_ROOT, else downloaded; errors as in `cifar10.load`.
    """
    everything, test, classes = read(CIFAR100, find(CIFAR100, root))
    mean, std = mean_and_std(everything.images)  # of all 50,000, as for CIFAR-10
    train, val = stratified_split(everything, per_class=50)
    return Dataset("cifar100", classes, mean, std, train, val, test)
