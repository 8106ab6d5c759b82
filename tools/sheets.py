"""Writes sheets for a class into build/sheets/, to be printed from a browser.

Exam, rubrics and the investigation come from notebooks/TEACHING.md, the game from the deviations.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert.filters import markdown2html

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "notebooks" / "TEACHING.md"
DEVIATIONS = ROOT / "notebooks" / "exercises" / "spot_the_deviation.ipynb"
DETAILS = re.compile(r"<details>.*?</details>\n*", re.DOTALL)

PAGE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 12pt/1.4 serif; max-width: 42em; margin: auto; }}
pre {{ font-size: 10pt; white-space: pre-wrap; }}
table {{ border-collapse: collapse; }} td, th {{ border: 1px solid; padding: 0.3em; }}
section {{ break-after: page; }}
.anchor-link {{ display: none; }}
</style>
{sections}
</html>
"""


def exams(guide: str) -> list[str]:
    """The exam of each lesson, as Markdown, answers included."""
    found = []
    for lesson in re.split(r"^(?=##+ )", guide, flags=re.MULTILINE):
        title, _, exam = lesson.partition("**Exam**")
        if exam:
            _, _, exam = exam.partition("\n")  # a remark may follow
            found.append(f"## {title.splitlines()[0].strip('# ')}\n{exam}")
    return found


def without_answers(exam: str) -> str:
    return DETAILS.sub("\n", exam)


def with_answers(exam: str) -> str:
    exam = re.sub(r"<details><summary>(.*?)</summary>", r"*\1*", exam)
    return exam.replace("</details>", "")


def investigation(guide: str) -> str:
    """What the investigation is, and its criteria."""
    begin, end = guide.index("**The investigation**"), guide.index("**With GPUs")
    return guide[begin:end]


def game(notebook: nbformat.NotebookNode) -> list[str]:
    """The report and the code of each deviation, without hints."""
    sheets, report = [], ""
    for cell in notebook.cells:
        if re.match(r"## D\d", cell.source):
            report = re.sub(r"^\*\*Time:.*\n", "", DETAILS.sub("", cell.source), flags=re.MULTILINE)
        elif report and cell.cell_type == "code":
            sheets.append(f"{report}\n\n```python\n{cell.source}\n```\n")
            report = ""
    return sheets


def write(path: Path, title: str, texts: list[str]) -> None:
    """One page that prints each text on a sheet of its own."""
    sections = [f"<section>{markdown2html(text)}</section>" for text in texts]
    page = PAGE.format(title=title, sections="\n".join(sections))
    path.write_text(page, encoding="utf-8")


def main(folder: Path = ROOT / "build" / "sheets") -> None:
    if not GUIDE.is_file():
        sys.exit(f"error: this copy has no {GUIDE.name}")
    guide = GUIDE.read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    questions = exams(guide)
    write(folder / "exam.html", "Exam", [without_answers(exam) for exam in questions])
    write(folder / "rubrics.html", "Exam with rubrics", [with_answers(exam) for exam in questions])
    write(folder / "investigation.html", "The investigation", [investigation(guide)])
    write(folder / "game.html", "Spot it", game(nbformat.read(DEVIATIONS, as_version=4)))
    print(f"sheets are in {folder}")


if __name__ == "__main__":
    main()
