"""Executes the solutions in place and writes the students' copies from them: `make exercises`.

`notebooks/solutions/` is the one source, in nbgrader's format; a student's copy is what
`nbgrader generate_assignment` makes of it. `--marked FOLDER` writes two folders for a course with
marks: `FOLDER/students` without solutions and answers, and `FOLDER/grading` for nbgrader.
"""

import argparse
import shutil
import sys
from pathlib import Path

import nbformat
from nbgrader import preprocessors as steps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.marking import CONFIGURATION
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


# what students with marks must not have, and what is not part of the course
NOT_FOR_STUDENTS = ("solutions", "TEACHING.md", "tests")
NOT_THE_COURSE = ("data", "runs", "build", "__pycache__", "checkpoint*.pt")
HIDDEN = (".git", ".github", ".[!g]*")  # all but .gitignore


def release_for_marks(folder: Path, paths: list[Path]) -> None:
    """Writes the students' copy of the course, and a course folder for nbgrader."""
    if not paths:
        sys.exit("error: there are no solutions of these names in notebooks/solutions")
    if folder.resolve().is_relative_to(ROOT):
        sys.exit(f"error: {folder} lies inside the course: name a folder elsewhere")
    left_out = shutil.ignore_patterns(*NOT_FOR_STUDENTS, *NOT_THE_COURSE, *HIDDEN)
    shutil.copytree(ROOT, folder / "students", ignore=left_out)
    grading = folder / "grading"
    for path in paths:
        source = grading / "source" / path.stem
        source.mkdir(parents=True)
        shutil.copy(path, source)
    configuration = CONFIGURATION.format(root=str(ROOT))
    (grading / "nbgrader_config.py").write_text(configuration, encoding="utf-8")
    print(f"for students: {folder / 'students'}\nfor nbgrader: {grading}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 02 (default: all)")
    parser.add_argument("--marked", type=Path, metavar="FOLDER", help="a folder that is made")
    options = parser.parse_args()
    names = tuple(options.names)
    paths = [path for path in SOLUTIONS if not names or path.stem.startswith(names)]
    try:
        if options.marked:
            release_for_marks(options.marked, paths)
            return
        prepare_environment()
        for path in paths:
            refresh(path)
    except OSError as reason:  # a checkout that is only read
        sys.exit(f"error: {reason}")


if __name__ == "__main__":
    main()
