"""The teacher's guide: what it names exists, what it computes is right, what it tells to type works."""

import contextlib
import io
import json
import math
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lessons import LESSONS, ROOT, text_of
from torch import nn

from helpers import data, experiment, plotting, training
from helpers.experiment import build_model
from helpers.inspection import receptive_field, summarize
from helpers.resnet import Bottleneck

GUIDE = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
BOOKS = {path.stem[:2]: nbformat.read(path, as_version=4) for path in LESSONS}
CODE = {number: [cell for cell in book.cells if cell.cell_type == "code"] for number, book in BOOKS.items()}
CELL = re.compile(r"▶ (\d\d)\s+`([^`]+)`(?:\s+→ `([^`]+)`)?")


def titles(book) -> list[str]:
    """The sections of a notebook, “1. …”, in order."""
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def missing_cells(guide: str) -> list[str]:
    """Cells that the guide names and no lesson has, and printed text that is not below the cell."""
    faults = []
    for number, code, printed in CELL.findall(guide):
        cells = [cell for cell in CODE.get(number, []) if code in cell.source]
        if not cells:
            faults.append(f"{number}: no cell with {code}")
        elif printed and not any(printed in text_of(cell) for cell in cells):
            faults.append(f"{number}: {code} does not print {printed}")
    return faults


def missing_sections(guide: str) -> list[str]:
    """Sections that the guide names and no lesson has; in a table of timings with another title, or not at all."""
    faults = [
        f"{number} § {section}"
        for number, section in re.findall(r"\b(\d\d) § (\d)", guide)
        if number not in BOOKS or not any(title.startswith(f"{section}. ") for title in titles(BOOKS[number]))
    ]
    timed = re.findall(r"^\| \d+ min \| (\d\d) § (\d) (.+?) \|", guide, re.MULTILINE)
    for number, book in BOOKS.items():
        here = [f"{section}. {title}" for lesson, section, title in timed if lesson == number]
        there = [title for title in titles(book) if "Recap" not in title]
        if here and here != there:
            faults.append(f"{number}: {set(here) ^ set(there)}")
    return faults


def missing_links(guide: str) -> list[str]:
    """Links to files or headings that do not exist, and pictures that are named and not there."""
    faults = []
    for target in re.findall(r"\]\(([^)\s]+)\)", guide):
        file, _, anchor = target.partition("#")
        path = ROOT / "notebooks" / file
        if target.startswith("http"):
            continue
        if file and not path.exists():
            faults.append(target)
        elif anchor:
            text = path.read_text(encoding="utf-8") if file else guide
            slugs = [
                re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
                for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            ]
            if anchor not in slugs:
                faults.append(target)
    return faults + [name for name in re.findall(r"`(images/[^`]+)`", guide) if not (ROOT / name).is_file()]


@pytest.mark.parametrize("find", [missing_cells, missing_sections, missing_links], ids=lambda find: find.__name__)
def test_what_the_guide_names_exists(find):
    assert find(GUIDE) == []


@pytest.mark.parametrize(
    ("find", "text", "replacement"),
    [
        (missing_cells, 'guess = "ten"', 'guess = "eleven"'),
        (missing_cells, "16.9 times as many", "17.9 times as many"),
        (missing_sections, "01 § 6 (", "01 § 0 ("),
        (missing_sections, "02 § 3 The bottleneck", "02 § 3 The narrow block"),
        (missing_links, "images/stems.png", "images/stem.png"),
        (missing_links, "(#your-own-copy)", "(#my-own-copy)"),
        (missing_links, "(../results)", "(../outcomes)"),
    ],
)
def test_the_search_sees_what_is_missing(find, text, replacement):
    assert text in GUIDE and find(GUIDE.replace(text, replacement)) != []


def test_every_lesson_has_its_chapter():
    for path in LESSONS:
        if path.stem[:2] in {number for number, _ in re.findall(r"\b(\d\d) § (\d)", GUIDE)} or path.stem[:2] <= "07":
            chapter = GUIDE.split(f"[Lesson {path.stem[:2]}]({path.name})")[1].split("\n### ")[0]
            for part in ("**Objectives.**", "**Prerequisites.**", "| timing |", "| they believe |", "**Discuss.**", "**Exam**"):
                assert part in chapter, (path.stem, part)


def test_points_add_up():
    questions = re.findall(r"^\*\*(\d)\.(\d)\*\* \((\d+) points\)(.+?)</details>", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(questions) == 28
    for lesson in "1234567":
        assert sum(int(points) for number, _, points, _ in questions if number == lesson) == 20
    for lesson, number, points, text in questions:
        answer = text.split("Answer and rubric")[1]
        parts = [int(n) for n in re.findall(r"(?:^- |^|\. )(\d) points?(?=:| for)", answer, re.MULTILINE)]
        each = re.match(r"\D*(\d) points? each", answer)
        assert each or sum(parts) == int(points), (lesson, number, parts)
    minutes = [
        int(n)
        for path in sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb"))
        for n in re.findall(r"\*\*Time:\*\* (\d+) minutes", path.read_text(encoding="utf-8"))
    ]
    assert "about twelve hours" in GUIDE and 11 <= sum(minutes) / 60 <= 13
    marks = re.findall(r"^\| \d (?:lecture|lab|seminar).*\| (\d+) \|$", GUIDE, re.MULTILINE)
    assert len(marks) == 6 and sum(map(int, marks)) == 100
    rubric = GUIDE.split("| criterion |")[1].split("\n\n")[0]
    assert sum(int(points) for points in re.findall(r"\| (\d) \|$", rubric, re.MULTILINE)) == 15


@pytest.mark.long
@pytest.mark.parametrize(("number", "lecture"), [("01", "45"), ("02", "90")])
def test_a_lecture_can_be_given(number, lecture, monkeypatch):
    """After the whole lesson has been run, the cells that the running order names work in its order."""
    script = GUIDE.split(f"## The lecture ({lecture} minutes)")[1].split("\n## ")[0]
    script = re.sub(r"\*[Uu]nfold\*[^▶]{0,30}▶", "", script)
    state, sources = {"__name__": "__main__"}, [cell.source for cell in CODE[number]]
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setattr(plotting, "show", lambda figure, alt: plt.close(figure))
    for source in sources:
        exec(compile(source, "<lesson>", "exec"), state)
    steps = [(code, printed) for lesson, code, printed in CELL.findall(script) if lesson == number]
    assert len(steps) >= 8
    for code, printed in steps:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(next(source for source in sources if code in source), "<lesson>", "exec"), state)
        assert printed in out.getvalue(), code


# --- the numbers in the answers


def stated(*numbers: str) -> None:
    for number in numbers:
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d)", re.sub(r"\s+", " ", GUIDE)), number


def test_numbers_about_networks():
    conv = nn.Conv2d(64, 128, 3, 2, 1, bias=False)
    out = conv(torch.zeros(1, 64, 32, 32))
    stated(f"{conv.weight.numel():,}", f"{out.numel() * conv.weight[0].numel():,}", f"128×{out.shape[2]}×{out.shape[3]}")

    block = nn.Sequential(Bottleneck(512, 256, stride=2))
    stated(f"{sum(p.numel() for p in block.parameters()):,}", f"{summarize(block, (512, 28, 28)).multiply_adds.sum():,}")
    block[0].conv1.stride, block[0].conv2.stride = (2, 2), (1, 1)
    stated(f"{summarize(block, (512, 28, 28)).multiply_adds.sum():,}")

    layers = nn.Sequential(
        nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, 2), nn.Conv2d(1, 1, 3), nn.MaxPool2d(2, 2), nn.Conv2d(1, 1, 3)
    )
    field = receptive_field(layers)
    assert field["size"].tolist() == [3, 5, 9, 11, 19] and field["step"].iloc[-1] == 4
    stated("1 → 3 → 5 → 9 → 11 → 19 pixels", "4 pixels apart")


def test_numbers_about_data():
    for shift, indices in ((-2, "2 1 0 1 2"), (2, "2 3 4 3 2")):
        padded = np.pad(np.arange(5), 2, mode="reflect")
        assert " ".join(map(str, padded[2 + shift :][:5])) == indices
        stated(f"s = {'+' if shift > 0 else '-'}{abs(shift)}: {indices}")
    stated(" ".join(map(str, np.pad(np.arange(5), 2, mode="symmetric")[:5])))
    versions = data.random_crop_flip(torch.arange(64.0).view(1, 1, 8, 8).expand(20_000, 1, 8, 8), pad=2)
    assert len(versions.flatten(1).unique(dim=0)) == 50
    stated(f"{50 * (1 - (1 - 1 / 50) ** 20):.1f}", data.CIFAR10_ARCHIVE_MD5, "2,000 test pictures")
    stated(f"{100 * math.sqrt(0.9 * 0.1 / 2000):.2f} points")


def test_numbers_about_training():
    target = torch.full((10,), 0.01).index_fill(0, torch.tensor(0), 0.91)
    best = F.cross_entropy(target.log()[None], torch.tensor([0]), label_smoothing=0.1)  # the network answers with the target
    nearby = [
        F.cross_entropy((target * f).log()[None], torch.tensor([0]), label_smoothing=0.1) for f in torch.rand(50, 10) + 0.5
    ]
    assert min(nearby) >= best
    stated(f"≈ {best:.3f}", f"ln 10 ≈ {math.log(10):.3f}")
    assert training.lr_factor(99, 1000, 0.2) < training.lr_factor(100, 1000, 0.2)  # rising
    assert round(training.lr_factor(99, 1000, 0.2), 1) == 0.5
    assert torch.tensor(2.9e-8).half() == 0 < torch.tensor(3.1e-8).half() and torch.tensor(1e-8).bfloat16() > 0
    assert torch.tensor(1.0).bfloat16() + torch.tensor(0.002).bfloat16() == 1


def test_numbers_about_evaluation():
    first, second = (100 * math.sqrt(p * (1 - p) / 10_000) for p in (0.930, 0.934))
    stated(f"{first:.2f} points", f"{second:.2f} for the other", f"{math.hypot(first, second):.2f} points")
    assert round(0.4 / math.hypot(first, second), 1) == 1.1 and (220 - 200) / math.sqrt(400 / 4) == 2
    gaps = [(0.2, 0.6, 0.5), (0.3, 0.8, 0.9), (0.5, 0.95, 0.9)]
    stated(f"{sum(share * abs(confidence - right) for share, confidence, right in gaps):.3f}")
    stated(f"{100 * 185 / 210:.1f} %", f"{(90 + 90 + 50) / 3:.1f} %")


# --- what a teacher types


def test_commands_start(monkeypatch):
    """What guide, README and lessons tell to type is not refused: neither misspelt, nor because its record is there already."""
    texts = [GUIDE, (ROOT / "README.md").read_text(encoding="utf-8")]
    texts += ["\n".join(cell.source for cell in book.cells) for book in BOOKS.values()]
    commands = re.findall(r"^(?:python|torchrun \S+) -m helpers\.experiment ([^#\n]+)", "\n".join(texts), re.MULTILINE)
    assert len(commands) >= 15
    started = []
    monkeypatch.setattr(experiment, "run", lambda config, out, *_: started.append(out) or {})
    monkeypatch.setattr(experiment, "dry_run", lambda config: "")
    monkeypatch.setattr(sys, "argv", [""])
    for command in commands:
        if "--help" not in command:
            experiment.main(command.replace("seedN", "seed7").replace("--seed N", "--seed 7").split())
    assert len(started) >= 10 and [out for out in started if (ROOT / out / "metrics.json").exists()] == []


def test_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^ *|\d )make ([a-z][a-z-]+)", GUIDE, re.MULTILINE))
    assert {"run", "lab", "test", "exercises"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_messages_are_those_of_the_checks():
    checks = (ROOT / "helpers" / "checks.py").read_text(encoding="utf-8")
    for message in re.findall(r"^\| (… .+?) \|", GUIDE, re.MULTILINE):
        assert message.strip("… ") in checks, message


def test_numbers_about_ablations():
    b, c = (sum(p.numel() for p in build_model(f"resnet20-{option}").parameters()) for option in "BC")
    stated(f"{c - b:,}")
    first, second = np.array([91.2, 91.6, 91.4]), np.array([91.9, 91.5, 92.0])
    error = math.sqrt(first.var(ddof=1) / 3 + second.var(ddof=1) / 3)
    stated(f"{error:.2f}", f"{(second.mean() - first.mean()) / error:.1f} standard errors")


def test_a_fork_is_pointed_at_itself(tmp_path):
    """The guide's command, run in a copy of what it changes; tests/test_badges.py looks at every detail."""
    assert "make badges" in GUIDE
    command = re.search(r"`python (tests/badges\.py \S+/\S+)`", GUIDE)[1].split()
    for path in [ROOT / "README.md", ROOT / "tests" / "badges.py", *(ROOT / "notebooks").rglob("*.ipynb")]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    subprocess.run([sys.executable, *command], cwd=tmp_path, check=True)
    for copy in [*tmp_path.rglob("*.ipynb"), tmp_path / "README.md"]:
        text = copy.read_text(encoding="utf-8")
        assert "OWNER/" not in text and "github.com/your-account/your-course" in text


def test_the_class_number(tmp_path, monkeypatch, capsys):
    """The lines that average the runs of a class."""
    program = re.search(r"```python\n(import json, pathlib, statistics\n.+?)```", GUIDE, re.DOTALL)[1]
    for seed, accuracy in enumerate((0.90, 0.91, 0.92)):
        folder = tmp_path / "build" / "class" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"test_accuracy": accuracy}))
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert capsys.readouterr().out == "3 runs: 91.00 ± 1.00 %, from 90.00 to 92.00\n"
