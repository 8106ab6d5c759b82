"""The pages that `make html` writes: every one is built, points somewhere, and needs neither network nor script."""

import copy
import re

import nbformat
import pages
import pytest
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgb


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page, parsed, by its file."""
    files = pages.build(tmp_path_factory.mktemp("site"))
    return {file: BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser") for file in files}


def test_links_lead_to_pages_that_exist(site):
    """Sections that a link names are looked up on the page it leads to."""
    count = 0
    for file, soup in site.items():
        for link in soup.select("a[href]"):
            target, _, fragment = link["href"].partition("#")
            if ":" in target:
                assert target.startswith(("https://", "http://", "mailto:")), f"{file.name}: {target}"
                continue
            other = (file.parent / target).resolve() if target else file
            assert other in site, f"{file.name} links to {link['href']}"
            assert not fragment or site[other].find(id=fragment), f"{file.name} links to {link['href']}: no such section"
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
    for file, soup in site.items():
        assert soup.html["lang"] == "en" and len(soup.find_all("h1")) == 1, file.name
        assert not soup.select("script, iframe, link, style:-soup-contains('@import')"), file.name
        assert all(picture["src"].startswith("data:") for picture in soup.find_all("img")), file.name


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


def test_every_figure_keeps_its_alternative_text(site):
    for source, soup in zip(pages.sources(), site.values()):
        texts = [picture.get("alt", "") for picture in soup.find_all("img")]
        assert all(len(text) >= 30 for text in texts), f"{source.name}: {texts}"
        if source.suffix == ".ipynb":
            outputs = [o for cell in nbformat.read(source, as_version=4).cells for o in cell.get("outputs", [])]
            for output in outputs:
                if "image/png" in output.get("data", {}):
                    metadata = output.metadata.get("image/png", {}) | output.metadata
                    assert " ".join(metadata["alt"].split()) in [" ".join(text.split()) for text in texts], source.name


def luminance(color: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_code_stands_out_from_its_background(site):
    """WCAG's 4.5 to 1, for every colour in which a page shows code."""
    for file, soup in site.items():
        css, tokens = soup.style.string, [token for token in soup.select(".highlight span[class]") if token.text.strip()]
        background = re.search(r"pre \{[^}]*background: (#\w+)", css)[1]
        colors = {
            name: re.search(rf"\.{name} \{{ color: (#\w+)", css)
            for name in {name for token in tokens for name in token["class"]}
        }
        for name, color in colors.items():
            if color:
                ratio = (luminance(background) + 0.05) / (luminance(color[1]) + 0.05)
                assert ratio >= 4.5, f"{file.name}: .{name}, {color[1]} on {background}: {ratio:.2f}"
