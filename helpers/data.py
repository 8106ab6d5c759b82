"""Images as uint8 tensors on one device: splits, mini-batches and augmentation.

A data set of small images fits into memory (CIFAR-10: 184 MB), so it is loaded whole and augmented
in batches by tensor operations: no worker processes, no files read during training. Where the
images come from: `helpers/datasets/`, one module per data set.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images (N, 3, H, W) uint8 and their classes (N,) int64, on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> "Split":
        """The samples that `index` (a slice, a mask, indices) selects."""
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set in three splits. `mean` and `std` are per channel, of pixel values in 0–1.

    Labels are positions in `classes`. `val` and `test` may be empty or None.
    """

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: Split
    val: Split | None
    test: Split | None

    @cached_property  # copied once, not in every epoch
    def train_val(self) -> Split:
        """Training and validation splits together: for a final run, with every choice made."""
        if self.val is None:
            return self.train
        images = torch.cat([self.train.images, self.val.images])
        labels = torch.cat([self.train.labels, self.val.labels])
        return Split(images, labels)

    def to(self, device: torch.device | str) -> "Dataset":
        moved = {}
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            moved[name] = None if split is None else split.to(device)
        return replace(self, **moved)

    def check(self) -> None:
        """Raises ValueError, in one line, for data that nothing can be learned from."""
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise ValueError(f"classes must be two or more different names, got {self.classes}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            try:
                numbers = np.asarray(values, dtype=float)
            except (TypeError, ValueError):
                numbers = np.empty(0)
            in_range = (numbers > 0 if name == "std" else numbers >= 0) & (numbers <= 1)
            if numbers.shape != (3,) or not in_range.all():
                low = "above 0" if name == "std" else "from 0"
                expected = f"three numbers {low} to 1, of pixel values scaled to 0–1"
                raise ValueError(f"{name} must be {expected}, got {shorten(repr(values), 60)}")
        if not self.train:
            raise ValueError("the training split is empty")
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            if split is None:
                continue
            if not isinstance(split, Split):
                raise ValueError(f"{name} must be Split(images, labels), got {kind_of(split)}")
            check_images(f"{name} images", split.images)
            check_labels(f"{name} labels", split.labels, len(split.images), len(self.classes))
            size = tuple(split.images.shape[2:])
            if size != tuple(self.train.images.shape[2:]):
                raise ValueError(f"the images of all splits must have one size: {name} has {size}")

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to float32, channels last.

        Over the training set each channel then has mean 0 and variance 1.
        """
        check_images("images", images)
        scale, offset = self.scale_and_offset
        x = torch.addcmul(offset, images.float(), scale)
        return x.contiguous(memory_format=torch.channels_last)

    @cached_property  # made once: copied to a GPU in every step, it would make the host wait
    def scale_and_offset(self) -> tuple[Tensor, Tensor]:
        """What (x / 255 - mean) / std multiplies x with and adds to it: (1, 3, 1, 1) each."""
        scale = [1 / (255 * s) for s in self.std]
        offset = [-m / s for m, s in zip(self.mean, self.std)]
        options = {"dtype": torch.float32, "device": self.train.images.device}
        return (
            torch.tensor(scale, **options).view(1, 3, 1, 1),
            torch.tensor(offset, **options).view(1, 3, 1, 1),
        )


def check_images(name: str, images: Tensor) -> None:
    """Raises ValueError for what is not uint8 (N, 3, H, W)."""
    is_uint8 = isinstance(images, Tensor) and images.dtype == torch.uint8
    if not is_uint8 or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        expected = "a uint8 tensor (N, 3, H, W) in 0 … 255"
        raise ValueError(f"{name} must be {expected}, got {kind_of(images)}")


def check_labels(name: str, labels: Tensor, count: int, classes: int) -> None:
    """Raises ValueError for what is not int64 (count,), each in 0 … classes - 1."""
    is_int64 = isinstance(labels, Tensor) and labels.dtype == torch.int64
    if not is_int64 or labels.shape != (count,):
        raise ValueError(f"{name} must be an int64 tensor ({count},), got {kind_of(labels)}")
    if count and not 0 <= labels.min() <= labels.max() < classes:
        found = f"{labels.min()} … {labels.max()}"
        raise ValueError(f"{name} must lie in 0 … {classes - 1}, got {found}")


def kind_of(values: object) -> str:
    """As in "ndarray float64 (20, 3, 8, 8)"."""
    is_array = isinstance(values, (Tensor, np.ndarray))
    shape = f" {values.dtype} {tuple(values.shape)}" if is_array else ""
    return type(values).__name__ + shape


# --- loading and splitting ----------------------------------------------------------------------


def load(name: str | None = None, root: str | Path | None = None) -> Dataset:
    """The data set `name`: one of `helpers/datasets/`, or "auto".

    "auto" is CIFAR-10 if it is at hand or can be downloaded, else `shapes` with a loud notice.
    Without a name the environment variable COURSE_DATA decides (default "auto"). `root` is the
    place from which the data set is read; without it CIFAR-10 is looked for where CIFAR10_ROOT
    says, then in `data/` beside `helpers/`, and then downloaded there.
    Raises ValueError for an unknown name, and FileNotFoundError or ValueError if a place that was
    named does not hold the data set.
    """
    from helpers import datasets  # here, because each data set imports this module

    name = name or os.environ.get("COURSE_DATA") or "auto"
    dataset = datasets.load(name, Path(root) if root else None)
    dataset.check()
    return dataset


def stratified_split(data: Split, per_class: int, seed: int = 0) -> tuple[Split, Split]:
    """Sets `per_class` random images of each class apart: (the rest, those), both in their order.

    The same seed gives the same split on every machine: NumPy guarantees that the stream of
    RandomState never changes.
    """
    random = np.random.RandomState(seed)
    labels = data.labels.numpy()
    apart = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        shuffled = random.permutation(np.flatnonzero(labels == label))
        apart[shuffled[:per_class]] = True
    apart = torch.from_numpy(apart)
    return data[~apart], data[apart]


# --- augmentation and batches -------------------------------------------------------------------


def random_crop_flip(
    images: Tensor, pad: int = 4, flip: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Shifts each image of (N, C, H, W) by up to `pad` pixels, and mirrors it with probability 1/2.

    Edges are padded by reflection. Each image draws its own shift and flip: the pixel that each
    output pixel is read from is computed, and one `gather` then moves the whole batch.
    Raises ValueError for a `pad` that reflection cannot fill.
    """
    n, c, h, w = images.shape
    if not 0 <= pad < min(h, w):
        raise ValueError(f"pad must lie in 0 … {min(h, w) - 1}, got {pad}")
    device = images.device

    def positions(size: int) -> Tensor:
        shift = torch.randint(-pad, pad + 1, (n, 1), device=device, generator=generator)
        position = (torch.arange(size, device=device) + shift).abs()  # reflected at the first pixel
        return (size - 1) - ((size - 1) - position).abs()  # and at the last

    rows = positions(h)  # (N, H)
    columns = positions(w)  # (N, W)
    if flip:
        flipped = torch.rand(n, 1, device=device, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    source = rows[:, :, None] * w + columns[:, None, :]  # (N, H, W)
    source = source.view(n, 1, h * w).expand(n, c, h * w)
    return images.flatten(2).gather(2, source).view(n, c, h, w)


def alternate_flip(data: Split, seed: int, epoch: int) -> Split:
    """Mirrors every image in every second epoch; a random half of them starts mirrored.

    Random flips show an image the same way in two successive epochs half of the time; these never
    do, and so show more in few epochs (Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds, section 3.6).
    """
    device = data.images.device
    generator = torch.Generator(device).manual_seed(seed)
    mirrored = torch.rand(len(data), device=device, generator=generator) < 0.5
    mirrored = mirrored ^ bool(epoch % 2)
    images = torch.where(mirrored[:, None, None, None], data.images.flip(3), data.images)
    return replace(data, images=images)


def random_cutout(x: Tensor, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Sets a `size` × `size` square of each normalised image (N, C, H, W) to 0, the mean colour.

    The square's centre is any pixel, so part of it may lie outside (DeVries and Taylor 2017).
    """
    n, _, h, w = x.shape

    def covered(length: int) -> Tensor:  # (N, length): is this row (or column) inside the square?
        start = torch.randint(0, length, (n, 1), device=x.device, generator=generator) - size // 2
        position = torch.arange(length, device=x.device)
        return (position >= start) & (position < start + size)

    square = covered(h)[:, :, None] & covered(w)[:, None, :]  # (N, H, W)
    x = x.masked_fill(square[:, None], 0.0)
    return x.contiguous(memory_format=torch.channels_last)  # lost on a GPU


def resize(images: Tensor, size: int | None) -> Tensor:
    """(N, C, H, W) to (N, C, size, size), each new pixel a weighted mean; None leaves them."""
    if size is None or images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def make_mixing(share: float, num_classes: int) -> Callable[[Tensor, Tensor], tuple]:
    """Mixes each image of a batch, and its label, with another: CutMix or mixup, torchvision's.

    `share` is the fraction of batches that are mixed. CutMix (Yun et al. 2019, α = 1) pastes a
    rectangle, mixup (Zhang et al. 2018, α = 0.2) superimposes. Mixed labels are (N, num_classes)
    and sum to 1. Draws from torch's global generator.
    """
    from torchvision.transforms import v2  # here: only mixing needs it

    cutmix = v2.CutMix(alpha=1.0, num_classes=num_classes)
    mixup = v2.MixUp(alpha=0.2, num_classes=num_classes)
    return v2.RandomApply([v2.RandomChoice([cutmix, mixup])], p=share)


@dataclass(frozen=True)
class Batches:
    """One epoch of shuffled mini-batches (images, labels): iterable, with a length.

    `transform` maps uint8 images (N, 3, H, W) to what the network sees; `mix`, if there is one,
    then mixes images and labels. A short last batch is dropped, so that every step averages over
    the same number of images; each epoch's order decides which ones those are. With several
    processes each makes the same batches and keeps its `share`.
    """

    data: Split
    batch_size: int
    transform: Callable[[Tensor], Tensor]
    generator: torch.Generator | None = None
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    share: slice | None = None

    def __post_init__(self):
        if not 1 <= self.batch_size <= len(self.data):
            available = f"{len(self.data):,} training images"
            raise ValueError(f"batch size {self.batch_size} does not fit {available}")

    def __len__(self) -> int:
        return len(self.data) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.data.labels.device
        order = torch.randperm(len(self.data), device=device, generator=self.generator)
        for indices in order[: len(self) * self.batch_size].split(self.batch_size):
            batch = self.data[indices]
            images, labels = self.transform(batch.images), batch.labels
            if self.mix:
                images, labels = self.mix(images, labels)
                images = images.contiguous(memory_format=torch.channels_last)  # lost on a GPU
            if self.share:
                images, labels = images[self.share], labels[self.share]
            yield images, labels
