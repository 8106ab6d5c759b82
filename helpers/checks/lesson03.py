"""Checks of the exercises of lesson 03, CIFAR-10."""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.checks.engine import (
    CHANGED,
    attempt,
    compare,
    exercise,
    fail,
    named,
    parts,
    pick,
    rectangle,
    shown,
)

__all__ = [
    "check_channel_statistics",
    "check_crop",
    "check_flip",
    "check_cutout",
    "check_split",
]


@exercise("3.1", "mean and standard deviation per channel")
def check_channel_statistics(channel_statistics):
    def answer(images):
        return parts(channel_statistics(images), "(mean, standard deviation)")

    def oracle(images):
        x = images.double() / 255
        return x.mean((0, 2, 3)), x.std((0, 2, 3), unbiased=False)

    def unscaled(images):
        mean, deviation = oracle(images)
        return 255 * mean, 255 * deviation

    def pooled(images):
        x = images / 255
        return x.mean().expand(3), x.std().expand(3)

    def mean_of_deviations(images):
        deviations = (images.double() / 255).std((2, 3), unbiased=False)
        return oracle(images)[0], deviations.mean(0)

    def deviation_of_means(images):
        means = (images.double() / 255).mean((2, 3))
        return oracle(images)[0], means.std(0)

    def variance(images):
        mean, deviation = oracle(images)
        return mean, deviation**2

    cases = []
    for _ in range(2):
        colour = torch.randint(60, 190, (3, 1, 1))
        level = colour + 40 * torch.randn(pick(40, 60), 3, 1, 1)  # images differ in brightness
        images = level + 30 * torch.randn(len(level), 3, *rectangle(20, 26))
        cases.append((images.clamp(0, 255).byte(),))
    mistakes = {
        "these are on the scale 0–255: divide by 255 first.": unscaled,
        "all channels have the same numbers: average over N, H and W, and keep C.": pooled,
        "the standard deviation is the average of each image's own. Images also differ from one "
        "another: pool all pixels of a channel.": mean_of_deviations,
        "the standard deviation is that of the images' means. Pool all pixels of a channel.": (
            deviation_of_means
        ),
        "this is the variance; its root is asked for.": variance,
    }
    compare(
        answer,
        oracle,
        cases,
        mistakes,
        tolerance=2e-3,
        what="(mean, standard deviation)",
        describe=named("images"),
    )


@exercise("3.2", "a crop for each image")
def check_crop(crop):
    def variant(mode="reflect", sign=1, swapped=False, together=False):
        def run(images, down, right, pad):
            if swapped:
                down, right = right, down
            if together:
                down, right = down[:1].expand_as(down), right[:1].expand_as(right)
            h, w = images.shape[2:]
            padded = F.pad(images, (pad, pad, pad, pad), mode=mode)
            crops = []
            for i in range(len(images)):
                top = pad + sign * int(down[i])
                left = pad + sign * int(right[i])
                crops.append(padded[i, :, top : top + h, left : left + w])
            return torch.stack(crops)

        return run

    cases = []
    for kind in (torch.float32, torch.float32, torch.float64):
        n, pad = pick(3, 6), pick(2, 3)
        images = torch.rand(n, pick(1, 3), *rectangle(5, 8), dtype=kind)
        down, right = torch.randint(-pad, pad + 1, (2, n))
        down[0], right[0] = pad, -pad
        down[1], right[1] = -pad, pick(0, 1)
        cases.append((images, down, right, pad))
    mistakes = {
        "all images move alike: the first one's shift is used for the whole batch. Each has its "
        "own.": variant(together=True),
        "down and right are swapped: rows are the third axis, columns the fourth.": variant(
            swapped=True
        ),
        "the sign is turned round: the pixel in row i is *read from* row i + down.": variant(
            sign=-1
        ),
        "the border is filled with zeros; the task mirrors it.": variant("constant"),
        "the border repeats the outermost pixel; the task mirrors at it (the outermost pixel "
        "appears once).": variant("replicate"),
        "what leaves on one side comes in on the other (`roll`, or a negative index). The task "
        "mirrors.": variant("circular"),
    }
    describe = named("images", "down", "right", "pad")
    compare(crop, variant(), cases, mistakes, what="the crops", same_type_as=0, describe=describe)


@exercise("3.3", "flip the chosen ones")
def check_flip(flip):
    def variant(axis=3, choose=lambda chosen: chosen):
        def run(x, chosen):
            return torch.where(choose(chosen).view(-1, 1, 1, 1), x.flip(axis), x)

        return run

    cases = []
    for _ in range(3):
        n = pick(4, 7)
        chosen = torch.arange(n) % 2 == pick(0, 1)
        cases.append((torch.rand(n, 3, *rectangle(4, 7)), chosen))
    images, chosen = cases[-1]
    cases[-1] = ((255 * images).byte(), chosen)
    mistakes = {
        "images are turned upside down. Left and right are the last axis, W.": variant(axis=2),
        "the channels are reversed: red becomes blue. Flip the last axis, W.": variant(axis=1),
        "the order of the images is reversed: axis 0 is the batch. Flip the last axis, W.": (
            variant(axis=0)
        ),
        "all images are flipped as soon as one is chosen.": variant(
            choose=lambda chosen: chosen.any().expand_as(chosen)
        ),
        "those that were *not* chosen are flipped.": variant(choose=lambda chosen: ~chosen),
        "nothing is flipped. `x.flip(3)` returns a new tensor; it changes nothing in place.": (
            variant(choose=torch.zeros_like)
        ),
    }
    describe = named("x", "chosen")
    compare(flip, variant(), cases, mistakes, what="the images", same_type_as=0, describe=describe)


@exercise("3.4", "cutout for each image")
def check_cutout(cutout):
    def covered(centres, side, start, length):
        """(N, side): which positions lie in the square of each image."""
        first = start(centres)[:, None]
        position = torch.arange(side)
        return (position >= first) & (position < first + length)

    def variant(
        start=lambda centre, size: centre - size // 2,
        length=lambda size: size,
        both=True,  # False: rows or columns of the square, a cross
        together=False,  # one square for all images
        value=0.0,
    ):
        def run(x, rows, columns, size):
            if together:
                rows, columns = rows[:1].expand_as(rows), columns[:1].expand_as(columns)
            h, w = x.shape[2:]
            down = covered(rows, h, lambda centre: start(centre, size), length(size))
            across = covered(columns, w, lambda centre: start(centre, size), length(size))
            down, across = down[:, :, None], across[:, None, :]
            hole = down & across if both else down | across
            return x.masked_fill(hole[:, None], value)

        return run

    def by_slices(x, rows, columns, size):
        x = x.clone()
        for image, row, column in zip(x, rows.tolist(), columns.tolist(), strict=True):
            top, left = row - size // 2, column - size // 2
            image[:, top : top + size, left : left + size] = 0
        return x

    cases = []
    for size, kind in ((4, torch.float32), (3, torch.float32), (6, torch.float64)):
        n, (h, w) = pick(5, 8), rectangle(8, 11)
        rows, columns = torch.randint(0, h, (n,)), torch.randint(0, w, (n,))
        rows[0], columns[0] = 0, w // 2
        rows[1], columns[1] = h // 2, 0
        rows[2], columns[3] = h - 1, w - 1
        cases.append((torch.rand(n, 3, h, w, dtype=kind) + 0.1, rows, columns, size))
    mistakes = {
        "all images lose the same square, the first one's. Each has its own centre.": variant(
            together=True
        ),
        "near the top or the left border nothing is covered: a slice from a negative start counts "
        "from the end. Cut it off at 0 (`max(0, …)`).": by_slices,
        "a cross is covered: a pixel must lie in the rows *and* in the columns of the square.": (
            variant(both=False)
        ),
        "the square begins at the centre instead of lying around it: start at centre - size // "
        "2.": variant(start=lambda centre, size: centre),
        "the square is one pixel too large: it ends before start + size.": variant(
            length=lambda size: size + 1
        ),
        "for an odd size the square is one pixel too small: it ends before start + size, not "
        "before centre + size // 2.": variant(length=lambda size: size - size % 2),
        "the square has half the size (or `size` is taken as a radius somewhere).": variant(
            length=lambda size: size // 2
        ),
        "the square has twice the size: `size` is its side, not its radius.": variant(
            start=lambda centre, size: centre - size, length=lambda size: 2 * size
        ),
        "the square is filled with 1; the task asks for 0, the mean colour.": variant(value=1.0),
    }
    describe = named("x", "rows", "columns", "size")
    compare(
        cutout, variant(), cases, mistakes, what="the images", same_type_as=0, describe=describe
    )


@exercise("3.5", "a stratified split")
def check_split(split):
    classes, per_class = pick(11, 13), pick(4, 8)
    counts = [pick(20, 40) for _ in range(classes)]
    labels = torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels))]

    def splits(seed):
        handed_out = labels.clone()
        given = attempt(split, handed_out, per_class, seed)
        if not torch.equal(handed_out, labels):
            fail(CHANGED)
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            fail("two lists of indices are expected: (those to train on, those set apart).")
        for part in given:
            if not isinstance(part, (Tensor, list)):
                fail(f"a split should be a tensor of indices, and is {shown(part)}.")
        given = [torch.as_tensor(part) for part in given]
        if any(part.dtype == torch.bool for part in given):
            fail(
                "these are masks of truth values; indices are asked for: "
                "`torch.nonzero(mask)[:, 0]`."
            )
        for part in given:
            if part.ndim != 1:
                fail(
                    f"a split has shape {tuple(part.shape)}; indices have one axis: "
                    "`torch.nonzero(…)[:, 0]`."
                )
        return [part.long() for part in given]

    rest, apart = splits(seed=1)
    both = torch.cat([rest, apart])
    if len(both) and (both.min() < 0 or both.max() >= len(labels)):
        fail(f"there are indices outside of 0 … {len(labels) - 1}.")
    if len(both) and set(both.tolist()) <= set(labels.tolist()):
        fail("these are labels; indices are asked for: the places in `labels` where they stand.")
    if set(rest.tolist()) & set(apart.tolist()):
        fail("some images are in both splits: the score on the split set apart would be a lie.")
    if len(both) != len(labels):
        fail(f"{len(both)} indices for {len(labels)} images: some are lost, or appear twice.")
    found = torch.bincount(labels[apart], minlength=classes).tolist()
    if len(rest) == classes * per_class:
        fail("the splits are swapped: first those to train on, then those set apart.")
    if found != [per_class] * classes:
        why = "choose `per_class` of each"
        if sum(found) == classes * per_class:
            why = "of one class more than of another; choose class by class"
        elif not any(found[10:]):
            why += f"; there are {classes} classes here, not ten: `labels.unique()`"
        right = [per_class] * classes
        fail(f"set apart are {found} of the classes, and should be {right}: {why}.")
    first = torch.cat([torch.nonzero(labels == k)[:per_class, 0] for k in range(classes)])
    if set(first.tolist()) == set(apart.tolist()):
        fail(
            "the first images of each class are set apart. Files are often sorted: choose at "
            "random."
        )
    again, other = splits(seed=1)[1], splits(seed=2)[1]
    if set(again.tolist()) != set(apart.tolist()):
        fail(
            "the same seed gives another split: draw from a generator of your own that starts from "
            "the seed."
        )
    if set(other.tolist()) == set(apart.tolist()):
        fail("another seed gives the same split: is the seed used?")
