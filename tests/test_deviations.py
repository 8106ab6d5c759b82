"""Spot the deviation: a hint and not the answer, and a symptom that goes with the repair.

That each repair passes, and that half-repairs get their diagnosis, is tested in test_exercises.py.
"""

import contextlib
import difflib
import io
import re

import nbformat
import pytest

from helpers.checks.engine import CheckFailed
from tools.release_exercises import SOLUTIONS, STUDENTS

NAME = "spot_the_deviation"
PATHS = {path.stem: path for path in SOLUTIONS}
if NAME not in PATHS:
    pytest.skip(f"this copy has no solutions of {NAME}", allow_module_level=True)
NOTEBOOK = nbformat.read(PATHS[NAME], as_version=4)

# exercise: (what the message about the program as handed out says, what it must not give away,
#            what the evidence prints with the program as handed out, and with the repaired one)
DEVIATIONS = {
    "projection": (
        "tenfold",
        ("BatchNorm", "bias"),
        r"× 10:.* of the shortcut 5\.9",
        r"× 10:.* of the shortcut 1\.0",
    ),
    "stages": (
        "shape after each stage",
        ("i > 0", "j", "else"),
        r"\[2\.4, 8\.4, 33\.6\]",
        r"\[9\.4, 8\.4, 8\.4\]",
    ),
    "addition": (
        "smaller",
        ("ReLU", "before", "addition"),
        r"this block   \[1, 8, 23, 78\]",
        r"this block   \[1, 4, 9, 17\]",
    ),
    "schedule": (
        "How many steps",
        ("50,000", "50_000", "images"),
        r" 5,000 .*0\.98\]",
        r" 5,000 .*, 0\.0\]",
    ),
    "accuracy": ("count for more", ("mean", "last", "len"), r"300: 75\.0%", r"300: 90\.0%"),
    "predict": (
        "other company",
        ("eval", "mode"),
        r"others: False\nchanged by predicting: 1\.",
        r"others: True\nchanged by predicting: nothing",
    ),
    "ema": (
        "What else",
        ("buffer", "running"),
        r"same logits: False",
        r"same logits: True",
    ),
    "cutout": ("How often", ("batch dimension", "(n,", "shape"), r"in 100% of", r"in 1\d% of"),
    "preactivation": (
        "copy of x",
        ("inplace", "in place", "ReLU"),
        r"kept aside: False",
        r"kept aside: True",
    ),
    "selection": (
        "luck",
        ("validation", "test set"),
        r"average: 90\.6%",
        r"average: 90\.0%",
    ),
}


def steps() -> dict[str, dict[str, str]]:
    """The sources of each exercise: program as handed out, evidence, repair and check."""
    found, before = {}, []
    for cell in NOTEBOOK.cells:
        if cell.cell_type != "code":
            continue
        kind, _, name = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
        if kind == "solution":
            found[name] = {"found": before[-2], "evidence": before[-1], "solution": cell.source}
        elif kind == "check":
            found[name]["check"] = cell.source
        else:
            before.append(cell.source)
    return found


STEPS = steps()
IMPORTS = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"][1]


def run(*sources: str) -> str:
    """What the cells print, run one after the other."""
    state, out = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(out):
        for source in (IMPORTS, *sources):
            exec(compile(source, "<cell>", "exec"), state)
    return out.getvalue()


def test_each_is_described_here():
    assert list(STEPS) == list(DEVIATIONS)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_what_is_handed_out_is_refused_with_a_hint(name):
    hint, secrets, _, _ = DEVIATIONS[name]
    with pytest.raises(CheckFailed) as failure:
        run(STEPS[name]["found"], STEPS[name]["check"])
    message = str(failure.value).split(": ", 1)[1]
    assert hint in message
    for word in secrets:
        assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message), message


@pytest.mark.parametrize("name", DEVIATIONS)
def test_it_is_the_deviation_that_shows(name):
    """The evidence shows the symptom, and does not with the repaired program."""
    _, _, with_it, without = DEVIATIONS[name]
    found, evidence, solution = (STEPS[name][part] for part in ("found", "evidence", "solution"))
    ill, healthy = run(found, evidence), run(found, solution, evidence)
    assert re.search(with_it, ill) and not re.search(without, ill), ill
    assert re.search(without, healthy) and not re.search(with_it, healthy), healthy


@pytest.mark.parametrize("name", DEVIATIONS)
def test_it_passes_in_any_state_of_the_generator(name):
    for seed in range(1, 6):
        check = re.sub(r"\)$", f", seed={seed})", STEPS[name]["check"])
        assert run(STEPS[name]["found"], STEPS[name]["solution"], check).startswith("✓ ")
        with pytest.raises(CheckFailed):
            run(STEPS[name]["found"], check)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_the_repair_is_small(name):
    """Few lines differ: the deviation is one mistake in a program that is otherwise right."""
    plain = [line for line in STEPS[name]["solution"].splitlines() if "SOLUTION" not in line]
    lines = difflib.ndiff(STEPS[name]["found"].splitlines(), plain)
    changed = [line for line in lines if line[:2] in ("- ", "+ ")]
    assert 2 <= len(changed) <= (14 if name == "cutout" else 10), changed


def test_students_get_the_deviation_and_not_its_repair():
    student = nbformat.read(STUDENTS / f"{NAME}.ipynb", as_version=4)
    sources = [cell.source for cell in student.cells]
    for parts in STEPS.values():
        assert parts["found"] in sources and parts["evidence"] in sources
        assert parts["solution"] not in sources
