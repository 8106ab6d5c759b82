"""The figures that several lessons share, in one style. Nothing here trains or loads; a function gets what it draws."""

from collections.abc import Sequence
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

PALETTE = sns.color_palette("colorblind")
PLAIN, RESIDUAL = PALETTE[3], PALETTE[0]  # plain networks are vermilion, residual ones blue, in every figure of the course


def set_style() -> None:
    """One look for all figures: light grid, colours that survive colour blindness, legible when projected."""
    sns.set_theme(style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 90, "figure.constrained_layout.use": True, "axes.titlesize": "medium"})


def show(figure: Figure, alt: str) -> None:
    """Displays a figure with its alternative text, what a reader who does not see it should know, and closes it.

    As a PNG of 256 colours, a third of the size of one with all: notebooks hold their figures.
    """
    full, small = BytesIO(), BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    content = {"image/png": small.getvalue(), "text/plain": repr(figure)}
    display(content, raw=True, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def plot_images(images: Tensor, titles: Sequence[str] | None = None, columns: int = 8, scale: float = 1.15) -> Figure:
    """A grid of pictures (N, 3, H, W), uint8, with a title above each; `scale` is the width of one in inches."""
    rows = -(-len(images) // columns)
    size = columns * scale, rows * (scale + (0.25 if titles else 0))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, images)):
        ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        if titles:
            ax.set_title(titles[i], fontsize=8)
    return figure


def plot_curves(history, quantity: str, ax: Axes | None = None, color=None) -> Axes:
    """`train_…` (dashed) and `val_…` (solid) of a history by epoch; `quantity` is "loss" or "accuracy".

    `history` is what `fit` returns or the table of a recorded run. Accuracies are drawn in percent, losses in nats.
    """
    ax = ax or plt.subplots(figsize=(5, 3.2))[1]
    rows = history if isinstance(history, list) else history.to_dict("records")
    scale = 100 if quantity == "accuracy" else 1
    for part, name, line in (("train", "training", "--"), ("val", "validation", "-")):
        values = [scale * row[f"{part}_{quantity}"] for row in rows if f"{part}_{quantity}" in row]
        if values:
            (drawn,) = ax.plot(range(1, len(values) + 1), values, line, color=color, label=name)
            color = drawn.get_color()
    ax.set(xlabel="epoch", ylabel="accuracy (%)" if quantity == "accuracy" else "loss (nats)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def plot_confusion(matrix: np.ndarray, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """A confusion matrix of counts: row = true class, column = predicted class. The diagonal is left pale to show errors."""
    ax = ax or plt.subplots(figsize=(6.4, 5.4))[1]
    errors = np.where(np.eye(len(classes), dtype=bool), 0, matrix)
    sns.heatmap(
        errors, annot=matrix, fmt="d", cmap="rocket_r", square=True, ax=ax, annot_kws={"fontsize": 8},
        xticklabels=classes, yticklabels=classes, cbar_kws={"label": "pictures mistaken"},
    )  # fmt: skip
    ax.set(xlabel="predicted class", ylabel="true class")
    return ax
