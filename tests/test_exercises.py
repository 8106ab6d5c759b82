"""The exercises: solutions pass, stubs and wrong answers are told so, nbgrader grades them."""

import importlib
import linecache
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config
from wrong_answers.kinds import KINDS, RECORDER, kinds_of, of_kind

from helpers.checks.engine import CheckFailed
from tools.release_exercises import SOLUTIONS, STUDENTS, student_copy
from tools.run_lessons import ROOT

if not SOLUTIONS:
    pytest.skip("this copy has no notebooks/solutions", allow_module_level=True)

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in SOLUTIONS}


NUMBER = r"\d+\.\d+|D\d+"  # 3.2, or D2 for a deviation


def graded(notebook) -> dict[str, nbformat.NotebookNode]:
    return {
        cell.metadata.nbgrader.grade_id: cell
        for cell in notebook.cells
        if "nbgrader" in cell.metadata
    }


def numbers(notebook) -> dict[str, str]:
    """The exercises that have a check, with the number of their section."""
    found, number = {}, ""
    for cell in notebook.cells:
        heading = re.match(rf"## ({NUMBER}) ", cell.source)
        if heading:
            number = heading[1]
        kind, _, name = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
        if kind == "check":
            found[name] = number
    return found


def wrong_answers(stem: str) -> dict[str, list[tuple]]:
    """Those of a notebook, by exercise."""
    module = "deviations" if stem == "spot_the_deviation" else f"lesson{stem[:2]}"
    return importlib.import_module(f"wrong_answers.{module}").WRONG


EXERCISES = [(stem, name) for stem, notebook in NOTEBOOKS.items() for name in numbers(notebook)]
WRONG = {stem: wrong_answers(stem) for stem in NOTEBOOKS}
GRADED = "02_building_resnet50"  # the notebook that nbgrader grades below
SEEDS = 20


class Session:
    """A notebook run in this process.

    The state before each answer is kept, so that another answer can be tried there.
    """

    def __init__(self, notebook):
        self.before, self.cells = {}, graded(notebook)
        state = {"__name__": "__main__"}
        for cell in notebook.cells:
            if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade"):
                grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
                self.before[grade_id.removeprefix("solution-")] = dict(state)
                exec(compile(cell.source, f"<{grade_id}>", "exec"), state)

    def check(self, name: str, answer: str | None = None, seed: int | None = 1) -> dict:
        """Runs an answer (default: the solution) and its check, and returns the names it made.

        The cases are those of `seed`, so that a test does not fail by chance; None: new ones.
        """
        state = dict(self.before[name])
        source = self.cells[f"solution-{name}"].source if answer is None else answer
        lines = source.splitlines(keepends=True)
        linecache.cache[f"<{name}>"] = (len(source), None, lines, f"<{name}>")  # as IPython does
        exec(compile(source, f"<{name}>", "exec"), state)
        check = self.cells[f"check-{name}"].source
        exec(check if seed is None else re.sub(r"\)$", f", seed={seed})", check), state)
        return state

    def answer(self, name: str) -> str:
        """What the check is called with: the name of a function or class, or two."""
        return re.search(r"\((.*)\)$", self.cells[f"check-{name}"].source)[1]


@pytest.fixture(scope="module")
def session():
    """The sessions of the notebooks, each made when it is first asked for."""
    made = {}

    def get(stem: str) -> Session:
        if stem not in made:
            made[stem] = Session(NOTEBOOKS[stem])
        return made[stem]

    return get


def wrong_answer(solution: str, entry: tuple) -> tuple[str, list[str]]:
    """The solution with an entry's edits made, and the words its diagnosis must contain."""
    first, *rest = entry
    if isinstance(first, str) and "\n" in first and first not in solution:
        return first, rest  # a whole answer
    if isinstance(first, dict):
        edits, words = first, rest
    else:
        edits, words = {first: rest[0]}, rest[1:]
    for text, replacement in edits.items():
        assert text in solution, text
        solution = solution.replace(text, replacement)
    assert words
    return solution, words


# --- the notebooks


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_each_exercise_is_complete(stem):
    notebook = NOTEBOOKS[stem]
    cells = graded(notebook)
    sections = [cell.source for cell in notebook.cells if re.match(rf"## ({NUMBER}) ", cell.source)]
    found = numbers(notebook)
    chapter = re.match(r"## (\d+\.|D)", sections[0])[1]
    assert list(found.values()) == [f"{chapter}{i + 1}" for i in range(len(sections))]
    for name in found:
        assert {f"solution-{name}", f"words-{name}"} <= set(cells), name
    stated = [int(re.search(r"\*\*Points:\*\* (\d+)", section)[1]) for section in sections]
    assert sum(stated) == sum(cell.metadata.nbgrader.get("points", 0) for cell in cells.values())


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_first_cell_is_the_same_everywhere(stem):
    assert NOTEBOOKS[stem].cells[1].source == next(iter(NOTEBOOKS.values())).cells[1].source


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_student_copy_is_in_step(stem):
    copy = nbformat.read(STUDENTS / f"{stem}.ipynb", as_version=4)
    assert copy == student_copy(NOTEBOOKS[stem]), "run `make exercises`"
    text = nbformat.writes(copy)
    assert "BEGIN SOLUTION" not in text
    assert text.count("YOUR ") >= text.count('"solution": true')
    assert [cell.id for cell in copy.cells] == [cell.id for cell in NOTEBOOKS[stem].cells]


def test_no_student_copy_is_left_over():
    assert [path.stem for path in sorted(STUDENTS.glob("*.ipynb"))] == list(NOTEBOOKS)


# --- the checks


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_solution_passes(session, stem, name, capsys):
    session(stem).check(name)
    number = numbers(NOTEBOOKS[stem])[name]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"✓ {number} ")


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_solution_passes_whatever_is_drawn(session, stem, name):
    for seed in range(SEEDS):
        session(stem).check(name, seed=seed)


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_every_run_draws_new_cases(session, stem, name):
    """Another seed draws other cases, the same seed the same ones; without one it is another."""
    called = session(stem).answer(name).split(", ")[-1]
    answer = session(stem).cells[f"solution-{name}"].source + RECORDER.format(name=called)

    def drawn(seed=None):
        return session(stem).check(name, answer, seed)["drawn"]

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    assert any(drawn() != drawn() for _ in range(4))  # by chance two may be the same


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_untouched_stub_is_told_so(session, stem, name):
    copy = nbformat.read(STUDENTS / f"{stem}.ipynb", as_version=4)
    stub = graded(copy)[f"solution-{name}"].source
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
    assert len(message.splitlines()) <= 4 and "Error" not in message.split(":")[0]


@pytest.mark.parametrize(
    ("stem", "name", "kind"),
    [(stem, name, kind) for stem, name in EXERCISES for kind in kinds_of(name)],
)
def test_wrong_answers_of_each_kind_are_refused(session, stem, name, kind):
    solution = session(stem).cells[f"solution-{name}"].source
    answer = of_kind(kind, solution, session(stem).answer(name))
    _, word = KINDS[kind]
    with pytest.raises(CheckFailed) as failure:
        session(stem).check(name, answer)
    assert word in str(failure.value)


def test_a_message_says_how_to_repeat_its_cases(session):
    """With the seed that it names the check fails in the same way."""
    solution = session(GRADED).cells["solution-conv-cost"].source
    answer, _ = wrong_answer(solution, WRONG[GRADED]["conv-cost"][-1])
    with pytest.raises(CheckFailed) as first:
        session(GRADED).check("conv-cost", answer)
    seed = int(re.search(r"checks\.check_conv_cost\(…, seed=(\d+)\)", str(first.value))[1])
    with pytest.raises(CheckFailed) as second:
        session(GRADED).check("conv-cost", answer, seed)
    assert str(first.value) == str(second.value)


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_every_check_refuses_three_wrong_answers(stem, name):
    assert len(WRONG[stem].get(name, [])) >= 3


# --- nbgrader, end to end

# student: (exercises solved, exercises answered wrongly, points given for answers in words)
SUBMISSIONS = {
    "all": (None, {}, {}),
    "nobody": (set(), {}, {}),
    "half": (
        {"conv-cost", "resnext", "average-projection"},
        {"preactivation-bottleneck": 0, "stochastic-depth": 0},
        {"conv-cost": 1, "resnext": 0.5},
    ),
    "late": ({"stochastic-depth", "count"}, {"deep-stem": 1}, {"count": 1}),
}


def submission(
    released: nbformat.NotebookNode,
    solved: set[str] | None,
    wrong: dict[str, int],
    marked: dict[str, float],
) -> nbformat.NotebookNode:
    """A student's notebook: solutions in some cells (None: in all), wrong answers in others, stubs
    in the rest, a text where it is marked.
    """
    notebook, solutions = nbformat.from_dict(released), graded(NOTEBOOKS[GRADED])
    for grade_id, cell in graded(notebook).items():
        kind, name = grade_id.split("-", 1)
        if solved is None or (kind == "solution" and name in solved):
            cell.source = solutions[grade_id].source
        elif kind == "solution" and name in wrong:
            entry = WRONG[GRADED][name][wrong[name]]
            cell.source, _ = wrong_answer(solutions[grade_id].source, entry)
        elif kind == "words" and name in marked:
            cell.source = "Because."
        elif kind == "check" and name not in solved:
            cell.source = "print('passed')"  # an edited check gains nothing: nbgrader restores it
    return notebook


@pytest.fixture
def course(tmp_path, monkeypatch) -> NbGraderAPI:
    """nbgrader in a course folder outside of the repository, with the notebook to be graded."""
    source = tmp_path / "source" / GRADED / f"{GRADED}.ipynb"
    source.parent.mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "solutions" / source.name, source)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # how the first cell finds `helpers` from there
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))  # nbgrader calls `alembic`
    monkeypatch.chdir(tmp_path)
    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    config.CourseDirectory.db_url = f"sqlite:///{tmp_path / 'gradebook.db'}"
    return NbGraderAPI(config=config)


@pytest.mark.filterwarnings("ignore:Object of type:Warning")  # SQLAlchemy, about nbgrader
@pytest.mark.skipif(sys.platform == "win32", reason="the autograder is for Linux and macOS")
@pytest.mark.skipif(GRADED not in NOTEBOOKS, reason=f"this copy has no solutions of {GRADED}")
def test_nbgrader_generates_autogrades_and_scores(tmp_path, course):
    result = course.generate_assignment(GRADED)
    assert result["success"], result
    released = nbformat.read(tmp_path / "release" / GRADED / f"{GRADED}.ipynb", as_version=4)
    ours = nbformat.read(STUDENTS / f"{GRADED}.ipynb", as_version=4)
    assert released.cells == ours.cells

    points = {}
    for grade_id, cell in graded(NOTEBOOKS[GRADED]).items():
        if "points" in cell.metadata.nbgrader:
            points[grade_id] = cell.metadata.nbgrader.points
    for student, (solved, wrong, marked) in SUBMISSIONS.items():
        path = tmp_path / "submitted" / student / GRADED / f"{GRADED}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(submission(released, solved, wrong, marked), path)
        result = course.autograde(GRADED, student)
        assert result["success"], result

    exercises = list(numbers(NOTEBOOKS[GRADED]))
    with course.gradebook as gradebook:
        for student, (solved, _, marked) in SUBMISSIONS.items():
            if solved is None:
                solved = exercises
                marked = {name: points[f"words-{name}"] for name in exercises}
            for name, mark in marked.items():
                grade = gradebook.find_grade(f"words-{name}", GRADED, GRADED, student)
                assert grade.needs_manual_grade  # an answer in words waits for the teacher …
                grade.manual_score = mark  # … who gives a mark in the formgrader
                grade.needs_manual_grade = False
            gradebook.db.commit()
            submitted = gradebook.find_submission(GRADED, student)
            expected = sum(points[f"check-{name}"] for name in solved) + sum(marked.values())
            assert submitted.score == expected, student
            assert submitted.max_score == sum(points.values())
            assert not submitted.needs_manual_grade
