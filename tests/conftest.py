"""Settings of the whole suite: the embedded data set everywhere, notebooks' kernels included, and nothing is downloaded."""

import os

import pytest

os.environ["COURSE_DATA"] = "shapes"
os.environ.pop("CIFAR10_ROOT", None)


@pytest.fixture(scope="session")
def shapes():
    """A small `shapes`: 320 pictures for training, 100 for validation, 130 for testing (no multiple of usual batches)."""
    from helpers.data import make_shapes

    return make_shapes(320, 100, 130)
