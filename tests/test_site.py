"""The pages of `make html`: links lead somewhere, and nothing needs a network or a script."""

import copy
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgb

from tools import build_site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page, parsed, by its file."""
    pages = {}
    for file in build_site.build(tmp_path_factory.mktemp("site")):
        pages[file] = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    return pages


def test_links_lead_to_pages_that_exist(site):
    """Sections that a link names are looked up on the page it leads to."""
    count = 0
    for file, soup in site.items():
        for link in soup.select("a[href]"):
            target, _, fragment = link["href"].partition("#")
            where = f"{file.name} links to {link['href']}"
            if ":" in target:
                assert target.startswith(("https://", "http://", "mailto:")), where
                continue
            other = (file.parent / target).resolve() if target else file
            assert other in site, where
            assert not fragment or site[other].find(id=fragment), f"{where}: no such section"
            count += 1
    assert count > 100


def test_pages_follow_each_other(site):
    """From the index, "next" leads through all of them."""
    file, seen = next(iter(site)), []
    while file not in seen:
        seen.append(file)
        following = site[file].nav.find_all("a")[-1]
        if following.text.endswith("→"):
            file = (file.parent / following["href"]).resolve()
    assert seen == list(site)


def test_pages_need_no_network_and_no_script(site):
    foreign = "script, iframe, link, style:-soup-contains('@import'), img:not([src^='data:'])"
    for file, soup in site.items():
        assert soup.html["lang"] == "en" and len(soup.find_all("h1")) == 1, file.name
        assert not soup.select(foreign), file.name


def test_formulas_are_mathml(site):
    """No dollar sign or TeX command is left in what is read; code has both."""
    assert sum(len(soup.find_all("math")) for soup in site.values()) > 100
    for file, soup in site.items():
        soup = copy.copy(soup)
        for code in soup.select("pre, code, annotation"):
            code.decompose()
        text = soup.main.get_text()
        for rest in ("\\frac", "\\mathcal", "$$", "\\begin{"):
            assert rest not in text, f"{file.name}: {rest}"


def stored_figures(cells: list) -> list[str]:
    """The alternative texts of the figures that a notebook stores."""
    found = []
    for cell in cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                metadata = output.metadata.get("image/png", {}) | output.metadata
                found.append(" ".join(metadata["alt"].split()))
    return found


def test_every_figure_keeps_its_alternative_text(site):
    for source, soup in zip(build_site.sources(), site.values()):
        texts = [" ".join(image.get("alt", "").split()) for image in soup.find_all("img")]
        assert all(len(text) >= 30 for text in texts), f"{source.name}: {texts}"
        if source.suffix == ".ipynb":
            cells = nbformat.read(source, as_version=4).cells
            assert set(stored_figures(cells)) <= set(texts), source.name


def test_cells_for_tests_only_are_left_out(tmp_path):
    cells = [nbformat.v4.new_code_cell("kept"), nbformat.v4.new_code_cell("left_out")]
    cells[1].metadata["tags"] = ["guard", "remove-cell"]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert [cell.source for cell in build_site.read(path).cells] == ["kept"]


def luminance(color: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = []
    for part in to_rgb(color):
        linear.append(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_code_stands_out_from_its_background(site):
    """WCAG's 4.5 to 1, for every colour in which a page shows code."""
    css = next(iter(site.values())).style.string
    background = luminance(re.search(r"pre \{[^}]*background: (#\w+)", css)[1])
    kinds = set()
    for soup in site.values():
        for token in soup.select(".highlight span[class]"):
            if token.text.strip():
                kinds |= set(token["class"])
    for kind in kinds:
        color = re.search(rf"\.{kind} \{{ color: (#\w+)", css)
        if color:
            ratio = (background + 0.05) / (luminance(color[1]) + 0.05)
            assert ratio >= 4.5, f".{kind}, {color[1]}: {ratio:.2f}"
