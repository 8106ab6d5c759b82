"""helpers.datasets.cifar10 and cifar100: imitations, torchvision's reading, and what is loaded."""

import dataclasses
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAKE_PER_FILE, archive_of, equal

from helpers import data, datasets
from helpers.data import Split
from helpers.datasets import cifar10, cifar100, shapes

ROOT = Path(__file__).resolve().parents[1]
CIFAR10_FOLDER = cifar10.CIFAR10.folder
TINY = shapes.make_shapes(100, 10, 10)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    variables = [f"CIFAR{n}_{what}" for n in (10, 100) for what in ("ROOT", "URL")]
    for name in ["COURSE_DATA", *variables]:
        monkeypatch.delenv(name, raising=False)


# --- CIFAR-10 -----------------------------------------------------------------------------------


def md5s(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content).hexdigest() for name, content in files.items()}


@pytest.fixture
def fake(monkeypatch, fake_files) -> cifar10.Archive:
    """The checksums of the fake files are taken for the real ones."""
    changed = dataclasses.replace(cifar10.CIFAR10, members=md5s(fake_files), size=1 << 25)
    monkeypatch.setattr(cifar10, "CIFAR10", changed)
    return changed


@pytest.fixture
def fake_root(tmp_path, fake, fake_files) -> Path:
    """A folder with a fake `cifar-10-batches-py`."""
    root = tmp_path / "my images"
    (root / CIFAR10_FOLDER).mkdir(parents=True)
    for file, content in fake_files.items():
        (root / CIFAR10_FOLDER / file).write_bytes(content)
    return root


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """As if the course lay in an empty folder without network; where its data would be."""

    def fail(archive, root):
        raise OSError("no network today")

    monkeypatch.setattr(cifar10, "DATA", tmp_path / "course" / "data")
    monkeypatch.setattr(cifar10, "download", fail)
    monkeypatch.setattr(shapes, "make_shapes", lambda: TINY)
    return tmp_path / "course" / "data"


def numbers(split: Split) -> torch.Tensor:
    """Which images these are: the fake ones carry their number."""
    return split.images[:, 0, 0, 0].long() * 256 + split.images[:, 0, 0, 1].long()


def test_pixels_labels_and_order_come_out_right(fake_root, fake_files):
    dataset = data.load("cifar10", root=fake_root)
    assert dataset.name == "cifar10" and dataset.classes == cifar10.CLASSES
    sizes = (len(dataset.train), len(dataset.val), len(dataset.test))
    assert sizes == (50, 5000, FAKE_PER_FILE)
    stored = [pickle.loads(content, encoding="bytes") for content in fake_files.values()]
    rows = np.concatenate([batch[b"data"] for batch in stored])
    labels = np.concatenate([batch[b"labels"] for batch in stored])
    for split in (dataset.train, dataset.val, dataset.test):
        index = numbers(split).numpy()
        assert np.array_equal(index, np.sort(index))  # the files' order
        assert np.array_equal(split.labels.numpy(), labels[index])
        for channel, row, column in ((0, 0, 5), (1, 3, 0), (2, 31, 30)):  # planes, row by row
            expected = rows[index, channel * 1024 + row * 32 + column]
            assert np.array_equal(split.images[:, channel, row, column], expected)
    assert torch.bincount(dataset.val.labels).tolist() == [500] * 10
    assert sorted(numbers(dataset.train_val).tolist()) == list(range(5 * FAKE_PER_FILE))
    assert numbers(dataset.test).tolist() == list(range(5 * FAKE_PER_FILE, 6 * FAKE_PER_FILE))


@pytest.mark.parametrize(("file", "good_before"), [("data_batch_1", 0), ("test_batch", 5)])
def test_a_damaged_file_is_refused_before_it_is_unpickled(
    fake_root, monkeypatch, file, good_before
):
    path = fake_root / CIFAR10_FOLDER / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    path.write_bytes(content)
    unpickled, loads = [], pickle.loads
    monkeypatch.setattr(
        cifar10.pickle, "loads", lambda x, **options: unpickled.append(x) or loads(x, **options)
    )
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        data.load("cifar10", root=fake_root)
    assert len(unpickled) == good_before and bytes(content) not in unpickled


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("named", ["file", "folder"])
def test_an_archive_is_read_where_it_lies(
    fake_root, fake_files, tmp_path, monkeypatch, mode, named
):
    """Other things in it, however malicious, have no effect, and nothing is written."""
    place = tmp_path / "of the class"
    place.mkdir()
    archive = place / ("cifar-10-python.tar.gz" if named == "folder" else "mine.tar")
    evil = {"../evil.txt": b"!", "/tmp/evil.txt": b"!", f"{CIFAR10_FOLDER}/evil.py": b"!"}
    inside = {f"{CIFAR10_FOLDER}/{file}": content for file, content in fake_files.items()}
    archive.write_bytes(archive_of(evil | inside, mode))
    monkeypatch.setattr(Path, "mkdir", lambda *_: pytest.fail("something is written"))
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_: pytest.fail("unpacked"))
    from_archive = data.load("cifar10", root=archive if named == "file" else place)
    assert equal(from_archive, data.load("cifar10", root=fake_root))
    assert [*place.iterdir()] == [archive]


EVIL = Path(__file__).parent / "evil"


class Evil:
    """Unpickling it would leave a file."""

    def __reduce__(self):
        return (os.system, (f"touch {EVIL}",))


def tar_with_link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo(f"{CIFAR10_FOLDER}/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


def bad_archives(files: dict[str, bytes]) -> dict[str, tuple[bytes, type, str]]:
    """Files that are no archive of CIFAR-10, and the error each must give."""
    good = {f"{CIFAR10_FOLDER}/{file}": content for file, content in files.items()}
    first = f"{CIFAR10_FOLDER}/data_batch_1"
    packed = archive_of(good)
    without = {name: content for name, content in good.items() if "test" not in name}
    missing = (FileNotFoundError, "data_batch_1 is missing")
    unreadable = (ValueError, "no readable archive")
    evil = archive_of(good | {first: pickle.dumps(Evil())})
    return {
        "text": (b"not an archive" * 100, *unreadable),
        "empty": (b"", *unreadable),
        "truncated": (packed[:-200_000], *unreadable),
        "something else": (archive_of({"holiday.txt": b"!"}), *missing),
        "one file missing": (archive_of(without), FileNotFoundError, "test_batch is missing"),
        "a malicious pickle": (evil, ValueError, "data_batch_1 is damaged"),
        "a link for a file": (tar_with_link(), *missing),
        "a giant": (archive_of(good | {first: bytes(1 << 25)}), *missing),
    }


def refused(named: Path, error: type, words: str, monkeypatch) -> None:
    """What was named gives one line, and is not replaced by something else in silence."""
    monkeypatch.setenv("CIFAR10_ROOT", str(named))
    for name in ("auto", "cifar10"):
        with pytest.raises(error, match=words) as stop:
            data.load(name)
        assert "\n" not in str(stop.value) and str(named) in str(stop.value)
    assert not EVIL.exists()


@pytest.fixture(scope="module")
def archives(fake_files) -> dict[str, tuple[bytes, type, str]]:
    return bad_archives(fake_files)


@pytest.mark.parametrize("kind", bad_archives({"data_batch_1": b"", "test_batch": b""}))
def test_an_archive_that_is_not_cifar10_gets_one_clear_line(
    tmp_path, monkeypatch, fake, archives, kind
):
    content, error, words = archives[kind]
    (tmp_path / "cifar.tar.gz").write_bytes(content)
    refused(tmp_path / "cifar.tar.gz", error, words, monkeypatch)


BAD_FILES = {
    "a malicious pickle": pickle.dumps(Evil()),
    "empty": b"",
    "another pickle": pickle.dumps({b"data": np.zeros((9, 3072), np.uint8), b"labels": [77] * 9}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_not_cifar10s_gets_one_clear_line(fake_root, monkeypatch, kind):
    (fake_root / CIFAR10_FOLDER / "data_batch_3").write_bytes(BAD_FILES[kind])
    refused(fake_root, ValueError, "data_batch_3 is damaged", monkeypatch)


def test_missing_files_are_named(fake_root, monkeypatch, tmp_path):
    refused(tmp_path / "no such folder", FileNotFoundError, "data_batch_1 is missing", monkeypatch)
    refused(tmp_path, FileNotFoundError, "data_batch_1 is missing", monkeypatch)
    for file in ("test_batch", "data_batch_4"):
        (fake_root / CIFAR10_FOLDER / file).unlink()
        refused(fake_root, FileNotFoundError, f"{file} is missing", monkeypatch)
    (fake_root / CIFAR10_FOLDER / "data_batch_4").mkdir()
    refused(fake_root, FileNotFoundError, "data_batch_4 is missing", monkeypatch)


REAL = ROOT / "data" / CIFAR10_FOLDER


@pytest.mark.skipif(not REAL.is_dir(), reason="CIFAR-10 is not at hand")
def test_the_real_cifar10_agrees_with_torchvision():
    from torchvision.datasets import CIFAR10

    dataset = data.load("cifar10", root=REAL.parent)
    sizes = (len(dataset.train), len(dataset.val), len(dataset.test))
    assert sizes == (45_000, 5_000, 10_000)
    assert torch.bincount(dataset.val.labels).tolist() == [500] * 10
    mean, std = datasets.mean_and_std(dataset.train_val.images)
    assert np.allclose(mean, cifar10.MEAN, atol=1.1e-4)
    assert np.allclose(std, cifar10.STD, atol=1.1e-4)
    theirs = CIFAR10(REAL.parent, train=False, download=False)
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert dataset.test.labels.tolist() == theirs.targets
    assert tuple(theirs.classes) == dataset.classes
    fingerprint = hashlib.md5(dataset.val.images.numpy().tobytes()).hexdigest()
    assert fingerprint == "5f0fb3eeeebba1e5bf148f8724dffbad"


def test_cifar10_is_normalised_by_its_known_statistics():
    """As in the code of wide residual networks (Zagoruyko and Komodakis 2016), in pixel values."""
    assert np.allclose(np.array(cifar10.MEAN) * 255, [125.3, 123.0, 113.9], atol=0.06)
    assert np.allclose(np.array(cifar10.STD) * 255, [63.0, 62.1, 66.7], atol=0.06)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_archives_and_checksums_are_torchvisions(name):
    from torchvision import datasets as theirs

    theirs = getattr(theirs, name)
    ours = {"CIFAR10": cifar10.CIFAR10, "CIFAR100": cifar100.CIFAR100}[name]
    assert (ours.file, ours.md5, ours.folder) == (
        theirs.filename,
        theirs.tgz_md5,
        theirs.base_folder,
    )
    listed = dict(theirs.train_list + theirs.test_list)
    if name == "CIFAR100":
        listed[theirs.meta["filename"]] = theirs.meta["md5"]
    assert list(ours.members.items()) == list(listed.items())
    assert theirs.url in [source + ours.file for source in ours.sources]


# --- which data are loaded ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "auto", "cifar10"])
def test_the_folder_in_CIFAR10_ROOT_is_used(fake_root, nowhere, monkeypatch, name):
    monkeypatch.setenv("CIFAR10_ROOT", str(fake_root))
    assert numbers(data.load(name).test)[0] == 5 * FAKE_PER_FILE


def test_a_root_goes_before_CIFAR10_ROOT(fake_root, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "empty"))
    assert data.load("auto", root=fake_root).name == "cifar10"


def test_inner_folder_home_folder_and_relative_paths_are_understood(fake_root, monkeypatch):
    assert data.load("cifar10", root=fake_root / CIFAR10_FOLDER).name == "cifar10"
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(fake_root))
    monkeypatch.setenv("CIFAR10_ROOT", "~")
    assert data.load("cifar10").name == "cifar10"
    monkeypatch.chdir(fake_root.parent)
    assert data.load("cifar10", root=fake_root.name).name == "cifar10"
    with pytest.raises(FileNotFoundError, match=f"{fake_root.parent}/elsewhere/"):
        data.load("cifar10", root="elsewhere")


def test_the_folder_data_beside_helpers_is_used(fake_root, nowhere):
    nowhere.parent.mkdir()
    fake_root.rename(nowhere)
    assert data.load().name == "cifar10"


def test_the_place_of_downloads_is_the_ignored_folder_data():
    assert cifar10.DATA == ROOT / "data"


def test_COURSE_DATA_decides_unless_a_name_is_given(fake_root, nowhere, monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", str(fake_root))
    expected = {"shapes": "shapes", "cifar10": "cifar10", "auto": "cifar10", "": "cifar10"}
    for setting, name in expected.items():
        monkeypatch.setenv("COURSE_DATA", setting)
        assert data.load().name == name
    monkeypatch.setenv("COURSE_DATA", "shapes")
    assert data.load("cifar10").name == "cifar10"


def test_auto_falls_back_to_shapes_and_says_so_loudly(nowhere, capsys):
    assert data.load().name == "shapes"
    notice = capsys.readouterr()
    lines = notice.err.splitlines()
    assert set(lines[0]) == set(lines[-1]) == {"="} and max(map(len, lines)) <= 112
    assert "THIS IS NOT CIFAR-10" in lines[1] and notice.out == ""
    assert "no network today: set CIFAR10_ROOT to the folder" in notice.err


def test_shapes_on_purpose_needs_no_notice(nowhere, capsys):
    assert data.load("shapes").name == "shapes"
    assert capsys.readouterr().err == ""


def test_cifar10_never_falls_back(nowhere):
    with pytest.raises(OSError, match="no network today: set CIFAR10_ROOT to the folder"):
        data.load("cifar10")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a place where nothing can be made")
def test_a_folder_that_cannot_be_made_is_one_line(nowhere, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setattr(cifar10, "DATA", Path("/proc/course/data"))
    monkeypatch.setattr(shapes, "make_shapes", lambda: TINY)
    assert data.load("auto").name == "shapes" and "Reason: " in capsys.readouterr().err


def test_a_half_unpacked_folder_is_downloaded_once(nowhere, monkeypatch, fake_root):
    inner = nowhere / CIFAR10_FOLDER
    inner.mkdir(parents=True)
    (inner / "data_batch_1").write_bytes(b"from a download that was stopped")
    fetched = []

    def download(archive, root):
        fetched.append((archive.name, root))
        for path in (fake_root / CIFAR10_FOLDER).iterdir():
            (inner / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(cifar10, "download", download)
    for _ in range(2):  # the second time it is there
        assert data.load("auto").name == "cifar10" and fetched == [("CIFAR10", nowhere)]


# --- CIFAR-100 ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fake100_files() -> dict[str, bytes]:
    """The members of an archive in CIFAR-100's format: 52 + 2 images per class."""
    random = np.random.RandomState(0)

    def batch(per_class: int) -> bytes:
        n = 100 * per_class
        labels = random.permutation(np.arange(n) % 100)
        images = random.randint(0, 200, (n, 3072)).astype(np.uint8)
        images[:, 0] = labels
        coarse = (labels // 5).tolist()
        content = {b"data": images, b"fine_labels": labels.tolist(), b"coarse_labels": coarse}
        return pickle.dumps(content, protocol=2)

    names = [f"kind {i}".encode() for i in range(100)]
    meta = pickle.dumps({b"fine_label_names": names, b"coarse_label_names": []}, protocol=2)
    return {"train": batch(52), "test": batch(2), "meta": meta}


@pytest.fixture
def fake100(monkeypatch, tmp_path, fake100_files) -> Path:
    """A folder that holds the fake archive, whose checksums are taken for the real ones."""
    changed = dataclasses.replace(cifar100.CIFAR100, members=md5s(fake100_files))
    monkeypatch.setattr(cifar100, "CIFAR100", changed)
    root = tmp_path / "hundred"
    root.mkdir()
    inside = {f"cifar-100-python/{name}": content for name, content in fake100_files.items()}
    (root / "cifar-100-python.tar.gz").write_bytes(archive_of(inside, "w"))
    return root


def test_cifar100_is_read_and_split_within_each_class(fake100, monkeypatch):
    monkeypatch.setenv("CIFAR100_ROOT", str(fake100))
    dataset = data.load("cifar100")
    assert dataset.name == "cifar100" and dataset.classes[42] == "kind 42"
    for split, per_class in ((dataset.train, 2), (dataset.val, 50), (dataset.test, 2)):
        assert torch.bincount(split.labels).tolist() == [per_class] * 100
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels)
    values = dataset.train_val.images.numpy().astype(np.float64) / 255
    assert np.allclose(dataset.mean, values.mean(axis=(0, 2, 3)), atol=6e-5)
    assert np.allclose(dataset.std, values.std(axis=(0, 2, 3)), atol=6e-5)
    assert equal(dataset, data.load("cifar100", fake100 / "cifar-100-python.tar.gz"))


def test_cifar100_from_an_unpacked_folder_and_its_damage(fake100):
    packed = data.load("cifar100", fake100)
    with tarfile.open(fake100 / "cifar-100-python.tar.gz") as tar:
        tar.extractall(fake100, filter="data")
    (fake100 / "cifar-100-python.tar.gz").unlink()
    assert equal(packed, data.load("cifar100", fake100))
    assert equal(packed, data.load("cifar100", fake100 / "cifar-100-python"))
    (fake100 / "cifar-100-python" / "meta").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="meta is damaged"):
        data.load("cifar100", fake100)
    assert not EVIL.exists()


def test_cifar100_is_not_taken_from_cifar10s_place(fake100, fake_root, monkeypatch, nowhere):
    monkeypatch.setenv("CIFAR10_ROOT", str(fake100))
    with pytest.raises(OSError, match="no network today: set CIFAR100_ROOT to the folder"):
        data.load("cifar100")
    with pytest.raises(FileNotFoundError, match="train is missing: expected cifar-100-python"):
        data.load("cifar100", fake_root)
