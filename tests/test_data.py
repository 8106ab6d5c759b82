"""helpers.data against independent oracles: NumPy, closed forms, counting."""

import dataclasses
import hashlib
import math

import numpy as np
import pytest
import torch
from conftest import needs_gpu

from helpers import data
from helpers.data import (
    Batches,
    Dataset,
    Split,
    alternate_flip,
    random_crop_flip,
    random_cutout,
    stratified_split,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)


def numbered(n: int) -> Split:
    """n one-pixel images; image i has the value and the label i."""
    return Split(torch.arange(n).view(n, 1, 1, 1), torch.arange(n))


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic in standard deviations above its mean (len(observed) - 1 degrees)."""
    freedom = len(observed) - 1
    statistic = ((observed - expected) ** 2 / expected).sum()
    return (statistic - freedom) / math.sqrt(2 * freedom)


# --- random_crop_flip and alternate_flip --------------------------------------------------------


def crops(image: np.ndarray, pad: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every outcome (as bytes) for (C, H, W), the textbook way: pad, cut a window out, mirror."""
    _, h, w = image.shape
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect") if pad else image
    outcomes = {}
    for down in range(2 * pad + 1):
        for right in range(2 * pad + 1):
            window = padded[:, down : down + h, right : right + w]
            outcomes[window.tobytes()] = (down - pad, right - pad, False)
            outcomes[window[:, :, ::-1].tobytes()] = (down - pad, right - pad, True)
    return outcomes


@pytest.mark.parametrize(("h", "w", "pad"), [(32, 32, 4), (5, 7, 2), (4, 4, 3), (6, 6, 0)])
def test_each_image_is_one_of_the_crops_of_the_padded_one(h, w, pad):
    images = random_images(60, 3, h, w)
    out = random_crop_flip(torch.from_numpy(images), pad=pad, generator=generator())
    assert out.shape == images.shape and out.dtype == torch.uint8
    drawn = {crops(image, pad)[result.numpy().tobytes()] for image, result in zip(images, out)}
    assert len(drawn) > min(30, 2 * (2 * pad + 1) ** 2 - 1)  # each image draws its own


def test_all_shifts_and_flips_are_equally_likely_and_independent():
    image = random_images(1, 32, 32)
    outcomes = crops(image, 4)
    assert len(outcomes) == 162
    n = 162 * 150
    copies = torch.from_numpy(image).expand(n, 1, 32, 32)
    counts = dict.fromkeys(outcomes.values(), 0)
    for result in random_crop_flip(copies, generator=generator()).numpy():
        counts[outcomes[result.tobytes()]] += 1
    # uniform over all 162 combinations: shifts, flips and their independence in one statistic
    assert chi_square(np.array(list(counts.values())), np.full(162, 150.0)) < 4
    flips = sum(count for (_, _, flipped), count in counts.items() if flipped)
    assert abs(flips / n - 0.5) < 4 * 0.5 / math.sqrt(n)


def test_crop_alone_flip_alone_and_neither():
    image = random_images(1, 8, 8)
    outcomes = crops(image, 2)
    copies = torch.from_numpy(image).expand(500, 1, 8, 8)
    for cropped in random_crop_flip(copies, 2, flip=False, generator=generator()):
        assert not outcomes[cropped.numpy().tobytes()][2]
    flipped = random_crop_flip(copies, 0, generator=generator())
    seen = {each.numpy().tobytes() for each in flipped}
    assert seen == {image.tobytes(), image[:, :, ::-1].tobytes()}
    assert torch.equal(random_crop_flip(copies, pad=0, flip=False), copies)


@pytest.mark.parametrize("pad", [-1, 8, 40])
def test_a_pad_that_cannot_be_reflected_is_refused(pad):
    with pytest.raises(ValueError, match="pad must lie in 0 … 7"):
        random_crop_flip(torch.zeros(2, 3, 8, 9, dtype=torch.uint8), pad=pad)


def test_augmentation_repeats_with_its_generator_and_leaves_its_input_alone():
    images = torch.from_numpy(random_images(20, 3, 32, 32))
    before = images.clone()
    first, again, other = (random_crop_flip(images, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(images, before)


def test_alternate_flips_show_each_image_both_ways_in_two_epochs(shapes):
    train, before = shapes.train, shapes.train.images.clone()
    epochs = [alternate_flip(train, seed=3, epoch=epoch).images for epoch in range(4)]
    as_it_is = (epochs[0] == train.images).flatten(1).all(1)
    assert 0.4 < as_it_is.double().mean() < 0.6
    for index, start in enumerate(as_it_is.tolist()):
        for epoch in range(4):
            upright = start == (epoch % 2 == 0)
            expected = train.images[index] if upright else train.images[index].flip(2)
            assert torch.equal(epochs[epoch][index], expected)
    other = alternate_flip(train, seed=4, epoch=0).images
    assert not torch.equal(other, epochs[0]) and not torch.equal(other, epochs[1])
    assert torch.equal(train.images, before)


# --- random_cutout and mixing -------------------------------------------------------------------


def covered_lengths(length: int, size: int) -> list[int]:
    """For each possible centre: how many pixels of the row the square covers. Closed form."""
    starts = [centre - size // 2 for centre in range(length)]
    return [min(start + size, length) - max(start, 0) for start in starts]


@pytest.mark.parametrize("size", [1, 5, 12])
def test_cutout_covers_one_square_per_image_and_nothing_else(size):
    x = torch.rand(400, 3, 20, 32, generator=generator()) + 1  # nowhere 0
    before = x.clone()
    out = random_cutout(x, size, generator(1))
    assert torch.equal(x, before) and out.dtype == torch.float32
    hole = out == 0
    assert torch.equal(out[~hole], x[~hole])
    assert torch.equal(hole, hole[:, :1].expand_as(hole))  # all channels alike
    positions = set()
    for image in hole[:, 0].numpy():
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert image.sum() == len(rows) * len(columns) > 0  # a full rectangle …
        for covered, length in ((rows, 20), (columns, 32)):
            assert np.array_equal(covered, np.arange(covered[0], covered[-1] + 1))  # … no gaps …
            assert len(covered) == size or covered[0] == 0 or covered[-1] == length - 1  # … clipped
        positions.add((rows[0], rows[-1], columns[0], columns[-1]))
    assert len(positions) > 150  # each image has its own


@pytest.mark.parametrize("size", [5, 12])
def test_cutout_sizes_follow_the_closed_form(size):
    n, h, w = 20_000, 32, 24
    hole = random_cutout(torch.ones(n, 1, h, w), size, generator())[:, 0] == 0
    for covered, length in ((hole.any(dim=2).sum(dim=1), h), (hole.any(dim=1).sum(dim=1), w)):
        sizes, weights = np.unique(covered_lengths(length, size), return_counts=True)
        counts = np.array([(covered == s).sum().item() for s in sizes])
        assert counts.sum() == n and chi_square(counts, n * weights / length) < 4
    area = np.mean(covered_lengths(h, size)) * np.mean(covered_lengths(w, size))  # independent
    assert abs(hole.float().mean().item() - area / (h * w)) < 0.003


def test_mixing_keeps_the_means_of_a_batch():
    """Both ways mix each image with another one of the batch, in the same place and proportion."""
    torch.manual_seed(0)
    images, labels = torch.rand(64, 3, 8, 8), torch.arange(64) % 7
    frequencies = torch.bincount(labels) / 64
    mix = data.make_mixing(1.0, num_classes=7)
    for _ in range(20):
        mixed, targets = mix(images, labels)
        assert torch.allclose(mixed.mean(dim=0), images.mean(dim=0), atol=1e-6)
        assert targets.shape == (64, 7) and torch.allclose(targets.sum(dim=1), torch.ones(64))
        assert torch.allclose(targets.mean(dim=0), frequencies)


def test_the_given_fraction_of_batches_is_mixed():
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    mix = data.make_mixing(0.25, num_classes=4)
    mixed = sum(mix(images, labels)[1].ndim == 2 for _ in range(400))
    assert abs(mixed - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)


# --- batches and splits -------------------------------------------------------------------------


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
    assert seen == [labels.tolist() for _, labels in epoch]  # each batch, once, as stored
    for images, labels in epoch:  # and its result arrives, with the labels of the same images
        assert torch.equal(images.flatten(), labels + 0.5)
    another = {tuple(labels.tolist()) for _, labels in batches}
    assert another != {tuple(labels.tolist()) for _, labels in epoch}


def test_mixed_images_keep_the_layout_that_convolutions_like():
    """torchvision's mixup returns the usual layout on a GPU; the stand-in does so everywhere."""
    few = Split(torch.rand(8, 3, 4, 4), torch.arange(8))

    def halve(images, labels):
        return images.clone() / 2, labels

    for images, labels in Batches(few, 4, lambda images: images, generator(), mix=halve):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, few.images[labels] / 2)


def test_the_shares_of_several_processes_make_up_each_batch():
    whole = [labels for _, labels in Batches(numbered(50), 10, lambda x: x, generator(5))]
    shares = []
    for share in (slice(0, 5), slice(5, 10)):
        batches = Batches(numbered(50), 10, lambda x: x, generator(5), share=share)
        shares.append([labels for _, labels in batches])
    for expected, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(expected, torch.cat([first, second]))


def test_every_image_comes_first_equally_often():
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
    split = numbered(10)
    mask = (split.labels > 1) & (split.labels < 5)
    for index in (slice(2, 5), torch.tensor([2, 3, 4]), mask):
        assert split[index].labels.tolist() == [2, 3, 4]
        assert split[index].images.flatten().tolist() == [2, 3, 4]
    assert len(split) == 10 and len(split[:3]) == 3


def test_stratified_split_sets_exactly_so_many_of_each_class_apart():
    labels = torch.from_numpy(np.random.RandomState(5).choice(4, 400, p=[0.1, 0.2, 0.3, 0.4]))
    everything = Split(torch.arange(400), labels)
    rest, apart = stratified_split(everything, per_class=15)
    assert torch.bincount(apart.labels).tolist() == [15] * 4
    assert sorted(rest.images.tolist() + apart.images.tolist()) == list(range(400))
    for split in (rest, apart):
        assert split.images.tolist() == sorted(split.images.tolist())  # the old order
        assert torch.equal(split.labels, labels[split.images])
    again, other = (stratified_split(everything, 15, seed)[1].images.tolist() for seed in (0, 1))
    assert again == apart.images.tolist() != other


def test_the_split_is_the_same_on_every_machine():
    """The validation images of the recorded runs: validation accuracies refer to these."""
    everything = Split(torch.arange(50_000), torch.arange(50_000) % 10)
    _, apart = stratified_split(everything, per_class=500)
    fingerprint = hashlib.sha1(apart.images.numpy().astype("<i8").tobytes()).hexdigest()
    assert fingerprint == "6c55f84222abf9c0a156b317049eec4fbc489341"


# --- Dataset ------------------------------------------------------------------------------------

NAMES = tuple("abcdefghij")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
IMAGES, LABELS = torch.from_numpy(random_images(20, 3, 32, 32)), torch.arange(20) % 10
GOOD = Split(IMAGES, LABELS)


def dataset_with(**changes) -> Dataset:
    """A good data set, but for the changes."""
    good = Dataset("mine", NAMES, MEAN, STD, train=GOOD, val=GOOD[:15], test=GOOD[5:])
    return dataclasses.replace(good, **changes)


@pytest.mark.parametrize("n", [1, 20])
def test_normalize_is_the_formula_in_channels_last(n):
    x = dataset_with().normalize(IMAGES[:n])
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    expected = (IMAGES[:n].numpy().astype(np.float64) / 255 - mean) / std
    assert x.dtype == torch.float32 and np.allclose(x.numpy(), expected, atol=2e-6)
    assert x.is_contiguous(memory_format=torch.channels_last)


UINT8 = r"must be a uint8 tensor \(N, 3, H, W\) in 0 … 255, got"
NO_IMAGES = {
    rf"{UINT8} Tensor torch.float32 \(2, 3, 8, 8\)$": torch.rand(2, 3, 8, 8),
    rf"{UINT8} Tensor torch.uint8 \(2, 1, 8, 8\)$": torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
    rf"{UINT8} Tensor torch.uint8 \(2, 8, 8, 3\)$": torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
    rf"{UINT8} Tensor torch.uint8 \(3, 8, 8\)$": torch.zeros(3, 8, 8, dtype=torch.uint8),
    rf"{UINT8} Tensor torch.uint8 \(2, 3, 0, 8\)$": torch.zeros(2, 3, 0, 8, dtype=torch.uint8),
    rf"{UINT8} ndarray uint8 \(20, 3, 32, 32\)$": IMAGES.numpy(),
    rf"{UINT8} list$": IMAGES.tolist(),
}
INT64 = r"must be an int64 tensor \(20,\), got"
NO_LABELS = {
    rf"{INT64} Tensor torch.int64 \(19,\)$": LABELS[1:],
    rf"{INT64} Tensor torch.float32 \(20,\)$": LABELS.float(),
    rf"{INT64} Tensor torch.int32 \(20,\)$": LABELS.int(),
    rf"{INT64} Tensor torch.uint8 \(20,\)$": LABELS.byte(),
    rf"{INT64} Tensor torch.int64 \(20, 10\)$": torch.eye(20, 10).long(),
    r"must lie in 0 … 9, got 1 … 10": LABELS + 1,
    r"must lie in 0 … 9, got -1 … 8": LABELS - 1,
    rf"{INT64} ndarray int64 \(20,\)$": LABELS.numpy(),
    rf"{INT64} list$": LABELS.tolist(),
}
BAD_SPLITS = [(f"images {words}", Split(images, LABELS)) for words, images in NO_IMAGES.items()]
BAD_SPLITS += [(f"labels {words}", Split(IMAGES, labels)) for words, labels in NO_LABELS.items()]


@pytest.mark.parametrize(("words", "images"), NO_IMAGES.items())
def test_what_is_no_image_is_not_normalised(words, images):
    """Images in 0–1, say, would all look black to a network, without any other sign."""
    with pytest.raises(ValueError, match=f"^images {words}"):
        dataset_with().normalize(images)


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize(("words", "split"), BAD_SPLITS)
def test_a_split_that_cannot_be_learned_from_is_refused(words, split, name):
    with pytest.raises(ValueError, match=f"^{name} {words}") as refusal:
        dataset_with(**{name: split}).check()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("field", ["mean", "std"])
@pytest.mark.parametrize(
    "values",
    [(125.3, 123.0, 113.9), (0.5, 0.5), (0.5,) * 4, (0.5, math.nan, 0.5), (0.5, -0.1, 0.5), 0.5]
    + [None, "red", (0.5, None, 0.5), torch.zeros(3, 2), (0.5, math.inf, 0.5)],
)
def test_statistics_that_are_not_of_values_in_0_to_1_are_refused(field, values):
    words = f"^{field} must be three numbers (from|above) 0 to 1, of pixel values scaled to 0–1"
    with pytest.raises(ValueError, match=words):
        dataset_with(**{field: values}).check()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"std": (0.2, 0.0, 0.2)}, "std must be three numbers above 0"),
        ({"train": GOOD[:0]}, "the training split is empty"),
        ({"train": None}, "the training split is empty"),
        ({"train": (IMAGES, LABELS)}, r"train must be Split\(images, labels\), got tuple"),
        ({"val": Split(IMAGES[..., :16], LABELS)}, r"one size: val has \(32, 16\)"),
        ({"test": Split(IMAGES[..., :8, :], LABELS)}, r"one size: test has \(8, 32\)"),
        ({"classes": (*"abcdefghi", "a")}, "two or more different names, got"),
        ({"classes": ("a",), "train": GOOD[:1]}, "two or more different names, got"),
    ],
)
def test_a_data_set_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(ValueError, match=words) as refusal:
        dataset_with(**changes).check()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("num_classes", [2, 10, 300])
def test_data_sets_of_few_and_many_classes_pass(num_classes):
    images = torch.from_numpy(random_images(2 * num_classes, 3, 8, 12))
    split = Split(images, torch.arange(2 * num_classes) % num_classes)
    names = tuple(f"class {i}" for i in range(num_classes))
    good = Dataset("mine", names, list(MEAN), np.array(STD), split, split[:1], split[:1])
    good.check()
    for absent in (None, split[:0]):
        dataclasses.replace(good, val=absent, test=absent).check()


def test_fit_asks_before_it_trains():
    from helpers.training import TrainConfig, fit

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    bad = dataset_with(train=Split(IMAGES, LABELS.numpy()))
    with pytest.raises(ValueError, match="train labels must be an int64 tensor .* got ndarray"):
        fit(model, bad, TrainConfig(batch_size=10, epochs=1, device="cpu"))


def test_what_a_run_is_made_of_cannot_be_changed_under_it():
    batches = Batches(numbered(8), 4, lambda images: images)
    for frozen, field in ((dataset_with(), "name"), (GOOD, "labels"), (batches, "batch_size")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, field, None)


def test_train_val_is_both_splits_and_not_the_test_split():
    both = dataset_with().train_val
    assert torch.equal(both.images, torch.cat([IMAGES, IMAGES[:15]])) and len(both) == 35
    assert torch.equal(both.labels, torch.cat([LABELS, LABELS[:15]]))
    assert dataset_with(val=None).train_val is GOOD


def test_a_data_set_without_validation_and_test_can_be_moved():
    moved = dataset_with(val=None, test=GOOD[:0]).to("cpu")
    assert moved.val is None and len(moved.test) == 0 and len(moved.train) == 20


@needs_gpu
def test_the_pipeline_runs_where_the_images_are():
    dataset = dataset_with().to("cuda")
    random = torch.Generator("cuda").manual_seed(0)

    def transform(images):
        return random_cutout(
            dataset.normalize(random_crop_flip(images, generator=random)), 8, random
        )

    for x, labels in Batches(dataset.train, 5, transform, random):
        assert x.device.type == labels.device.type == "cuda"
        assert x.is_contiguous(memory_format=torch.channels_last)


# --- other sizes


def test_resized_images_are_weighted_means():
    images = torch.rand(2, 3, 8, 8)
    assert data.resize(images, None) is images and data.resize(images, 8) is images
    assert data.resize(torch.rand(1, 3, 4, 8), 8).shape == (1, 3, 8, 8)
    small = data.resize(images, 4)
    assert small.shape == (2, 3, 4, 4)
    assert torch.allclose(data.resize(torch.full((1, 3, 8, 8), 0.3), 5), torch.tensor(0.3))
    # antialiased: a single bright pixel is not skipped
    dot = torch.zeros(1, 1, 8, 8)
    dot[0, 0, 4, 4] = 1
    assert data.resize(dot, 2)[0, 0, 1, 1] > 0
