"""Settings of the whole suite: the embedded data set everywhere, notebooks' kernels included, and nothing is downloaded."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

os.environ["COURSE_DATA"] = "shapes"
os.environ.pop("CIFAR10_ROOT", None)
os.environ["COURSE_UNATTENDED"] = "1"  # nobody moves a slider: helpers.plotting shows static figures

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="session")
def shapes():
    """A small `shapes`: 320 pictures for training, 100 for validation, 130 for testing (no multiple of usual batches)."""
    from helpers.data import make_shapes

    return make_shapes(320, 100, 130)


FAKE_PER_FILE = 1010  # pictures in a fake batch file: 101 of each class, so that 5 of the 505 per class remain for training


@pytest.fixture(scope="session")
def fake_files() -> dict[str, bytes]:
    """Six files in CIFAR-10's format, small and random; the first two bytes of a picture are its number."""
    from helpers.data import CIFAR10_MD5

    random = np.random.RandomState(0)
    files = {}
    for number, file in enumerate(CIFAR10_MD5):
        pictures = random.randint(0, 256, (FAKE_PER_FILE, 3072)).astype(np.uint8)
        index = number * FAKE_PER_FILE + np.arange(FAKE_PER_FILE)
        pictures[:, 0], pictures[:, 1] = index // 256, index % 256
        labels = random.permutation(np.arange(FAKE_PER_FILE) % 10).tolist()
        files[file] = pickle.dumps({b"batch_label": b"fake", b"data": pictures, b"labels": labels}, protocol=2)
    return files


def archive_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """A tar archive with these files, by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **({"compresslevel": 1} if mode == "w:gz" else {})) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
