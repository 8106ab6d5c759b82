"""Executes the solutions in place and writes the students' copies from them: `make exercises`.

`notebooks/solutions/` is the one source, in nbgrader's format; a student's copy is what
`nbgrader generate_assignment` makes of it.
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbgrader import preprocessors as steps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.run_lessons import ROOT, execute, prepare_environment, tidy

SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
STUDENTS = ROOT / "notebooks" / "exercises"

# what `nbgrader generate_assignment` does, in its order, without its database
RELEASE = (
    steps.LockCells,
    steps.ClearSolutions,
    steps.ClearOutput,
    steps.CheckCellMetadata,
    steps.ComputeChecksums,
)


def student_copy(solution: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """What students receive: no solutions, no outputs, and the checks locked."""
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
    names = tuple(parser.parse_args().names)
    prepare_environment()
    try:
        for path in SOLUTIONS:
            if not names or path.stem.startswith(names):
                refresh(path)
    except OSError as reason:  # a checkout that is only read
        sys.exit(f"error: {reason}")


if __name__ == "__main__":
    main()
