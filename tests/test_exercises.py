"""The exercises: solutions pass, stubs are told so, wrong answers are diagnosed, and nbgrader grades them end to end."""

import importlib
import linecache
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from exercises import SOLUTIONS, STUDENTS, student_copy
from lessons import ROOT
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

from helpers.checks import CheckFailed

WRONG: dict = {}
for module in sorted(Path(__file__).parent.glob("wrong_*.py")):
    WRONG |= importlib.import_module(module.stem).WRONG

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in SOLUTIONS}
POINTS = re.compile(r"\*\*Time:\*\* \d+ minutes · \*\*Difficulty:\*\* ●+○* · \*\*Points:\*\* (\d+) · \*\*Before:\*\* \S")


def graded(notebook) -> dict[str, nbformat.NotebookNode]:
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata}


def names(notebook) -> list[str]:
    """The exercises of a notebook that have a check."""
    return [grade_id.removeprefix("check-") for grade_id in graded(notebook) if grade_id.startswith("check-")]


EXERCISES = [(stem, name) for stem, notebook in NOTEBOOKS.items() for name in names(notebook)]


class Session:
    """A notebook run in this process: the state before each answer is kept, so that another answer can be tried there."""

    def __init__(self, notebook):
        self.before, self.cells = {}, graded(notebook)
        state = {"__name__": "__main__"}
        for cell in notebook.cells:
            if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade"):
                grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
                self.before[grade_id.removeprefix("solution-")] = dict(state)
                exec(compile(cell.source, f"<{grade_id}>", "exec"), state)

    def check(self, name: str, answer: str | None = None) -> None:
        """Runs an answer (default: the solution) and its check."""
        state = dict(self.before[name])
        source = self.cells[f"solution-{name}"].source if answer is None else answer
        linecache.cache[f"<{name}>"] = (len(source), None, source.splitlines(True), f"<{name}>")  # as IPython does
        exec(compile(source, f"<{name}>", "exec"), state)
        exec(self.cells[f"check-{name}"].source, state)


@pytest.fixture(scope="module")
def session():
    made = {}
    return lambda stem: made.setdefault(stem, None) or made.update({stem: Session(NOTEBOOKS[stem])}) or made[stem]


def wrong_answer(solution: str, entry: tuple) -> tuple[str, tuple[str, ...]]:
    """The solution with an entry's edits made, and the words its diagnosis must contain."""
    first, *rest = entry
    if isinstance(first, str) and "\n" in first and first not in solution:
        return first, tuple(rest)
    edits, words = (first, rest) if isinstance(first, dict) else ({first: rest[0]}, rest[1:])
    for text, replacement in edits.items():
        assert text in solution, text
        solution = solution.replace(text, replacement)
    assert words
    return solution, tuple(words)


# --- the notebooks


def test_there_are_enough():
    assert len([stem for stem, _ in EXERCISES if stem[0].isdigit()]) >= 24


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_each_exercise_is_complete(stem):
    notebook = NOTEBOOKS[stem]
    cells = graded(notebook)
    sections = [cell.source for cell in notebook.cells if re.match(r"## \d+\.\d+ ", cell.source)]
    numbers = [re.match(r"## (\d+\.\d+) ", section)[1] for section in sections]
    assert numbers == [f"{numbers[0].split('.')[0]}.{i + 1}" for i in range(len(sections))]
    stated = []
    for section in sections:
        assert "**Goal:** " in section and POINTS.search(section), section[:60]
        assert len(re.findall(r"<details><summary>Hint \d</summary>", section)) >= 2, section[:60]
        stated.append(int(POINTS.search(section)[1]))
    for name in names(notebook):
        assert {f"solution-{name}", f"words-{name}"} <= set(cells), name
        assert cells[f"check-{name}"].source.startswith("checks.check_")
        assert "BEGIN SOLUTION" in cells[f"words-{name}"].source and "oint" in cells[f"words-{name}"].source.splitlines()[0]
    assert sum(stated) == sum(cell.metadata.nbgrader.get("points", 0) for cell in cells.values())


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_first_cell_is_the_same_everywhere(stem):
    assert NOTEBOOKS[stem].cells[1].source == next(iter(NOTEBOOKS.values())).cells[1].source


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_student_copy_is_in_step(stem):
    copy = nbformat.read(STUDENTS / f"{stem}.ipynb", as_version=4)
    assert copy == student_copy(NOTEBOOKS[stem]), "run `make exercises`"
    text = nbformat.writes(copy)
    assert "BEGIN SOLUTION" not in text and text.count("YOUR ") >= text.count('"solution": true')
    assert [cell.id for cell in copy.cells] == [cell.id for cell in NOTEBOOKS[stem].cells]


def test_no_student_copy_is_left_over():
    assert [path.stem for path in sorted(STUDENTS.glob("*.ipynb"))] == list(NOTEBOOKS)


# --- the checks


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_solution_passes(session, stem, name, capsys):
    session(stem).check(name)
    assert capsys.readouterr().out.splitlines()[-1].startswith("✓ ")


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_untouched_stub_is_told_so(session, stem, name):
    stub = graded(nbformat.read(STUDENTS / f"{stem}.ipynb", as_version=4))[f"solution-{name}"].source
    assert "raise NotImplementedError()" in stub
    with pytest.raises(CheckFailed, match="nothing here yet"):
        session(stem).check(name, stub)


@pytest.mark.parametrize(
    ("stem", "name", "entry"),
    [
        pytest.param(stem, name, entry, id=f"{stem[:2]}-{name}-{number}")
        for stem, exercises in WRONG.items()
        for name, entries in exercises.items()
        for number, entry in enumerate(entries)
    ],
)
def test_wrong_answer_gets_the_right_diagnosis(session, stem, name, entry):
    answer, words = wrong_answer(session(stem).cells[f"solution-{name}"].source, entry)
    with pytest.raises(CheckFailed) as failure:
        session(stem).check(name, answer)
    message = str(failure.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) <= 3 and "Error" not in message.split(":")[0]


def test_every_check_refuses_three_wrong_answers():
    assert [(stem, name) for stem, name in EXERCISES if len(WRONG.get(stem, {}).get(name, [])) < 3] == []


# --- nbgrader, end to end

GRADED = "02_building_resnet50"
SUBMISSIONS = {  # student: (exercises solved, exercises answered wrongly, points the teacher gives for answers in words)
    "all": (None, {}, {}),
    "nobody": (set(), {}, {}),
    "half": (
        {"conv-cost", "basic-block", "option-a"},
        {"bottleneck": 0, "make-stage": 0},
        {"conv-cost": 1, "basic-block": 0.5},
    ),
    "late": ({"make-stage", "count"}, {"kaiming": 1}, {"count": 1}),
}


def submission(released: nbformat.NotebookNode, solved: set[str] | None, wrong: dict[str, int], marked: dict[str, float]):
    """A student's notebook: solutions in some cells, wrong answers in others, stubs in the rest, a text where it is marked."""
    notebook, solutions = nbformat.from_dict(released), graded(NOTEBOOKS[GRADED])
    for grade_id, cell in graded(notebook).items():
        kind, name = grade_id.split("-", 1)
        if solved is None or (kind == "solution" and name in solved):
            cell.source = solutions[grade_id].source
        elif kind == "solution" and name in wrong:
            cell.source, _ = wrong_answer(solutions[grade_id].source, WRONG[GRADED][name][wrong[name]])
        elif kind == "words" and name in marked:
            cell.source = "Because."
        elif kind == "check" and name not in solved:
            cell.source = "print('passed')"  # a student who edits the check gains nothing: nbgrader restores it
    return notebook


@pytest.mark.filterwarnings("ignore:Object of type:Warning")  # SQLAlchemy, about nbgrader
@pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's autograder is made for Linux and macOS")
def test_nbgrader_generates_autogrades_and_scores(tmp_path, monkeypatch):
    source = tmp_path / "source" / GRADED / f"{GRADED}.ipynb"
    source.parent.mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "solutions" / source.name, source)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the course folder lies elsewhere: this is how its first cell finds `helpers`
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # nbgrader calls `alembic`
    monkeypatch.chdir(tmp_path)
    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    config.CourseDirectory.db_url = f"sqlite:///{tmp_path / 'gradebook.db'}"
    api = NbGraderAPI(config=config)

    result = api.generate_assignment(GRADED)
    assert result["success"], result
    released = nbformat.read(tmp_path / "release" / GRADED / source.name, as_version=4)
    assert released.cells == nbformat.read(STUDENTS / source.name, as_version=4).cells  # ours is what nbgrader releases

    cells = graded(NOTEBOOKS[GRADED])
    points = {grade_id: cell.metadata.nbgrader.points for grade_id, cell in cells.items() if "points" in cell.metadata.nbgrader}
    for student, parts in SUBMISSIONS.items():
        path = tmp_path / "submitted" / student / GRADED / source.name
        path.parent.mkdir(parents=True)
        nbformat.write(submission(released, *parts), path)
        result = api.autograde(GRADED, student)
        assert result["success"], result

    with api.gradebook as gradebook:
        for student, (solved, _, marked) in SUBMISSIONS.items():
            everything = solved is None
            for name, mark in ({n: points[f"words-{n}"] for n in names(NOTEBOOKS[GRADED])} if everything else marked).items():
                grade = gradebook.find_grade(f"words-{name}", GRADED, GRADED, student)
                assert grade.needs_manual_grade  # an answer in words waits for the teacher …
                grade.manual_score, grade.needs_manual_grade = mark, False  # … who gives a mark in the formgrader
            gradebook.db.commit()
            submitted = gradebook.find_submission(GRADED, student)
            expected = points.values() if everything else [points[f"check-{name}"] for name in solved] + list(marked.values())
            assert submitted.score == sum(expected), student
            assert submitted.max_score == sum(points.values())
            assert not submitted.needs_manual_grade
