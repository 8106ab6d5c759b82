"""helpers.plotting: what is drawn is what was given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

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


def test_show_keeps_the_alternative_text_and_closes(monkeypatch):
    displayed = []
    monkeypatch.setattr(plotting, "display", lambda figure, metadata: displayed.append(metadata))
    figure, _ = plt.subplots()
    plotting.show(figure, alt="A line that rises.")
    assert displayed == [{"image/png": {"alt": "A line that rises."}}] and not plt.fignum_exists(figure.number)
