"""helpers.plotting: what is drawn is what was given."""

import io
import os
import sys
import textwrap
from datetime import UTC, datetime

import ipywidgets
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import traitlets
from lessons import ROOT
from nbclient import NotebookClient
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


def test_what_is_no_quantity_is_named(history=HISTORY):
    with pytest.raises(ValueError, match="quantity must be 'loss' or 'accuracy', got 'acc'"):
        plotting.plot_curves(history, "acc")


def test_images_are_shown_as_they_are():
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    figure = plotting.plot_images(images, titles=np.array(list("abcde")), columns=3)
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
    width, height = ax.figure.get_size_inches()
    assert height < width < 1.3 * height  # square cells, with room for the colour bar


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


class Displayed(list):
    """Takes the place of `display`: keeps what was shown, with `metadata` and, of an update, what it replaces."""

    def __call__(self, content, raw=False, metadata=None):
        self.append((content, (metadata or {}).get("image/png", {}).get("alt")))

    def alts(self) -> list[str]:
        return [alt for _, alt in self if alt]


@pytest.fixture
def displayed(monkeypatch):
    kept = Displayed()
    monkeypatch.setattr(plotting, "display", kept)
    return kept


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv("COURSE_UNATTENDED", raising=False)


def draw(**values):
    """A figure that says in its alternative text what it was drawn with."""
    return plt.subplots()[0], f"drawn with {values}"


CONTROLS = {"depth": (20, range(8, 33, 4)), "network": ("plain", ["plain", "residual"]), "layer1.0": True, "file": None}
AT_DEFAULT = "drawn with {'depth': 20, 'network': 'plain', 'layer1.0': True, 'file': None}"


def boxes_of(displayed) -> dict:
    """The controls below the first figure, by name."""
    _, (panel, _) = displayed
    return {box.description: box for box in panel.children[0].children}


@pytest.mark.parametrize("why", ["unattended", "no ipywidgets"])
def test_exploring_falls_back_to_one_figure(why, displayed, live, monkeypatch):
    if why == "unattended":
        monkeypatch.setenv("COURSE_UNATTENDED", "1")
    else:
        monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if it were not installed
    plotting.explore(draw, **CONTROLS)
    assert displayed.alts() == [AT_DEFAULT] and len(displayed) == 1 and not plt.get_fignums()


def test_exploring_redraws_with_what_was_chosen(displayed, live, monkeypatch):
    cleared = []
    monkeypatch.setattr(plotting, "clear_output", lambda wait: cleared.append(wait))
    plotting.explore(draw, **CONTROLS)
    boxes = boxes_of(displayed)
    kinds = [type(box).__name__ for box in boxes.values()]
    assert kinds == ["SelectionSlider", "Dropdown", "Checkbox", "FileUpload"] and displayed.alts() == [AT_DEFAULT]
    boxes["depth"].value = 32
    boxes["network"].value = "residual"
    boxes["layer1.0"].value = False
    boxes["depth"].value = 32  # no change, no new figure
    values = {"depth": 32, "network": "plain", "layer1.0": True, "file": None}
    steps = [values, {**values, "network": "residual"}, {**values, "network": "residual", "layer1.0": False}]
    assert displayed.alts()[1:] == [f"drawn with {step}" for step in steps] and not plt.get_fignums()
    assert cleared == [True] * 3  # the figure before it goes, when the new one is there: no flicker


class FileUpload7(ipywidgets.Button):
    """What ipywidgets 7 (Colab) has under this name keeps the files in a dict by name."""

    value, accept = traitlets.Dict(), traitlets.Unicode()


def test_exploring_hands_over_what_was_uploaded(displayed, live, monkeypatch):
    plotting.explore(draw, file=None)
    (box,) = boxes_of(displayed).values()
    facts = {"name": "cat.png", "type": "image/png", "size": 4, "last_modified": datetime.now(UTC)}
    box.value = ({**facts, "content": memoryview(b"meow")},)
    assert displayed.alts()[1:] == ["drawn with {'file': b'meow'}"]

    displayed.clear()
    monkeypatch.setattr(ipywidgets, "FileUpload", FileUpload7)
    plotting.explore(draw, file=None)
    (box,) = boxes_of(displayed).values()
    box.value = {"cat.png": {"metadata": facts, "content": b"purr"}}
    assert displayed.alts()[1:] == ["drawn with {'file': b'purr'}"]


def execute(*sources: str) -> nbformat.NotebookNode:
    """A notebook of these cells, run as for a live reader, in the repository."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(source)) for source in sources])
    env = {name: value for name, value in os.environ.items() if name != "COURSE_UNATTENDED"}
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute(env=env)
    return notebook


@pytest.mark.long
def test_a_real_kernel_shows_figure_controls_and_new_figure_and_curves_in_one_place():
    curves = f"""
        on_epoch = plotting.live_curves(2, "two epochs")
        for row in {rows(2)!r}:
            print("epoch", row["epoch"])
            on_epoch(None, row)
    """
    notebook = execute(
        """
        import gc
        import ipywidgets
        import matplotlib.pyplot as plt
        from helpers import plotting

        def draw(depth):
            return plt.subplots()[0], f"A figure drawn for a depth of {depth} layers."

        plotting.explore(draw, depth=(8, [8, 14, 20]))
        """,
        """
        box, = [each for each in gc.get_objects() if type(each) is ipywidgets.SelectionSlider]
        box.value = 14
        box.value = 20
        """,
        curves,
    )
    figure, panel = notebook.cells[0].outputs
    assert figure.metadata["image/png"]["alt"].endswith("8 layers.")
    assert "application/vnd.jupyter.widget-view+json" in panel.data and notebook.cells[1].outputs == []
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    (place,) = [each["state"] for each in states if each["model_name"] == "OutputModel"]
    (redrawn,) = place["outputs"]  # the one before it is gone
    assert redrawn["metadata"]["image/png"]["alt"].endswith("20 layers.")

    curves, *printed = notebook.cells[2].outputs  # one figure, above what was printed meanwhile
    assert curves.metadata["image/png"]["alt"].startswith("Curves of loss and accuracy up to epoch 2 of 2")
    assert "".join(output.text for output in printed) == "epoch 1\nepoch 2\n"


def rows(count):
    values = {"train_loss": 2.0, "train_accuracy": 0.1, "val_loss": 1.9, "val_accuracy": 0.2}
    return [{"epoch": n, **values, "train_loss": 2.0 / n} for n in range(1, count + 1)]


def test_live_curves_in_one_place(displayed, monkeypatch):
    shown = []

    def note(self, content, metadata=None, **_):
        shown.append((id(self), metadata and metadata["image/png"]["alt"]))

    monkeypatch.setattr(plotting.DisplayHandle, "display", note)
    monkeypatch.setattr(plotting.DisplayHandle, "update", note)
    on_epoch = plotting.live_curves(3, "three epochs")
    for row in rows(3):
        on_epoch(None, row)
    places, alts = zip(*shown)
    assert len(set(places)) == 1 and alts[0] is None and not displayed and not plt.get_fignums()
    assert [alt.split(":")[0] for alt in alts[1:]] == [f"Curves of loss and accuracy up to epoch {n} of 3" for n in (1, 2, 3)]
    assert "train loss 0.67" in alts[-1] and "val accuracy 0.20" in alts[-1]


def test_live_curves_draw_all_epochs_so_far(monkeypatch):
    drawn = []
    monkeypatch.setattr(plotting, "show", lambda figure, alt, place: drawn.append(figure))
    on_epoch = plotting.live_curves(4, "four epochs")
    for row in rows(4):
        on_epoch(None, row)
        row["train_loss"] = None  # later changes to the row are none of its business
    assert len(drawn) == 4 and drawn[-1].get_suptitle() == "four epochs"
    for count, figure in enumerate(drawn, start=1):
        loss, accuracy = figure.axes
        assert loss.get_lines()[0].get_ydata() == pytest.approx([2.0, 1.0, 2 / 3, 0.5][:count])
        assert accuracy.get_lines()[1].get_ydata() == pytest.approx([20] * count)
        assert all(line.get_marker() == "o" for line in loss.get_lines())  # one epoch is seen, too
        assert loss.get_xlim() == accuracy.get_xlim() == pytest.approx((0.8, 4.2))  # the frame stays
