"""The figures that several lessons share, in one style. Nothing here trains or loads data."""

import os
from collections.abc import Callable, Sequence
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

PALETTE = sns.color_palette("colorblind")
PLAIN, RESIDUAL = PALETTE[3], PALETTE[0]  # plain networks vermilion, residual ones blue, always
SAVED_DPI = 150  # of stored figures: sharp on a projector


def set_style() -> None:
    """One look for all figures: light grid, colours that survive colour blindness."""
    sns.set_theme(style="whitegrid", palette="colorblind")
    plt.rcParams["figure.dpi"] = 90  # how large an inch is on the screen
    plt.rcParams["figure.constrained_layout.use"] = True
    plt.rcParams["axes.titlesize"] = "medium"


def show(figure: Figure, alt: str, place: DisplayHandle | None = None) -> None:
    """Displays a figure with its alternative text and closes it.

    `alt` says what a reader who cannot see the figure should know. With `place`, the figure
    replaces what is displayed there. It is a PNG at 150 dpi, displayed in the figure's own size,
    and of 256 colours, a third of the bytes of full colour: notebooks store their figures.
    """
    full, small = BytesIO(), BytesIO()
    figure.savefig(full, format="png", dpi=SAVED_DPI, bbox_inches="tight")
    image = Image.open(full).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    zoom = figure.dpi / SAVED_DPI
    size = {"width": round(zoom * image.width), "height": round(zoom * image.height)}
    content = {"image/png": small.getvalue(), "text/plain": repr(figure)}
    send = place.update if place else display
    send(content, raw=True, metadata={"image/png": {"alt": alt, **size}})
    plt.close(figure)


def explore(
    draw: Callable[..., tuple[Figure, str]], **controls: tuple[float, Sequence[float]]
) -> None:
    """Shows the figure and alternative text that `draw(**values)` returns, with sliders.

    Each control is (default, choices). Each change replaces the figure. Where nobody can move a
    slider (COURSE_UNATTENDED is set, as programs that execute notebooks do, or the kernel has no
    ipywidgets), the figure stands alone.
    """
    try:
        import ipywidgets as widgets  # here, because not every kernel has it
    except ImportError:
        widgets = None
    if widgets is None or "COURSE_UNATTENDED" in os.environ:
        show(*draw(**{name: default for name, (default, _) in controls.items()}))
        return

    sliders = {}
    for name, (default, choices) in controls.items():
        sliders[name] = widgets.SelectionSlider(
            options=list(choices),
            value=default,
            continuous_update=False,  # one figure when it is let go
            style={"description_width": "initial"},
        )
    display(widgets.interactive(lambda **values: show(*draw(**values)), **sliders))


def plot_images(
    images: Tensor, titles: Sequence[str] | None = None, columns: int = 8, scale: float = 1.15
) -> Figure:
    """A grid of N > 0 images (N, 3, H, W), uint8, with a title above each.

    `scale` is the width of one image in inches. Raises ValueError for fewer titles than images.
    """
    if titles is not None and len(titles) < len(images):
        raise ValueError(f"{len(titles)} titles do not suffice for {len(images)} images")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)  # rounded up
    title_height = 0.25 if titles is not None else 0
    size = (columns * scale, rows * (scale + title_height))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, images)):
        ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        if titles is not None:
            ax.set_title(titles[i], fontsize=8)
    return figure


def mark_epochs(ax: Axes, marks: dict[int, str]) -> None:
    """A grey line before each epoch in `marks`, with its text beside it, at the top."""
    for epoch, text in marks.items():
        ax.axvline(epoch - 0.5, color="grey", linewidth=1)
        ax.text(
            epoch - 0.4, 1.0, text, color="grey", fontsize=8, va="top", rotation=90,
            transform=ax.get_xaxis_transform(),
        )  # fmt: skip


def plot_history(history, marks: dict[int, str]) -> Figure:
    """Loss (nats) and accuracy (%) by epoch, training dashed; `marks` as in `mark_epochs`.

    `history` is what `fit` returns, or the table of a recorded run.
    """
    rows = history if isinstance(history, list) else history.to_dict("records")
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for ax, quantity, scale in ((axes[0], "loss", 1), (axes[1], "accuracy", 100)):
        for split, label, style in (("train", "training", "--"), ("val", "validation", "-")):
            key = f"{split}_{quantity}"
            values = [scale * row[key] for row in rows if key in row]
            if values:
                ax.plot(range(1, len(values) + 1), values, style, color=RESIDUAL, label=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
    axes[0].set(xlabel="epoch", ylabel="loss (nats)")
    axes[1].set(xlabel="epoch", ylabel="accuracy (%)")
    mark_epochs(axes[0], marks)
    mark_epochs(axes[1], dict.fromkeys(marks, ""))
    return figure


def live_curves(epochs: int, title: str) -> Callable[[object, dict], None]:
    """An `on_epoch` for `fit`: loss and accuracy by epoch, drawn after each of the `epochs`.

    Each figure replaces the one before.
    """
    history: list[dict] = []
    place = DisplayHandle()
    # takes its place in the output, above the progress bars
    place.display({"text/plain": "the curves follow"}, raw=True)

    def redraw(model: object, row: dict) -> None:
        history.append(dict(row))
        figure = plot_history(history, marks={})
        for ax in figure.axes:
            ax.set_xlim(0.8, epochs + 0.2)
            for line in ax.get_lines():
                line.set_marker("o")  # a line needs two epochs
        figure.suptitle(title)
        measured = []
        for key, value in row.items():
            if key.startswith(("train_", "val_")):
                measured.append(f"{key.replace('_', ' ')} {value:.2f}")
        done = f"up to epoch {len(history)} of {epochs}"
        show(figure, f"Curves of loss and accuracy {done}: {', '.join(measured)}.", place)

    return redraw


def plot_confusion(matrix: np.ndarray, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """A confusion matrix: row = true class, column = predicted class.

    The diagonal is left pale to show the errors; the counts are written into the cells for up to 20
    classes. Raises ValueError for a shape that does not fit the classes and for what is no count.
    """
    matrix, n = np.asarray(matrix), len(classes)
    if matrix.shape != (n, n):
        raise ValueError(f"a matrix of shape {matrix.shape} does not fit {n} classes")
    if matrix.min() < 0 or not np.array_equal(matrix, np.round(matrix)):
        raise ValueError("expected counts: whole numbers from 0 on")
    if ax is None:
        side = max(2.8, 1.2 + 0.42 * min(n, 20) + 0.05 * max(n - 20, 0))  # inches
        _, ax = plt.subplots(figsize=(side + 1, side))
    errors = np.where(np.eye(n, dtype=bool), 0, matrix)
    sns.heatmap(
        errors,
        annot=matrix if n <= 20 else None,
        fmt=".0f",
        annot_kws={"fontsize": 8},
        cmap="rocket_r",
        vmin=0,
        square=True,
        xticklabels=classes,
        yticklabels=classes,
        cbar_kws={"label": "misclassified images", "ticks": MaxNLocator(integer=True)},
        ax=ax,
    )
    ax.tick_params(labelsize=min(11, 700 / n))
    ax.tick_params(axis="y", labelrotation=0)
    ax.set(xlabel="predicted class", ylabel="true class")
    return ax


def overlay(images: Tensor, maps: Tensor) -> Tensor:
    """Images in grey, and in red to yellow where their map is high: (N, 3, H, W), uint8.

    Images (N, 3, H, W) are uint8; maps (N, H, W) are ≥ 0, each scaled to its own maximum.
    """
    strength = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    heat = torch.from_numpy(plt.cm.autumn(strength.numpy())[..., :3]).permute(0, 3, 1, 2)
    grey = images.float().mean(dim=1, keepdim=True).expand(images.shape)
    return torch.lerp(grey, 255 * heat.float(), 0.75 * strength[:, None]).byte()
