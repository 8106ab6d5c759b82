"""What nbgrader needs to mark the exercises: its configuration calls `configure`.

A submission is renamed, gets lost checks back, and is read for attempts to pass without an answer.
It runs in an empty folder with copies of `helpers` and `results`; the checks are read again for
every check.
"""

import copy
import functools
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat import NotebookNode
from nbgrader import preprocessors as steps
from nbgrader.plugins.zipcollect import FileNameCollectorPlugin
from nbgrader.preprocessors.base import NbGraderPreprocessor
from nbgrader.utils import is_grade
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = ROOT / "notebooks" / "exercises"
SECONDS = 120  # that a cell may take; nbgrader's own limit is 30
FRESH = "checks = __import__('fresh').checks()\n"
ANSWER = "YOUR ANSWER HERE"

# what makes a cell worth a look: a reason, and what to search for
REASONS = {
    "touches the checks": r"helpers\.checks|import .*\bchecks\b|\bchecks\.(?!check_)"
    r"|\bchecks(\.\w+)?\s*=[^=]|setattr|CheckFailed",
    "reads notebooks or solutions": r"BEGIN SOLUTION|\bsolutions\b|nbformat|\.ipynb|gradebook",
    "reaches into Python or Jupyter": r"sys\.(modules|path|meta_path)|importlib|__code__|__file__"
    r"|__builtins__|\bbuiltins\b|get_ipython|sys\._getframe|\binspect\.\w+\(",
    "replaces a function of a library": r"^\s*(torch|F|nn|resnet|np)(\.\w+)+\s*=[^=]",
    "runs other programs": r"subprocess|os\.system|^\s*[!%]",
    "compares as equal with anything": r"def __eq__",
}


@functools.cache
def released() -> dict[str, NotebookNode]:
    """The students' copies, by name."""
    paths = sorted(STUDENTS.glob("*.ipynb"))
    return {path.stem: nbformat.read(path, as_version=4) for path in paths}


def grade_id(cell: NotebookNode) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def places(notebook: NotebookNode) -> dict[str, int]:
    """Where nbgrader's cells are; of several copies of a cell it takes the last, and so do we."""
    return {grade_id(cell): i for i, cell in enumerate(notebook.cells) if grade_id(cell)}


# --- names


def released_name(path: Path) -> str | None:
    """The exercises that this is a copy of, whatever its name; None: not a copy of exercises."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (ValueError, nbformat.ValidationError):  # not a notebook
        return None
    ids = {grade_id(cell) for cell in cells}
    sources = {cell.source for cell in cells}
    common = {}
    for stem, notebook in released().items():
        graded = [cell for cell in notebook.cells if is_grade(cell)]
        common[stem] = sum(grade_id(cell) in ids or cell.source in sources for cell in graded)
    best = max(common, key=common.get)
    return best if common[best] else None


def rename(notebooks: list[str], **_) -> None:
    """Names submitted files as they were released; nbgrader goes on with the list it gave us."""
    for i, path in enumerate(map(Path, notebooks)):
        stem = released_name(path)
        target = path.with_name(f"{stem}.ipynb")
        if stem and not target.exists():
            path.rename(target)
            notebooks[i] = str(target)


class Collector(FileNameCollectorPlugin):
    """Sorts what Moodle and Canvas name `student_number_…`, for `nbgrader zip_collect`."""

    def collect(self, submitted_file: str) -> dict | None:
        """Student and name of a notebook with exercises; None for every other file."""
        path = Path(submitted_file)
        student = re.match(r".*/([^/_]+)_(?:LATE_)?\d+_", path.as_posix())
        if path.suffix != ".ipynb" or "solutions" in path.parts or student is None:
            return None
        stem = released_name(path)
        return {"student_id": student[1], "file_id": stem} if stem else None


# --- a submission before it runs


def restore(notebook: NotebookNode, original: NotebookNode) -> list[str]:
    """Puts back graded cells that were deleted or lost their metadata. Returns their names."""
    put_back = []
    place = len(notebook.cells)
    for cell in reversed(original.cells):
        name = grade_id(cell)
        if name is None:
            continue
        if name in places(notebook):
            place = places(notebook)[name]
        elif is_grade(cell):
            put_back.append(name)
            found = [i for i, other in enumerate(notebook.cells) if is_bare_copy(other, cell)]
            if found:
                place = found[-1]
                notebook.cells[place].metadata = copy.deepcopy(cell.metadata)
            else:
                notebook.cells.insert(place, copy.deepcopy(cell))
    return put_back[::-1]


def is_bare_copy(cell: NotebookNode, original: NotebookNode) -> bool:
    """Whether a cell is this check or question, pasted without nbgrader's metadata."""
    begin = original.source.partition(ANSWER)[0]
    same_kind = cell.cell_type == original.cell_type
    return same_kind and grade_id(cell) is None and cell.source.startswith(begin)


def findings(notebook: NotebookNode, original: NotebookNode) -> list[str]:
    """What a teacher should look at: the cells, and the lines in them, that REASONS names."""
    ours = {line for cell in original.cells for line in cell.source.splitlines()}
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        for line in cell.source.splitlines():
            for reason, pattern in REASONS.items():
                if line not in ours and re.search(pattern, line):
                    found.append(f"cell {number} {reason}: {line.strip()}")
    return found


class Restore(NbGraderPreprocessor):
    """Puts lost cells back, and reports in `reported/ASSIGNMENT/STUDENT.txt`."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        names = resources["nbgrader"]
        original = released().get(names["notebook"])
        if original is None:  # an assignment of the teacher's own
            return nb, resources
        lines = findings(nb, original)
        for name in restore(nb, original):
            lines.append(f"{name} was missing and is put back")
        report = Path("reported", names["assignment"], f"{names['student']}.txt")
        report.unlink(missing_ok=True)
        if lines:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text("\n".join(lines) + "\n", encoding="utf-8")
            self.log.warning("look at %s: %s", names["student"], "; ".join(lines))
        return nb, resources


# --- a submission runs


class Mark(steps.Execute):
    """Runs a submission in an empty folder, beside copies of our `helpers` and recorded runs."""

    def preprocess(self, nb: NotebookNode, resources: dict, km=None) -> tuple[NotebookNode, dict]:
        before = resources["metadata"].get("path", "")
        with tempfile.TemporaryDirectory() as folder:
            for name in ("helpers", "results"):
                shutil.copytree(ROOT / name, Path(folder, name))
            shutil.copy(ROOT / "tools" / "fresh.py", folder)
            work = Path(folder, "work")
            work.mkdir()
            resources["metadata"]["path"] = str(work)
            start = f"import sys\nsys.path.insert(0, {folder!r})\nimport fresh"
            nb.cells.insert(0, nbformat.v4.new_code_cell(start))
            nb, resources = super().preprocess(nb, resources, km)
        resources["metadata"]["path"] = before
        started = nb.cells.pop(0)
        if started.outputs:
            raise RuntimeError(f"the course's helpers cannot be imported: {started.outputs}")
        return nb, resources

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict, index: int
    ) -> tuple[NotebookNode, dict]:
        if cell.cell_type != "code" or not is_grade(cell):
            return super().preprocess_cell(cell, resources, index)
        source = cell.source
        cell.source = FRESH + source
        cell, resources = super().preprocess_cell(cell, resources, index)
        cell.source = source
        return cell, resources


# --- nbgrader's configuration

CONFIGURATION = """\
# nbgrader reads this. It marks with the checks of the course in this folder:
import sys

sys.path.insert(0, {root!r})
from tools import marking

marking.configure(get_config())  # noqa: F821
"""


def configure(config: Config) -> None:
    """nbgrader's own steps, with `Restore` first and `Mark` in place of `Execute`."""
    config.Autograde.pre_convert_hook = rename
    config.Autograde.sanitize_preprocessors = [
        Restore,
        steps.ClearOutput,
        steps.DeduplicateIds,
        steps.OverwriteKernelspec,
        steps.OverwriteCells,
        steps.CheckCellMetadata,
    ]
    config.Autograde.autograde_preprocessors = [
        Mark,
        steps.IgnorePattern,
        ClearMetadataPreprocessor,
        steps.LimitOutput,
        steps.SaveAutoGrades,
        steps.AssignLatePenalties,
        steps.CheckCellMetadata,
    ]
    config.Execute.timeout = SECONDS
    config.ZipCollectApp.collector_plugin = Collector
    config.ZipCollectApp.strict = True  # other notebooks in a folder that was handed in are left
