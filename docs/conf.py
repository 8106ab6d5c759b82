"""Settings of the site that `make html` builds: the notebooks with their stored outputs."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for docs/api.md, which imports `helpers`

from tools.badges import COLAB, LINK  # noqa: E402

# the repository that `make badges` wrote into README
SLUG = LINK.search((ROOT / "README.md").read_text(encoding="utf-8"))[1]
REPOSITORY = f"https://github.com/{SLUG}"

project = "Residual networks"
language = "en"
extensions = [
    "myst_nb",
    "sphinx_external_toc",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
include_patterns = ["*.md", "docs/*.md", "results/README.md", "notebooks/**"]
exclude_patterns = [".*", "build", "data", "runs", "results/*/*", "**/.ipynb_checkpoints"]
external_toc_path = "docs/toc.yml"

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the first cell, which finds the course's files"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# a note may begin with a small heading; a fork may have no solutions
suppress_warnings = ["myst.header", "etoc.glob"]

# One file with everything, fonts included as paths: formulas need no network.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
mathjax_path = "tex-svg-full.js"

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
default_role = "code"  # `name` in a docstring
maximum_signature_line_length = 80

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["style.css", str(MATHJAX / mathjax_path)]
html_css_files = ["style.css"]
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "use_repository_button": True,
    "launch_buttons": {"colab_url": COLAB},
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search field is in the sidebar already
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "footer_content_items": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

BADGE = re.compile(r"\[!\[([^\]]*)\]\(https://[^)]*\)\]")
TARGET = re.compile(r"\]\((?!https?:|#)([^)\s#]+)")


def pointed(text: str, page: Path) -> str:
    """Markdown whose badges are text, and whose links to files that are no pages lead to GitHub."""

    def point(found: re.Match) -> str:
        place = (page.parent / found[1]).resolve()
        if place.suffix in (".md", ".ipynb", ".png"):
            return found[0]
        kind = "tree" if place.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{place.relative_to(ROOT).as_posix()}"

    return TARGET.sub(point, BADGE.sub(r"[\1]", text))


def prepare(app, name: str, source: list[str]) -> None:
    """Before a page is parsed: its links, its first code cell folded, its figures' texts."""
    page = Path(app.env.doc2path(name))
    if page.suffix == ".md":
        source[0] = pointed(source[0], page)
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = pointed(text, page)
        elif "REPOSITORY = " in text:
            cell["metadata"].setdefault("tags", []).append("hide-input")
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:  # myst-nb knows alternative texts of cells, not of outputs
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    if page.parent.name == "solutions":
        title = notebook["cells"][0]
        if title["source"].startswith("# Exercises "):
            title["source"] = title["source"].replace("Exercises", "Solutions", 1)
        else:
            title["source"] = "# Solutions: " + title["source"].removeprefix("# ")
    source[0] = json.dumps(notebook)


def setup(app) -> None:
    app.connect("source-read", prepare)
