"""`make html`: the course as pages below build/site, from the outputs that are stored; nothing is executed.

nbconvert (JupyterLab brings it) renders the notebooks and latex2mathml the formulas, so that a page needs neither network nor
script: it works from the file system and on GitHub Pages alike. There is no search: browsers keep a page that was opened from
the file system from reading an index file; each page is one file, and the browser's own search finds what it holds.
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
from badges import PLACEHOLDER, slug_of
from bs4 import BeautifulSoup
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
STYLE = """
body { margin: 0 auto; max-width: 50rem; padding: 0 1rem 3rem; font: 1.05rem/1.6 system-ui, sans-serif; color: #1a1a1a }
body { overflow-wrap: break-word }
h1, h2, h3 { line-height: 1.25 } a { color: #0b57a4 } img { max-width: 100%; height: auto }
pre, .wide { overflow-x: auto }
pre { padding: .6rem; margin: .6rem 0; background: #fafafa; font-size: .85rem; line-height: 1.4 }
.output_area pre { background: none; border-left: 3px solid #bbb } .highlight { background: none } code { font-size: .9em }
table { border-collapse: collapse } td, th { padding: .25rem .6rem; border-bottom: 1px solid #ccc; text-align: left }
math[display="block"] { margin: .8rem 0 } nav { display: flex; gap: 1rem; justify-content: space-between; margin: 1rem 0 }
"""
WIDE = ["pre", "table", 'math[display="block"]']  # these scroll inside, and the keyboard reaches them


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
    """The body of a page; pictures that Markdown links to are embedded."""

    @pass_context
    def markdown2html(self, context: dict, source: str) -> str:
        folder = context["resources"]["metadata"]["path"]
        return MarkdownWithMath(renderer=Renderer(escape=False, embed_images=True, path=folder)).render(source)


def sources() -> list[Path]:
    """README, the lessons in order, the teacher's guide, exercises, solutions."""
    notebooks = ROOT / "notebooks"
    found = [sorted((notebooks / folder).glob("*.ipynb")) for folder in (".", "exercises", "solutions")]
    return [ROOT / "README.md", *found[0], notebooks / "TEACHING.md", *found[1], *found[2]]


def address(source: Path) -> str:
    """The page's place in the site, from its source's place in the repository."""
    place = source.relative_to(ROOT).as_posix()
    return "index.html" if place == "README.md" else place.rpartition(".")[0] + ".html"


def anchor(title: str) -> str:
    """A section's name in links, as GitHub makes it; Jupyter's (`3.-Title`) comes out the same."""
    return re.sub(r"[^\w-]", "", unquote(title).strip().lower().replace(" ", "-"))


def repoint(href: str, page: Path, pages: dict[str, str], repository: str) -> str:
    """A link of the source `page`: to a page of the site where there is one, to the repository for the rest."""
    target, _, fragment = href.partition("#")
    if not target:
        return f"#{anchor(fragment)}"
    if ":" in target.split("/")[0]:
        return href
    place = posixpath.normpath(posixpath.join(page.parent.relative_to(ROOT).as_posix(), target))
    if place in pages:
        fragment = anchor(fragment)
        link = posixpath.relpath(pages[place], posixpath.dirname(pages[page.relative_to(ROOT).as_posix()]) or ".")
    else:
        link = f"{repository}/{'tree' if (ROOT / place).is_dir() else 'blob'}/main/{place}"
    return link + (f"#{fragment}" if fragment else "")


def render(source: Path, repository: str) -> BeautifulSoup:
    """One page, complete except for its way to its neighbours."""
    if source.suffix == ".md":
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source.read_text(encoding="utf-8"))])
    else:
        notebook = nbformat.read(source, as_version=4)
    exporter = Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(source.parent)}})
    soup = BeautifulSoup(f"<!DOCTYPE html><html lang=en><head></head><body><main>{body}</main></body></html>", "html.parser")
    for heading in soup.select("h1, h2, h3, h4"):
        for link in heading.select(".anchor-link"):
            link.decompose()
        heading["id"] = anchor(heading.get_text())
    title = soup.new_tag("title")
    title.string = soup.h1.get_text().strip()
    css = soup.new_tag("style")
    css.string = STYLE + HtmlFormatter(style="default").get_style_defs(".highlight")
    for tag in (soup.new_tag("meta", charset="utf-8"), title, css):
        soup.head.append(tag)
    soup.head.append(soup.new_tag("meta", attrs={"name": "viewport", "content": "width=device-width, initial-scale=1"}))
    for old in soup.main.select("style"):  # pandas' rules for each table
        old.decompose()
    for badge in soup.select('a:has(> img[src^="https://"])'):  # a page without network shows the picture's text instead
        badge.string = badge.img["alt"]
    pages = {path.relative_to(ROOT).as_posix(): address(path) for path in sources()}
    for link in soup.select("a[href]"):
        link["href"] = repoint(link["href"], source, pages, repository)
    for number, wide in enumerate(soup.select(", ".join(WIDE)), 1):
        if wide.name == "table":
            wide = wide.wrap(soup.new_tag("div", attrs={"class": "wide"}))
        elif wide.name == "math":
            wide = wide.parent
        kind = "formula" if wide.math and not wide.table else "table" if wide.table else "code or output"
        wide.attrs |= {"tabindex": "0", "role": "region", "aria-label": f"{kind} {number}"}
    return soup


def navigation(soup: BeautifulSoup, source: Path, before: Path | None, after: Path | None) -> None:
    """Links to the previous page, the index and the next one, above the page and below."""
    way = {"←": before, "Contents": ROOT / "README.md", "→": after}
    for where, insert in (("above", soup.body.insert), ("below", lambda _, tag: soup.body.append(tag))):
        nav = soup.new_tag("nav", attrs={"aria-label": f"Course, {where}"})
        for text, target in way.items():
            if target:
                start = posixpath.dirname(address(source)) or "."
                link = soup.new_tag("a", href=posixpath.relpath(address(target), start))
                name = target.relative_to(ROOT).with_suffix("").as_posix().removeprefix("notebooks/").replace("_", " ")
                link.string = {"←": f"← {name}", "→": f"{name} →"}.get(text, text)
                nav.append(link)
        insert(0, nav)


def build(site: Path = SITE, only: list[Path] | None = None, slug: str = PLACEHOLDER) -> list[Path]:
    """Writes the site anew (or `only` some of its pages); returns the files."""
    if only is None:
        shutil.rmtree(site, ignore_errors=True)
    files, order = [], sources()
    for before, source, after in zip([None, *order], order, [*order[1:], None]):
        if only is not None and source not in only:
            continue
        soup = render(source, f"https://github.com/{slug}")
        navigation(soup, source, before, after)
        files.append(site / address(source))
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_text(str(soup), encoding="utf-8")
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slug", nargs="?", default=PLACEHOLDER, help="owner/repository, for the links to it")
    try:
        written = build(slug=slug_of(parser.parse_args().slug))
    except ValueError as reason:
        sys.exit(f"error: {reason}")
    print(f"{len(written)} pages, {sum(path.stat().st_size for path in written) / 1e6:.1f} MB: open {SITE / 'index.html'}")
