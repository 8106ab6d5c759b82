"""helpers.datasets: the registry, and `shapes` against closed forms and its recorded measures."""

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import all_images, all_labels, equal

from helpers import data, datasets
from helpers.data import Dataset
from helpers.datasets import shapes

ROOT = Path(__file__).resolve().parents[1]


# --- the registry -------------------------------------------------------------------------------


def test_every_file_but_download_is_a_data_set():
    assert {"cifar10", "cifar100", "folder", "shapes"} <= set(datasets.names())
    files = {path.stem for path in (ROOT / "helpers" / "datasets").glob("*.py")}
    assert set(datasets.names()) == files - {"__init__", "download"}


def test_a_new_file_is_a_new_data_set(tmp_path, monkeypatch):
    (tmp_path / "noise.py").write_text(
        "import torch\n"
        "from helpers.data import Dataset, Split\n"
        "def load(root=None):\n"
        "    images = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8)\n"
        "    split = Split(images, torch.arange(9) % 3)\n"
        "    name = 'noise' if root is None else root.name\n"
        "    return Dataset(name, ('a', 'b', 'c'), (0.5,) * 3, (0.3,) * 3, split, split, split)\n"
    )
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    assert data.load("noise").name == "noise"
    assert data.load("noise", "some/place").name == "place"  # root arrives at the loader
    monkeypatch.setenv("COURSE_DATA", "noise")
    assert data.load().classes == ("a", "b", "c")


def test_what_a_loader_returns_is_checked(monkeypatch):
    monkeypatch.setattr(shapes, "make_shapes", lambda: dataclasses.replace(TINY, std=(50, 50, 50)))
    with pytest.raises(ValueError, match="std must be three numbers"):
        data.load("shapes")


@pytest.mark.parametrize("setting", ["argument", "environment"])
def test_an_unknown_data_set_is_refused(monkeypatch, setting):
    monkeypatch.setenv("COURSE_DATA", "imagenet")
    words = "unknown data set '(imagenet|CIFAR10|download)': choose one of auto, cifar10, cifar100,"
    for name in ("CIFAR10", "download"):
        with pytest.raises(ValueError, match=words):
            data.load(name if setting == "argument" else None)


# --- shapes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full() -> Dataset:
    return shapes.load()


TINY = shapes.make_shapes(100, 10, 10)


def test_shapes_has_the_promised_size_and_balance(full):
    assert full.name == "shapes" and full.classes == shapes.CLASSES
    for split, n in ((full.train, 5000), (full.val, 1000), (full.test, 2000)):
        assert split.images.shape == (n, 3, 32, 32)
        counts = torch.bincount(split.labels, minlength=10).numpy()
        assert abs(counts - n / 10).max() < 4 * math.sqrt(n * 0.09)
    assert torch.bincount(all_labels(full)).tolist() == [800] * 10
    full.check()


def test_shapes_states_the_statistics_of_its_training_split(full):
    values = full.train.images.numpy().astype(np.float64) / 255
    assert np.allclose(full.mean, values.mean(axis=(0, 2, 3)), atol=6e-5)
    assert np.allclose(full.std, values.std(axis=(0, 2, 3)), atol=6e-5)


def test_no_two_images_of_shapes_are_equal(full):
    assert len({image.tobytes() for image in all_images(full).numpy()}) == 8000


def test_shapes_repeats_with_its_seed():
    assert equal(TINY, shapes.make_shapes(100, 10, 10))
    other = shapes.make_shapes(100, 10, 10, seed=1)
    assert not torch.equal(all_labels(TINY), all_labels(other))


def test_shapes_takes_no_root():
    with pytest.raises(ValueError, match="shapes is drawn, not read: leave out root='my/images'"):
        data.load("shapes", root="my/images")


def test_shapes_is_still_the_data_set_of_the_recorded_runs(full):
    """Frozen: labels exactly, images up to the last bit of a sine on another processor."""
    labels = all_labels(full).numpy().astype(np.uint8)
    assert hashlib.sha1(labels.tobytes()).hexdigest() == "d8ab503d97bf2ffe4854ed2fd2a2f21ce9c39d58"
    last = full.test.images[-1].double().view(3, 4, 8, 4, 8).mean(dim=(0, 2, 4))  # 4×4 grey values
    expected = [
        [144.4, 142.0, 135.4, 152.2],
        [144.6, 136.7, 138.2, 138.1],
        [145.0, 143.5, 110.2, 137.7],
        [144.4, 144.8, 138.8, 145.1],
    ]
    assert np.allclose(last.numpy(), expected, atol=0.6)
    backgrounds = full.test.images[:24, 1, 5, 5].int()  # one pixel of each
    expected = [60, 102, 150, 193, 184, 115, 140, 67, 105, 75, 65, 102]
    expected += [111, 32, 140, 49, 41, 103, 72, 67, 113, 29, 73, 122]
    assert (backgrounds - torch.tensor(expected)).abs().max() <= 1
    images = all_images(full).double()
    steps = (images[..., 1:] - images[..., :-1]).abs()  # from each pixel to its right neighbour
    means, jumps = images.mean(dim=(0, 2, 3)), steps.mean(dim=(0, 2, 3))
    measures = torch.cat([means, images.std()[None], jumps]).numpy()
    expected = [104.255, 103.805, 103.811, 47.668, 16.503, 16.545, 16.517]
    assert np.allclose(measures, expected, atol=0.01), measures


def inside(u: np.ndarray, v: np.ndarray, label: int) -> np.ndarray:
    return shapes.signed_distance(u, v, np.array([label])) < 0


def test_every_figure_has_a_mirror_axis_and_differs_from_the_others():
    """Turned by a random angle, such a figure is as likely as its mirror image."""
    u, v = np.random.RandomState(0).uniform(-1.4, 1.4, (2, 1, 200, 200))
    for label, name in enumerate(shapes.CLASSES):
        figure = inside(u, v, label)
        mirrored = [inside(-u, v, label), inside(u, -v, label)]
        assert any((figure != other).mean() < 1e-4 for other in mirrored), name
        assert 0.05 < figure.mean() < 0.5
        for other in range(label):
            assert (figure != inside(u, v, other)).mean() > 0.02


def test_the_figures_are_still_those_of_the_recorded_runs():
    """The area of each, in squares of its radius: closed forms, else as they were drawn then."""
    axis = np.linspace(-1.5, 1.5, 998)[:-1]
    v, u = np.meshgrid(axis, axis, indexing="ij")
    areas = [inside(u[None], v[None], label).mean() * 9 for label in range(10)]
    disc, ring = math.pi * 0.85**2, math.pi * (0.99**2 - 0.51**2)
    triangle, square, pentagon = (n / 2 * math.sin(2 * math.pi / n) for n in (3, 4, 5))
    cross = 4 * 0.56 - 0.56**2
    star, heart, crescent, hourglass = 1.936, 2.253, 1.609, 1.732
    expected = [disc, ring, triangle, square, pentagon, star, cross, heart, crescent, hourglass]
    assert np.allclose(areas, expected, atol=0.015), areas


def test_the_label_decides_what_is_drawn():
    """The same randomness, two labels: only pixels of the figure (and its hue) differ."""
    disc, square = (shapes.draw_shapes(np.array([k]), np.random.RandomState(7)) for k in (0, 3))
    assert 0.05 < (disc != square).any(axis=1).mean() < 0.5


def test_a_linear_classifier_reaches_30_to_60_percent_mirrored_or_not(full):
    from sklearn.linear_model import RidgeClassifier

    def features(images):
        return full.normalize(images).flatten(1).numpy()

    labels = full.test.labels.numpy()
    classifier = RidgeClassifier(alpha=3e4)
    classifier.fit(features(full.train.images), full.train.labels.numpy())
    accuracy = classifier.score(features(full.test.images), labels)
    mirrored = classifier.score(features(full.test.images.flip(3)), labels)
    assert 0.30 < accuracy < 0.60 and abs(mirrored - accuracy) < 0.04
