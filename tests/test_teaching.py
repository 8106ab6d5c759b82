"""What READMEs, CONTRIBUTING and the teacher's guide refer to exists, and commands start."""

import json
import re
import statistics

import nbformat
import pytest
import torch

from helpers import experiment
from helpers.networks import build_model
from tools import marking, sheets
from tools.run_lessons import LESSONS, ROOT

GUIDE = ROOT / "notebooks" / "TEACHING.md"
FILES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FILES += [ROOT / "results" / "README.md", GUIDE]
TEXTS = {path: path.read_text(encoding="utf-8") for path in FILES}
NOTEBOOKS = {path.stem[:2]: nbformat.read(path, as_version=4) for path in LESSONS}
EXERCISES = [cell for notebook in marking.released().values() for cell in notebook.cells]
MAY_BE_ABSENT = "notebooks/solutions"  # in a fork that keeps its solutions private
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The names of a Markdown file's sections, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(path, text: str) -> list[str]:
    """Links to files or sections that do not exist."""
    faults = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text)):
        file, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        other = path.parent / file if file else path
        if not other.exists():
            if file != MAY_BE_ABSENT:
                faults.append(target)
        elif anchor and other.suffix == ".md":
            other_text = text if other == path else other.read_text(encoding="utf-8")
            if anchor not in anchors(other_text):
                faults.append(target)
    return faults


def missing_cells(guide: str) -> list[str]:
    """Cells that the guide names (▶ 05 `code in it`) and the lesson does not have."""
    faults = []
    for number, code in re.findall(r"▶ (\d\d)\s+`([^`]+)`", guide):
        cells = NOTEBOOKS[number].cells if number in NOTEBOOKS else []
        if not any(cell.cell_type == "code" and code in cell.source for cell in cells):
            faults.append(f"{number}: {code}")
    return faults


def missing_outputs(guide: str) -> list[str]:
    """What a cell is said to print (▶ 05 `code in it` → `text`) and does not."""
    faults = []
    for number, code, text in re.findall(r"▶ (\d\d)\s+`([^`]+)`\s+→\s+`([^`]+)`", guide):
        printed = ""
        for cell in NOTEBOOKS[number].cells:
            if cell.cell_type == "code" and code in cell.source:
                printed += "".join(output.get("text", "") for output in cell.outputs)
        if text not in printed:
            faults.append(f"{number}: {text}")
    return faults


def missing_sections(guide: str) -> list[str]:
    """Sections that the guide names (05 § 3) and the lesson does not have."""
    faults = []
    for number, section in re.findall(r"\b(\d\d) § (\d)", guide):
        cells = NOTEBOOKS[number].cells if number in NOTEBOOKS else []
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        if not re.search(rf"^## {section}\. ", text, re.MULTILINE):
            faults.append(f"{number} § {section}")
    return faults


def missing_titles(guide: str) -> list[str]:
    """Sections in the tables (| 10 min | 05 § 3 Title |) that the lesson names otherwise."""
    faults = []
    for number, section, title in re.findall(r"min \| (\d\d) § (\d) ([^|]+) \|", guide):
        text = "\n".join(cell.source for cell in NOTEBOOKS[number].cells)
        if f"## {section}. {title}\n" not in text + "\n":
            faults.append(f"{number} § {section} {title}")
    return faults


def missing_exercises(guide: str) -> list[str]:
    """Exercises and deviations that the guide names by their title and that do not exist."""
    _, _, table = guide.partition("| deviation | after |")
    table, _, _ = table.partition("\n\n")
    named = re.findall(r"^\| (?!-)([^|]+) \|", table, re.MULTILINE)
    for sentence in re.findall(r"(?:\d\d_\w+\.ipynb\)[,:]|deviation|takes)[^.|]*", guide):
        named += re.findall(r"(?<!\*)\*(\w[^*]+)\*(?!\*)", sentence)
    text = "\n".join(cell.source for cell in EXERCISES)
    titles = re.findall(r"^## \w+\.?\d* (.+)$", text, re.MULTILINE)
    return [name for name in named if " ".join(name.split()) not in titles]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_resolve(path):
    assert broken_links(path, TEXTS[path]) == []


@pytest.mark.parametrize(
    "find",
    [missing_cells, missing_outputs, missing_sections, missing_titles, missing_exercises],
    ids=lambda find: find.__name__,
)
def test_what_the_guide_names_exists(find):
    assert find(TEXTS[GUIDE]) == []


def test_the_search_sees_what_is_missing():
    assert broken_links(GUIDE, "[a](gone.md) [b](#gone) [c](../README.md#gone)") != []
    assert broken_links(GUIDE, "# A title: yes\n[a](../README.md) [b](#a-title-yes)") == []
    assert missing_cells("▶ 01 `no_cell_has_this`") and missing_cells("▶ 99 `import`")
    cell = "▶ 01 `deep = nn.Sequential(shallow` → "
    assert missing_outputs(cell + "`no cell prints this`")
    assert not missing_outputs(cell + "`44 layers compute what 2 layers compute: True`")
    assert missing_sections("01 § 0") and not missing_sections("01 § 1")
    assert missing_titles("| 10 min | 01 § 1 No such title |")
    assert not missing_titles("| 10 min | 01 § 4 The residual block |")
    assert missing_exercises("| deviation | after |\n|---|---|\n| No such title | x |")
    assert missing_exercises("deviation *No such title*")
    assert not missing_exercises("deviation *An accuracy*")


def test_commands_start(monkeypatch):
    """What a text tells to type is a command that the program takes, for a network that exists."""
    texts = list(TEXTS.values())
    for notebook in NOTEBOOKS.values():
        texts += [cell.source for cell in notebook.cells]
    found = []
    for text in texts:
        program = r"(?:^ *(?:python|torchrun \S+) |\")-m helpers\.experiment ([^#\n\"]+)"
        found += re.findall(program, text, re.MULTILINE)
    commands = [command for command in found if "--help" not in command]
    started = []

    def start(config, *_):
        with torch.device("meta"):
            build_model(config.model)
        started.append(config)
        return {}

    monkeypatch.setattr(experiment, "run", start)
    monkeypatch.setattr(experiment, "dry_run", start)
    for command in commands:
        experiment.main(command.replace("seedN", "seed7").replace("--seed N", "--seed 7").split())
    assert len(started) == len(commands) >= 8


def test_targets_and_programs_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path, text in TEXTS.items():
        for target in re.findall(r"(?:`|^ *|\d )make ([a-z][a-z-]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"
        for program in re.findall(r"python ([\w/]+\.py)", text):
            assert (ROOT / program).is_file(), f"{path.name}: {program}"


@pytest.mark.parametrize("accuracies", [[], [0.9], [0.90, 0.91, 0.92]], ids=len)
def test_the_program_that_averages_the_runs_of_a_class(tmp_path, capsys, accuracies):
    """Run in a notebook of the course, it reads the folder that the class wrote into."""
    programs = re.findall(r"```python\n(.+?)```", TEXTS[GUIDE], re.DOTALL)
    (program,) = [program for program in programs if "test_accuracy" in program]
    folders = re.findall(r"--out (\S+)/seedN", TEXTS[GUIDE])
    assert len(set(folders)) == 1
    for seed, accuracy in enumerate(accuracies):
        folder = tmp_path / folders[0] / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"test_accuracy": accuracy}))
    exec(program, {"ROOT": tmp_path})
    printed = capsys.readouterr().out
    assert f"{len(accuracies)} runs" in printed
    assert ("91.00 ± 1.00 %" in printed) == (len(accuracies) == 3)
    exec(program.replace("values = []", "values = [91.2, 90.8]"), {"ROOT": tmp_path})
    assert f"{statistics.mean([91.2, 90.8]):.2f}" in capsys.readouterr().out


def test_the_cell_that_starts_a_run_without_a_terminal(tmp_path, monkeypatch):
    programs = re.findall(r"```python\n(.+?)```", TEXTS[GUIDE], re.DOTALL)
    (program,) = [program for program in programs if "Popen" in program]
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda command, **how: started.append((command, how)))
    exec(program, {"ROOT": tmp_path, "sys": __import__("sys")})
    ((command, how),) = started
    assert command[1:4] == ["-m", "helpers.experiment", "shapes"]
    assert how["cwd"] == tmp_path


def exercise_times(pattern: str = "") -> float:
    """Hours of all exercises whose statement matches."""
    minutes = 0
    for cell in EXERCISES:
        found = re.search(r"\*\*Time:\*\* (\d+) minutes", cell.source)
        if found and re.search(pattern, cell.source):
            minutes += int(found[1])
    return minutes / 60


def test_the_hours_and_counts_of_the_guide():
    guide = TEXTS[GUIDE]
    stated = int(re.search(r"All exercises without 06 take (\d+) hours", guide)[1])
    assert abs(exercise_times() - exercise_times("^## 6") - stated) < 1
    core = int(re.search(r"exercises marked \*\*Core\*\* \| (\d+) \|", guide)[1])
    assert abs(exercise_times(r"\*\*Core\*\*") - core) < 1
    words = [cell for cell in EXERCISES if (marking.grade_id(cell) or "").startswith("words-")]
    assert abs(len(words) - int(re.search(r"about (\d+) questions in words", guide)[1])) < 6
    assert f"{marking.SECONDS} seconds" in guide


def test_sheets(tmp_path):
    """All exam questions, none with its answer; all deviations, none with its hints."""
    sheets.main(tmp_path)
    pages = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    questions = len(re.findall(r"^\*\*\d\.\d\*\*", TEXTS[GUIDE], re.MULTILINE))
    answers = TEXTS[GUIDE].count("<summary>Answer and rubric</summary>")
    assert questions == answers
    for name in ("exam", "rubrics"):
        found = re.findall(r"<strong>\d\.\d</strong>", pages[name])
        assert len(found) == questions
    assert pages["rubrics"].count("Answer and rubric") == answers
    assert "Answer and rubric" not in pages["exam"] and "<details" not in pages["rubrics"]
    deviations = marking.released()["spot_the_deviation"].cells
    assert pages["game"].count("<section>") == sum(
        cell.source.startswith("## ") and "**Time:**" in cell.source for cell in deviations
    )
    assert "Hint" not in pages["game"]
    assert "prediction" in pages["investigation"]
