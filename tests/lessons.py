"""Executes the lessons from the shell: `run` into build/, with HTML and a summary; `refresh` rewrites the stored outputs.

`refresh` also draws README's tables anew from results/.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def text_of(cell, stream: str = "stdout") -> str:
    """What a code cell printed."""
    return "".join(output["text"] for output in cell.get("outputs", []) if output.get("name") == stream)


def execute(path: Path) -> tuple[nbformat.NotebookNode, float]:
    """The lesson with fresh outputs, and the seconds it took. A failing cell ends the program with its error."""
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
    """Leaves in the stored outputs what a reader needs: no progress bars, no widget state, no traces of this machine."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "accelerator": "GPU",
        "colab": {"provenance": [], "gpuType": "T4"},
    }
    for cell in notebook.cells:
        for output in [o for o in cell.get("outputs", []) if o.get("name") == "stderr"]:
            if "Warning" in output.text:
                sys.exit(f"a reader would stumble over this, below {cell.source[:60]!r}:\n{output.text}")
            cell.outputs.remove(output)


def run(paths: list[Path]) -> None:
    """Executes lessons into build/, as notebooks and HTML; prints times, every cell tagged `report`, and which data it was."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    lines, notices = [], set()
    for path in paths:
        notebook, seconds = execute(path)
        nbformat.write(notebook, build / path.name)
        html, _ = HTMLExporter(exclude_input_prompt=True).from_notebook_node(notebook)
        (build / f"{path.stem}.html").write_text(html, encoding="utf-8")
        lines.append(f"{path.stem}: {seconds:.0f} s")
        for cell in notebook.cells:
            if "report" in cell.metadata.get("tags", []):
                lines += [f"    {line}" for line in text_of(cell).splitlines()]
            notices |= set(re.findall(r"={9,}\n[^=]*NOT CIFAR-10.*?={9,}", text_of(cell, "stderr"), re.DOTALL))
    print("\nWhat came out (notebooks and HTML pages are in build/):\n" + "\n".join(lines), *notices, sep="\n")


def refresh(paths: list[Path]) -> None:
    """Re-executes lessons in place."""
    for path in paths:
        notebook, seconds = execute(path)
        tidy(notebook)
        nbformat.write(notebook, path)
        print(f"{path.stem}: {seconds:.0f} s")
    refresh_readme()


def results_table() -> str:
    """The recorded runs as a Markdown table, seeds of one setting taken together; those of lesson 07 have tables there."""
    rows = []
    for path in sorted(ROOT.glob("results/*/metrics.json")):
        if path.parent.name.startswith(("ablation-", "ladder-")):
            continue
        environment = json.loads((path.parent / "environment.json").read_text())
        rows.append({**json.loads(path.read_text()), **environment, "day": environment["date"][:10]})
    setting = ["dataset", "model", "parameters", "split", "epochs", "precision", "processor", "gpu", "threads"]
    columns = "data, network, parameters, learned from, epochs, test accuracy, minutes, machine, date".split(", ")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for key, runs in pd.DataFrame(rows).groupby(setting, dropna=False, sort=False):
        run = dict(zip(setting, key))
        accuracy = 100 * runs.test_accuracy
        spread = f" ± {accuracy.std():.2f} % ({len(runs)} seeds)" if len(runs) > 1 else " % (1 seed)"
        machine = run["gpu"] if isinstance(run["gpu"], str) else f"{run['processor']}; {run['threads']} thread(s)"
        data = {"cifar10": "CIFAR-10", "shapes": "`shapes` (embedded)"}[run["dataset"]]
        part = {"train": "training part", "train+val": "training and validation part"}[run["split"]]
        cells = [
            *(data, run["model"], f"{run['parameters']:,}", part, run["epochs"], f"{accuracy.mean():.2f}{spread}"),
            *(f"{runs.train_seconds.mean() / 60:.1f}", f"{machine}, {run['precision']}", max(runs.day)),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def bench_table(folder: Path = ROOT / "results" / "bench") -> str:
    """What `make bench` found, machine by machine, as Markdown tables."""
    tables = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text())
        environment = report["environment"]
        lines = [
            f"{environment['gpu'] or environment['processor']}, {environment['threads']} thread(s), torch "
            f"{environment['torch']}, {environment['date'][:10]}, on {environment['dataset']}:\n",
            "| | ours | peer | ours / peer |",
            "|---|---|---|---|",
        ]
        for row in report["rows"]:
            if "peer" in row:
                pair = f"{row['ours']:.4g} {row['unit']} | {row['peer']:.4g} {row['unit']} | {row['ratio']:.3g}"
            else:
                pair = (
                    f"{row['ours']:.3g} {row['unit']} | {row['tflops']:.0f} TFLOP/s | {row['share_of_floor']:.0%} of the limit"
                )
            lines.append(f"| {row['what']} | {pair} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def with_tables(readme: str) -> str:
    """README with the tables between their markers drawn anew."""
    for name, table in (("results", results_table()), ("bench", bench_table())):
        pattern = re.compile(rf"(<!-- {name}: begin[^>]*-->\n).*?(\n<!-- {name}: end -->)", re.DOTALL)
        readme = pattern.sub(lambda found, table=table: found[1] + table + found[2], readme)
    return readme


def refresh_readme() -> None:
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "refresh"])
    parser.add_argument("lessons", nargs="*", type=Path, help="notebooks (default: all)")
    options = parser.parse_args()
    for path in options.lessons:
        if not path.is_file():
            parser.error(f"there is no notebook {path}: name it with its folder, such as notebooks/{LESSONS[0].name}")
    os.environ["COURSE_UNATTENDED"] = "1"  # nobody moves a slider: only static figures are stored
    {"run": run, "refresh": refresh}[options.command]([path.resolve() for path in options.lessons] or LESSONS)


if __name__ == "__main__":
    main()
