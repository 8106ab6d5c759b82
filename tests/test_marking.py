"""Marking: tricks that used to earn full marks earn none or are reported; mishaps cost nothing."""

import copy
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.apps import NbGraderAPI
from nbgrader.utils import determine_grade
from traitlets.config import Config

from tools import marking, release_exercises
from tools.release_exercises import SOLUTIONS

needs_solutions = pytest.mark.skipif(not SOLUTIONS, reason="this copy has no notebooks/solutions")
NAME = "02_building_resnet50"
RELEASED = marking.released()[NAME]
SOLVED = {path.stem: nbformat.read(path, as_version=4) for path in SOLUTIONS}


def student() -> nbformat.NotebookNode:
    """A notebook as it was handed out."""
    return copy.deepcopy(RELEASED)


def cell_of(notebook, grade_id: str):
    return notebook.cells[marking.places(notebook)[grade_id]]


def without_marks(source: str) -> str:
    """A solution as a student would write it."""
    return re.sub(r" *### (BEGIN|END) SOLUTION\n?", "", source)


def solve(notebook, *exercises: str) -> None:
    for name in exercises:
        solution = cell_of(SOLVED[NAME], f"solution-{name}").source
        cell_of(notebook, f"solution-{name}").source = without_marks(solution)


EXERCISES = [name[6:] for name in marking.places(RELEASED) if name.startswith("check-")]

SETATTR = """\
from helpers.checks import engine
engine.compare.__code__ = (lambda *a, **k: None).__code__
for name in dir(checks):
    if name.startswith("check_"):
        setattr(checks, name, lambda *answers: print("right"))
"""
READS_SOLUTIONS = f"""\
import nbformat
for folder in [ROOT, Path.cwd(), *Path.cwd().parents]:
    for place in ("notebooks/solutions", "source/{NAME}"):
        for path in folder.glob(place + "/{NAME}.ipynb"):
            for cell in nbformat.read(path, as_version=4).cells:
                if "solution-" in str(cell.metadata):
                    exec(cell.source)
"""


# --- what does not pass


@needs_solutions
def test_three_tricks_earn_nothing_and_a_right_answer_its_points(tmp_path):
    """The folder beside the notebook is there all the time; a warning costs nothing."""
    first, second, third, *rest = EXERCISES
    fake = tmp_path / "helpers"
    (fake / "checks").mkdir(parents=True)
    (fake / "resnet.py").write_text("conv1x1 = conv3x3 = None")
    (fake / "checks" / "__init__.py").write_text("def __getattr__(name): return print")
    notebook = student()
    last = marking.places(notebook)[f"check-{third}"]
    notebook.cells = notebook.cells[: last + 1]
    solve(notebook, first)
    answer = re.search(r"checks\.check_\w+\((\w+)", cell_of(notebook, f"check-{first}").source)[1]
    cell_of(notebook, f"solution-{first}").source += f"""
import warnings
right = {answer}
def {answer}(*arguments, **settings):
    warnings.warn("something harmless")
    return right(*arguments, **settings)
"""
    cell_of(notebook, f"solution-{second}").source += "\n" + SETATTR
    cell_of(notebook, f"solution-{third}").source += "\n" + READS_SOLUTIONS
    before = [cell.source for cell in notebook.cells]
    resources = {"metadata": {"path": str(tmp_path)}}
    marked, resources = marking.Mark(timeout=marking.SECONDS).preprocess(notebook, resources)
    assert [cell.source for cell in marked.cells] == before
    assert resources["metadata"]["path"] == str(tmp_path)
    earned = []
    for name in (first, second, third):
        points, most = determine_grade(cell_of(marked, f"check-{name}"))
        earned.append(points / most)
    assert earned == [1, 0, 0], [cell.get("outputs") for cell in marked.cells]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (SETATTR, "touches the checks: setattr(checks"),
        (SETATTR, "touches the checks: from helpers.checks import engine"),
        (SETATTR, "reaches into Python or Jupyter: engine.compare.__code__"),
        (READS_SOLUTIONS, "reads notebooks or solutions: for place in"),
        ("checks.check_conv_cost = print", "touches the checks"),
        ("from helpers import checks as c", "touches the checks"),
        ("torch.allclose = lambda *a, **k: True", "replaces a function of a library"),
        ("!cat ../../../source/*/*.ipynb", "runs other programs"),
        ("class Yes:\n    def __eq__(self, other):\n        return True", "equal with anything"),
    ],
)
def test_tricks_are_reported(code, reason):
    notebook = student()
    cell_of(notebook, f"solution-{EXERCISES[0]}").source = code
    assert any(reason in line for line in marking.findings(notebook, RELEASED))


@needs_solutions
@pytest.mark.parametrize("stem", SOLVED)
def test_right_answers_are_not_reported(stem):
    notebook = copy.deepcopy(SOLVED[stem])
    for cell in notebook.cells:
        cell.source = without_marks(cell.source)
    assert marking.findings(notebook, marking.released()[stem]) == []


def test_a_cell_of_ones_own_that_calls_a_check_is_not_reported():
    notebook = student()
    check = cell_of(notebook, f"check-{EXERCISES[0]}").source
    notebook.cells.append(nbformat.v4.new_code_cell(f"import numpy\n{check}"))
    assert marking.findings(notebook, RELEASED) == []


# --- what happens to students who mean well


@pytest.mark.parametrize("with_solution", [False, True])
def test_deleted_checks_are_put_back_behind_the_answer(with_solution):
    """Colab lets one delete every cell; the answer may then stand in a new one."""
    notebook = student()
    name, following = EXERCISES[1:3]
    for kind in ["check", "solution"][: 1 + with_solution]:
        del notebook.cells[marking.places(notebook)[f"{kind}-{name}"]]
    place = marking.places(notebook)[f"words-{name}"]
    notebook.cells.insert(place, nbformat.v4.new_code_cell("answer = 1"))
    assert marking.restore(notebook, RELEASED) == [f"check-{name}"]
    place = marking.places(notebook)[f"check-{name}"]
    assert notebook.cells[place] == cell_of(RELEASED, f"check-{name}")
    assert notebook.cells[place - 1].source == "answer = 1"
    assert place < marking.places(notebook)[f"solution-{following}"]


def test_cells_without_metadata_are_recognised():
    notebook = student()
    for cell in notebook.cells:
        cell.metadata = {}
    question = marking.places(RELEASED)[f"words-{EXERCISES[0]}"]
    text = RELEASED.cells[question].source.replace(marking.ANSWER, "Because.")
    notebook.cells[question].source = text
    notebook = nbformat.from_dict(notebook)
    expected = [name for name in marking.places(RELEASED) if not name.startswith("solution-")]
    assert marking.restore(notebook, RELEASED) == expected
    assert len(notebook.cells) == len(RELEASED.cells)
    assert cell_of(notebook, f"words-{EXERCISES[0]}").source == text
    assert marking.restore(notebook, RELEASED) == []


def test_everything_deleted():
    notebook = nbformat.v4.new_notebook()
    marking.restore(notebook, RELEASED)
    assert len(notebook.cells) == 2 * len(EXERCISES)


COPIES = [f"Copy of {NAME}.ipynb", f"{NAME} (1).ipynb", f"Kopie von {NAME}.ipynb", "homework.ipynb"]


@pytest.mark.parametrize("name", COPIES)
def test_copies_get_their_name_back(tmp_path, name):
    path = tmp_path / name
    nbformat.write(student(), path)
    notebooks = [str(path)]
    marking.rename(assignment=NAME, student="ada", notebooks=notebooks)
    assert notebooks == [str(tmp_path / f"{NAME}.ipynb")]
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.ipynb"]


def test_a_name_that_is_taken_and_other_notebooks_are_left_alone(tmp_path):
    lesson = marking.ROOT / "notebooks" / f"{NAME}.ipynb"
    shutil.copy(lesson, tmp_path / "Copy of lesson.ipynb")
    nbformat.write(student(), tmp_path / f"{NAME}.ipynb")
    nbformat.write(student(), tmp_path / f"Copy of {NAME}.ipynb")
    before = sorted(map(str, tmp_path.iterdir()))
    notebooks = list(before)
    marking.rename(notebooks=notebooks)
    assert notebooks == before == sorted(map(str, tmp_path.iterdir()))


DOWNLOADS = {
    f"Ada Lovelace_1234_assignsubmission_file_/Copy of {NAME}.ipynb": "Ada Lovelace",
    f"Ada Lovelace_1234_assignsubmission_file_/course/notebooks/exercises/{NAME}.ipynb": (
        "Ada Lovelace"
    ),
    f"Ada Lovelace_1234_assignsubmission_file_{NAME}.ipynb": "Ada Lovelace",
    f"lovelaceada_1234_56789_Copy of {NAME}-1.ipynb": "lovelaceada",
    f"lovelaceada_LATE_1234_56789_{NAME}.ipynb": "lovelaceada",
    f"lovelaceada_1234_56789_course/notebooks/solutions/{NAME}.ipynb": None,
    f"{NAME}.ipynb": None,
}


@pytest.mark.parametrize("place", DOWNLOADS)
def test_names_of_moodle_and_canvas(tmp_path, place):
    path = tmp_path / "downloaded" / NAME / "extracted" / "all" / place
    path.parent.mkdir(parents=True)
    nbformat.write(student(), path)
    expected = None
    if DOWNLOADS[place]:
        expected = {"student_id": DOWNLOADS[place], "file_id": NAME}
    assert marking.Collector().collect(str(path)) == expected
    path.write_text("{}")
    assert marking.Collector().collect(str(path)) is None


# --- the two folders


@needs_solutions
def test_a_release_for_marks_has_no_answers(tmp_path, capsys):
    release_exercises.release_for_marks(tmp_path, SOLUTIONS)
    students, grading = tmp_path / "students", tmp_path / "grading"
    answers = re.compile("BEGIN SOLUTION|Answer and rubric")
    for path in students.rglob("*"):
        if path.suffix in (".md", ".ipynb"):
            assert not answers.search(path.read_text(encoding="utf-8")), path
    for name in ("helpers/resnet.py", "helpers/data.py", "results", "Makefile", ".gitignore"):
        assert (students / name).exists()
    for name in ("notebooks/solutions", "notebooks/TEACHING.md", "tests", ".git", "data", "runs"):
        assert not (students / name).exists()
    exercises = [path.name for path in (students / "notebooks" / "exercises").iterdir()]
    sources = [path.name for path in grading.glob("source/*/*.ipynb")]
    assert sorted(exercises) == sorted(sources) == [path.name for path in SOLUTIONS]
    config = Config()
    code = (grading / "nbgrader_config.py").read_text(encoding="utf-8")
    exec(code, {"get_config": lambda: config})
    assert config.Autograde.autograde_preprocessors[0] is marking.Mark
    sys.path.remove(str(marking.ROOT))  # where the configuration has put it


def test_a_release_for_marks_is_refused_inside_the_course():
    with pytest.raises(SystemExit, match="inside the course"):
        release_exercises.release_for_marks(marking.ROOT / "build" / "marked", [Path("any.ipynb")])
    with pytest.raises(SystemExit, match="no solutions"):
        release_exercises.release_for_marks(Path("elsewhere"), [])


@pytest.mark.long
@needs_solutions
@pytest.mark.parametrize("stem", SOLVED)
def test_solutions_earn_all_points_with_checks_read_again(tmp_path, stem):
    notebook = copy.deepcopy(SOLVED[stem])
    resources = {"metadata": {"path": str(tmp_path)}}
    marked, _ = marking.Mark(timeout=600).preprocess(notebook, resources)
    for cell in marked.cells:
        if cell.cell_type == "code" and (marking.grade_id(cell) or "").startswith("check-"):
            points, most = determine_grade(cell)
            assert points == most, cell


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Object of type:Warning")  # SQLAlchemy, about nbgrader
@pytest.mark.skipif(sys.platform == "win32", reason="the autograder is for Linux and macOS")
@needs_solutions
def test_nbgrader_end_to_end(tmp_path, monkeypatch):
    """Colab's name and a deleted check cost nothing; own `helpers` earn nothing; both are seen."""
    paths = [path for path in SOLUTIONS if path.stem == NAME]
    release_exercises.release_for_marks(tmp_path, paths)
    grading = tmp_path / "grading"
    first, second = EXERCISES[:2]

    honest = student()
    solve(honest, first, second)
    del honest.cells[marking.places(honest)[f"check-{first}"]]
    cheat = student()
    cell_of(cheat, f"solution-{first}").source += "\n" + SETATTR
    for name, notebook in {"honest": honest, "cheat": cheat}.items():
        folder = grading / "submitted" / name / NAME
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"Copy of {NAME}.ipynb")
    fake = grading / "submitted" / "cheat" / NAME / "helpers" / "checks"
    fake.mkdir(parents=True)
    (fake.parent / "resnet.py").write_text("conv1x1 = conv3x3 = None")
    (fake / "__init__.py").write_text("def __getattr__(name): return print")

    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))  # nbgrader calls `alembic`
    monkeypatch.chdir(grading)
    config = Config()
    marking.configure(config)
    config.CourseDirectory.root = str(grading)
    config.CourseDirectory.db_url = f"sqlite:///{grading / 'gradebook.db'}"
    course = NbGraderAPI(config=config)
    for result in (
        course.generate_assignment(NAME),
        course.autograde(NAME, "honest"),
        course.autograde(NAME, "cheat"),
    ):
        assert result["success"], result
    points = {}
    with course.gradebook as gradebook:
        for name in ("honest", "cheat"):
            points[name] = gradebook.find_submission(NAME, name).score
    checks = [cell_of(RELEASED, f"check-{name}") for name in (first, second)]
    assert points == {
        "honest": sum(check.metadata.nbgrader.points for check in checks),
        "cheat": 0,
    }
    reports = {path.stem: path.read_text() for path in (grading / "reported" / NAME).iterdir()}
    assert reports["honest"] == f"check-{first} was missing and is put back\n"
    assert "touches the checks" in reports["cheat"]
