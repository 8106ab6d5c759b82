"""Draws the diagrams of the lessons: `python images/draw.py` rewrites every PNG beside this file.

One unit is one inch of the figure. Numbers about networks are computed from `helpers.resnet`.
"""

import sys
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Ellipse, FancyBboxPatch, Rectangle
from PIL import Image
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from helpers.inspection import summarize  # noqa: E402
from helpers.plotting import PLAIN, RESIDUAL  # noqa: E402
from helpers.records import read_run  # noqa: E402
from helpers.resnet import BasicBlock, Bottleneck, resnet50  # noqa: E402

INK, GREY = "#222222", "#5f5f5f"
LAYER, NORM, RELU, FINE = "#d9d9d9", "#f2f2f2", "white", "#fafafa"  # weights are the darkest boxes
FONT = 14


def canvas(width: float, height: float) -> Axes:
    """Empty white axes whose units are inches."""
    figure = plt.figure(figsize=(width, height), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return ax


def save(ax: Axes, name: str) -> None:
    """Writes a PNG of 128 colours: few bytes, but enough that the rare vermilion stays as it is."""
    buffer = BytesIO()
    ax.figure.savefig(buffer, dpi=130)
    plt.close(ax.figure)
    image = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(HERE / f"{name}.png", optimize=True)


def text(ax: Axes, x: float, y: float, words: str, color=INK, size: float = FONT,
         **options) -> None:
    ax.text(x, y, words, color=color, fontsize=size, linespacing=1.3,
            **{"ha": "center", "va": "center"} | options)


def box(ax: Axes, x: float, y: float, w: float, h: float, words: str, fill: str = LAYER) -> None:
    """A rounded box centred on (x, y)."""
    pad = 0.06  # what the rounding adds on each side
    corner = (x - w / 2 + pad, y - h / 2 + pad)
    shape = f"round,pad={pad}"
    ax.add_patch(FancyBboxPatch(corner, w - 2 * pad, h - 2 * pad, boxstyle=shape, fc=fill, ec=INK,
                                lw=1.3, zorder=2))
    text(ax, x, y, words, zorder=3)


def arrow(ax: Axes, *points: tuple[float, float], color=INK, lw: float = 1.8,
          head: bool = True) -> None:
    """A line through the points, with a head at the last."""
    if head:
        look = {"arrowstyle": "-|>,head_width=0.28,head_length=0.5", "shrinkA": 0, "shrinkB": 0,
                "joinstyle": "miter"}
        ax.annotate("", points[-1], points[-2], arrowprops=look | {"color": color, "lw": lw},
                    zorder=1)
    line = points[:-1] if head else points
    if len(line) > 1:
        ax.plot(*zip(*line, strict=True), color=color, lw=lw, zorder=1, solid_joinstyle="miter",
                solid_capstyle="butt")


def plus(ax: Axes, x: float, y: float, radius: float = 0.2) -> None:
    """The addition at the end of a shortcut."""
    ax.add_patch(Circle((x, y), radius, fc="white", ec=RESIDUAL, lw=2.4, zorder=3))
    arm = radius * 0.55
    ax.plot([x - arm, x + arm], [y, y], color=RESIDUAL, lw=2.4, zorder=4)
    ax.plot([x, x], [y - arm, y + arm], color=RESIDUAL, lw=2.4, zorder=4)


def residual_block() -> None:
    """x → weight layer → BN → ReLU → weight layer → BN → (+) → ReLU, with the shortcut over it."""
    ax = canvas(10.4, 3.1)
    y, h, top = 1.45, 0.75, 2.5
    layers = [
        (1.85, 1.2, "weight\nlayer", LAYER), (3.1, 0.7, "BN", NORM), (4.15, 0.85, "ReLU", RELU),
        (5.45, 1.2, "weight\nlayer", LAYER), (6.7, 0.7, "BN", NORM),
    ]  # fmt: skip
    end = 0.55
    for x, w, words, fill in layers:
        arrow(ax, (end, y), (x - w / 2, y))
        box(ax, x, y, w, h, words, fill)
        end = x + w / 2
    arrow(ax, (end, y), (7.6, y))
    plus(ax, 7.8, y)
    arrow(ax, (8.0, y), (8.6, y))
    box(ax, 9.05, y, 0.9, h, "ReLU", RELU)
    arrow(ax, (9.5, y), (10.0, y))
    text(ax, 0.35, y, "$\\mathbf{x}$", size=19)
    text(ax, 10.19, y, "$\\mathbf{y}$", size=19)
    arrow(ax, (0.85, y), (0.85, top), (7.8, top), (7.8, y + 0.2), color=RESIDUAL, lw=3)
    text(ax, 4.3, top + 0.25, "shortcut: $\\mathbf{x}$ as it is (identity)", color=RESIDUAL,
         size=16)
    arrow(ax, (1.25, 0.9), (1.25, 0.75), (7.05, 0.75), (7.05, 0.9), color=GREY, head=False, lw=1.4)
    text(ax, 4.15, 0.42, "the residual $F(\\mathbf{x})$: what is to be added to $\\mathbf{x}$",
         size=16)
    text(ax, 7.95, 0.42, "$F(\\mathbf{x}) + \\mathbf{x}$", color=RESIDUAL, size=17)
    arrow(ax, (7.8, 0.62), (7.8, y - 0.2), color=RESIDUAL, lw=1.2, head=False)
    save(ax, "residual_block")


def plain_vs_residual() -> None:
    """The same layers twice: plain, and with a shortcut around every two convolutions."""
    ax = canvas(9.0, 8.2)
    rows = [6.55, 5.8, 4.5, 3.5, 2.75, 1.45]  # one y for each box
    names = ["3×3 conv, BN, ReLU", "3×3 conv, BN", "ReLU"] * 2
    w, h = 2.5, 0.5
    for x, color, title, formula in (
        (2.2, PLAIN, "plain", "two layers have to learn all of $H(\\mathbf{x})$"),
        (6.2, RESIDUAL, "residual",
         "two layers learn $F(\\mathbf{x}) = H(\\mathbf{x}) - \\mathbf{x}$"),
    ):
        text(ax, x, 7.8, title, color=color, size=19, weight="bold", va="baseline")
        text(ax, x, 7.5, formula, size=14)
        previous = 7.2
        for i, (y, name) in enumerate(zip(rows, names, strict=True)):
            arrow(ax, (x, previous), (x, y + h / 2))
            box(ax, x, y, w, h, name, RELU if name == "ReLU" else LAYER)
            previous = y - h / 2
            if title == "residual" and name == "ReLU":
                start = rows[i - 2] + h / 2 + 0.13
                join = (rows[i - 1] + y) / 2 + 0.08
                arrow(ax, (x, start), (x + 1.75, start), (x + 1.75, join), (x + 0.18, join),
                      color=RESIDUAL, lw=3)
                plus(ax, x, join, radius=0.18)
                text(ax, x + 1.9, (start + join) / 2, "$\\mathbf{x}$", color=RESIDUAL, size=18,
                     ha="left")
        arrow(ax, (x, previous), (x, 0.6))
        text(ax, x, 0.32, "…", size=18)
    save(ax, "plain_vs_residual")


def bottleneck() -> None:
    """A basic block and a bottleneck on 256 channels, with their costs; a bar's width: channels."""
    ax = canvas(10.6, 6.3)
    pixels = 56
    basic, narrow = BasicBlock(256, 256), Bottleneck(256, 64)
    for x, block, title in ((2.7, basic, "basic block"), (7.9, narrow, "bottleneck")):
        convs = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
        channels = [convs[0].in_channels] + [conv.out_channels for conv in convs]
        ys = [4.95 - i * (2.7 / len(convs)) for i in range(len(convs) + 1)]  # the bars of channels
        text(ax, x, 5.95, title, size=18, weight="bold")
        for y, c in zip(ys, channels, strict=True):
            w = 3.2 * c / 256
            ax.add_patch(Rectangle((x - w / 2, y - 0.14), w, 0.28, fc=LAYER, ec=INK, lw=1.3,
                                   zorder=2))
            text(ax, x, y, f"{c}" if w < 1 else f"{c} channels", size=13, zorder=3)
        for above, below, conv in zip(ys, ys[1:], convs, strict=False):
            arrow(ax, (x, above - 0.14), (x, below + 0.14))
            k = conv.kernel_size[0]
            text(ax, x + 0.15, (above + below) / 2, f"{k}×{k}: {conv.weight.numel():,} weights",
                 size=13, ha="left")
        bottom = ys[-1] - 0.14
        arrow(ax, (x, ys[0] + 0.62), (x, ys[0] + 0.14))
        arrow(ax, (x, bottom), (x, bottom - 0.25))
        plus(ax, x, bottom - 0.45)
        side, top, end = x - 2.0, ys[0] + 0.42, bottom - 0.45
        arrow(ax, (x, top), (side, top), (side, end), (x - 0.2, end), color=RESIDUAL, lw=3)
        weights = sum(conv.weight.numel() for conv in convs)
        cost = summarize(nn.Sequential(block), (256, pixels, pixels))["multiply_adds"].sum()
        text(ax, x, 0.98, f"{weights:,} weights", size=16, weight="bold")
        text(ax, x, 0.58, f"{cost / 1e6:,.0f} M multiply-adds at {pixels}×{pixels}", size=14)
    half = sum(p.numel() for p in BasicBlock(64, 64).parameters() if p.ndim == 4)
    note = f"(a basic block on 64 channels has {half:,} weights: about as many as the bottleneck)"
    text(ax, 5.3, 0.17, note, color=GREY, size=13)
    save(ax, "bottleneck")


def architecture() -> None:
    """ResNet-50 from left to right, with the size of every output for both stems.

    A bar is wider for more channels and higher for more pixels, both by their square root.
    """
    ax = canvas(13.2, 5.6)
    nets = [
        (summarize(resnet50(1000, stem="imagenet"), (3, 224, 224)), "ImageNet\n224×224"),
        (summarize(resnet50(10, stem="cifar"), (3, 32, 32)), "CIFAR\n32×32"),
    ]
    model, middle, top = resnet50(), 3.1, 4.75
    sizes = nets[0][0].output  # the bars are those of the ImageNet network
    centres = {
        "conv1": 1.9, "maxpool": 2.85, "layer1": 4.15, "layer2": 6.05, "layer3": 8.3,
        "layer4": 10.6, "avgpool": 11.85, "fc": 12.7,
    }  # fmt: skip
    titles = {"conv1": "conv", "maxpool": "max-\npool", "avgpool": "mean\npool", "fc": "linear"}
    text(ax, 0.55, top, "image", size=13, weight="bold")
    ax.add_patch(Rectangle((0.54, middle - 1.2), 0.02, 2.4, fc=INK, ec=INK))
    text(ax, 0.66, middle - 0.95, "3×H×W", size=12, ha="left", color=GREY)
    end = 0.56
    for part, x in centres.items():
        channels, pixels = sizes[part][0], sizes[part][1] if part != "fc" else 1
        width, height, gap = 0.0092 * channels**0.5, 0.16 * pixels**0.5, 0.1
        stage = getattr(model, part) if part.startswith("layer") else [None]
        left = x - (len(stage) * width + (len(stage) - 1) * gap) / 2
        arrow(ax, (end, middle), (left, middle))
        for block in stage:
            fill = NORM if "pool" in part else LAYER
            ax.add_patch(Rectangle((left, middle - height / 2), width, height, fc=fill, ec=INK,
                                   lw=1.3, zorder=2))
            if block is not None:
                shortcut(ax, left, left + width, middle + height / 2 + 0.06, block)
            end = left + width
            left = end + gap
        if part in titles:
            text(ax, x, top, titles[part], size=13, weight="bold")
        else:
            convs = (block.conv1, block.conv2, block.conv3)
            text(ax, x, top + 0.42, f"{part}\n{len(stage)} × bottleneck", size=14, weight="bold")
            text(ax, x, top - 0.12, "-".join(str(c.out_channels) for c in convs), size=13)
    shortcut(ax, 2.9, 3.04, 2.02, None)
    text(ax, 3.18, 2.1, "shortcut: x as it is", color=RESIDUAL, size=13, ha="left")
    shortcut(ax, 6.0, 6.14, 2.02, model.layer1[0])
    text(ax, 6.3, 2.1, "shortcut with a projection", color=RESIDUAL, size=13, ha="left")
    text(ax, 10.5, 2.1, "wide: many channels\nhigh: many pixels", color=GREY, size=13, ha="left")
    for y, (table, name) in zip((1.35, 0.5), nets, strict=True):
        ax.add_patch(Rectangle((0.08, y - 0.39), 13.04, 0.76, fc=FINE, ec="#cccccc", lw=1))
        text(ax, 0.2, y, name, size=13, weight="bold", ha="left")
        for part, x in centres.items():
            if part == "maxpool" and "CIFAR" in name:
                text(ax, x, y, "none", color=GREY, size=13)
                continue
            size = table.output[part]
            words = f"{size[0]}" if part == "fc" else f"{size[0]} ×\n{size[1]}×{size[2]}"
            text(ax, x, y, words, size=13)
    save(ax, "resnet50")


def shortcut(ax: Axes, left: float, right: float, y: float, block: Bottleneck | None) -> None:
    """The arc over a block; a filled square on it stands for a projection."""
    ax.plot([left, left, right, right], [y, y + 0.14, y + 0.14, y], color=RESIDUAL, lw=2.4)
    if block is not None and block.downsample is not None:
        ax.plot((left + right) / 2, y + 0.14, "s", color=RESIDUAL, ms=8)


def stems() -> None:
    """What the two stems do to the resolution, each row drawn to its own scale."""
    ax = canvas(11.8, 7.0)
    rows = [
        (5.8, "imagenet", 224, 1000, "ImageNet stem at 224×224, for which it was designed"),
        (3.45, "cifar", 32, 10, "CIFAR stem at 32×32"),
        (1.1, "imagenet", 32, 10,
         "ImageNet stem at 32×32: a quarter of each side is left before the first block"),
    ]
    for y, stem, size, num_classes, title in rows:
        model = resnet50(num_classes, stem)
        table = summarize(model, (3, size, size))
        kernel, stride = model.conv1.kernel_size[0], model.conv1.stride[0]
        steps = [("conv1", f"{kernel}×{kernel} conv\nstride {stride}")]
        if isinstance(model.maxpool, nn.MaxPool2d):
            steps.append(("maxpool", f"3×3 max-pool\nstride {model.maxpool.stride}"))
        text(ax, 0.15, y + 0.88, title, size=16, weight="bold", ha="left")
        x, previous = 0.95, size
        square(ax, x, y - 0.1, 1.4, previous)
        for part, words in steps:
            now = table.output[part][1]
            edge = x + 0.7 * previous / size
            target = x + 2.75
            arrow(ax, (edge + 0.08, y - 0.1), (target - 0.7 * now / size - 0.08, y - 0.1))
            text(ax, (edge + target - 0.7 * now / size) / 2, y + 0.27, words, size=13)
            x, previous = target, now
            square(ax, x, y - 0.1, 1.4 * now / size, now)
        sizes = [table.output[f"layer{number}"][1] for number in (1, 2, 3, 4)]
        text(ax, 8.1, y + 0.25, "output of the four stages", size=14, ha="left")
        text(ax, 8.1, y - 0.2, "  ".join(f"{s}×{s}" for s in sizes), size=15, ha="left",
             weight="bold")
        text(ax, 8.1, y - 0.62, f"{table.multiply_adds.sum() / 1e6:,.0f} M multiply-adds", size=14,
             ha="left")
    save(ax, "stems")


def square(ax: Axes, x: float, y: float, side: float, pixels: int) -> None:
    """A feature map of pixels × pixels; the number is inside, or below if it does not fit."""
    ax.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, fc=FINE, ec=INK, lw=2))
    inside = side > 0.9
    text(ax, x, y if inside else y - side / 2 - 0.22, f"{pixels}×{pixels}", size=14)


def nested_functions() -> None:
    """What networks of two depths can compute, and what plain training finds: a sketch."""
    ax = canvas(10.4, 4.3)
    panels = [
        (0.3, INK, "what exists", "the best function of each depth", [(2.33, 1.58), (3.22, 2.36)]),
        (5.5, PLAIN, "what plain training finds", "the function training ends with",
         [(2.2, 1.5), (0.62, 2.0)]),
    ]
    for left, color, title, note, points in panels:
        text(ax, left + 2.2, 4.05, title, size=17, weight="bold", color=color)
        text(ax, left + 2.2, 3.68, note, size=13)
        target = (left + 4.0, 3.0)
        ax.add_patch(Ellipse((left + 1.85, 1.58), 3.7, 2.76, fc="#f2f2f2", ec=INK, lw=1.3))
        text(ax, left + 1.85, 2.65, "44 layers", size=13)
        ax.add_patch(Ellipse((left + 1.6, 1.2), 2.0, 1.3, fc="#dcdcdc", ec=INK, lw=1.3))
        text(ax, left + 1.55, 1.0, "20 layers", size=13)
        for x, y in points:
            arrow(ax, (left + x, y), target, color=GREY, lw=1.2, head=False)
            ax.add_patch(Circle((left + x, y), 0.1, fc=color, ec=INK, lw=1, zorder=3))
        ax.plot(*target, "*", color=INK, markersize=19, zorder=3)
        text(ax, target[0] + 0.2, target[1], "target", size=14, ha="left")
    save(ax, "nested_functions")


def degradation() -> None:
    """README's figure: a residual block, and the training error of four recorded networks."""
    ax = canvas(11.4, 4.5)
    x, w, h = 1.75, 2.1, 0.52
    text(ax, x + 0.35, 4.25, "a residual block", size=16, weight="bold")
    arrow(ax, (x, 3.95), (x, 3.13))
    box(ax, x, 2.87, w, h, "3×3 conv, BN, ReLU")
    arrow(ax, (x, 2.61), (x, 2.25))
    box(ax, x, 1.99, w, h, "3×3 conv, BN")
    arrow(ax, (x, 1.73), (x, 1.33))
    plus(ax, x, 1.13)
    arrow(ax, (x, 0.93), (x, 0.25))
    arrow(ax, (x, 3.5), (x + 1.45, 3.5), (x + 1.45, 1.13), (x + 0.2, 1.13), color=RESIDUAL, lw=3)
    text(ax, x + 1.57, 2.43, "shortcut", color=RESIDUAL, size=15, ha="left")
    text(ax, x - 0.25, 3.72, "$\\mathbf{x}$", size=18)
    text(ax, x - 0.85, 1.5, "$F(\\mathbf{x})$", size=16)
    text(ax, x + 0.85, 0.6, "$F(\\mathbf{x}) + \\mathbf{x}$", color=RESIDUAL, size=16)

    left, bottom, width, height = 5.05, 0.72, 4.15, 3.3
    panel = ax.figure.add_axes((left / 11.4, bottom / 4.5, width / 11.4, height / 4.5))
    text(ax, left + width / 2, 4.25, "training error on CIFAR-10", size=16, weight="bold")
    curves = [
        ("plain44", "plain, 44 layers", PLAIN, "-", 0),
        ("plain20", "plain, 20 layers", PLAIN, "--", 3.4),
        ("resnet20", "residual, 20 layers", RESIDUAL, "--", 0.9),
        ("resnet44", "residual, 44 layers", RESIDUAL, "-", -2.9),
    ]  # the last number moves a label up, so that labels do not overlap
    for network, words, color, style, shift in curves:
        history = read_run(f"cifar10-{network}")["history"]
        error = 100 * (1 - history.train_accuracy)
        panel.plot(history.epoch, error, style, color=color, lw=2.6)
        place = (history.epoch.iloc[-1] + 0.3, error.iloc[-1] + shift)
        panel.annotate(words, place, color=color, fontsize=13, va="center", annotation_clip=False)
    panel.set(xlim=(1, 15), ylim=(0, 80))
    panel.set_xlabel("epoch", fontsize=13)
    panel.set_ylabel("training error (%)", fontsize=13)
    panel.tick_params(labelsize=12)
    panel.grid(color="#dddddd")
    panel.spines[["top", "right"]].set_visible(False)
    save(ax, "degradation")


if __name__ == "__main__":
    drawings = (
        residual_block, plain_vs_residual, nested_functions, bottleneck, architecture, stems,
        degradation,
    )
    for draw in drawings:
        draw()
    print(*(f"{path.name}: {path.stat().st_size / 1000:.0f} kB"
            for path in sorted(HERE.glob("*.png"))), sep="\n")
