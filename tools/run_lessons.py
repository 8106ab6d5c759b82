"""Executes the lessons from the shell, and draws the tables of recorded runs.

`run` executes into build/, with HTML and a summary; `refresh` rewrites the stored outputs and the
tables; `tables` rewrites the tables only: those of README.md and results/README.md.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
WITH_TABLES = [ROOT / "README.md", ROOT / "results" / "README.md"]
NOTICES: list[str] = []  # what a reader must not overlook

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
    "accelerator": "GPU",
    "colab": {"provenance": [], "gpuType": "T4"},
}


def prepare_environment() -> None:
    """What the kernels inherit: nobody moves a slider, and a path is not relative to notebooks/."""
    os.environ["COURSE_UNATTENDED"] = "1"
    if os.environ.get("CIFAR10_ROOT"):
        os.environ["CIFAR10_ROOT"] = str(Path(os.environ["CIFAR10_ROOT"]).expanduser().resolve())


def text_of(cell, stream: str = "stdout") -> str:
    """What a code cell printed."""
    outputs = cell.get("outputs", [])
    return "".join(output["text"] for output in outputs if output.get("name") == stream)


def execute(path: Path) -> tuple[nbformat.NotebookNode, float]:
    """The notebook with fresh outputs, and the seconds it took.

    A failing cell ends the program with its error.
    """
    notebook = nbformat.read(path, as_version=4)
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    start = time.perf_counter()
    with tqdm(total=code_cells, desc=path.stem, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=1200,
            record_timing=False,
            coalesce_streams=True,  # what a cell prints is one block, however long it takes
            extra_arguments=["--log-level=ERROR"],  # a local kernel need not warn that it is local
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_executed=lambda **_: bar.update(),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            sys.exit(f"{path.name} failed:\n{error}")
    return notebook, time.perf_counter() - start


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Removes progress bars, widget state and traces of this machine from the stored outputs.

    A stored warning ends the program.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            if output.get("name") != "stderr":
                continue
            if "Warning" in output.text:
                sys.exit(f"a warning below {cell.source[:60]!r}:\n{output.text}")
            cell.outputs.remove(output)


def choose_data() -> None:
    """Looks for CIFAR-10, or downloads it, once and not in every lesson."""
    from helpers.data import load

    if os.environ.get("COURSE_DATA", "auto") == "auto" and load("auto").name == "shapes":
        os.environ["COURSE_DATA"] = "shapes"
        NOTICES.append("THIS IS NOT CIFAR-10: all results above are of the embedded set `shapes`.")


def run(paths: list[Path]) -> None:
    """Executes lessons into build/, as notebooks and HTML.

    Prints times, every cell tagged `report`, and whether the data was not CIFAR-10.
    """
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    lines = []
    choose_data()
    for path in paths:
        notebook, seconds = execute(path)
        nbformat.write(notebook, build / path.name)
        html, _ = HTMLExporter(exclude_input_prompt=True).from_notebook_node(notebook)
        (build / f"{path.stem}.html").write_text(html, encoding="utf-8")
        lines.append(f"{path.stem}: {seconds:.0f} s")
        for cell in notebook.cells:
            if "report" in cell.metadata.get("tags", []):
                lines += [f"    {line}" for line in text_of(cell).splitlines()]
    print("\nResults (notebooks and HTML pages are in build/):", *lines, *NOTICES, sep="\n")
    print(f"\nTo read the lessons with their results, open {build / paths[0].stem}.html")


def refresh(paths: list[Path]) -> None:
    """Re-executes lessons in place, on CIFAR-10, and redraws the tables.

    Without CIFAR-10 it fails (unless COURSE_DATA says shapes): outputs would be of other data.
    """
    if os.environ.get("COURSE_DATA", "auto") == "auto":
        os.environ["COURSE_DATA"] = "cifar10"
    for path in paths:
        path.open("a").close()  # fails now, not after minutes of work
        notebook, seconds = execute(path)
        tidy(notebook)
        nbformat.write(notebook, path)
        print(f"{path.stem}: {seconds:.0f} s")
    write_tables()


# --- the tables of recorded runs

SETTING = "dataset model parameters split epochs precision processor gpu threads".split()
COLUMNS = "data, network, trained on, epochs, test accuracy, minutes, machine, date, record"
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "shapes": "`shapes` (embedded)"}
SPLITS = {"train": "training split", "train+val": "training and validation splits"}


def recorded_runs(results: Path) -> dict[tuple, list[dict]]:
    """The records by setting, the seeds of one setting together.

    Left out are runs without a test accuracy and those of lesson 07, which has tables of its own.
    """
    groups: dict[tuple, list[dict]] = {}
    for path in sorted(results.glob("*/metrics.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        belongs_to_lesson = path.parent.name.startswith(("ablation-", "ladder-"))
        if belongs_to_lesson or record.get("test_accuracy") is None:
            continue
        environment = path.with_name("environment.json").read_text(encoding="utf-8")
        record |= json.loads(environment) | {"record": path.parent.name}
        setting = tuple(record.get(name) for name in SETTING)
        groups.setdefault(setting, []).append(record)
    return groups


def accuracy_of(runs: list[dict]) -> str:
    """Mean test accuracy of the seeds of one setting, with standard deviation and number."""
    accuracies = [100 * run["test_accuracy"] for run in runs]
    mean = f"{statistics.mean(accuracies):.2f}"
    if len(runs) == 1:
        return f"{mean} % (1 seed)"
    return f"{mean} ± {statistics.stdev(accuracies):.2f} % ({len(runs)} seeds)"


def results_row(runs: list[dict]) -> list[str]:
    """One setting's cells; a value that its records do not have is a dash."""
    run = {name: "–" for name in SETTING} | {k: v for k, v in runs[0].items() if v is not None}
    seconds = [each["train_seconds"] for each in runs if each.get("train_seconds") is not None]
    minutes = f"{statistics.mean(seconds) / 60:.1f}" if seconds else "–"
    machine = run["gpu"]
    if runs[0].get("gpu") is None:
        machine = f"{run['processor']}; {run['threads'] * run.get('processes', 1)} thread(s)"
    names = [each["record"] for each in runs]
    record = names[0] if len(names) == 1 else os.path.commonprefix(names) + "…"
    return [
        DATA.get(run["dataset"], run["dataset"]),
        run["model"],
        SPLITS.get(run["split"], run["split"]),
        str(run["epochs"]),
        accuracy_of(runs),
        minutes,
        f"{machine}, {run['precision']}",
        max(each.get("date", "–")[:10] for each in runs),
        f"`{record}`",
    ]


def results_table(results: Path = ROOT / "results") -> str:
    """The recorded runs as a Markdown table."""
    columns = COLUMNS.split(", ")
    lines = [markdown_row(columns), "|---" * len(columns) + "|"]
    for runs in recorded_runs(results).values():
        lines.append(markdown_row(results_row(runs)))
    return "\n".join(lines)


# README's first results: what they are called there, and the beginning of the records' names
HIGHLIGHTS = (
    ("ResNet-50, 23.5 M parameters, on one GPU (H200)", "cifar10-resnet50-gpu-train-seed"),
    ("ResNet-50, overnight on two CPU cores", "cifar10-resnet50-night"),
    ("ResNet-50, two hours on two CPU cores", "cifar10-resnet50-cpu-train-val-seed"),
    ("ResNet-9, 1.6 M parameters", "cifar10-resnet9-laptop-48epochs-seed"),
    ("ResNet-9", "cifar10-resnet9-laptop-train-val-seed"),
    ("ResNet-20, the paper's schedule", "paper-resnet20-seed"),
    ("its plain twin", "paper-plain20-seed"),
)
TEST_IMAGES = 10_000


def interval_of(runs: list[dict]) -> str:
    """What the choice of the test images leaves open: a 95 % interval of the mean accuracy."""
    accuracy = statistics.mean(run["test_accuracy"] for run in runs)
    margin = 1.96 * (accuracy * (1 - accuracy) / TEST_IMAGES) ** 0.5
    return f"{100 * (accuracy - margin):.1f} to {100 * (accuracy + margin):.1f} %"


def highlights_table(results: Path = ROOT / "results") -> str:
    """README's first results as a Markdown table; a network without a record has no row."""
    columns = ["network", "trained on", "epochs", "test accuracy", "95 % interval", "minutes"]
    lines = [markdown_row(columns), "|---" * len(columns) + "|"]
    for name, beginning in HIGHLIGHTS:
        paths = sorted(results.glob(f"{beginning}*/metrics.json"))
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        runs = [run for run in runs if run.get("test_accuracy") is not None]
        if not runs:
            continue
        images = {"train": "45,000 images", "train+val": "50,000 images"}[runs[0]["split"]]
        minutes = statistics.mean(run["train_seconds"] for run in runs) / 60
        row = [name, images, str(runs[0]["epochs"]), accuracy_of(runs), interval_of(runs)]
        lines.append(markdown_row([*row, f"{minutes:.0f}"]))
    return "\n".join(lines)


def bench_table(folder: Path = ROOT / "results" / "bench") -> str:
    """What `make bench` measured, machine by machine, as Markdown tables."""
    tables = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        environment = report["environment"]
        machine = environment["gpu"] or environment["processor"]
        title = (
            f"{machine}, {environment['threads']} thread(s), torch {environment['torch']}, "
            f"{environment['date'][:10]}, on {environment['dataset']}:"
        )
        lines = [title, "", "| | ours | peer | ours / peer |", "|---|---|---|---|"]
        for row in report["rows"]:
            lines.append(markdown_row(bench_row(row)))
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def bench_row(row: dict) -> list[str]:
    """The cells of one comparison, or of one measurement beside the hardware's limit."""
    unit = row["unit"]
    if "peer" in row:
        ours, peer, last = f"{row['ours']:.4g}", f"{row['peer']:.4g} {unit}", f"{row['ratio']:.3g}"
    else:
        ours, peer = f"{row['ours']:.3g}", f"{row['tflops']:.3g} TFLOP/s"
        last = f"{row['share_of_floor']:.0%} of the limit"
    return [row["what"], f"{ours} {unit}", peer, last]


def markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def with_tables(text: str) -> str:
    """Markdown with the tables between their markers redrawn."""
    tables = {"results": results_table, "bench": bench_table, "highlights": highlights_table}
    for name, draw in tables.items():
        pattern = rf"(<!-- {name}: begin[^>]*-->\n).*?(\n<!-- {name}: end -->)"
        found = re.search(pattern, text, re.DOTALL)
        if found:
            text = text[: found.end(1)] + draw() + text[found.start(2) :]
    return text


def write_tables() -> None:
    for path in WITH_TABLES:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            path.write_text(with_tables(text), encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "refresh", "tables"])
    parser.add_argument("lessons", nargs="*", type=Path, help="notebooks (default: all)")
    options = parser.parse_args()
    for path in options.lessons:
        if not path.is_file():
            example = f"notebooks/{LESSONS[0].name}"
            parser.error(f"there is no notebook {path}: name it with its folder, as in {example}")
    lessons = [path.resolve() for path in options.lessons] or LESSONS
    prepare_environment()
    try:
        if options.command == "run":
            run(lessons)
        elif options.command == "refresh":
            refresh(lessons)
        else:
            write_tables()
    except OSError as reason:  # a checkout that is only read
        sys.exit(f"error: {reason}")


if __name__ == "__main__":
    main()
