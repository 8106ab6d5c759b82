"""helpers.datasets.cifar10 and cifar100: imitations, and what is loaded."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAKE_PER_FILE, equal, imitation

from helpers import data, datasets
from helpers.data import Split
from helpers.datasets import cifar10, cifar100, shapes

ROOT = Path(__file__).resolve().parents[1]
CIFAR10_FOLDER = cifar10.CIFAR10.base_folder
TINY = shapes.make_shapes(100, 10, 10)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    variables = [f"CIFAR{n}_{what}" for n in (10, 100) for what in ("ROOT", "URL")]
    for name in ["COURSE_DATA", *variables]:
        monkeypatch.delenv(name, raising=False)


# --- CIFAR-10 -----------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch, fake_files) -> None:
    """The checksums of the fake files are taken for the real ones."""
    monkeypatch.setattr(cifar10, "CIFAR10", imitation(cifar10.CIFAR10, fake_files))


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

    def fail(kind, root):
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
    assert dataset.name == "cifar10" and dataset.classes[7] == "kind 7"
    sizes = (len(dataset.train), len(dataset.val), len(dataset.test))
    assert sizes == (50, 5000, FAKE_PER_FILE)
    stored = [pickle.loads(fake_files[file]) for file in fake_files if file != "batches.meta"]
    rows = np.concatenate([batch["data"] for batch in stored])
    labels = np.concatenate([batch["labels"] for batch in stored])
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


EVIL = Path(__file__).parent / "evil"


class Evil:
    """Unpickling it would leave a file."""

    def __reduce__(self):
        return (os.system, (f"touch {EVIL}",))


def refused(named: Path, error: type, words: str, monkeypatch) -> None:
    """What was named gives one line, and is not replaced by something else in silence."""
    monkeypatch.setenv("CIFAR10_ROOT", str(named))
    for name in ("auto", "cifar10"):
        with pytest.raises(error, match=words) as stop:
            data.load(name)
        assert "\n" not in str(stop.value) and str(named) in str(stop.value)
    assert not EVIL.exists()


BAD_FILES = {
    "a malicious pickle": pickle.dumps(Evil()),
    "empty": b"",
    "another pickle": pickle.dumps({"data": np.zeros((9, 3072), np.uint8), "labels": [77] * 9}),
}


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_not_cifar10s_gets_one_clear_line(fake_root, monkeypatch, kind, file):
    (fake_root / CIFAR10_FOLDER / file).write_bytes(BAD_FILES[kind])
    refused(fake_root, ValueError, "is damaged", monkeypatch)


def test_an_archive_that_is_named_has_to_be_unpacked(fake, monkeypatch, tmp_path):
    (tmp_path / "cifar.tar.gz").write_bytes(b"")
    refused(tmp_path / "cifar.tar.gz", FileNotFoundError, "is a file: unpack it", monkeypatch)


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
def test_the_real_cifar10():
    dataset = data.load("cifar10", root=REAL.parent)
    sizes = (len(dataset.train), len(dataset.val), len(dataset.test))
    assert sizes == (45_000, 5_000, 10_000)
    assert torch.bincount(dataset.val.labels).tolist() == [500] * 10
    assert dataset.classes[:3] == ("airplane", "automobile", "bird")
    mean, std = datasets.mean_and_std(dataset.train_val.images)
    assert np.allclose(mean, cifar10.MEAN, atol=1.1e-4)
    assert np.allclose(std, cifar10.STD, atol=1.1e-4)
    fingerprint = hashlib.md5(dataset.val.images.numpy().tobytes()).hexdigest()
    assert fingerprint == "5f0fb3eeeebba1e5bf148f8724dffbad"


def test_cifar10_is_normalised_by_its_known_statistics():
    """As in the code of wide residual networks (Zagoruyko and Komodakis 2016), in pixel values."""
    assert np.allclose(np.array(cifar10.MEAN) * 255, [125.3, 123.0, 113.9], atol=0.06)
    assert np.allclose(np.array(cifar10.STD) * 255, [63.0, 62.1, 66.7], atol=0.06)


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

    def download(kind, root):
        fetched.append((kind.__name__, root))
        for path in (fake_root / CIFAR10_FOLDER).iterdir():
            (inner / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(cifar10, "download", download)
    for _ in range(2):  # the second time it is there
        assert data.load("auto").name == "cifar10" and fetched == [("CIFAR10", nowhere)]


# --- CIFAR-100 ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fake100_files() -> dict[str, bytes]:
    """Files in CIFAR-100's format: 52 + 2 images per class."""
    random = np.random.RandomState(0)

    def batch(per_class: int) -> bytes:
        n = 100 * per_class
        labels = random.permutation(np.arange(n) % 100)
        images = random.randint(0, 200, (n, 3072)).astype(np.uint8)
        images[:, 0] = labels
        coarse = (labels // 5).tolist()
        content = {"data": images, "fine_labels": labels.tolist(), "coarse_labels": coarse}
        return pickle.dumps(content, protocol=2)

    names = [f"kind {i}" for i in range(100)]
    return {"train": batch(52), "test": batch(2), "meta": pickle.dumps({"fine_label_names": names})}


@pytest.fixture
def fake100(monkeypatch, tmp_path, fake100_files) -> Path:
    """A folder with a fake `cifar-100-python`, whose checksums are taken for the real ones."""
    monkeypatch.setattr(cifar100, "CIFAR100", imitation(cifar100.CIFAR100, fake100_files))
    folder = tmp_path / "hundred" / "cifar-100-python"
    folder.mkdir(parents=True)
    for file, content in fake100_files.items():
        (folder / file).write_bytes(content)
    return folder.parent


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
    assert equal(dataset, data.load("cifar100", fake100 / "cifar-100-python"))


def test_a_damaged_cifar100_is_refused(fake100):
    (fake100 / "cifar-100-python" / "meta").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="is damaged"):
        data.load("cifar100", fake100)
    assert not EVIL.exists()


def test_cifar100_is_not_taken_from_cifar10s_place(fake100, fake_root, monkeypatch, nowhere):
    monkeypatch.setenv("CIFAR10_ROOT", str(fake100))
    with pytest.raises(OSError, match="no network today: set CIFAR100_ROOT to the folder"):
        data.load("cifar100")
    with pytest.raises(FileNotFoundError, match="train is missing: unpack cifar-100-python"):
        data.load("cifar100", fake_root)
