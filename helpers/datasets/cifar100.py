"""CIFAR-100 (Krizhevsky 2009): 100 classes of 600 images, in the same format as CIFAR-10."""

from pathlib import Path

from helpers.data import Dataset, stratified_split
from helpers.datasets import mean_and_std
from helpers.datasets.cifar10 import Archive, find, read_members, split_of

CIFAR100 = Archive(
    name="CIFAR100",
    file="cifar-100-python.tar.gz",
    size=169_001_437,
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    members={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    sources=("https://www.cs.toronto.edu/~kriz/",),
)


def load(root: Path | None = None) -> Dataset:
    """CIFAR-100 with its 100 fine labels, split 45,000 / 5,000 / 10,000.

    Read from `root`, else CIFAR100_ROOT, else downloaded; errors as in `cifar10.load`.
    """
    files = read_members(CIFAR100, find(CIFAR100, root))
    classes = tuple(name.decode() for name in files["meta"][b"fine_label_names"])
    everything = split_of(files["train"], b"fine_labels")
    mean, std = mean_and_std(everything.images)  # of all 50,000, as for CIFAR-10
    train, val = stratified_split(everything, per_class=50)
    test = split_of(files["test"], b"fine_labels")
    return Dataset("cifar100", classes, mean, std, train, val, test)
