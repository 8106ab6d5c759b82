"""Images of one's own: `root/<class>/*`, one subfolder per class, of any size and kind."""

import unicodedata
import warnings
from pathlib import Path
from textwrap import shorten
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from helpers.data import Dataset, Split
from helpers.datasets import mean_and_std

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
# what counts as an image; the second row cannot be read, but must not be left out in silence
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
SUFFIXES |= {".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"}
FEWEST = 3  # images of a class, so that each split has one

Sample = tuple[Path, int]  # a file and its label


def load(root: Path | None = None, size: int = 32, seed: int = 0) -> Dataset:
    """The images in `root/<class>/*`, cut to size × size, split 80 / 10 / 10 within each class.

    Classes are the subfolders, in alphabetical order. Hidden files and files that are no images
    are ignored. The same files and `seed` give the same splits, each in random order.
    Raises ValueError, in one line, for no `root`, fewer than two classes, a class with fewer than
    three images, or an image that cannot be read, and FileNotFoundError if there is no such folder.
    """
    if root is None:
        raise ValueError("folder needs root=… (--root …): the folder with one subfolder per class")
    root = Path(root).expanduser().resolve()
    files = find_images(root)
    samples = split_samples(list(files.values()), np.random.RandomState(seed))
    train, val, test = [read_split(part, size) for part in samples]
    mean, std = mean_and_std(train.images)
    return Dataset("folder", tuple(files), mean, std, train, val, test)


def find_images(root: Path) -> dict[str, list[Path]]:
    """The image files of each class, both in alphabetical order."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {problem}: root must hold one subfolder per class")
    files = {}
    for folder in visible(root):
        if folder.is_dir():
            name = unicodedata.normalize("NFC", folder.name)  # as typed: some systems split "ü"
            if name in files:
                raise ValueError(f"{root} has two subfolders called {name!r}: rename one")
            files[name] = [file for file in visible(folder) if file.suffix.lower() in SUFFIXES]
    if len(files) < 2:
        found = f"only {list(files)[0]!r}" if files else "none"
        raise ValueError(f"{root} needs at least two subfolders, one per class: found {found}")
    for name, images in files.items():
        if len(images) < FEWEST:
            where = f"class {name!r} needs at least {FEWEST} images directly in {root / name}"
            raise ValueError(f"{where}, one for each split: found {len(images)}")
    return files


def visible(folder: Path) -> list[Path]:
    """What is in `folder` but not hidden, sorted by name, in the same way on every system."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: unicodedata.normalize("NFC", path.name))


def split_samples(
    files_of: list[list[Path]], random: np.random.RandomState
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Training, validation and test samples of the classes 0, 1, …, shuffled."""
    train, val, test = [], [], []
    for label, files in enumerate(files_of):
        samples = [(files[index], label) for index in random.permutation(len(files))]
        tenth = max(1, len(files) // 10)
        test += samples[:tenth]
        val += samples[tenth : 2 * tenth]
        train += samples[2 * tenth :]
    for samples in (train, val, test):
        random.shuffle(samples)
    return train, val, test


def read_split(samples: list[Sample], size: int) -> Split:
    """Reads all files; a progress bar is shown if that takes a while."""
    progress = tqdm(samples, desc="reading", unit=" images", delay=2, leave=False, disable=None)
    images = torch.cat([read_image(file, size) for file, _ in progress])
    labels = torch.tensor([label for _, label in samples])
    return Split(images, labels)


def read_image(file: str | Path | BinaryIO, size: int = 32) -> Tensor:
    """Any JPEG, PNG, WebP or BMP: (1, 3, size, size) uint8, scaled, the central square cut out.

    It is turned upright as its EXIF data say; transparency becomes white. Raises ValueError, in one
    line, for a file that cannot be read, and FileNotFoundError if there is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:  # closed even if it is damaged
                image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
            grey = np.asarray(image) >> 8
            image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise
    except Exception as reason:  # Pillow raises many kinds for a damaged file
        name = file if isinstance(file, (str, Path)) else getattr(file, "name", "this")
        problem = shorten(f"{type(reason).__name__}: {reason}", 200)
        expected = "is no readable JPEG, PNG, WebP or BMP image"
        raise ValueError(f"{name} {expected} ({problem}): convert or remove it") from None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
