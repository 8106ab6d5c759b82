"""Points badges and first cells at one repository: `make badges SLUG=owner/repository`.

Without SLUG it is the repository on GitHub that `git remote get-url origin` names, or a placeholder
where there is no origin. The first cell of every notebook is written here, once; this program
copies it into all of them.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER/resnet-course"

FIRST_CELL = """\
# Find the folder of the course; where there is none (on Colab), fetch it.
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/resnet-course"
CLONE = Path.cwd() / "resnet-course"
places = [*CLONE.parents, CLONE, *map(Path, sys.path)]
ROOT = next((place for place in places if (place / "helpers/resnet.py").is_file()), CLONE)
if not (ROOT / "helpers").is_dir():
    if subprocess.run(["git", "clone", "--depth=1", REPOSITORY, CLONE]).returncode != 0:
        raise ConnectionError(f"{REPOSITORY} could not be fetched: is there a network?")
sys.path.insert(0, str(ROOT))
""".rstrip()

SLUG = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}"
)
ADDRESS = re.compile(
    r"(?:https://(?:[^/@]+@)?|git@|ssh://git@)(?:www\.)?github\.com[:/](.+?)(?:\.git)?/?"
)
COLAB = "https://colab.research.google.com"
BADGE = re.compile(rf"\[!\[[^\]]*\]\([^)]*\)\]\({COLAB}/github/")
LINK = re.compile(rf"{COLAB}/github/([\w.-]+/[\w.-]+)/blob/main/")


def slug_of(text: str) -> str:
    """owner/repository, from itself or from an address on GitHub (https or ssh).

    Raises ValueError for anything else.
    """
    found = ADDRESS.fullmatch(text.strip())
    slug = found[1] if found else text.strip()
    if not SLUG.fullmatch(slug):
        expected = "expected SLUG=owner/repository, such as ada/resnet-course"
        raise ValueError(f"{text!r} names no repository on GitHub: {expected}")
    return slug


def default_slug(root: Path = ROOT) -> str:
    """The repository that git calls origin, or the placeholder.

    Raises ValueError for an origin that is not on GitHub.
    """
    if not (root / ".git").exists():  # unpacked from an archive, perhaps inside another repository
        return PLACEHOLDER
    command = ["git", "remote", "get-url", "origin"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return PLACEHOLDER
    return PLACEHOLDER if done.returncode else slug_of(done.stdout)


def first_cell(slug: str) -> str:
    return FIRST_CELL.replace(PLACEHOLDER, slug)


def badge(path: str, slug: str) -> str:
    """The badge that opens a notebook in Colab, given by its path in the repository.

    Solutions have the badge of the students' copy that is made from them.
    """
    path = path.replace("/solutions/", "/exercises/")
    name = Path(path).stem
    kind = "exercises" if "/exercises/" in path else "lesson"
    what = f"{kind} {name[:2]}" if name[:2].isdigit() else name.replace("_", " ").capitalize()
    target = f"{COLAB}/github/{slug}/blob/main/{path}"
    return f"[![Open {what} in Google Colab]({COLAB}/assets/colab-badge.svg)]({target})"


def notebooks(root: Path = ROOT) -> list[Path]:
    """Lessons, solutions and the students' copies."""
    lessons = root / "notebooks"
    found: list[Path] = []
    for folder in (lessons, lessons / "solutions", lessons / "exercises"):
        found += folder.glob("*.ipynb")
    return sorted(found)


def pointed_notebook(text: str, path: Path, slug: str, root: Path = ROOT) -> str:
    """A notebook's JSON with its first cell, and the badge below its title."""
    notebook = json.loads(text)
    title, first = notebook["cells"][:2]
    if first["cell_type"] != "code" or "REPOSITORY = " not in "".join(first["source"]):
        raise ValueError(f"{path.name}: its second cell is not the course's first code cell")
    first["source"] = first_cell(slug).splitlines(keepends=True)
    heading, *lines = "".join(title["source"]).splitlines()
    rest = "\n".join(line for line in lines if not BADGE.match(line)).strip("\n")
    colab = badge(path.relative_to(root).as_posix(), slug)
    title["source"] = f"{heading}\n\n{colab}\n\n{rest}".splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def pointed_readme(text: str, slug: str) -> str:
    """README with `slug` in place of the repository that its first badge names."""
    found = LINK.search(text)
    return text.replace(found[1], slug) if found else text


def point(slug: str, root: Path = ROOT) -> list[Path]:
    """Rewrites the files that do not point at `slug` yet; returns their paths."""
    wanted: dict[Path, str] = {}
    for path in notebooks(root):
        wanted[path] = pointed_notebook(path.read_text(encoding="utf-8"), path, slug, root)
    readme = root / "README.md"
    wanted[readme] = pointed_readme(readme.read_text(encoding="utf-8"), slug)
    changed = [path for path in wanted if path.read_text(encoding="utf-8") != wanted[path]]
    for path in changed:
        path.write_text(wanted[path], encoding="utf-8", newline="\n")
    return changed


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slug", nargs="?", help="owner/repository (default: git's origin)")
    text = parser.parse_args(arguments).slug
    try:
        slug = slug_of(text) if text else default_slug(root)
        changed = point(slug, root)
    except (ValueError, OSError) as reason:
        sys.exit(f"error: {reason}")
    target = f"https://github.com/{slug}"
    print(f"badges and first cells point at {target} ({len(changed)} files changed)")


if __name__ == "__main__":
    main()
