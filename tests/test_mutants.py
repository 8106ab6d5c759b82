"""tests/mutants.py plants what it says: enough faults, each one different from the code, and always the same ones."""

import ast
from pathlib import Path

import mutants

ROOT = Path(__file__).resolve().parents[1]

SOURCE = '''
RECIPES = [1, 2]


def f(x: int = 3) -> int:
    """Text: 1 < 2."""
    if x <= 0 and not x:
        raise ValueError(f"{x + 1}")
    print(x)
    return -x * 2 if x else True
'''


SURVEY = {f"tests/test_{name}.py::test": (0.1, []) for name in mutants.HELPERS}


def test_the_quickest_tests_that_call_a_function_come_first():
    survey = {
        "tests/test_data.py::slow": (3.0, ["data.load", "data.Batches.__iter__"]),
        "tests/test_data.py::quick": (0.1, ["data.load"]),
        "tests/test_data.py::other": (0.2, ["data.loads"]),
        "tests/test_resnet.py::load": (0.1, ["data.load"]),
    }

    def tests(place):
        return mutants.concerned(mutants.Mutant("", "helpers/data.py", "", "", place), survey)[0][2:]

    assert tests("data.load") == ["tests/test_data.py::quick", "tests/test_data.py::slow"]
    assert tests("data.Batches") == ["tests/test_data.py::slow"]
    assert len(tests("data.")) == 3


def test_every_operator_finds_its_places_and_nothing_else():
    found = {(SOURCE[start:end], new) for _, start, end, new in mutants.sites(SOURCE, skip=("RECIPES",))}
    assert found == {
        ("3", "4"),
        ("x <= 0 and not x", "not (x <= 0 and not x)"),
        ("x <= 0 and not x", "(x <= 0 or not x)"),
        ("x <= 0", "(x < 0)"),
        ("0", "1"),
        ("not x", "x"),
        ("print(x)", "pass"),
        ("-x * 2 if x else True", "(True if x else -x * 2)"),
        ("-x * 2", "(-x / 2)"),
        ("-x", "x"),
        ("2", "3"),
        ("True", "False"),
    }
    assert {function for function, *_ in mutants.sites(SOURCE, skip=("RECIPES",))} == {"f"}


def test_enough_faults_are_planted_and_each_is_one():
    found = mutants.all_mutants()
    kinds = [mutant.kind for mutant in found]
    for part, least in (("helpers", 80), ("taught", 20)):
        chosen, drawn = kinds.count(f"{part}, chosen"), kinds.count(f"{part}, random")
        assert chosen + drawn >= least and drawn >= chosen
    assert len({mutant.content for mutant in found}) == len(found)
    for mutant in found:
        original = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert mutant.content != original and len(mutants.concerned(mutant, SURVEY)) >= 1
        if mutant.file.endswith(".py"):
            assert ast.dump(ast.parse(mutant.content)) != ast.dump(ast.parse(original)), mutant.name
    assert [mutant.name for mutant in mutants.all_mutants()] == [mutant.name for mutant in found]


def test_the_score_counts_what_changes_something(capsys, monkeypatch):
    def planted(name, kind):
        return mutants.Mutant(name, "helpers/data.py", "", kind, "data.load")

    monkeypatch.setattr(mutants, "EQUIVALENT", {"same": "no difference"})
    results = [(planted("a", "helpers, chosen"), "caught"), (planted("same", "helpers, random"), "survived")]
    assert mutants.report(results)
    assert "1 of 1 caught: 100.0% (0 more" in capsys.readouterr().out
    assert not mutants.report([*results, (planted("b", "taught, random"), "survived")])
    assert "survived: b" in capsys.readouterr().out
