"""What `Dataset.check` asks: can a network learn from this data set? One clear line if not."""

import warnings
from textwrap import shorten

import numpy as np
import torch
from torch import Tensor


def check_dataset(dataset) -> None:
    """Raises ValueError for what nothing can be learned from; see `helpers.data.Dataset`.

    Warns about classes that have no training image.
    """
    check_classes(dataset.classes)
    check_statistics(dataset.mean, dataset.std)
    check_split("train", dataset.train, dataset.classes)
    if len(dataset.train) == 0:
        raise ValueError("the training split is empty")
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        if split is None:
            continue
        check_split(name, split, dataset.classes)
        size, expected = tuple(split.images.shape[2:]), tuple(dataset.train.images.shape[2:])
        if size != expected:
            sizes = f"{name} {size} but train {expected}"
            raise ValueError(f"the images of all splits must have one size, got {sizes}")
    present = set(dataset.train.labels.unique().tolist())
    absent = [name for label, name in enumerate(dataset.classes) if label not in present]
    if absent:
        names = shorten(", ".join(absent), 60, placeholder=" …")
        counts = f"{len(absent)} of {len(dataset.classes)} classes"
        warnings.warn(f"{counts} have no training image: {names}", stacklevel=3)


def check_classes(classes: tuple[str, ...]) -> None:
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"classes must be a tuple of names, got {shorten(repr(classes), 60)}")
    if len(classes) < 2:
        raise ValueError(f"classes must be at least two, got {classes}")
    for name in classes:
        if classes.count(name) > 1:
            raise ValueError(f"classes must have different names, got {name!r} more than once")


def check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    for name, values in (("mean", mean), ("std", std)):
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            numbers = []
        in_range = all(0 <= number <= 1 for number in numbers)  # False for NaN
        if len(numbers) != 3 or not in_range or (name == "std" and 0 in numbers):
            low = "above 0" if name == "std" else "from 0"
            found = shorten(repr(values), 60)
            expected = f"three numbers {low} to 1, of pixel values scaled to 0–1"
            raise ValueError(f"{name} must be {expected}, got {found}")


def check_split(name: str, split, classes: tuple[str, ...]) -> None:
    if not hasattr(split, "images") or not hasattr(split, "labels"):
        raise ValueError(f"{name} must be Split(images, labels), got {type_name(split)}")
    images, labels = split.images, split.labels
    check_images(f"{name} images", images)
    check_tensor(f"{name} labels", labels)
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        is_whole = not labels.is_floating_point() and labels.dtype != torch.int64
        advice = ": labels.long()" if is_whole else ""
        raise ValueError(f"{name} labels must be int64 ({len(images)},), got {found}{advice}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        found = f"{labels.min()} … {labels.max()}"
        raise ValueError(f"{name} labels must lie in 0 … {len(classes) - 1}, got {found}")


def check_images(name: str, images: Tensor) -> None:
    check_tensor(name, images)
    is_rgb = images.ndim == 4 and images.shape[1] == 3 and 0 not in images.shape[2:]
    if images.dtype != torch.uint8 or not is_rgb:
        found = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"{name} must be uint8 (N, 3, H, W) in 0 … 255, got {found}")


def check_tensor(name: str, values: Tensor) -> None:
    if not isinstance(values, Tensor):
        convert = "torch.from_numpy(…)" if isinstance(values, np.ndarray) else "torch.tensor(…)"
        raise ValueError(f"{name}: expected a torch tensor, got {type_name(values)}: {convert}")


def type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
