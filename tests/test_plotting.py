"""helpers.plotting: what is drawn is what was given."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import plotting

HISTORY = [
    {"epoch": 1, "train_loss": 2.0, "val_loss": 1.8, "train_accuracy": 0.3, "val_accuracy": 0.35},
    {"epoch": 2, "train_loss": 1.5, "val_loss": 1.6, "train_accuracy": 0.5, "val_accuracy": 0.45},
]


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.mark.parametrize("history", [HISTORY, pd.DataFrame(HISTORY)], ids=["list", "table"])
def test_curves_show_both_parts_in_percent(history):
    ax = plotting.plot_curves(history, "accuracy")
    training, validation = ax.get_lines()
    assert training.get_ydata() == pytest.approx([30, 50]) and validation.get_ydata() == pytest.approx([35, 45])
    assert list(training.get_xdata()) == [1, 2] and training.get_color() == validation.get_color()
    assert "%" in ax.get_ylabel() and ax.get_xlabel() == "epoch"
    loss = plotting.plot_curves(history, "loss", ax=plt.subplots()[1]).get_lines()[0]
    assert loss.get_ydata() == pytest.approx([2.0, 1.5])


def test_curves_without_validation():
    rows = [{"epoch": 1, "train_loss": 2.0}]
    assert len(plotting.plot_curves(rows, "loss").get_lines()) == 1


def test_images_are_shown_as_they_are():
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    figure = plotting.plot_images(images, titles=list("abcde"), columns=3)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(figure.axes) == 6 and [ax.get_title() for ax in shown] == list("abcde")
    for ax, image in zip(shown, images, strict=True):
        assert np.array_equal(ax.images[0].get_array(), image.permute(1, 2, 0).numpy())


def test_confusion_writes_every_count_and_colours_the_errors():
    matrix = np.array([[50, 3], [7, 40]])
    ax = plotting.plot_confusion(matrix, ["cat", "dog"])
    assert [text.get_text() for text in ax.texts] == ["50", "3", "7", "40"]
    assert ax.collections[0].get_array().ravel().tolist() == [0, 3, 7, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat", "dog"] and ax.get_ylabel() == "true class"


def test_show_keeps_the_alternative_text_and_the_colours_and_closes(monkeypatch):
    displayed = []
    monkeypatch.setattr(plotting, "display", lambda content, raw, metadata: displayed.append((content, raw, metadata)))
    photograph = np.random.RandomState(0).rand(64, 64, 3)  # many colours compete for the 256 of the palette
    figure, axes = plt.subplots(1, 2, figsize=(6, 3))
    axes[0].imshow(photograph)
    for height, colour in enumerate((plotting.PLAIN, plotting.RESIDUAL)):
        axes[1].axhline(height, color=colour, linewidth=3)
    plotting.show(figure, alt="Two lines beside a picture.")
    ((content, raw, metadata),) = displayed
    assert raw and metadata == {"image/png": {"alt": "Two lines beside a picture."}}
    assert content["text/plain"] == repr(figure) and not plt.fignum_exists(figure.number)
    image = Image.open(io.BytesIO(content["image/png"]))
    assert image.mode == "P" and image.width > 300
    pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in (plotting.PLAIN, plotting.RESIDUAL):
        nearest = np.abs(pixels - 255 * np.array(colour)).max(axis=2)
        assert (nearest < 12).sum() > 200  # the lines are there in their own colours
