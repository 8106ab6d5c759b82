"""Guards on the lessons: what nbval does not see. Each is also shown a fault it must report."""

import ast
import copy
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from tools.run_lessons import LESSONS, ROOT, WITH_TABLES, with_tables

FIRST_CELL = nbformat.read(LESSONS[0], as_version=4).cells[1].source
IGNORE, SKIP = "nbval-ignore-output", "nbval-skip"
RECORDS = [json.loads(path.read_text()) for path in sorted(ROOT.glob("results/*/metrics.json"))]
ACCURACIES = [r["test_accuracy"] for r in RECORDS if r.get("test_accuracy") is not None]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def strict_share(notebook) -> float:
    """The fraction of code cells whose outputs nbval compares."""
    cells = code(notebook)
    return sum(not {IGNORE, SKIP} & set(tags(cell)) for cell in cells) / len(cells)


# --- the guards: each yields one line for every fault it finds


def executed_in_order(notebook):
    counts = [cell.execution_count for cell in code(notebook)]
    # nbval skips a cell that was never run: the test would pass without testing anything
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}"


def no_errors_or_warnings(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"{output.output_type} stored below {cell.source[:40]!r}"


def no_widget_state(notebook):
    if "widgets" in notebook.metadata:
        yield "widget state is stored"
    for cell in code(notebook):
        for output in cell.outputs:
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                yield f"a widget is stored below {cell.source[:40]!r}"


def not_too_large(notebook):
    size = len(nbformat.writes(notebook)) / 1000
    if size > 700:
        yield f"{size:.0f} kB"


def headings(notebook):
    text = re.sub(r"```.*?```", "", markdown(notebook), flags=re.DOTALL)
    h1 = len(re.findall(r"^# ", text, re.MULTILINE))
    h2 = len(re.findall(r"^## ", text, re.MULTILINE))
    if h1 != 1 or not notebook.cells[0].source.startswith("# "):
        yield f"{h1} H1, or the first cell is not it"
    if not 3 <= h2 <= 9:
        yield f"{h2} H2"


def same_first_cell(notebook):
    if notebook.cells[1].source != FIRST_CELL:
        yield "the first code cell is not the one of lesson 01"


def figures_have_alternative_text(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                if len(alt) < 30:
                    yield f"alternative text {alt!r} below {cell.source[:40]!r}"
    for alt in re.findall(r"!\[(.*?)\]\(", markdown(notebook)):
        if len(alt) < 30:
            yield f"alternative text {alt!r} in Markdown"


def every_reader_shows_it(notebook):
    """Colab shows no relative image, GitHub no attachment, nbviewer no Mermaid; none a script."""
    pattern = r"!\[[^\]]*\]\((?!https?:)[^)]*\)|```mermaid|<(?:img|script|iframe|style)\b"
    for fault in re.findall(pattern, markdown(notebook)):
        yield f"{fault} is not shown everywhere; images are shown by code cells"


def links_resolve(notebook):
    for target in re.findall(r"\]\(([^)\s]+)\)", markdown(notebook)):
        if target.startswith(("http", "#")):
            continue
        if not (ROOT / "notebooks" / target.split("#")[0]).exists():
            yield f"link to {target}"


def asserts(cell) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell.source)))


def guards_of_the_section(cells: list) -> list:
    """The guard cells before the next section begins."""
    found = []
    for cell in cells:
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.MULTILINE):
            break
        if "guard" in tags(cell):
            found.append(cell)
    return found


def ignored_cells_assert(notebook):
    """A cell whose output is not compared holds an assertion, or a guard of its section does."""
    for number, cell in enumerate(notebook.cells):
        if not {IGNORE, SKIP} & set(tags(cell)):
            continue
        guards = guards_of_the_section(notebook.cells[number + 1 :])
        if not any(asserts(each) for each in [cell, *guards]):
            yield f"no assertion in {cell.source[:40]!r}, whose output is not compared"


def enough_is_compared(notebook):
    if strict_share(notebook) < 0.4:
        yield f"nbval compares only {strict_share(notebook):.0%} of the cells"


def cells_are_short(notebook):
    lengths = [len(cell.source.splitlines()) for cell in code(notebook)]
    if max(lengths) > 50 or statistics.median(lengths) > 12:
        yield f"longest cell {max(lengths)} lines, median {statistics.median(lengths)}"


def no_scaffolding(notebook):
    for cell in code(notebook):
        if re.search(r"#\s*(NBVAL|PYTEST)", cell.source):
            yield f"test settings in the source of {cell.source[:40]!r}"


def no_traces_of_a_machine(notebook):
    folders = r"(?<![\w.])/(?:home|Users|root|tmp|work|content)/\S*"
    for cell in code(notebook):
        for path in re.findall(folders, json.dumps(cell.outputs)):
            yield f"an output names {path}"


def outputs_are_of_cifar10(notebook):
    if "NOT CIFAR-10" in json.dumps([cell.outputs for cell in code(notebook)]):
        yield "the stored outputs were made on the embedded data set"


def prose_has_no_results(notebook):
    """A run's accuracy is read from results/; typed into prose it would go stale."""
    text = markdown(notebook)
    for accuracy in ACCURACIES:
        percent = 100 * accuracy
        for number in {f"{percent:.2f}", f"{percent:.1f} %", f"{percent:.1f}%"}:
            if re.search(rf"(?<![\d.]){re.escape(number)}", text):
                yield f"{number} is a recorded result"


def formulas_are_written_once(notebook):
    r"""A doubled backslash, as in \\\\gamma, shows up as text."""
    for fault in re.findall(r"\\\\[a-zA-Z,]+", markdown(notebook)):
        yield f"{fault} in Markdown"


def stated_minutes(notebook) -> int | None:
    """What the lesson says of its length, if it says it in minutes."""
    found = re.search(r"\*\*Minutes: (\d+)\*\*", notebook.cells[0].source)
    return int(found[1]) if found else None


def minutes(notebook) -> float:
    """Words of prose / 200 + lines of code / 4, without first cell, guards and appendix."""
    words = lines = 0
    for cell in notebook.cells[2:]:
        if cell.cell_type == "markdown":
            if cell.source.startswith("## Appendix"):
                break
            words += len(re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL).split())
        elif "guard" not in tags(cell):
            stripped = [line.strip() for line in cell.source.splitlines()]
            lines += sum(bool(line) and not line.startswith("#") for line in stripped)
    words += len(re.sub(r"\[!\[.*?\)\]\(.*?\)", "", notebook.cells[0].source).split())
    return words / 200 + lines / 4


def minutes_are_true(notebook):
    stated = stated_minutes(notebook)
    if stated is not None and abs(minutes(notebook) - stated) > 3.5:
        yield f"{stated} minutes are stated, the formula gives {minutes(notebook):.0f}"


GUARDS = (
    executed_in_order,
    no_errors_or_warnings,
    no_widget_state,
    not_too_large,
    headings,
    same_first_cell,
    figures_have_alternative_text,
    every_reader_shows_it,
    links_resolve,
    ignored_cells_assert,
    enough_is_compared,
    cells_are_short,
    no_scaffolding,
    no_traces_of_a_machine,
    outputs_are_of_cifar10,
    prose_has_no_results,
    minutes_are_true,
    formulas_are_written_once,
)


@pytest.fixture(scope="module", params=LESSONS, ids=lambda path: path.stem)
def notebook(request):
    notebook = nbformat.read(request.param, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_lesson(notebook, guard):
    assert list(guard(notebook)) == []


def test_all_lessons_are_there():
    numbers = [int(path.stem[:2]) for path in LESSONS]
    assert numbers == list(range(1, len(LESSONS) + 1)) and len(LESSONS) >= 6


def test_enough_is_compared_over_all():
    compared, count = 0.0, 0
    for path in LESSONS:
        notebook = nbformat.read(path, as_version=4)
        compared += strict_share(notebook) * len(code(notebook))
        count += len(code(notebook))
    assert compared / count >= 0.6


# --- README


def test_tables_show_the_recorded_results():
    texts = [path.read_text(encoding="utf-8") for path in WITH_TABLES if path.is_file()]
    assert any("<!-- results: begin" in text for text in texts)
    for text in texts:
        assert with_tables(text) == text, "run `make tables`"


def test_readme_links_resolve_and_name_every_lesson():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"(?:\]\(|src=\"|href=\")([^)\"\s]+)", readme)
    targets = [target for target in targets if not target.startswith(("http", "#"))]
    assert [t for t in targets if not (ROOT / t.split("#")[0]).exists()] == []
    assert {f"notebooks/{path.name}" for path in LESSONS} <= set(targets)


# --- the guards, guarded


def plant(fault: str, notebook) -> None:
    cell, text = code(notebook)[2], notebook.cells[0]
    stream = {"output_type": "stream", "name": "stdout", "text": ""}
    if fault == "executed_in_order":
        cell.execution_count = None
    elif fault == "no_errors_or_warnings":
        cell.outputs = [nbformat.from_dict(stream | {"name": "stderr", "text": "UserWarning"})]
    elif fault == "no_widget_state":
        notebook.metadata["widgets"] = {}
    elif fault == "not_too_large":
        text.source += "x" * 800_000
    elif fault == "headings":
        text.source += "\n# Another title"
    elif fault == "same_first_cell":
        notebook.cells[1].source += "\nprint('hello')"
    elif fault == "figures_have_alternative_text":
        text.source += "\n![](figure.png)"
    elif fault == "every_reader_shows_it":
        text.source += "\n![A figure that lies beside the notebook](../images/figure.png)"
    elif fault == "links_resolve":
        text.source += "\n[gone](99_gone.ipynb)"
    elif fault == "ignored_cells_assert":
        for each in code(notebook):
            each.metadata["tags"] = []
        cell.source, cell.metadata["tags"] = "print(1)", [IGNORE]
    elif fault == "enough_is_compared":
        for each in code(notebook):
            each.metadata["tags"] = [IGNORE]
    elif fault == "cells_are_short":
        cell.source = "x = 1\n" * 60
    elif fault == "no_scaffolding":
        cell.source = "# NBVAL_IGNORE_OUTPUT\nprint(1)"
    elif fault == "no_traces_of_a_machine":
        cell.outputs = [nbformat.from_dict(stream | {"text": "saved to /home/me/run"})]
    elif fault == "outputs_are_of_cifar10":
        cell.outputs = [nbformat.from_dict(stream | {"text": "THIS IS NOT CIFAR-10."})]
    elif fault == "prose_has_no_results":
        text.source += f"\nIt reaches {100 * ACCURACIES[0]:.2f} %."
    elif fault == "formulas_are_written_once":
        text.source += r"\n$\\gamma$"
    elif fault == "minutes_are_true":
        text.source += "\n**Minutes: 5**" + " word" * 3000


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_each_guard_reports_its_fault(guard):
    notebook = copy.deepcopy(nbformat.read(LESSONS[0], as_version=4))
    plant(guard.__name__, notebook)
    assert list(guard(notebook)) != []


# --- what is taught is what is used


def definitions(source: str) -> dict[str, str]:
    """Every top-level function and class, without docstrings, comments and layout."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for inner in ast.walk(node):
                if isinstance(inner, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(inner):
                    inner.body = inner.body[1:]
            found[node.name] = ast.unparse(node)
    return found


TAUGHT = {
    "02_building_resnet50": (
        "resnet",
        "conv3x3 conv1x1 projection ZeroPad BasicBlock Bottleneck make_stage initialize "
        "make_stem ResNet CifarResNet resnet50 cifar_resnet",
    ),
    "04_training": ("training", "train_one_epoch"),
}


@pytest.mark.parametrize("lesson", TAUGHT)
def test_taught_definitions_are_those_of_the_helpers(lesson):
    module, names = TAUGHT[lesson]
    helper = definitions((ROOT / "helpers" / f"{module}.py").read_text())
    notebook = nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", as_version=4)
    taught = definitions("\n\n".join(cell.source for cell in code(notebook)))
    for name in names.split():
        assert taught[name] == helper[name], f"{name} differs from helpers.{module}.{name}"


def test_the_comparison_sees_a_changed_stride():
    source = 'def f(x):\n    """A docstring."""\n    return conv(x, stride=2)'
    assert definitions(source) == definitions(source.replace("A docstring", "Another one"))
    assert definitions(source) != definitions(source.replace("stride=2", "stride=1"))


def without_xdist() -> dict[str, str]:
    """The environment for another pytest, without what xdist says to its own workers."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}


@pytest.mark.long
@pytest.mark.parametrize("threads", [1, 2])
def test_lessons_print_the_same_with_any_number_of_threads(threads):
    """COURSE_COLAB_PYTHON may name another Python, with an older torch: the same outputs."""
    python = os.environ.get("COURSE_COLAB_PYTHON", sys.executable)
    lessons = [str(path.relative_to(ROOT)) for path in LESSONS]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *lessons]
    environment = without_xdist() | {"OMP_NUM_THREADS": str(threads), "COURSE_DATA": "shapes"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-6000:]


@pytest.mark.long
def test_runs_of_ones_own_in_results_do_not_break_lesson_07(tmp_path):
    """A copy of a recorded run, and a run that looked at no test image."""
    for folder in ("helpers", "notebooks", "results"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    results = tmp_path / "results"
    shutil.copytree(results / "ablation-resnet20-seed0", results / "ablation-resnet20-seed0-copy")
    shutil.copytree(results / "shapes-plain20", results / "ablation-without-test")
    metrics = results / "ablation-without-test" / "metrics.json"
    content = json.loads(metrics.read_text())
    del content["test_accuracy"]
    metrics.write_text(json.dumps(content))
    (lesson,) = (tmp_path / "notebooks").glob("07_*.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "no:cacheprovider"]
    command.append(lesson.name)
    environment = without_xdist()
    done = subprocess.run(
        command, cwd=lesson.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-3000:]


# --- a cell may be run twice, and a section again


def printed(cell) -> list:
    """What nbval would compare: text, not images."""
    found = []
    for output in cell.get("outputs", []):
        assert output.output_type != "error", "\n".join(output.traceback)
        found.append(output.get("text") or output.get("data", {}).get("text/plain"))
    return found


def sections(notebook) -> list[list[int]]:
    """The positions of the cells of each section."""
    found: list[list[int]] = [[]]
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and re.match(r"## ", cell.source):
            found.append([])
        if cell.cell_type == "code":
            found[-1].append(position)
    return found[1:]


NEW_STYLE = [path for path in LESSONS if stated_minutes(nbformat.read(path, as_version=4))]


@pytest.mark.long
@pytest.mark.parametrize("path", NEW_STYLE, ids=lambda path: path.stem)
def test_every_cell_may_be_run_twice_and_every_section_again(path):
    """Cells that take training steps carry the tag `stateful`: there the section repeats."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=600, resources=resources, coalesce_streams=True)
    first = {}

    def run(position: int) -> None:
        cell = notebook.cells[position]
        client.execute_cell(cell, position)
        again = printed(cell)
        if not {IGNORE, "stateful"} & set(tags(cell)):
            assert again == first.setdefault(position, again), cell.source

    with client.setup_kernel():
        for position, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                run(position)
                if "stateful" not in tags(cell):
                    run(position)
        for section in sections(notebook):
            for position in section:
                run(position)
