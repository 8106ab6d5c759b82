"""Settings of the whole suite: `shapes` everywhere, in notebooks' kernels too; no downloads."""

import hashlib
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

os.environ["COURSE_DATA"] = "shapes"
os.environ.pop("CIFAR10_ROOT", None)
os.environ["COURSE_UNATTENDED"] = "1"  # nobody moves a slider: plotting shows static figures

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="session")
def shapes():
    """A small `shapes`: 320 / 100 / 130 images (the last is no multiple of usual batches)."""
    from helpers.datasets.shapes import make_shapes

    return make_shapes(320, 100, 130)


FAKE_PER_FILE = 1010  # images in a fake batch file: 101 per class; 5 of the 505 stay in training


@pytest.fixture(scope="session")
def fake_files() -> dict[str, bytes]:
    """Files in CIFAR-10's format, random; the first two bytes of an image are its number."""
    from helpers.datasets.cifar10 import CIFAR10

    random = np.random.RandomState(0)
    files = {"batches.meta": pickle.dumps({"label_names": [f"kind {k}" for k in range(10)]})}
    for number, (file, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        images = random.randint(0, 256, (FAKE_PER_FILE, 3072)).astype(np.uint8)
        index = number * FAKE_PER_FILE + np.arange(FAKE_PER_FILE)
        images[:, 0] = index // 256
        images[:, 1] = index % 256
        labels = random.permutation(np.arange(FAKE_PER_FILE) % 10).tolist()
        files[file] = pickle.dumps({"data": images, "labels": labels}, protocol=2)
    return files


def imitation(kind: type, files: dict[str, bytes], **attributes) -> type:
    """A class of torchvision's data sets that takes the checksums of `files` for the real ones."""
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    for part in ("train_list", "test_list"):
        attributes[part] = [[name, md5s[name]] for name, _ in getattr(kind, part)]
    attributes["meta"] = {**kind.meta, "md5": md5s[kind.meta["filename"]]}
    return type(kind.__name__, (kind,), attributes)


def archive_of(files: dict[str, bytes]) -> bytes:
    """A tar archive with these files, by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def all_images(dataset) -> torch.Tensor:
    return torch.cat([dataset.train.images, dataset.val.images, dataset.test.images])


def all_labels(dataset) -> torch.Tensor:
    return torch.cat([dataset.train.labels, dataset.val.labels, dataset.test.labels])


def equal(a, b) -> bool:
    """Do two data sets hold the same images, labels and means?"""
    same_images = torch.equal(all_images(a), all_images(b))
    return same_images and torch.equal(all_labels(a), all_labels(b)) and a.mean == b.mean
