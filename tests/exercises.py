"""Executes the solutions in place and writes the student copies from them (`make exercises`), with nbgrader's own steps.

`notebooks/solutions/` is the one source, in nbgrader's format; a student copy is what `nbgrader generate_assignment` makes
of it.
"""

import argparse
from pathlib import Path

import nbformat
from lessons import ROOT, execute, tidy
from nbgrader import preprocessors as steps

SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
STUDENTS = ROOT / "notebooks" / "exercises"

# what `nbgrader generate_assignment` does, in its order, without its database
RELEASE = (steps.LockCells, steps.ClearSolutions, steps.ClearOutput, steps.CheckCellMetadata, steps.ComputeChecksums)


def student_copy(solution: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without solutions and outputs, its checks locked: what students receive."""
    notebook, resources = nbformat.from_dict(solution), {}
    for step in RELEASE:
        notebook, resources = step().preprocess(notebook, resources)
    return notebook


def refresh(path: Path) -> None:
    notebook, seconds = execute(path)
    tidy(notebook)
    nbformat.write(notebook, path)
    STUDENTS.mkdir(exist_ok=True)
    nbformat.write(student_copy(notebook), STUDENTS / path.name)
    print(f"{path.stem}: {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 02 (default: all)")
    names = parser.parse_args().names
    for path in SOLUTIONS:
        if not names or path.stem.startswith(tuple(names)):
            refresh(path)


if __name__ == "__main__":
    main()
