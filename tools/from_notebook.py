"""Definitions that only a lesson has, for what tests or uses them outside of it."""

import ast
from pathlib import Path
from types import SimpleNamespace

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def definitions(lesson: str, *names: str) -> SimpleNamespace:
    """The functions and classes called `names` of notebooks/<lesson>.ipynb, as attributes.

    Only they and the lesson's imports are executed; what they call must be imported or named too.
    Raises KeyError for a name that the lesson does not define.
    """
    notebook = nbformat.read(NOTEBOOKS / f"{lesson}.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    wanted: dict[str, ast.stmt] = {}
    imports: list[ast.stmt] = []
    for source in cells[1:]:  # the first cell finds the course
        for node in ast.parse(source).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                imports.append(node)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names:
                wanted[node.name] = node
    module = ast.Module(imports + [wanted[name] for name in names], type_ignores=[])
    namespace: dict = {"__name__": lesson}
    exec(compile(module, f"{lesson}.ipynb", "exec"), namespace)
    return SimpleNamespace(**{name: namespace[name] for name in names})
