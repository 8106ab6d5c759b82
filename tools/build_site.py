"""`make html`: the course as pages in build/site, from the stored outputs; nothing is executed.

nbconvert (JupyterLab brings it) renders the notebooks and latex2mathml the formulas, so that a page
needs neither network nor script: it works from the file system and on GitHub Pages alike.
"""

import argparse
import html
import posixpath
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.badges import PLACEHOLDER, slug_of

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
STYLE = """
body { margin: 0 auto; max-width: 50rem; padding: 0 1rem 3rem }
body { font: 1.05rem/1.6 system-ui, sans-serif; color: #1a1a1a; overflow-wrap: break-word }
h1, h2, h3 { line-height: 1.25 } a { color: #0b57a4 } img { max-width: 100%; height: auto }
pre, .wide { overflow-x: auto } code { font-size: .9em }
pre { padding: .6rem; margin: .6rem 0; background: #fafafa; font-size: .85rem; line-height: 1.4 }
.output_area pre { background: none; border-left: 3px solid #bbb } .highlight { background: none }
table { border-collapse: collapse }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #ccc; text-align: left }
math[display="block"] { margin: .8rem 0 }
nav { display: flex; gap: 1rem; justify-content: space-between; margin: 1rem 0 }
"""
VIEWPORT = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
# these scroll inside, and the keyboard reaches them
WIDE = ["pre", "table", 'math[display="block"]']


class Renderer(IPythonRenderer):
    """Markdown to HTML, formulas to MathML."""

    def block_math(self, body: str) -> str:
        return f'<div class="wide">{convert(html.unescape(body), display="block")}</div>'

    multiline_math = block_math

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def inline_math(self, body: str) -> str:
        return convert(html.unescape(body))


class Exporter(HTMLExporter):
    """The body of a page; images that Markdown links to are embedded."""

    @pass_context
    def markdown2html(self, context: dict, source: str) -> str:
        folder = context["resources"]["metadata"]["path"]
        renderer = Renderer(escape=False, embed_images=True, path=folder)
        return MarkdownWithMath(renderer=renderer).render(source)


def sources() -> list[Path]:
    """README, the lessons in order, the teacher's guide, exercises, solutions."""
    notebooks = ROOT / "notebooks"
    found = [ROOT / "README.md", *sorted(notebooks.glob("*.ipynb")), notebooks / "TEACHING.md"]
    for folder in ("exercises", "solutions"):
        found += sorted((notebooks / folder).glob("*.ipynb"))
    return found


def address(source: Path) -> str:
    """The page's place in the site, from its source's place in the repository."""
    place = source.relative_to(ROOT).as_posix()
    return "index.html" if place == "README.md" else place.rpartition(".")[0] + ".html"


def relative(target: str, source: Path) -> str:
    """The way from the page of `source` to the page `target`."""
    return posixpath.relpath(target, posixpath.dirname(address(source)) or ".")


def anchor(title: str) -> str:
    """A section's name in links, as GitHub makes it; Jupyter's (`3.-Title`) comes out the same."""
    return re.sub(r"[^\w-]", "", unquote(title).strip().lower().replace(" ", "-"))


def repoint(href: str, page: Path, pages: dict[str, str], repository: str) -> str:
    """A link of the source `page`: to a page of the site where possible, else to the repository."""
    target, _, fragment = href.partition("#")
    if not target:
        return f"#{anchor(fragment)}"
    if ":" in target.split("/")[0]:
        return href
    place = posixpath.normpath(posixpath.join(page.parent.relative_to(ROOT).as_posix(), target))
    if place in pages:
        fragment = anchor(fragment)
        link = relative(pages[place], page)
    else:
        kind = "tree" if (ROOT / place).is_dir() else "blob"
        link = f"{repository}/{kind}/main/{place}"
    return link + (f"#{fragment}" if fragment else "")


def read(source: Path) -> nbformat.NotebookNode:
    """A notebook, or a Markdown file as one, without the cells that are for tests only."""
    if source.suffix == ".md":
        text = source.read_text(encoding="utf-8")
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    notebook = nbformat.read(source, as_version=4)
    cells = [c for c in notebook.cells if "remove-cell" not in c.metadata.get("tags", [])]
    notebook.cells = cells
    return notebook


def add_head(soup: BeautifulSoup) -> None:
    """Title, style and what a phone needs."""
    title = soup.new_tag("title")
    title.string = soup.h1.get_text().strip()
    css = soup.new_tag("style")
    css.string = STYLE + HtmlFormatter(style="default").get_style_defs(".highlight")
    charset = soup.new_tag("meta", charset="utf-8")
    soup.head.extend([charset, title, css, soup.new_tag("meta", attrs=VIEWPORT)])


def make_scrollable(soup: BeautifulSoup) -> None:
    """Wide tables, formulas and code scroll inside the page; the keyboard reaches them."""
    for number, wide in enumerate(soup.select(", ".join(WIDE)), 1):
        kind = "code or output"
        if wide.name == "table":
            kind = "table"
            wide = wide.wrap(soup.new_tag("div", attrs={"class": "wide"}))
        elif wide.name == "math":
            kind = "formula"
            wide = wide.parent
        wide.attrs |= {"tabindex": "0", "role": "region", "aria-label": f"{kind} {number}"}


def render(source: Path, repository: str) -> BeautifulSoup:
    """One page, complete except for the links to its neighbours."""
    settings = {"template_name": "basic", "exclude_input_prompt": True}
    exporter = Exporter(**settings, exclude_output_prompt=True)
    resources = {"metadata": {"path": str(source.parent)}}
    body, _ = exporter.from_notebook_node(read(source), resources)
    page = f"<html lang=en><head></head><body><main>{body}</main></body></html>"
    soup = BeautifulSoup(f"<!DOCTYPE html>{page}", "html.parser")
    for heading in soup.select("h1, h2, h3, h4"):
        for link in heading.select(".anchor-link"):
            link.decompose()
        heading["id"] = anchor(heading.get_text())
    for old in soup.main.select("style"):  # pandas' rules for each table
        old.decompose()
    for badge in soup.select('a:has(> img[src^="https://"])'):  # without network: its text
        badge.string = badge.img["alt"]
    pages = {path.relative_to(ROOT).as_posix(): address(path) for path in sources()}
    for link in soup.select("a[href]"):
        link["href"] = repoint(link["href"], source, pages, repository)
    add_head(soup)
    make_scrollable(soup)
    return soup


def name_of(source: Path) -> str:
    name = source.relative_to(ROOT).with_suffix("").as_posix()
    return name.removeprefix("notebooks/").replace("_", " ")


def add_navigation(
    soup: BeautifulSoup, source: Path, before: Path | None, after: Path | None
) -> None:
    """Links to the previous page, the index and the next one, above the page and below."""
    links = [(ROOT / "README.md", "Contents")]
    if before:
        links.insert(0, (before, f"← {name_of(before)}"))
    if after:
        links.append((after, f"{name_of(after)} →"))
    for where in ("above", "below"):
        nav = soup.new_tag("nav", attrs={"aria-label": f"Course, {where}"})
        for target, text in links:
            link = soup.new_tag("a", href=relative(address(target), source))
            link.string = text
            nav.append(link)
        soup.body.insert(0 if where == "above" else len(soup.body.contents), nav)


def build(site: Path = SITE, only: list[Path] | None = None, slug: str = PLACEHOLDER) -> list[Path]:
    """Writes the site anew (or `only` some of its pages); returns the files."""
    if only is None:
        shutil.rmtree(site, ignore_errors=True)
    files, order = [], sources()
    for before, source, after in zip([None, *order], order, [*order[1:], None]):
        if only is not None and source not in only:
            continue
        soup = render(source, f"https://github.com/{slug}")
        add_navigation(soup, source, before, after)
        file = site / address(source)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(soup), encoding="utf-8")
        files.append(file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slug", nargs="?", default=PLACEHOLDER, help="owner/repository, for links")
    try:
        files = build(slug=slug_of(parser.parse_args().slug))
    except (ValueError, OSError) as reason:
        sys.exit(f"error: {reason}")
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"{len(files)} pages, {megabytes:.1f} MB: open {SITE / 'index.html'}")


if __name__ == "__main__":
    main()
