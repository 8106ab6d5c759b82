"""Badges and first cells: they agree with each other everywhere, and `make badges` points all of them at another repository."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import badges
import nbformat
import pytest
from exercises import STUDENTS, student_copy
from lessons import LESSONS, ROOT

NOTEBOOKS = badges.notebooks()
COLAB = re.compile(
    r"\[!\[([^\]]+)\]\((\S+)\)\]\(https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/(\S+?)\)"
)
KAGGLE = re.compile(
    r"\[!\[([^\]]+)\]\((\S+)\)\]\(https://kaggle\.com/kernels/welcome\?src=https://github\.com/([\w.-]+/[\w.-]+)/blob/main/(\S+?)\)"
)


def slug_in(cell: str) -> str:
    return re.search(r'^REPOSITORY = "https://github\.com/([^"]+)"$', cell, re.MULTILINE)[1]


SLUG = slug_in(nbformat.read(LESSONS[0], as_version=4).cells[1].source)


# --- they agree


def test_the_notebooks_are_all_there():
    names = {path.relative_to(ROOT / "notebooks").as_posix() for path in (ROOT / "notebooks").rglob("*.ipynb")}
    checkpoints = {name for name in names if ".ipynb_checkpoints" in name}
    assert {path.relative_to(ROOT / "notebooks").as_posix() for path in NOTEBOOKS} == names - checkpoints


def faults_of_lesson(notebook, path: str):
    """Yields what is wrong with a lesson's badges and metadata; `path` is where it lies in the repository."""
    heading, blank, line = [*notebook.cells[0].source.splitlines(), "", ""][:3]
    if not heading.startswith("# ") or blank:
        yield "no title with an empty line below"
    for name, badge in (("Colab", COLAB), ("Kaggle", KAGGLE)):
        found = badge.findall(line)
        if len(found) != 1 or len(badge.findall("\n".join(cell.source for cell in notebook.cells))) != 1:
            yield f"{len(found)} {name} badges below the title, or others elsewhere"
            continue
        alt, picture, slug, target = found[0]
        if slug != SLUG or target != path:
            yield f"the {name} badge opens {target} of {slug}"
        if name not in alt or len(alt) < 30 or not picture.startswith("https://"):
            yield f"the {name} badge is {picture} with the alternative text {alt!r}"
    if notebook.metadata.get("accelerator") != "GPU" or notebook.metadata.get("colab", {}).get("gpuType") != "T4":
        yield "Colab would not offer a GPU"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_lesson_opens_itself(path):
    notebook = nbformat.read(path, as_version=4)
    assert list(faults_of_lesson(notebook, path.relative_to(ROOT).as_posix())) == []


def test_faults_of_a_lesson_are_reported():
    path = LESSONS[0].relative_to(ROOT).as_posix()

    def faults(old: str, new: str) -> list[str]:
        notebook = nbformat.read(LESSONS[0], as_version=4)
        assert old in notebook.cells[0].source
        notebook.cells[0].source = notebook.cells[0].source.replace(old, new, 1)
        return list(faults_of_lesson(notebook, path))

    badge = COLAB.search(nbformat.read(LESSONS[0], as_version=4).cells[0].source)[0]
    assert "opens notebooks/02" in faults(f"blob/main/{path}", "blob/main/notebooks/02_building_resnet50.ipynb")[0]
    assert "of somebody/else" in faults(f"github/{SLUG}/", "github/somebody/else/")[0]
    assert "alternative text" in faults("Google Colab", "Colab")[0]
    assert "0 Colab badges" in faults(badge, "")[0]
    assert "others elsewhere" in faults(badge, f"{badge} {badge}")[0]
    notebook = nbformat.read(LESSONS[0], as_version=4)
    notebook.metadata.pop("accelerator")
    assert list(faults_of_lesson(notebook, path)) == ["Colab would not offer a GPU"]


def test_one_first_cell_everywhere():
    cells = {path: nbformat.read(path, as_version=4).cells[1] for path in NOTEBOOKS}
    assert {cell.source for cell in cells.values()} == {badges.first_cell(SLUG)}, "run `make badges`"
    assert all(not cell.get("outputs") and cell.cell_type == "code" for cell in cells.values())


def test_the_first_cell_is_short():
    lines = badges.FIRST_CELL.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 128
    assert "pip" not in badges.FIRST_CELL  # Colab's torch stays as it is


def test_readme_has_both_badges_of_every_lesson():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for badge in (COLAB, KAGGLE):
        found = badge.findall(readme)
        assert {slug for _, _, slug, _ in found} == {SLUG}
        assert [target for *_, target in found] == [f"notebooks/{path.name}" for path in LESSONS]
        assert len({alt for alt, *_ in found}) == len(LESSONS)  # what is read aloud says which lesson


# --- `make badges`


@pytest.fixture
def copy(tmp_path):
    """The files that `make badges` may change, elsewhere."""
    for path in [ROOT / "README.md", *NOTEBOOKS]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tmp_path


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_fork_is_pointed_at_itself_and_back(copy, capsys):
    before = contents(copy)
    badges.main(["ada/My.Course-2"], root=copy)
    after = contents(copy)
    assert f"https://github.com/ada/My.Course-2 ({len(NOTEBOOKS) + 1} files changed)" in capsys.readouterr().out
    for name, content in after.items():
        text = content.decode("utf-8")
        assert SLUG not in text and "ada/My.Course-2" in text and "\r" not in text
        if name.endswith(".ipynb"):
            old, new = json.loads(before[name]), json.loads(text)
            assert slug_in("".join(new["cells"][1]["source"])) == "ada/My.Course-2"
            expected = "".join(old["cells"][0]["source"]).replace(SLUG, "ada/My.Course-2")
            assert "".join(new["cells"][0]["source"]) == expected
            assert new["cells"][2:] == old["cells"][2:] and new["metadata"] == old["metadata"]
            assert len(new["cells"]) == len(old["cells"])
    assert after["README.md"].decode() == before["README.md"].decode().replace(SLUG, "ada/My.Course-2")

    badges.main(["ada/My.Course-2"], root=copy)
    assert "(0 files changed)" in capsys.readouterr().out and contents(copy) == after
    badges.main([SLUG], root=copy)
    assert contents(copy) == before


def test_a_new_lesson_gets_its_badges(copy):
    """A lesson without badges and with an old first cell, and its row in README without badges."""
    lesson = copy / "notebooks" / "01_residual_learning.ipynb"
    before = contents(copy)
    notebook = json.loads(lesson.read_text(encoding="utf-8"))
    title = "".join(notebook["cells"][0]["source"])
    notebook["cells"][0]["source"] = COLAB.sub("", KAGGLE.sub("", title)).replace("\n\n \n\n", "\n\n")
    assert "colab" not in notebook["cells"][0]["source"] and notebook["cells"][0]["source"] != title
    notebook["cells"][1]["source"] = ['REPOSITORY = "https://github.com/OWNER/resnet-course"\n', "print('an older one')"]
    lesson.write_text(json.dumps(notebook, ensure_ascii=False, indent=1), encoding="utf-8")
    readme = copy / "README.md"
    readme.write_text(COLAB.sub("", KAGGLE.sub("", readme.read_text(encoding="utf-8"))), encoding="utf-8")
    assert [path.name for path in badges.point(SLUG, copy)] == ["01_residual_learning.ipynb", "README.md"]
    assert contents(copy) == before


def test_students_copies_still_are_what_the_solutions_make(copy):
    badges.point("ada/course", copy)
    for path in (copy / "notebooks" / "solutions").glob("*.ipynb"):
        made = nbformat.writes(student_copy(nbformat.read(path, as_version=4)))
        assert made.rstrip() == (copy / "notebooks" / STUDENTS.name / path.name).read_text(encoding="utf-8").rstrip()


GOOD = {
    "ada/course": "ada/course",
    "Ada-Lovelace/resnet.course_1": "Ada-Lovelace/resnet.course_1",
    "https://github.com/ada/course": "ada/course",
    "https://github.com/ada/course.git\n": "ada/course",
    "https://token@github.com/ada/course/": "ada/course",
    "git@github.com:ada/course.git": "ada/course",
    "ssh://git@github.com/ada/course.git": "ada/course",
}
BAD = [
    *("course", "ada/", "/course", "ada/course/tree", "ada lovelace/course", "-ada/course", "ada/..", "ada/co urse", 'a"b/c'),
    *("https://gitlab.com/ada/course", "git@gitlab.com:ada/course.git", "https://github.com/ada", "/srv/git/course.git"),
    *("https://github.com.example.org/ada/course", "ada/course)", "ä/course"),
]


@pytest.mark.parametrize("text", GOOD)
def test_addresses_of_a_repository(text):
    assert badges.slug_of(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_slug_is_one_clear_error_and_changes_nothing(copy, text):
    before = contents(copy)
    with pytest.raises(SystemExit) as stopped:
        badges.main(["--", text], root=copy)
    message = str(stopped.value)
    assert message.startswith("error: ") and repr(text) in message and "owner/repository" in message and "\n" not in message
    assert contents(copy) == before


def test_a_notebook_without_the_first_cell_is_named(copy):
    lesson = copy / "notebooks" / "02_building_resnet50.ipynb"
    notebook = json.loads(lesson.read_text(encoding="utf-8"))
    notebook["cells"][1]["source"] = ["import torch"]
    lesson.write_text(json.dumps(notebook), encoding="utf-8")
    before = contents(copy)
    with pytest.raises(SystemExit, match="02_building_resnet50.ipynb: its second cell"):
        badges.main(["ada/course"], root=copy)
    assert contents(copy) == before


@pytest.mark.parametrize(
    "origin, slug",
    [
        (None, "OWNER/resnet-course"),
        ("https://github.com/ada/course.git", "ada/course"),
        ("git@github.com:ada/course.git", "ada/course"),
    ],
)
def test_without_a_slug_git_says_it(copy, origin, slug, capsys):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    if origin:
        subprocess.run(["git", "remote", "add", "origin", origin], cwd=copy, check=True)
    badges.main([], root=copy)
    assert f"point at https://github.com/{slug} (" in capsys.readouterr().out
    readme = (copy / "README.md").read_text(encoding="utf-8")
    assert f"https://github.com/{slug}/blob/main/notebooks/01_residual_learning.ipynb" in readme


def test_an_origin_elsewhere_needs_a_slug(copy):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    subprocess.run(["git", "remote", "add", "origin", "https://gitlab.com/ada/course"], cwd=copy, check=True)
    with pytest.raises(SystemExit, match="SLUG=owner/repository"):
        badges.main([], root=copy)


def test_without_git_the_placeholder(copy, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (copy / ".git").mkdir()
    assert badges.default_slug(copy) == badges.PLACEHOLDER


def test_the_program_needs_nothing_installed():
    done = subprocess.run([sys.executable, "-I", "-S", badges.__file__, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "owner/repository" in done.stdout
