"""The figures that several lessons share, in one style. Nothing here trains or loads; a function gets what it draws."""

import os
from collections.abc import Callable, Sequence
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import DisplayHandle, clear_output, display
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


def show(figure: Figure, alt: str, place: DisplayHandle | None = None) -> None:
    """Displays a figure with its alternative text, what a reader who does not see it should know, and closes it.

    As a PNG of 256 colours, a third of the size of one with all: notebooks hold their figures. With a `place`, in place of
    what was displayed there.
    """
    full, small = BytesIO(), BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    content = {"image/png": small.getvalue(), "text/plain": repr(figure)}
    (place.update if place else display)(content, raw=True, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def explore(draw: Callable[..., tuple[Figure, str]], **controls) -> None:
    """Shows the figure, with alternative text, that `draw(**values)` returns; a live reader can change the values.

    A control is True or False for a box to tick; (default, choices) for a slider over numbers or a menu of names; or None
    for a file to upload, whose content replaces the None. Below the controls the figure is drawn again with each change.
    Readers on the web, programs that execute notebooks (they set COURSE_UNATTENDED in the environment) and kernels without
    ipywidgets get the one figure with the values as stated.
    """
    show(*draw(**{name: control[0] if isinstance(control, tuple) else control for name, control in controls.items()}))
    try:
        import ipywidgets as widgets  # here, because not every kernel has it
    except ImportError:
        return
    if "COURSE_UNATTENDED" in os.environ:
        return
    boxes, place = {}, widgets.Output()
    for name, control in controls.items():
        if control is None:
            boxes[name] = widgets.FileUpload(description=name, accept=".png,.jpg,.jpeg")
        elif isinstance(control, bool):
            boxes[name] = widgets.Checkbox(control, description=name, indent=False, layout={"width": "max-content"})
        else:
            kind = widgets.Dropdown if isinstance(control[0], str) else widgets.SelectionSlider
            boxes[name] = kind(options=list(control[1]), value=control[0], description=name)
            boxes[name].style.description_width = "initial"
            boxes[name].continuous_update = False  # of a slider: one figure when it is let go

    def value_of(box: widgets.Widget):
        if not isinstance(box, widgets.FileUpload):
            return box.value
        files = list(box.value.values() if isinstance(box.value, dict) else box.value)  # ipywidgets 7 or 8
        return bytes(files[-1]["content"]) if files else None

    def redraw(_) -> None:
        with place:
            clear_output(wait=True)
            show(*draw(**{name: value_of(box) for name, box in boxes.items()}))

    for box in boxes.values():
        box.observe(redraw, "value")
    display(widgets.VBox([widgets.HBox(list(boxes.values()), layout={"flex_flow": "row wrap"}), place]))


def plot_images(images: Tensor, titles: Sequence[str] | None = None, columns: int = 8, scale: float = 1.15) -> Figure:
    """A grid of pictures (N, 3, H, W), uint8, with a title above each; `scale` is the width of one in inches."""
    rows = -(-len(images) // columns)
    size = columns * scale, rows * (scale + (0.25 if titles is not None else 0))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, images)):
        ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        if titles is not None:
            ax.set_title(titles[i], fontsize=8)
    return figure


def plot_curves(history, quantity: str, ax: Axes | None = None, color=None) -> Axes:
    """`train_…` (dashed) and `val_…` (solid) of a history by epoch; `quantity` is "loss" or "accuracy".

    `history` is what `fit` returns or the table of a recorded run. Accuracies are drawn in percent, losses in nats. Raises
    ValueError for another quantity.
    """
    if quantity not in ("loss", "accuracy"):
        raise ValueError(f"quantity must be 'loss' or 'accuracy', got {quantity!r}")
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


def live_curves(epochs: int, title: str) -> Callable[[object, dict], None]:
    """An `on_epoch` for `fit`: loss and accuracy by epoch, drawn anew after each of the `epochs`, in one place."""
    history: list[dict] = []
    place = DisplayHandle()
    place.display({"text/plain": "the curves follow"}, raw=True)  # claims the place above the progress bars

    def redraw(model: object, row: dict) -> None:
        history.append(dict(row))
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
        for ax, quantity in zip(axes, ("loss", "accuracy")):
            plot_curves(history, quantity, ax=ax, color=RESIDUAL).set_xlim(0.8, epochs + 0.2)
            for line in ax.get_lines():
                line.set_marker("o")  # a line needs two epochs
        figure.suptitle(title)
        measured = ", ".join(f"{key.replace('_', ' ')} {row[key]:.2f}" for key in row if key.startswith(("train_", "val_")))
        show(figure, f"Curves of loss and accuracy up to epoch {len(history)} of {epochs}: {measured}.", place)

    return redraw


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
