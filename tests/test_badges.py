"""Badges and first cells: the same everywhere, and `make badges` points them at another repository.

What the first cell does is tested in test_platforms.py.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import badges
from tools.release_exercises import SOLUTIONS, student_copy
from tools.run_lessons import LESSONS, ROOT

NOTEBOOKS = badges.notebooks()
SLUG = badges.LINK.search(LESSONS[0].read_text(encoding="utf-8"))[1]
EXERCISES = [path for path in NOTEBOOKS if path not in LESSONS]
FORK = "ada/My.Course-2"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def test_the_notebooks_are_all_there():
    found = set((ROOT / "notebooks").rglob("*.ipynb"))
    assert set(NOTEBOOKS) == {path for path in found if ".ipynb_checkpoints" not in path.parts}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_has_the_first_cell(path):
    cell = nbformat.read(path, as_version=4).cells[1]
    assert cell.source == badges.first_cell(SLUG), "run `make badges`"
    assert not cell.get("outputs")


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_badge_below_the_title(path):
    notebook = nbformat.read(path, as_version=4)
    expected = badges.badge(f"notebooks/{path.name}", SLUG)
    assert notebook.cells[0].source.splitlines()[1:4] == ["", expected, ""]
    assert notebook.metadata["accelerator"] == "GPU"  # Colab then offers one
    assert notebook.metadata["colab"]["gpuType"] == "T4"


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_exercises_have_a_badge_below_the_title(path):
    """Solutions, too: the students' copy is made from them, and their badge opens that copy."""
    expected = badges.badge(f"notebooks/exercises/{path.name}", SLUG)
    assert f"/notebooks/exercises/{path.name})" in expected and "lesson" not in expected
    lines = nbformat.read(path, as_version=4).cells[0].source.splitlines()
    assert lines[1:4] == ["", expected, ""], "run `make badges`"


def test_readme_links_each_lesson_in_colab():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(badges.LINK.findall(readme)) == {SLUG}
    for path in LESSONS:
        assert f"{badges.COLAB}/github/{SLUG}/blob/main/notebooks/{path.name})" in readme


# --- `make badges`


@pytest.fixture
def copy(tmp_path) -> Path:
    """A few of the files that `make badges` may change, elsewhere."""
    if not SOLUTIONS:
        pytest.skip("this copy has no notebooks/solutions")
    for folder in (".", "solutions", "exercises"):
        name = Path("notebooks") / folder / "02_building_resnet50.ipynb"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    return tmp_path


def contents(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        if path.suffix in (".md", ".ipynb"):
            found[path.relative_to(root).as_posix()] = path.read_bytes().decode("utf-8")
    return found


def test_a_fork_is_pointed_at_itself_and_back(copy, capsys):
    before = contents(copy)
    badges.main([FORK], root=copy)
    assert f"https://github.com/{FORK} (4 files changed)" in capsys.readouterr().out
    after = contents(copy)
    for name, text in after.items():
        assert text == before[name].replace(SLUG, FORK) != before[name]
    badges.main([FORK], root=copy)
    assert "(0 files changed)" in capsys.readouterr().out and contents(copy) == after
    badges.main([SLUG], root=copy)
    assert contents(copy) == before


@pytest.mark.parametrize("folder", [".", "solutions", "exercises"])
def test_a_new_notebook_gets_its_badge(copy, folder):
    lesson = copy / "notebooks" / folder / "02_building_resnet50.ipynb"
    before = contents(copy)
    notebook = json.loads(lesson.read_text(encoding="utf-8"))
    title = notebook["cells"][0]["source"]
    notebook["cells"][0]["source"] = [line for line in title if not line.startswith("[![")]
    notebook["cells"][1]["source"] = ["REPOSITORY = 'an older cell'"]
    lesson.write_text(json.dumps(notebook), encoding="utf-8")
    assert badges.point(SLUG, copy) == [lesson]
    assert contents(copy) == before


def test_students_copies_still_are_what_the_solutions_make(copy):
    badges.point(FORK, copy)
    solution, students = sorted((copy / "notebooks").glob("*/*.ipynb"))[::-1]
    made = nbformat.writes(student_copy(nbformat.read(solution, as_version=4)))
    assert made.rstrip() == students.read_text(encoding="utf-8").rstrip()


@pytest.mark.parametrize(
    "text",
    [
        "ada/course",
        "https://github.com/ada/course",
        "https://github.com/ada/course.git\n",
        "https://token@github.com/ada/course/",
        "git@github.com:ada/course.git",
        "ssh://git@github.com/ada/course.git",
    ],
)
def test_addresses_of_a_repository(text):
    assert badges.slug_of(text) == "ada/course"


@pytest.mark.parametrize(
    "text",
    [
        *("course", "ada/", "ada/course/tree", "ada lovelace/course", "-ada/course", "ada/.."),
        *('a"b/c', "ada/course)", "https://gitlab.com/ada/course", "https://github.com/ada"),
        *("/srv/git/course.git", "https://github.com.example.org/ada/course"),
    ],
)
def test_a_bad_slug_is_one_clear_error(tmp_path, text):
    with pytest.raises(SystemExit) as stopped:
        badges.main(["--", text], root=tmp_path)
    message = str(stopped.value)
    assert message.startswith("error: ") and "owner/repository" in message and "\n" not in message


def test_a_notebook_without_the_first_cell_is_named(copy):
    lesson = copy / "notebooks" / "02_building_resnet50.ipynb"
    notebook = json.loads(lesson.read_text(encoding="utf-8"))
    notebook["cells"][1]["source"] = ["import torch"]
    lesson.write_text(json.dumps(notebook), encoding="utf-8")
    before = contents(copy)
    with pytest.raises(SystemExit, match="02_building_resnet50.ipynb: its second cell"):
        badges.main([FORK], root=copy)
    assert contents(copy) == before


@needs_git
def test_without_a_slug_git_names_the_repository(tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert badges.default_slug(tmp_path) == badges.PLACEHOLDER
    add = ["git", "remote", "add", "origin"]
    subprocess.run([*add, "git@github.com:ada/course.git"], cwd=tmp_path, check=True)
    assert badges.default_slug(tmp_path) == "ada/course"
    change = ["git", "remote", "set-url", "origin"]
    subprocess.run([*change, "https://gitlab.com/ada/course"], cwd=tmp_path, check=True)
    with pytest.raises(SystemExit, match="SLUG=owner/repository"):
        badges.main([], root=tmp_path)


def test_without_git_the_placeholder(tmp_path, monkeypatch):
    assert badges.default_slug(tmp_path) == badges.PLACEHOLDER
    monkeypatch.setenv("PATH", "")
    (tmp_path / ".git").mkdir()
    assert badges.default_slug(tmp_path) == badges.PLACEHOLDER


def test_a_checkout_that_is_only_read_is_one_clear_error(copy, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "README.md")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(SystemExit, match="error: .*Permission denied"):
        badges.main([FORK], root=copy)


def test_the_program_needs_nothing_installed():
    command = [sys.executable, "-I", "-S", badges.__file__, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "owner/repository" in done.stdout
