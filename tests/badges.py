"""Points the notebooks' badges and first cells, and README's badges, at one repository: `make badges SLUG=owner/repository`.

Without SLUG it is the repository on GitHub that `git remote get-url origin` names, or a placeholder where there is no origin.
The first cell of every notebook is written here, once; this program puts it into all of them.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER/resnet-course"

FIRST_CELL = '''\
# The first cell of every notebook finds the course's `helpers`, or fetches the course where it is missing (Colab, Kaggle).
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/resnet-course"
on_colab, on_kaggle = "google.colab" in sys.modules, "KAGGLE_KERNEL_RUN_TYPE" in os.environ
here, clone = Path.cwd(), Path.cwd() / Path(REPOSITORY).name
attached = [path.parents[1] for path in Path("/kaggle/input").rglob("helpers/resnet.py")] if on_kaggle else []
places = (here, *here.parents, clone, *attached, *map(Path, sys.path))
ROOT = next((place for place in places if (place / "helpers" / "resnet.py").is_file()), clone)
if not (ROOT / "helpers").is_dir():
    unasked = os.environ | {"GIT_TERMINAL_PROMPT": "0"}  # git must not wait for a password nobody is asked for
    try:
        subprocess.run(["git", "clone", "--quiet", "--depth=1", REPOSITORY, str(clone)], env=unasked, check=True)
    except (OSError, subprocess.CalledProcessError) as reason:
        advice = "Settings > Internet must be on, or the course attached as a dataset" if on_kaggle else "is there a network?"
        raise FileNotFoundError(f"{REPOSITORY} could not be fetched ({reason}): {advice}") from None
sys.path.insert(0, str(ROOT))
if on_colab or on_kaggle:
    import torch
    if not torch.cuda.is_available():
        menu = "Settings > Accelerator" if on_kaggle else "Runtime > Change runtime type > T4 GPU"
        print(f"No GPU here. The lessons work without one; for long training runs switch one on: {menu}")
'''.rstrip()

SLUG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
ADDRESS = re.compile(r"(?:https://(?:[^/@]+@)?|git@|ssh://git@)(?:www\.)?github\.com[:/](.+?)(?:\.git)?/?")
BADGE = re.compile(r"\[!\[[^\]]*\]\([^)]*\)\]\(https://(?:colab\.research\.google\.com/github|kaggle\.com/kernels)/[^)]*\)")


def slug_of(text: str) -> str:
    """owner/repository, from itself or from an address on GitHub (https or ssh). Raises ValueError for anything else."""
    found = ADDRESS.fullmatch(text.strip())
    slug = found[1] if found else text.strip()
    if not SLUG.fullmatch(slug):
        raise ValueError(f"{text!r} names no repository on GitHub: expected SLUG=owner/repository, such as ada/resnet-course")
    return slug


def default_slug(root: Path = ROOT) -> str:
    """The repository that git calls origin, or the placeholder. Raises ValueError for an origin that is not on GitHub."""
    if not (root / ".git").exists():  # unpacked from an archive, perhaps inside another repository
        return PLACEHOLDER
    try:
        done = subprocess.run(["git", "remote", "get-url", "origin"], cwd=root, capture_output=True, text=True)
    except OSError:
        return PLACEHOLDER
    return PLACEHOLDER if done.returncode else slug_of(done.stdout)


def first_cell(slug: str) -> str:
    return FIRST_CELL.replace(PLACEHOLDER, slug)


def badges(path: str, slug: str) -> str:
    """The Colab and the Kaggle badge of a notebook, given by its path in the repository."""
    lesson = f"lesson {Path(path).name[:2]}"
    page = f"{slug}/blob/main/{path}"
    return (
        f"[![Open {lesson} in Google Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{page}) "
        f"[![Open {lesson} in a Kaggle notebook](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"(https://kaggle.com/kernels/welcome?src=https://github.com/{page})"
    )


def is_lesson(path: Path) -> bool:
    return path.parent.name == "notebooks"


def pointed_notebook(text: str, path: Path, slug: str, root: Path = ROOT) -> str:
    """A notebook's JSON with its first cell, and in a lesson the badges below the title, pointing at `slug`."""
    notebook = json.loads(text)
    title, first = notebook["cells"][:2]
    if first["cell_type"] != "code" or "REPOSITORY = " not in "".join(first["source"]):
        raise ValueError(f"{path.name}: its second cell is not the course's first code cell")
    first["source"] = first_cell(slug).splitlines(keepends=True)
    if is_lesson(path):
        heading, *lines = "".join(title["source"]).splitlines()
        rest = "\n".join(line for line in lines if not BADGE.match(line)).strip("\n")
        both = badges(path.relative_to(root).as_posix(), slug)
        title["source"] = f"{heading}\n\n{both}\n\n{rest}".splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def pointed_readme(text: str, slug: str) -> str:
    """README with the badges in the last column of the table of lessons."""
    row = re.compile(r"^(\| \[[^]]*\]\((notebooks/\d\d_\w+\.ipynb)\).*\|)[^|\n]*\|$", re.MULTILINE)
    return row.sub(lambda found: f"{found[1]} {badges(found[2], slug)} |", text)


def point(slug: str, root: Path = ROOT) -> list[Path]:
    """Rewrites the files that do not point at `slug` yet; returns their paths."""
    wanted = {path: pointed_notebook(path.read_text("utf-8"), path, slug, root) for path in notebooks(root)}
    readme = root / "README.md"
    wanted[readme] = pointed_readme(readme.read_text("utf-8"), slug)
    changed = [path for path, text in wanted.items() if path.read_text("utf-8") != text]
    for path in changed:
        path.write_text(wanted[path], encoding="utf-8", newline="\n")
    return changed


def notebooks(root: Path = ROOT) -> list[Path]:
    """Lessons, solutions and the students' copies."""
    folder = root / "notebooks"
    return sorted(path for part in (folder, folder / "solutions", folder / "exercises") for path in part.glob("*.ipynb"))


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slug", nargs="?", help="owner/repository (default: git's origin)")
    text = parser.parse_args(arguments).slug
    try:
        slug = slug_of(text) if text else default_slug(root)
        changed = point(slug, root)
    except ValueError as reason:
        sys.exit(f"error: {reason}")
    print(f"badges and first cells point at https://github.com/{slug} ({len(changed)} files changed)")


if __name__ == "__main__":
    main()
