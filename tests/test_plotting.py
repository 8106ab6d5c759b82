"""helpers.plotting: what is drawn is what was given."""

import base64
import io
import os
import sys
import textwrap
import warnings
from pathlib import Path

import ipywidgets
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image

from helpers import plotting

ROOT = Path(__file__).resolve().parents[1]


def rows(count):
    """A history of so many epochs."""
    values = {"train_accuracy": 0.1, "val_loss": 1.9, "val_accuracy": 0.2}
    return [{"epoch": n, "train_loss": 2.0 / n, **values} for n in range(1, count + 1)]


@pytest.fixture(autouse=True)
def no_warnings_and_no_open_figures():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


@pytest.mark.parametrize("history", [rows(2), pd.DataFrame(rows(2))], ids=["list", "table"])
def test_a_history_shows_both_splits_in_nats_and_percent(history):
    loss, accuracy = plotting.plot_history(history, marks={2: "grown"}).axes
    training, validation = accuracy.get_lines()[:2]
    assert training.get_ydata() == pytest.approx([10, 10])
    assert validation.get_ydata() == pytest.approx([20, 20])
    assert list(training.get_xdata()) == [1, 2] and training.get_color() == validation.get_color()
    assert "%" in accuracy.get_ylabel() and accuracy.get_xlabel() == "epoch"
    assert loss.get_lines()[0].get_ydata() == pytest.approx([2.0, 1.0])
    assert [text.get_text() for text in loss.texts] == ["grown"]


def test_a_history_without_validation():
    history = [{"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.1}]
    assert [len(ax.get_lines()) for ax in plotting.plot_history(history, {}).axes] == [1, 1]


def test_an_overlay_is_grey_where_the_map_is_zero_and_yellow_where_it_is_highest():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    maps = torch.zeros(2, 8, 8)
    maps[1, 2, 3] = 5.0
    drawn = plotting.overlay(images, maps)
    assert drawn.shape == images.shape and drawn.dtype == torch.uint8
    grey = images.float().mean(dim=1, keepdim=True)
    assert (drawn[0] == grey[0].byte()).all()
    red, green, blue = drawn[1, :, 2, 3].tolist()
    assert red == green and red - blue > 180 and abs(blue - grey[1, 0, 2, 3] / 4) <= 1


@pytest.mark.parametrize("size", [32, 96])
def test_images_are_shown_as_they_are(size):
    images = torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8)
    figure = plotting.plot_images(images, titles=np.array(list("abcde")), columns=3)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(figure.axes) == 6 and [ax.get_title() for ax in shown] == list("abcde")
    for ax, image in zip(shown, images, strict=True):
        assert np.array_equal(ax.images[0].get_array(), image.permute(1, 2, 0).numpy())


def test_few_images_need_no_empty_columns():
    figure = plotting.plot_images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), scale=1.5)
    assert len(figure.axes) == 2 and figure.get_size_inches().tolist() == [3, 1.5]


def test_too_few_titles_are_refused():
    with pytest.raises(ValueError, match="1 titles do not suffice for 2 images"):
        plotting.plot_images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), titles=["one"])


# --- confusion matrices


@pytest.mark.parametrize("kind", [int, float, torch.tensor], ids=["int", "float", "tensor"])
def test_confusion_writes_every_count_and_colours_the_errors(kind):
    counts = np.array([[50, 3], [7, 40]])
    matrix = torch.tensor(counts) if kind is torch.tensor else counts.astype(kind)
    ax = plotting.plot_confusion(matrix, ["cat", "dog"])
    assert [text.get_text() for text in ax.texts] == ["50", "3", "7", "40"]
    assert ax.collections[0].get_array().ravel().tolist() == [0, 3, 7, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat", "dog"]
    assert ax.get_xlabel() == "predicted class" and ax.get_ylabel() == "true class"


@pytest.mark.parametrize("n", [1, 2, 10, 20, 21, 100])
def test_confusion_fits_any_number_of_classes(n):
    """The figure grows; values are written as long as there is room; every class has its name."""
    names = [f"class {i}" for i in range(n)]
    ax = plotting.plot_confusion(np.ones((n, n), dtype=int), names)
    assert len(ax.texts) == (n * n if n <= 20 else 0)
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    width, height = ax.figure.get_size_inches()
    assert height < width < 1.4 * height  # square cells, with room for the colour bar
    points = 72 * height / n  # at most what a row has
    assert ax.get_yticklabels()[0].get_fontsize() < points
    if n < 100:
        larger = np.ones((n + 10, n + 10), dtype=int)
        figure = plotting.plot_confusion(larger, range(n + 10)).figure
        assert figure.get_size_inches()[1] > height


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 3), (9,), (3, 3, 3)])
def test_confusion_refuses_another_shape(shape):
    with pytest.raises(ValueError) as caught:
        plotting.plot_confusion(np.ones(shape), ["a", "b", "c"])
    assert str(shape) in str(caught.value) and "3 classes" in str(caught.value)


@pytest.mark.parametrize("value", [-1, -0.5, 0.5, 1.5, 93.4, np.nan])
def test_confusion_refuses_what_is_no_count(value):
    with pytest.raises(ValueError, match="expected counts"):
        plotting.plot_confusion(np.full((2, 2), value), ["cat", "dog"])


# --- show


class Displayed(list):
    """Takes the place of `display`: keeps content and the PNG's metadata of what was shown."""

    def __call__(self, content, raw=False, metadata=None):
        self.append((content, (metadata or {}).get("image/png", {})))

    def alts(self) -> list[str]:
        return [metadata["alt"] for _, metadata in self if metadata]


@pytest.fixture
def displayed(monkeypatch):
    kept = Displayed()
    monkeypatch.setattr(plotting, "display", kept)
    return kept


def test_show_keeps_alternative_text_colours_and_size_and_closes(displayed):
    plotting.set_style()
    photograph = np.random.RandomState(0).rand(64, 64, 3)  # many colours compete for the 256
    figure, axes = plt.subplots(1, 2, figsize=(6, 3))
    axes[0].imshow(photograph)
    for height, colour in enumerate((plotting.PLAIN, plotting.RESIDUAL)):
        axes[1].axhline(height, color=colour, linewidth=3)
    plotting.show(figure, alt="Two lines beside an image.")
    ((content, metadata),) = displayed
    assert metadata["alt"] == "Two lines beside an image."
    assert content["text/plain"] == repr(figure) and not plt.fignum_exists(figure.number)
    image = Image.open(io.BytesIO(content["image/png"]))
    assert image.mode == "P" and image.width > 6 * 150 * 0.9  # 150 dpi, cut to what is drawn
    assert metadata["width"] == round(image.width * 90 / 150)  # as large as 90 dpi would be
    assert metadata["height"] == round(image.height * 90 / 150)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in (plotting.PLAIN, plotting.RESIDUAL):
        nearest = np.abs(pixels - 255 * np.array(colour)).max(axis=2)
        assert (nearest < 12).sum() > 200  # the lines are there in their own colours


# --- explore


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv("COURSE_UNATTENDED", raising=False)


def draw(**values):
    """A figure that says in its alternative text what it was drawn with."""
    return plt.subplots()[0], f"drawn with {values}"


CONTROLS = {"depth": (20, range(8, 33, 4)), "size": (0.3, [0.1, 0.3, 1.0])}
DEFAULTS = {"depth": 20, "size": 0.3}


def boxes_of(displayed) -> dict:
    """The controls, by name; the figure's place is below them."""
    (panel,) = [shown for shown, _ in displayed if isinstance(shown, ipywidgets.interactive)]
    *boxes, place = panel.children
    assert isinstance(place, ipywidgets.Output)
    return {box.description: box for box in boxes}


@pytest.mark.parametrize("why", ["unattended", "no ipywidgets"])
def test_exploring_falls_back_to_one_figure(why, displayed, live, monkeypatch):
    if why == "unattended":
        monkeypatch.setenv("COURSE_UNATTENDED", "1")
    else:
        monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if it were not installed
    plotting.explore(draw, **CONTROLS)
    assert displayed.alts() == [f"drawn with {DEFAULTS}"]
    assert len(displayed) == 1 and not plt.get_fignums()


def test_exploring_redraws_with_what_was_chosen(displayed, live):
    plotting.explore(draw, **CONTROLS)
    boxes = boxes_of(displayed)
    kinds = [type(box).__name__ for box in boxes.values()]
    assert kinds == 2 * ["SelectionSlider"]
    boxes["depth"].value = 32
    boxes["size"].value = 1.0
    boxes["depth"].value = 32  # no change, no new figure
    steps = [DEFAULTS, {**DEFAULTS, "depth": 32}, {"depth": 32, "size": 1.0}]
    assert displayed.alts() == [f"drawn with {step}" for step in steps] and not plt.get_fignums()


def execute(*sources: str) -> nbformat.NotebookNode:
    """A notebook of these cells, run as for a live reader, in the repository."""
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(source)) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    env = {name: value for name, value in os.environ.items() if name != "COURSE_UNATTENDED"}
    resources = {"metadata": {"path": str(ROOT)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jupyter's own
        NotebookClient(notebook, timeout=120, resources=resources).execute(env=env)
    return notebook


@pytest.mark.long
def test_a_real_kernel_shows_each_figure_in_one_place():
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
        f"""
        on_epoch = plotting.live_curves(2, "two epochs")
        for row in {rows(2)!r}:
            print("epoch", row["epoch"])
            on_epoch(None, row)
        """,
    )
    (panel,) = notebook.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in panel.data
    assert notebook.cells[1].outputs == []
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    (place,) = [each for each in widgets.values() if each["model_name"] == "OutputModel"]
    (figure,) = place["state"]["outputs"]  # those before it are gone
    assert figure["metadata"]["image/png"]["alt"].endswith("20 layers.")

    curves, *printed = notebook.cells[2].outputs  # one figure, above what was printed meanwhile
    alt = curves.metadata["image/png"]["alt"]
    assert alt.startswith("Curves of loss and accuracy up to epoch 2 of 2")
    assert "".join(output.text for output in printed) == "epoch 1\nepoch 2\n"


@pytest.mark.parametrize("template", ["lab", "classic"])
def test_html_pages_show_figures_in_their_own_size(displayed, template):
    plotting.show(plt.subplots(figsize=(4, 2))[0], "An empty figure, four inches wide.")
    ((content, metadata),) = displayed
    data = {"image/png": base64.b64encode(content["image/png"]).decode()}
    output = nbformat.v4.new_output("display_data", data, metadata={"image/png": metadata})
    cell = nbformat.v4.new_code_cell(outputs=[output])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbconvert's own
        notebook = nbformat.v4.new_notebook(cells=[cell])
        html, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
    assert f'width="{metadata["width"]}"' in html and f'height="{metadata["height"]}"' in html
    if template == "classic":  # that of JupyterLab drops alternative texts
        assert 'alt="An empty figure, four inches wide."' in html


# --- live curves


@pytest.fixture
def curves(monkeypatch):
    """What `live_curves` passes to `show`, with the figures left open."""
    drawn = []
    monkeypatch.setattr(plotting, "show", lambda figure, alt, place: drawn.append((figure, alt)))
    return drawn


def test_live_curves_stay_in_one_place(displayed, monkeypatch):
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
    for n, alt in enumerate(alts[1:], start=1):
        assert alt.startswith(f"Curves of loss and accuracy up to epoch {n} of 3: ")
    assert "train loss 0.67" in alts[-1] and "val accuracy 0.20" in alts[-1]


def test_live_curves_draw_all_epochs_so_far(curves):
    on_epoch = plotting.live_curves(4, "four epochs")
    for row in rows(4):
        on_epoch(None, row)
        row["train_loss"] = None  # later changes to the row do not matter
    assert len(curves) == 4 and curves[-1][0].get_suptitle() == "four epochs"
    for count, (figure, _) in enumerate(curves, start=1):
        loss, accuracy = figure.axes
        expected = [2.0, 1.0, 2 / 3, 0.5][:count]
        assert loss.get_lines()[0].get_ydata() == pytest.approx(expected)
        assert accuracy.get_lines()[1].get_ydata() == pytest.approx([20] * count)
        assert all(line.get_marker() == "o" for line in loss.get_lines())  # also a single epoch
        assert loss.get_xlim() == accuracy.get_xlim() == pytest.approx((0.8, 4.2))  # fixed
