"""What `make run`, `make refresh` and `make tables` do beside executing the lessons."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest

from tools import run_lessons
from tools.run_lessons import results_table, tidy, with_tables


@pytest.fixture
def notebook(tmp_path) -> Path:
    """A notebook of two cells that takes no time."""
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "print(x + 1)")]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_path_of_the_shell_is_not_relative_to_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in ("mine", "~/mine"):
        monkeypatch.setenv("CIFAR10_ROOT", value)
        run_lessons.prepare_environment()
        assert os.environ["CIFAR10_ROOT"] == str(Path(value).expanduser().resolve())
    monkeypatch.setenv("CIFAR10_ROOT", "")
    run_lessons.prepare_environment()
    assert os.environ["CIFAR10_ROOT"] == ""


def test_a_notebook_is_refreshed_in_place(notebook, monkeypatch, capsys):
    monkeypatch.setattr(run_lessons, "WITH_TABLES", [])
    monkeypatch.setattr(sys, "argv", ["run_lessons.py", "refresh", str(notebook)])
    run_lessons.main()
    stored = nbformat.read(notebook, as_version=4)
    assert [cell.execution_count for cell in stored.cells] == [1, 2]
    assert stored.cells[1].outputs[0].text == "2\n"
    assert "notebook: " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "refresh", "tables"])
def test_a_checkout_that_is_only_read_is_one_line(notebook, monkeypatch, command):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "somewhere")

    for method in ("mkdir", "open", "write_text"):
        monkeypatch.setattr(Path, method, refuse)
    monkeypatch.setattr(sys, "argv", ["run_lessons.py", command, str(notebook)])
    with pytest.raises(SystemExit, match="error: .*Permission denied"):
        run_lessons.main()


def test_stored_outputs_hold_no_progress_bars_and_no_warnings():
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="50%|####     |")]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    tidy(notebook)
    assert cell.outputs == [] and "widgets" not in notebook.metadata
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="UserWarning: no")]
    with pytest.raises(SystemExit, match="UserWarning"):
        tidy(notebook)


# --- tables


def write_record(folder, **changes) -> None:
    metrics = {"dataset": "shapes", "model": "resnet20", "parameters": 269722, "split": "train"}
    metrics |= {"epochs": 12, "train_seconds": 90, "precision": "float32", "test_accuracy": 0.9}
    environment = {"processor": "Abacus", "gpu": None, "threads": 2, "date": "2026-11-21T00:00"}
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics | changes))
    (folder / "environment.json").write_text(json.dumps(environment))


def test_the_results_table_takes_seeds_together(tmp_path):
    write_record(tmp_path / "a-seed0", test_accuracy=0.90)
    write_record(tmp_path / "a-seed1", test_accuracy=0.92, train_seconds=30)
    write_record(tmp_path / "c", dataset="folder", precision=None)  # of an own data set
    write_record(tmp_path / "d", test_accuracy=None)  # written with --no-test
    write_record(tmp_path / "ablation-x")  # lesson 07 shows it
    _, _, *rows = results_table(tmp_path).splitlines()
    both, own = rows
    assert "| resnet20 | training split | 12 | 91.00 ± 1.41 % (2 seeds) | 1.0 |" in both
    assert "Abacus; 2 thread(s), float32 | 2026-11-21 | `a-seed…` |" in both
    assert own.startswith("| folder | resnet20 |") and "90.00 % (1 seed)" in own and ", – |" in own
    assert own.endswith(" | `c` |")


def test_tables_are_drawn_between_their_markers():
    text = "a\n<!-- results: begin (by `make tables`) -->\nold\n<!-- results: end -->\nb\n"
    drawn = with_tables(text)
    assert drawn.startswith("a\n") and drawn.endswith("\n<!-- results: end -->\nb\n")
    assert "| CIFAR-10 | resnet20 |" in drawn and "old" not in drawn
    assert with_tables(drawn) == drawn and with_tables("no markers") == "no markers"
