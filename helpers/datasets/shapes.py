"""`shapes`: ten kinds of figure, drawn anew in a few seconds, for machines without CIFAR-10.

Recorded networks and logits depend on these images bit for bit: neither the order in which random
numbers are drawn nor the arithmetic may change.
"""

import math
from pathlib import Path

import numpy as np
import torch

from helpers.data import Dataset, Split
from helpers.datasets import mean_and_std

CLASSES = (
    "disc", "ring", "triangle", "square", "pentagon",
    "star", "cross", "heart", "crescent", "hourglass",
)  # fmt: skip


def load(root: Path | None = None) -> Dataset:
    """5,000 / 1,000 / 2,000 images. Raises ValueError for a `root`: these images are not read."""
    if root is not None:
        raise ValueError(f"shapes is drawn, not read: leave out root={str(root)!r}")
    return make_shapes()


def make_shapes(train: int = 5000, val: int = 1000, test: int = 2000, seed: int = 0) -> Dataset:
    """32×32 RGB images in three splits; classes are equally frequent over all of them together.

    Position, size, rotation, proportions, colours, texture, background, clutter and noise vary. As
    in photographs, colour is a hint (each class has a usual hue, loosely kept) and shape decides.
    Every class is its own mirror image, so flips are a valid augmentation.
    """
    random = np.random.RandomState(seed)
    n = train + val + test
    labels = random.permutation(np.arange(n) % len(CLASSES))
    chunks = np.array_split(labels, math.ceil(n / 1000))
    images = np.concatenate([draw_shapes(chunk, random) for chunk in chunks])
    data = Split(torch.from_numpy(images), torch.from_numpy(labels))
    splits = data[:train], data[train : train + val], data[train + val :]
    mean, std = mean_and_std(splits[0].images)
    return Dataset("shapes", CLASSES, mean, std, *splits)


def draw_shapes(labels: np.ndarray, random: np.random.RandomState, size: int = 32) -> np.ndarray:
    """One image per label: uint8 (N, 3, size, size).

    Lengths are in pixels, angles in radians, colours in 0–1.
    """
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:  # (N, 1, 1), or (N, *shape)
        return random.uniform(low, high, (n, *(shape or (1, 1)))).astype(np.float32)

    def texture() -> np.ndarray:
        """(N, H, W) in 0–1: flat, stripes, checks or dots, each with its own pitch and angle."""
        angle = uniform(0, math.pi)
        pitch = uniform(3, 7)
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle)
        u = np.sin(2 * math.pi / pitch * along + uniform(0, 6.28))
        v = np.sin(2 * math.pi / pitch * across + uniform(0, 6.28))
        kind = random.randint(0, 4, (n, 1, 1))
        kinds = [kind == 0, kind == 1, kind == 2]
        return np.select(kinds, [0 * u, u > 0, u * v > 0], u + v > 0.9).astype(np.float32)

    def colour(
        hue: np.ndarray, saturation: tuple[float, float], value: tuple[float, float]
    ) -> np.ndarray:
        """(N, 3, 1, 1): RGB of this hue, with saturation and value drawn from their ranges."""
        offsets = np.array([0, 2, 4], dtype=np.float32).reshape(1, 3, 1, 1)
        wheel = np.clip(np.abs((hue[:, None] * 6 + offsets) % 6 - 3) - 1, 0, 1)
        brightness = uniform(*value, 1, 1, 1)
        return brightness * (1 - uniform(*saturation, 1, 1, 1) * (1 - wheel))

    def blend(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:
        """`above` where `cover` (N, H, W) is 1, `below` where it is 0."""
        return below + cover[:, None] * (above - below)

    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    usual_hue = labels.reshape(n, 1, 1) / len(CLASSES)
    hue = (usual_hue + random.normal(0, 0.09, (n, 1, 1))).astype(np.float32)

    # the background: two related colours in a texture, then clutter: strokes and spots
    back = uniform(0, 1)
    image = blend(
        colour(back, (0.1, 0.7), (0.2, 0.8)) + np.zeros((n, 3, size, size), np.float32),
        colour(back + uniform(-0.15, 0.15), (0.1, 0.7), (0.2, 0.8)),
        texture() * uniform(0.0, 0.6),
    )
    for _ in range(3):
        dx = x - uniform(-16, 16)
        dy = y - uniform(-16, 16)
        angle = uniform(0, math.pi)
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = dy * np.cos(angle) - dx * np.sin(angle)
        spot = np.maximum(np.abs(along) - uniform(1, 8), np.abs(across) - uniform(0.5, 2.5))
        any_colour = colour(uniform(0, 1), (0.2, 0.9), (0.2, 0.9))
        image = blend(image, any_colour, np.clip(0.5 - spot, 0, 1))

    # the figure: moved, turned, squeezed, filled with two shades of its hue in a texture
    angle = uniform(0, 2 * math.pi)
    radius = uniform(7, 11.5)
    squeeze = uniform(0.8, 1.2)
    dx = x - uniform(-5, 5)
    dy = y - uniform(-5, 5)
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / (radius * squeeze)
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / (radius / squeeze)
    cover = np.clip(0.5 - signed_distance(u, v, labels) * radius, 0, 1)
    light = colour(hue, (0.4, 1.0), (0.5, 1.0)) + 0 * image
    dark = colour(hue, (0.3, 1.0), (0.2, 0.9))
    fill = blend(light, dark, texture())
    image = blend(image, fill, cover * uniform(0.75, 1.0))

    noise = random.normal(0, 1, image.shape).astype(np.float32)
    image += noise * uniform(0.01, 0.07, 1, 1, 1)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def signed_distance(u: np.ndarray, v: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """About how far each point (u, v), (N, H, W), is from its figure's edge; negative inside.

    Figures have radius 1 and lie around (0, 0).
    """
    rho = np.hypot(u, v)
    theta = np.arctan2(u, v)

    def polygon(corners: int) -> np.ndarray:
        sector = 2 * math.pi / corners
        nearest = sector * np.rint(theta / sector)
        return rho * np.cos(theta - nearest) - math.cos(sector / 2)

    def bar(along: np.ndarray, across: np.ndarray) -> np.ndarray:
        return np.maximum(np.abs(along) - 1.0, np.abs(across) - 0.28)

    def star() -> np.ndarray:
        """Five points: the radius falls linearly with the angle from the nearest point."""
        nearest = 0.4 * math.pi * np.rint(theta / (0.4 * math.pi))
        fold = np.abs(theta - nearest) / (0.2 * math.pi)
        return (rho - (1.1 - 0.68 * fold)) * 0.6

    def heart() -> np.ndarray:
        lobes = np.hypot(np.abs(u) - 0.42, v - 0.25) - 0.55
        tip = (np.abs(u) - 0.92 - 0.95 * v) * 0.7
        return np.maximum(np.where(v > 0, lobes, tip), -v - 0.95)

    figures = [
        rho - 0.85,  # disc
        np.abs(rho - 0.75) - 0.24,  # ring
        polygon(3),
        polygon(4),
        polygon(5),
        star(),
        np.minimum(bar(u, v), bar(v, u)),  # cross
        heart(),
        np.maximum(rho - 1.0, 0.8 - np.hypot(u - 0.55, v)),  # crescent
        np.maximum(np.abs(v) - 0.9, (np.abs(u) - 0.12 - 0.8 * np.abs(v)) * 0.75),  # hourglass
    ]
    chosen = [labels.reshape(-1, 1, 1) == label for label in range(len(figures))]
    return np.select(chosen, figures)
