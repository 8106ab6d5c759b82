"""The site of `make html`: no link is dead, search finds, and figures keep their texts.

It needs docs/requirements.txt; `make html` installs it.
"""

import json
import subprocess
import sys
from importlib.util import find_spec

import nbformat
import pytest
from bs4 import BeautifulSoup

from tools.badges import COLAB, LINK, notebooks
from tools.run_lessons import ROOT

pytestmark = pytest.mark.skipif(
    find_spec("myst_nb") is None, reason="the site's packages are missing: run `make html` once"
)
SLUG = LINK.search((ROOT / "README.md").read_text(encoding="utf-8"))[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The site, built anew; a warning of Sphinx is an error."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    command += ["-c", "docs", "-d", str(site / "doctrees"), ".", str(site / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site / "html"


@pytest.fixture(scope="module")
def site(folder):
    """Every page, parsed, by its file."""
    pages = {}
    for file in sorted(folder.rglob("*.html")):
        pages[file] = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    return pages


@pytest.fixture(scope="module")
def lessons(folder, site):
    """Pages of notebooks by their source: lessons, exercises, solutions."""
    found = {}
    for path in notebooks():
        place = path.relative_to(ROOT).with_suffix(".html")
        found[path] = site[folder / place]
    return found


def test_links_lead_to_pages_that_exist(site):
    """Sections that a link names are looked up on the page it leads to."""
    names = {}
    for file, soup in site.items():
        names[file] = {element["id"] for element in soup.select("[id]")}
    count = 0
    for file, soup in site.items():
        for link in soup.select("a[href]"):
            target, _, fragment = link["href"].partition("#")
            where = f"{file.name} links to {link['href']}"
            if ":" in target:
                assert target.startswith(("https://", "http://")), where
                continue
            other = (file.parent / target.partition("?")[0]).resolve() if target else file
            assert other.exists(), where
            if fragment and other in names:
                assert fragment in names[other], f"{where}: no such section"
            count += 1
    assert count > 1000


def test_launch_buttons_open_the_notebook_in_colab(lessons):
    for path, soup in lessons.items():
        place = path.relative_to(ROOT).as_posix()
        expected = f"{COLAB}/github/{SLUG}/blob/main/{place}"
        buttons = [link["href"] for link in soup.select(".dropdown-launch-buttons a")]
        assert buttons == [expected]


def test_pages_need_no_network(site):
    for file, soup in site.items():
        foreign = [element["src"] for element in soup.select("script[src], img[src]")]
        foreign += [link["href"] for link in soup.select("link[rel=stylesheet]")]
        assert not [address for address in foreign if address.startswith("http")], file.name
        assert not soup.select("style:-soup-contains('@import')"), file.name


def test_search_finds_zero_gamma(folder):
    text = (folder / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    pages = []
    for word in ("zero", "gamma"):
        found = set()
        for kind in ("terms", "titleterms"):  # of the text, and of the headings
            numbers = index[kind].get(word, [])
            found |= set(numbers if isinstance(numbers, list) else [numbers])
        pages.append(found)
    names = {index["docnames"][number] for number in pages[0] & pages[1]}
    assert "docs/glossary" in names and "notebooks/02_building_resnet50" in names


def test_every_figure_keeps_its_alternative_text(lessons):
    for path, soup in lessons.items():
        texts = [" ".join(image.get("alt", "").split()) for image in soup.select("article img")]
        assert all(len(text) >= 30 for text in texts), f"{path.name}: {texts}"
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    alt = output.metadata["image/png"]["alt"]
                    assert " ".join(alt.split()) in texts, path.name


def test_cells_for_tests_only_are_left_out(lessons):
    guards = 0
    for path, soup in lessons.items():
        shown = [" ".join(code.get_text().split()) for code in soup.select(".cell_input pre")]
        for cell in nbformat.read(path, as_version=4).cells:
            if "remove-cell" in cell.metadata.get("tags", []):
                guards += 1
                assert " ".join(cell.source.split()) not in shown, path.name
    assert guards > 10


def test_the_first_cell_is_folded(lessons):
    for path, soup in lessons.items():
        first = soup.select_one("div.cell")
        assert "REPOSITORY" in first.get_text() and first.select_one("details"), path.name


def test_titles_of_solutions_and_the_footer(lessons):
    for path, soup in lessons.items():
        if path.parent.name == "solutions":
            title = soup.h1.get_text()
            assert title.startswith("Solutions") and "Exercises" not in title
        assert "Author name not set" not in soup.get_text()
