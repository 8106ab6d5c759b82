"""helpers.data against independent oracles: NumPy, closed forms, torchvision, and a small imitation of CIFAR-10."""

import dataclasses
import hashlib
import math
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAKE_PER_FILE, archive_of, needs_gpu

from helpers import data
from helpers.data import Batches, Dataset, Split, alternate_flip, random_crop_flip, random_cutout, stratified_split

ROOT = Path(__file__).resolve().parents[1]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(n: int) -> Split:
    """n one-pixel pictures; picture i has the value and the label i."""
    return Split(torch.arange(n).view(n, 1, 1, 1), torch.arange(n))


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic in standard deviations above its mean, for len(observed) - 1 degrees of freedom."""
    freedom = len(observed) - 1
    return (((observed - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


# --- random_crop_flip -------------------------------------------------------------------------------------------------


def crops(picture: np.ndarray, pad: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every outcome (as bytes) of shifting and flipping (C, H, W), the textbook way: pad, cut a window out, mirror it."""
    _, h, w = picture.shape
    padded = np.pad(picture, ((0, 0), (pad, pad), (pad, pad)), mode="reflect") if pad else picture
    outcomes = {}
    for down in range(2 * pad + 1):
        for right in range(2 * pad + 1):
            window = padded[:, down : down + h, right : right + w]
            outcomes[window.tobytes()] = (down - pad, right - pad, False)
            outcomes[window[:, :, ::-1].tobytes()] = (down - pad, right - pad, True)
    return outcomes


@pytest.mark.parametrize(("h", "w", "pad"), [(32, 32, 4), (5, 7, 2), (4, 4, 3), (6, 6, 0)])
def test_each_picture_is_one_of_the_crops_of_the_padded_one(h, w, pad):
    pictures = np.random.RandomState(0).randint(0, 256, (60, 3, h, w)).astype(np.uint8)
    out = random_crop_flip(torch.from_numpy(pictures), pad=pad, generator=generator())
    assert out.shape == pictures.shape and out.dtype == torch.uint8
    drawn = {crops(picture, pad)[image.numpy().tobytes()] for picture, image in zip(pictures, out, strict=True)}
    assert len(drawn) > min(30, 2 * (2 * pad + 1) ** 2 - 1)  # the pictures of one batch draw for themselves


def test_all_shifts_and_flips_are_equally_likely_and_independent():
    picture = np.random.RandomState(0).randint(0, 256, (1, 32, 32)).astype(np.uint8)
    outcomes = crops(picture, 4)
    assert len(outcomes) == 162
    n = 162 * 150
    out = random_crop_flip(torch.from_numpy(picture).expand(n, 1, 32, 32), generator=generator()).numpy()
    counts = dict.fromkeys(outcomes.values(), 0)
    for image in out:
        counts[outcomes[image.tobytes()]] += 1
    # uniform over all 162 combinations: each shift, each flip, and their independence in one statistic
    assert chi_square(np.array(list(counts.values())), np.full(162, 150.0)) < 4
    flips = sum(count for (_, _, flipped), count in counts.items() if flipped)
    assert abs(flips / n - 0.5) < 4 * 0.5 / math.sqrt(n)


def test_alternate_flips_show_each_picture_both_ways_in_two_epochs(shapes):
    data, before = shapes.train, shapes.train.images.clone()
    epochs = [alternate_flip(data, seed=3, epoch=epoch).images for epoch in range(4)]
    as_it_is = (epochs[0] == data.images).flatten(1).all(1)
    assert 0.4 < as_it_is.double().mean() < 0.6
    for picture, start in zip(range(len(data)), as_it_is):
        mirrored = data.images[picture].flip(2)
        for epoch in range(4):
            expected = data.images[picture] if bool(start) == (epoch % 2 == 0) else mirrored
            assert torch.equal(epochs[epoch][picture], expected)
    other = alternate_flip(data, seed=4, epoch=0).images
    assert not torch.equal(other, epochs[0]) and not torch.equal(other, epochs[1])
    assert torch.equal(data.images, before)


def test_crop_alone_flip_alone_and_neither():
    picture = np.random.RandomState(0).randint(0, 256, (1, 8, 8)).astype(np.uint8)
    outcomes = crops(picture, 2)
    copies = torch.from_numpy(picture).expand(500, 1, 8, 8)
    assert not any(outcomes[i.numpy().tobytes()][2] for i in random_crop_flip(copies, 2, flip=False, generator=generator()))
    flipped = random_crop_flip(copies, 0, generator=generator())
    assert {i.numpy().tobytes() for i in flipped} == {picture.tobytes(), picture[:, :, ::-1].tobytes()}
    assert torch.equal(random_crop_flip(copies, pad=0, flip=False), copies)


@pytest.mark.parametrize("pad", [-1, 8, 40])
def test_a_pad_that_cannot_be_mirrored_is_refused(pad):
    with pytest.raises(ValueError, match="pad must lie in 0 … 7"):
        random_crop_flip(torch.zeros(2, 3, 8, 9, dtype=torch.uint8), pad=pad)


def test_augmentation_repeats_with_its_generator_and_leaves_its_input_alone():
    pictures = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (20, 3, 32, 32)).astype(np.uint8))
    before = pictures.clone()
    first, again, other = (random_crop_flip(pictures, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(pictures, before)


# --- random_cutout ----------------------------------------------------------------------------------------------------


def covered_lengths(length: int, size: int) -> list[int]:
    """For each pixel that may be the square's centre: how many pixels of the row are covered. Closed form."""
    return [min(centre - size // 2 + size, length) - max(centre - size // 2, 0) for centre in range(length)]


@pytest.mark.parametrize("size", [1, 5, 12])
def test_cutout_covers_one_square_per_picture_and_nothing_else(size):
    x = torch.rand(400, 3, 20, 32, generator=generator()) + 1  # nowhere 0
    before = x.clone()
    out = random_cutout(x, size, generator(1))
    assert torch.equal(x, before) and out.dtype == torch.float32
    hole = out == 0
    assert torch.equal(out[~hole], x[~hole])
    assert torch.equal(hole, hole[:, :1].expand_as(hole))  # all channels alike
    positions = set()
    for picture in hole[:, 0].numpy():
        rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
        assert picture.sum() == len(rows) * len(columns) > 0  # a full rectangle …
        for covered, length in ((rows, 20), (columns, 32)):
            assert np.array_equal(covered, np.arange(covered[0], covered[-1] + 1))  # … without gaps …
            assert len(covered) == size or covered[0] == 0 or covered[-1] == length - 1  # … clipped only at an edge
        positions.add((rows[0], rows[-1], columns[0], columns[-1]))
    assert len(positions) > 150  # each picture has its own


@pytest.mark.parametrize("size", [5, 12])
def test_cutout_sizes_follow_the_closed_form(size):
    n, h, w = 20_000, 32, 24
    hole = random_cutout(torch.ones(n, 1, h, w), size, generator())[:, 0] == 0
    for covered, length in ((hole.any(dim=2).sum(dim=1), h), (hole.any(dim=1).sum(dim=1), w)):
        sizes, weights = np.unique(covered_lengths(length, size), return_counts=True)
        counts = np.array([(covered == s).sum().item() for s in sizes])
        assert counts.sum() == n and chi_square(counts, n * weights / length) < 4
    share = np.mean(covered_lengths(h, size)) * np.mean(covered_lengths(w, size)) / (h * w)  # drawn independently
    assert abs(hole.float().mean().item() - share) < 0.003


# --- batches, splits, normalisation -----------------------------------------------------------------------------------


def test_an_epoch_is_a_permutation_without_the_short_rest():
    seen = []

    def transform(images):
        seen.append(images.flatten().tolist())
        return images.float() + 0.5

    batches = Batches(numbered(103), 10, transform, generator())
    assert len(batches) == 10
    epoch = list(batches)
    labels = torch.cat([labels for _, labels in epoch])
    assert [len(labels) for _, labels in epoch] == [10] * 10 and len(set(labels.tolist())) == 100
    assert set(labels.tolist()) < set(range(103)) and labels.tolist() != sorted(labels.tolist())
    assert all(part.tolist() != sorted(part.tolist()) for _, part in epoch)
    assert seen == [labels.tolist() for _, labels in epoch]  # the transform gets each batch, once, as stored
    for images, labels in epoch:  # and its result arrives, with the labels of the same pictures
        assert torch.equal(images.flatten(), labels + 0.5)
    assert {tuple(b.tolist()) for _, b in batches} != {tuple(b.tolist()) for _, b in epoch}  # another epoch, another order


def test_mixed_pictures_keep_the_layout_that_convolutions_like():
    """torchvision's mixup returns the usual layout on a GPU; the stand-in does so everywhere."""
    pictures = Split(torch.rand(8, 3, 4, 4), torch.arange(8))
    batches = Batches(pictures, 4, lambda images: images, generator(), mix=lambda images, labels: (images.clone() / 2, labels))
    for images, labels in batches:
        assert images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
        assert torch.equal(images, pictures.images[labels] / 2)


def test_every_picture_comes_first_equally_often():
    batches = Batches(numbered(6), 1, lambda images: images, generator())
    firsts = np.bincount([next(iter(batches))[1].item() for _ in range(3_000)], minlength=6)
    assert chi_square(firsts, np.full(6, 500.0)) < 4


def test_the_same_generator_gives_the_same_epochs():
    def epochs(seed):
        batches = Batches(numbered(50), 7, lambda images: images, generator(seed))
        return [labels.tolist() for _ in range(3) for _, labels in batches]

    assert epochs(3) == epochs(3) != epochs(4)


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_that_does_not_fit_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch size {batch_size} does not fit 10 "):
        Batches(numbered(10), batch_size, lambda images: images)
    assert len(Batches(numbered(10), 10, lambda images: images)) == 1


def test_a_split_is_indexed_by_slice_mask_and_numbers():
    part = numbered(10)
    for index in (slice(2, 5), torch.tensor([2, 3, 4]), (part.labels > 1) & (part.labels < 5)):
        assert part[index].labels.tolist() == part[index].images.flatten().tolist() == [2, 3, 4]
    assert len(part) == 10 and len(part[:3]) == 3


def test_stratified_split_sets_exactly_so_many_of_each_class_apart():
    labels = torch.from_numpy(np.random.RandomState(5).choice(4, 400, p=[0.1, 0.2, 0.3, 0.4]))
    everything = Split(torch.arange(400), labels)
    rest, apart = stratified_split(everything, per_class=15)
    assert torch.bincount(apart.labels).tolist() == [15] * 4
    assert sorted(rest.images.tolist() + apart.images.tolist()) == list(range(400))
    for part in (rest, apart):
        assert part.images.tolist() == sorted(part.images.tolist())  # the old order
        assert torch.equal(part.labels, labels[part.images])
    again, other = (stratified_split(everything, 15, seed)[1].images.tolist() for seed in (0, 1))
    assert again == apart.images.tolist() != other


def test_the_split_is_the_same_on_every_machine():
    """The validation pictures of the course, for ever: a promise that validation numbers are about the same pictures."""
    _, apart = stratified_split(Split(torch.arange(50_000), torch.arange(50_000) % 10), per_class=500)
    fingerprint = hashlib.sha1(apart.images.numpy().astype("<i8").tobytes()).hexdigest()
    assert fingerprint == "6c55f84222abf9c0a156b317049eec4fbc489341"


def toy_dataset(n: int = 40) -> Dataset:
    pictures = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (n, 3, 32, 32)).astype(np.uint8))
    part = Split(pictures, torch.arange(n) % 10)
    return Dataset("toy", data.CLASSES, data.CIFAR10_MEAN, data.CIFAR10_STD, part[: n // 2], part[n // 2 : -4], part[-4:])


@pytest.mark.parametrize("n", [1, 20])
def test_normalize_is_the_formula_in_channels_last(n):
    dataset = toy_dataset()
    images = dataset.train.images[:n]
    x = dataset.normalize(images)
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (dataset.mean, dataset.std))
    expected = (images.numpy().astype(np.float64) / 255 - mean) / std
    assert x.dtype == torch.float32 and np.allclose(x.numpy(), expected, atol=2e-6)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8  # the stored pictures stay as they are


@pytest.mark.parametrize("images", [torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8).byte(), torch.zeros(2, 8, 8, 3).byte()])
def test_what_is_no_picture_is_not_normalised(images):
    """Pictures in 0–1, say, would all look black to a network, and nobody would be told."""
    with pytest.raises(ValueError, match="expected pictures .N, 3, H, W., uint8 in 0 … 255"):
        data.make_shapes(8, 2, 2).normalize(images)


def test_cifar10_is_normalised_by_its_known_statistics():
    """As they stand, in pixel values, in S. Zagoruyko's and N. Komodakis's code of wide residual networks (2016)."""
    assert np.allclose(np.array(data.CIFAR10_MEAN) * 255, [125.3, 123.0, 113.9], atol=0.06)
    assert np.allclose(np.array(data.CIFAR10_STD) * 255, [63.0, 62.1, 66.7], atol=0.06)


def test_what_a_run_is_made_of_cannot_be_changed_under_it():
    data_set, batches = toy_dataset(), Batches(numbered(8), 4, lambda images: images)
    for frozen, field in ((data_set, "name"), (data_set.train, "labels"), (batches, "batch_size")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, field, None)


def test_train_val_is_both_parts_and_not_the_test_part():
    dataset = toy_dataset()
    both = dataset.train_val
    assert torch.equal(both.images, torch.cat([dataset.train.images, dataset.val.images])) and len(both) == 36
    assert torch.equal(both.labels, torch.cat([dataset.train.labels, dataset.val.labels]))


@needs_gpu
def test_the_pipeline_runs_where_the_pictures_are():
    dataset = toy_dataset().to("cuda")
    random = torch.Generator("cuda").manual_seed(0)

    def transform(images):
        return random_cutout(dataset.normalize(random_crop_flip(images, generator=random)), 8, random)

    for x, labels in Batches(dataset.train, 5, transform, random):
        assert x.device.type == labels.device.type == "cuda" and x.is_contiguous(memory_format=torch.channels_last)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return data.make_shapes()


def test_shapes_has_the_promised_size_and_balance(shapes):
    assert shapes.name == "shapes" and shapes.classes == data.SHAPE_CLASSES and len(set(shapes.classes)) == 10
    for part, n in ((shapes.train, 5000), (shapes.val, 1000), (shapes.test, 2000)):
        assert part.images.shape == (n, 3, 32, 32) and part.images.dtype == torch.uint8
        assert part.labels.shape == (n,) and part.labels.dtype == torch.int64
        counts = torch.bincount(part.labels, minlength=10).numpy()
        assert abs(counts - n / 10).max() < 4 * math.sqrt(n * 0.09)
    everything = torch.cat([shapes.train_val.labels, shapes.test.labels])
    assert torch.bincount(everything).tolist() == [800] * 10


def test_shapes_states_the_statistics_of_its_training_part(shapes):
    values = shapes.train.images.numpy().astype(np.float64) / 255
    assert np.allclose(shapes.mean, values.mean(axis=(0, 2, 3)), atol=6e-5)
    assert np.allclose(shapes.std, values.std(axis=(0, 2, 3)), atol=6e-5)


def test_no_two_pictures_of_shapes_are_equal(shapes):
    pictures = [image.tobytes() for part in (shapes.train, shapes.val, shapes.test) for image in part.images.numpy()]
    assert len(set(pictures)) == len(pictures) == 8000


def test_shapes_repeats_with_its_seed():
    first, again, other = data.make_shapes(30, 10, 20), data.make_shapes(30, 10, 20), data.make_shapes(30, 10, 20, seed=1)
    for part in ("train", "val", "test"):
        a, b, c = (getattr(dataset, part) for dataset in (first, again, other))
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        assert not torch.equal(a.images, c.images) and not torch.equal(a.labels, c.labels)


def test_shapes_is_still_the_data_set_of_the_recorded_runs(shapes):
    """Frozen: labels exactly (NumPy's promise), pictures up to the last bit of a sine on another processor."""
    labels = torch.cat([shapes.train_val.labels, shapes.test.labels]).numpy().astype(np.uint8)
    assert hashlib.sha1(labels.tobytes()).hexdigest() == "d8ab503d97bf2ffe4854ed2fd2a2f21ce9c39d58"
    thumbnail = shapes.test.images[-1].double().view(3, 4, 8, 4, 8).mean(dim=(0, 2, 4))  # 4×4 grey values, the last drawn
    expected = [
        [144.4, 142.0, 135.4, 152.2],
        [144.6, 136.7, 138.2, 138.1],
        [145.0, 143.5, 110.2, 137.7],
        [144.4, 144.8, 138.8, 145.1],
    ]
    assert np.allclose(thumbnail.numpy(), expected, atol=0.6)
    backgrounds = shapes.test.images[:24, 1, 5, 5].int()  # one pixel of each: its texture, clutter and noise
    expected = [60, 102, 150, 193, 184, 115, 140, 67, 105, 75, 65, 102, 111, 32, 140, 49, 41, 103, 72, 67, 113, 29, 73, 122]
    assert (backgrounds - torch.tensor(expected)).abs().max() <= 1
    everything = torch.cat([shapes.train_val.images, shapes.test.images]).double()
    steps = (everything[..., 1:] - everything[..., :-1]).abs()  # from each pixel to its right neighbour
    measures = torch.cat([everything.mean(dim=(0, 2, 3)), everything.std()[None], steps.mean(dim=(0, 2, 3))]).numpy()
    assert np.allclose(measures, [104.255, 103.805, 103.811, 47.668, 16.503, 16.545, 16.517], atol=0.01), measures


def test_every_figure_has_a_mirror_axis_and_differs_from_the_others():
    """Turned by a random angle, a figure with one mirror axis is as likely as its mirror image: flips keep the class."""
    u, v = np.random.RandomState(0).uniform(-1.4, 1.4, (2, 1, 200, 200))
    figures = [data.outline(u, v, np.array([k])) for k in range(10)]
    for k, figure in enumerate(figures):
        along_u, along_v = data.outline(-u, v, np.array([k])), data.outline(u, -v, np.array([k]))
        assert np.allclose(figure, along_u, atol=1e-9) or np.allclose(figure, along_v, atol=1e-9), data.SHAPE_CLASSES[k]
        assert 0.05 < (figure < 0).mean() < 0.5  # there is an inside and an outside
        for other in figures[:k]:
            assert ((figure < 0) != (other < 0)).mean() > 0.02


def test_figures_have_radius_one():
    angle = np.linspace(-np.pi, np.pi, 721).reshape(1, 1, -1)
    far, near = (data.outline(r * np.cos(angle), r * np.sin(angle), np.array([k])) for r, k in ((1.45, 0), (0.5, 0)))
    assert (far > 0).all() and (near < 0).all()
    for k in range(10):
        assert (data.outline(1.45 * np.cos(angle), 1.45 * np.sin(angle), np.array([k])) > 0).all(), data.SHAPE_CLASSES[k]


def test_the_figures_are_still_those_of_the_recorded_runs():
    """The area of each, in squares of its radius: closed forms where there are any, else as they were drawn then."""
    axis = np.linspace(-1.5, 1.5, 998)[:-1]
    v, u = np.meshgrid(axis, axis, indexing="ij")
    areas = [(data.outline(u[None], v[None], np.array([k])) < 0).mean() * 9 for k in range(10)]
    triangle, square, pentagon = (n / 2 * math.sin(2 * math.pi / n) for n in (3, 4, 5))
    star, heart, crescent, hourglass = 1.936, 2.253, 1.609, 1.732
    disc, ring, cross = math.pi * 0.85**2, math.pi * (0.99**2 - 0.51**2), 4 * 0.56 - 0.56**2
    expected = [disc, ring, triangle, square, pentagon, star, cross, heart, crescent, hourglass]
    assert np.allclose(areas, expected, atol=0.015), areas


def test_the_outline_decides_what_is_drawn():
    """The same randomness with two labels: only pixels of the figure (and its hue) differ, and some do."""
    disc, square = (data.draw_shapes(np.array([k]), np.random.RandomState(7)).astype(int) for k in (0, 3))
    differing = (abs(disc - square).sum(axis=1) > 0)[0]
    assert 0.05 < differing.mean() < 0.5


def test_a_linear_classifier_reaches_30_to_60_percent_mirrored_or_not(shapes):
    from sklearn.linear_model import RidgeClassifier

    def features(images):
        return shapes.normalize(images).flatten(1).numpy()

    classifier = RidgeClassifier(alpha=3e4).fit(features(shapes.train.images), shapes.train.labels.numpy())
    labels = shapes.test.labels.numpy()
    accuracy = classifier.score(features(shapes.test.images), labels)
    assert 0.30 < accuracy < 0.60
    mirrored = classifier.score(features(shapes.test.images.flip(3)), labels)
    assert abs(mirrored - accuracy) < 0.04


# --- reading CIFAR-10 -------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_root(tmp_path, monkeypatch, fake_files) -> Path:
    """A folder with a fake `cifar-10-batches-py`, whose checksums helpers.data takes for the real ones."""
    monkeypatch.setattr(data, "CIFAR10_MD5", {file: hashlib.md5(b).hexdigest() for file, b in fake_files.items()})
    root = tmp_path / "my pictures"
    (root / "cifar-10-batches-py").mkdir(parents=True)
    for file, content in fake_files.items():
        (root / "cifar-10-batches-py" / file).write_bytes(content)
    return root


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("COURSE_DATA", "CIFAR10_ROOT", "CIFAR10_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """As if the course lay in an empty folder without network: returns where its data would be."""

    def fail(root):
        raise OSError("no network today")

    monkeypatch.setattr(data, "__file__", str(tmp_path / "course" / "helpers" / "data.py"))
    monkeypatch.setattr(data, "download_cifar10", fail)
    monkeypatch.setattr(data, "make_shapes", lambda: "the embedded data set")  # the real one takes seconds
    return tmp_path / "course" / "data"


def numbers(part: Split) -> torch.Tensor:
    return part.images[:, 0, 0, 0].long() * 256 + part.images[:, 0, 0, 1].long()


def test_pixels_labels_and_order_come_out_right(fake_root, fake_files):
    dataset = data.load("cifar10", root=fake_root)
    assert dataset.name == "cifar10" and dataset.classes == data.CLASSES
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (50, 5000, FAKE_PER_FILE)
    stored = [pickle.loads(content, encoding="bytes") for content in fake_files.values()]
    rows = np.concatenate([batch[b"data"] for batch in stored])
    labels = np.concatenate([batch[b"labels"] for batch in stored])
    for part in (dataset.train, dataset.val, dataset.test):
        index = numbers(part).numpy()
        assert np.array_equal(index, np.sort(index))  # the files' order
        assert np.array_equal(part.labels.numpy(), labels[index]) and part.labels.dtype == torch.int64
        for channel, row, column in ((0, 0, 5), (1, 3, 0), (2, 31, 30), (0, 17, 4)):  # planes R, G, B, row by row
            assert np.array_equal(part.images[:, channel, row, column], rows[index, channel * 1024 + row * 32 + column])
    assert torch.bincount(dataset.val.labels).tolist() == [500] * 10
    assert sorted(torch.cat([numbers(dataset.train_val)]).tolist()) == list(range(5 * FAKE_PER_FILE))
    assert numbers(dataset.test).tolist() == list(range(5 * FAKE_PER_FILE, 6 * FAKE_PER_FILE))  # all of it, in its own order


@pytest.mark.parametrize("file", ["data_batch_4", "test_batch"])
def test_a_missing_file_is_named(fake_root, file):
    (fake_root / "cifar-10-batches-py" / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        data.load("cifar10", root=fake_root)


@pytest.mark.parametrize(("file", "good_before"), [("data_batch_1", 0), ("test_batch", 5)])
def test_a_damaged_file_is_refused_before_it_is_unpickled(fake_root, monkeypatch, file, good_before):
    path = fake_root / "cifar-10-batches-py" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    path.write_bytes(content)
    unpickled = []
    real = pickle.loads
    monkeypatch.setattr(data.pickle, "loads", lambda content, **options: unpickled.append(content) or real(content, **options))
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        data.load("cifar10", root=fake_root)
    assert len(unpickled) == good_before and bytes(content) not in unpickled


@pytest.mark.parametrize("name", [None, "auto", "cifar10"])
def test_the_folder_in_CIFAR10_ROOT_is_used(fake_root, nowhere, monkeypatch, name):
    monkeypatch.setenv("CIFAR10_ROOT", str(fake_root))
    assert numbers(data.load(name).test)[0] == 5 * FAKE_PER_FILE


@pytest.mark.parametrize("name", ["auto", "cifar10"])
def test_a_named_folder_without_cifar10_is_an_error_not_a_fallback(tmp_path, nowhere, monkeypatch, name):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="data_batch_1"):
        data.load(name)


def test_the_inner_folder_and_a_home_folder_are_understood(fake_root, monkeypatch):
    assert data.load("cifar10", root=fake_root / "cifar-10-batches-py").name == "cifar10"
    monkeypatch.setenv("HOME", str(fake_root))
    monkeypatch.setenv("USERPROFILE", str(fake_root))
    monkeypatch.setenv("CIFAR10_ROOT", "~")
    assert data.load("cifar10").name == "cifar10"


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("named", ["file", "folder"])
def test_an_archive_is_read_where_it_lies(fake_root, fake_files, tmp_path, monkeypatch, mode, named):
    """Whatever it was packed with; other things in it, however malicious, have no effect, and nothing is written."""
    folder = tmp_path / "shared"
    folder.mkdir()
    archive = folder / ("cifar-10-python.tar.gz" if named == "folder" else "mine.tar")
    evil = {"../evil.txt": b"!", "/tmp/evil.txt": b"!", "cifar-10-batches-py/evil.py": b"!"}
    inside = {f"cifar-10-batches-py/{file}": content for file, content in reversed(fake_files.items())}
    archive.write_bytes(archive_of(evil | inside, mode))
    for name in ("write_bytes", "write_text", "mkdir"):
        monkeypatch.setattr(Path, name, lambda *_: pytest.fail("something is written"))
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_: pytest.fail("something is unpacked"))
    from_archive = data.load("cifar10", root=archive if named == "file" else folder)
    from_folder = data.load("cifar10", root=fake_root)
    for part in ("train", "val", "test"):
        a, b = getattr(from_archive, part), getattr(from_folder, part)
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert [*folder.iterdir()] == [archive]


class Evil:
    """Unpickling it would leave a file."""

    def __reduce__(self):
        return (os.system, (f"touch {EVIL}",))


EVIL = Path(__file__).parent / "evil"


def bad_folder(kind: str, root: Path, files: dict[str, bytes]) -> Path:
    """Makes something that is not CIFAR-10 in `root`, and returns what CIFAR10_ROOT would be."""
    folder = root / "cifar-10-batches-py"
    good = {f"cifar-10-batches-py/{file}": content for file, content in files.items()}
    first = "cifar-10-batches-py/data_batch_1"
    if kind in ("no such folder", "a file that is no archive", "an empty file", "a truncated archive", "a broken archive",
                "an archive of something else", "an archive without one file", "an archive with a malicious pickle",
                "an archive with a link for a file", "an archive with a giant"):  # fmt: skip
        archive = root / "cifar.tar.gz"
        packed = {
            "a file that is no archive": lambda: b"not an archive" * 100,
            "an empty file": lambda: b"",
            "a truncated archive": lambda: archive_of(good)[:-200_000],
            "a broken archive": lambda: archive_of(good)[:70_000] + bytes(1000) + archive_of(good)[71_000:],
            "an archive of something else": lambda: archive_of({"holiday.txt": b"!"}),
            "an archive without one file": lambda: archive_of({k: v for k, v in good.items() if "test" not in k}),
            "an archive with a malicious pickle": lambda: archive_of(good | {first: pickle.dumps(Evil())}),
            "an archive with a giant": lambda: archive_of(good | {first: bytes(1 << 25)}),
        }.get(kind)
        if packed is not None:
            archive.write_bytes(packed())
        if kind == "an archive with a link for a file":
            with tarfile.open(archive, "w:gz") as tar:
                link = tarfile.TarInfo(first)
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(link)
        return archive
    if kind == "an empty folder":
        return root
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    batch = folder / "data_batch_3"
    content = pickle.loads(batch.read_bytes(), encoding="bytes")
    if kind == "a folder for a file":
        batch.unlink()
        batch.mkdir()
    elif kind == "a dangling link":
        batch.unlink()
        batch.symlink_to(root / "nowhere")
    elif kind == "a malicious pickle":
        batch.write_bytes(pickle.dumps(Evil()))
    elif kind == "labels out of range":
        batch.write_bytes(pickle.dumps(content | {b"labels": [77] * FAKE_PER_FILE}))
    elif kind == "pictures of another type":
        batch.write_bytes(pickle.dumps(content | {b"data": content[b"data"].astype(float)}))
    elif kind == "CIFAR-100's keys":
        batch.write_bytes(pickle.dumps({b"data": content[b"data"], b"fine_labels": content[b"labels"]}))
    elif kind == "half a file":
        batch.write_bytes(batch.read_bytes()[: 1 << 20])
    elif kind == "a file too long":
        batch.write_bytes(batch.read_bytes() + b"x")
    elif kind == "two files exchanged":
        other = folder / "data_batch_4"
        swap = batch.read_bytes()
        batch.write_bytes(other.read_bytes())
        other.write_bytes(swap)
    elif kind == "an empty file among them":
        batch.write_bytes(b"")
    else:
        raise AssertionError(kind)
    return root


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("no such folder", FileNotFoundError, "data_batch_1 is missing"),
        ("an empty folder", FileNotFoundError, "data_batch_1 is missing"),
        ("a file that is no archive", ValueError, "no readable archive"),
        ("an empty file", ValueError, "no readable archive"),
        ("a truncated archive", ValueError, "no readable archive"),
        ("a broken archive", ValueError, "no readable archive|is damaged"),
        ("an archive of something else", FileNotFoundError, "data_batch_1 is missing"),
        ("an archive without one file", FileNotFoundError, "test_batch is missing"),
        ("an archive with a malicious pickle", ValueError, "data_batch_1 is damaged"),
        ("an archive with a link for a file", FileNotFoundError, "data_batch_1 is missing"),
        ("an archive with a giant", FileNotFoundError, "data_batch_1 is missing"),
        ("a folder for a file", FileNotFoundError, "data_batch_3 is missing"),
        ("a dangling link", FileNotFoundError, "data_batch_3 is missing"),
        ("a malicious pickle", ValueError, "data_batch_3 is damaged"),
        ("labels out of range", ValueError, "data_batch_3 is damaged"),
        ("pictures of another type", ValueError, "data_batch_3 is damaged"),
        ("CIFAR-100's keys", ValueError, "data_batch_3 is damaged"),
        ("half a file", ValueError, "data_batch_3 is damaged"),
        ("a file too long", ValueError, "data_batch_3 is damaged"),
        ("two files exchanged", ValueError, "data_batch_3 is damaged"),
        ("an empty file among them", ValueError, "data_batch_3 is damaged"),
    ],
)
def test_what_is_not_cifar10_gets_one_clear_line(tmp_path, monkeypatch, fake_files, kind, error, words):
    monkeypatch.setattr(data, "CIFAR10_MD5", {file: hashlib.md5(b).hexdigest() for file, b in fake_files.items()})
    named = bad_folder(kind, tmp_path, fake_files)
    monkeypatch.setenv("CIFAR10_ROOT", str(named))
    for name in ("auto", "cifar10"):  # what was named is never replaced by something else in silence
        with pytest.raises(error, match=words) as stop:
            data.load(name)
        assert "\n" not in str(stop.value) and str(tmp_path) in str(stop.value)
    assert not EVIL.exists()


def test_a_file_that_may_not_be_read_is_named(fake_root, monkeypatch):
    read = Path.read_bytes

    def refuse(path):
        if path.name == "data_batch_2":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match="data_batch_2"):
        data.load("cifar10", root=fake_root)


PICTURES, LABELS = torch.zeros(20, 3, 32, 32, dtype=torch.uint8), torch.arange(20) % 10


def split(images: torch.Tensor = PICTURES, labels: torch.Tensor = LABELS) -> Split:
    return Split(images, labels)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (split(images=torch.zeros(20, 3, 32, 32)), r"pictures must be uint8 \(N, 3, H, W\), got torch.float32"),
        (split(images=torch.zeros(20, 32, 32, 3, dtype=torch.uint8)), r"pictures must be .* got torch.uint8 \(20, 32, 32, 3\)"),
        (split(images=torch.zeros(20, 1, 32, 32, dtype=torch.uint8)), r"pictures must be .* \(20, 1, 32, 32\)"),
        (split(images=torch.zeros(20, 3072, dtype=torch.uint8)), r"pictures must be .* \(20, 3072\)"),
        (split(labels=torch.arange(19) % 10), r"labels must be int64 \(20,\), got torch.int64 \(19,\)"),
        (split(labels=torch.zeros(20)), r"labels must be int64 \(20,\), got torch.float32"),
        (split(labels=torch.zeros(20, dtype=torch.int32)), r"labels must be int64 .* got torch.int32"),
        (split(labels=torch.eye(20, 10).long()), r"labels must be int64 .* \(20, 10\)"),
        (split(labels=torch.arange(20) % 10 + 1), r"labels must lie in 0 … 9, got 1 … 10"),
        (split(labels=torch.arange(20) % 10 - 1), r"labels must lie in 0 … 9, got -1 … 8"),
    ],
)
@pytest.mark.parametrize("name", ["train", "val"])
def test_data_that_cannot_be_learned_from_are_refused(part, words, name):
    from helpers.training import TrainConfig, fit

    parts = {"train": split(), "val": split(), "test": split(), name: part}
    dataset = Dataset("mine", data.CLASSES, data.CIFAR10_MEAN, data.CIFAR10_STD, **parts)
    with pytest.raises(ValueError, match={"train": "training ", "val": "validation "}[name] + words):
        fit(torch.nn.Identity(), dataset, TrainConfig(batch_size=10, device="cpu"))
    Dataset("mine", data.CLASSES, data.CIFAR10_MEAN, data.CIFAR10_STD, split(), split()[:0], split()).check()


def test_an_explicit_root_goes_before_CIFAR10_ROOT(fake_root, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "empty"))
    assert data.load("auto", root=fake_root).name == "cifar10"


def test_the_folder_data_beside_helpers_is_used(fake_root, nowhere):
    nowhere.parent.mkdir()
    fake_root.rename(nowhere)
    assert data.load().name == "cifar10"


def test_COURSE_DATA_decides_unless_a_name_is_given(fake_root, nowhere, monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", str(fake_root))
    monkeypatch.setenv("COURSE_DATA", "shapes")
    assert data.load() == "the embedded data set"
    assert data.load("cifar10").name == "cifar10"
    monkeypatch.setenv("COURSE_DATA", "cifar10")
    assert data.load().name == "cifar10"
    monkeypatch.setenv("COURSE_DATA", "")
    assert data.load().name == "cifar10"  # as if it were not set: auto


@pytest.mark.parametrize("setting", ["argument", "environment"])
def test_an_unknown_data_set_is_refused(monkeypatch, setting):
    monkeypatch.setenv("COURSE_DATA", "imagenet")
    with pytest.raises(ValueError, match="unknown data set '(imagenet|CIFAR10)': choose 'auto', 'cifar10' or 'shapes'"):
        data.load("CIFAR10" if setting == "argument" else None)


def test_auto_falls_back_to_shapes_and_says_so_loudly(nowhere, capsys):
    assert data.load() == "the embedded data set"
    notice = capsys.readouterr()
    assert "NOT CIFAR-10" in notice.err and "no network today" in notice.err and "CIFAR10_ROOT" in notice.err
    assert notice.out == ""


def test_shapes_on_purpose_needs_no_notice(nowhere, capsys):
    assert data.load("shapes") == "the embedded data set"
    assert capsys.readouterr().err == ""


def test_cifar10_never_falls_back(nowhere):
    with pytest.raises(OSError, match="no network today"):
        data.load("cifar10")


def test_a_folder_that_cannot_be_made_is_one_line_and_auto_goes_on(nowhere, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setattr(data, "__file__", "/proc/course/helpers/data.py")
    monkeypatch.setattr(data, "make_shapes", lambda: "the embedded data set")
    if Path("/proc").is_dir():
        assert data.load("auto") == "the embedded data set" and "Reason: " in capsys.readouterr().err


def test_load_downloads_into_data_where_nothing_is_named(nowhere, monkeypatch, fake_root):
    fetched = []

    def fetch(root):
        fetched.append(root)
        root.parent.mkdir()
        fake_root.rename(root)

    monkeypatch.setattr(data, "download_cifar10", fetch)
    assert data.load("auto").name == "cifar10" and fetched == [nowhere]
    assert data.load("auto").name == "cifar10" and fetched == [nowhere]  # the second time it is there


def test_a_half_unpacked_folder_is_fetched_again(nowhere, monkeypatch, fake_root):
    folder = nowhere / data.CIFAR10_FOLDER
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes((fake_root / data.CIFAR10_FOLDER / "data_batch_1").read_bytes())

    def fetch(root):
        for path in (fake_root / data.CIFAR10_FOLDER).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(data, "download_cifar10", fetch)
    assert data.load("auto").name == "cifar10"


# --- the real CIFAR-10, where it is at hand ---------------------------------------------------------------------------

FOLDERS = [Path(folder) for folder in (os.environ.get("CIFAR10_ROOT"), ROOT / "data") if folder]
REAL = next((folder for folder in FOLDERS if (folder / data.CIFAR10_FOLDER).is_dir()), None)


@pytest.mark.skipif(REAL is None, reason="CIFAR-10 is not at hand")
def test_the_real_cifar10_agrees_with_torchvision():
    from torchvision.datasets import CIFAR10

    dataset = data.load("cifar10", root=REAL)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (45_000, 5_000, 10_000)
    assert torch.bincount(dataset.val.labels).tolist() == [500] * 10
    channels = dataset.train_val.images.transpose(0, 1).flatten(1)
    counts = np.stack([torch.bincount(channel, minlength=256).numpy() for channel in channels])
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    std = np.sqrt(counts @ values**2 / counts.sum(axis=1) - mean**2)
    assert np.allclose(mean, data.CIFAR10_MEAN, atol=5.1e-5) and np.allclose(std, data.CIFAR10_STD, atol=5.1e-5)
    theirs = CIFAR10(REAL, train=False, download=False)
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert dataset.test.labels.tolist() == theirs.targets and tuple(theirs.classes) == dataset.classes
    assert hashlib.md5(dataset.val.images.numpy().tobytes()).hexdigest() == "5f0fb3eeeebba1e5bf148f8724dffbad"
