"""Runs cells as Colab would, in the current folder: `python hosted.py groups.json`.

The file holds groups of cells; each begins with nothing defined. Prints as JSON, for each group,
what its cells printed, the first error, and the folder that was found. What Colab does not bring
(colab.txt) cannot be imported. For test_platforms.py.
"""

import importlib.abc
import importlib.metadata
import json
import re
import sys
from pathlib import Path

LISTED = Path(__file__).with_name("colab.txt").read_text(encoding="utf-8")


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def brought() -> set[str]:
    """The distributions that the course may use on Colab: colab.txt's, and what they need."""
    found: set[str] = set()
    waiting = [plain(name) for name in re.findall(r"^([\w-]+)==", LISTED, re.MULTILINE)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        needed = [line for line in needed if "extra ==" not in line]
        waiting += [plain(re.match(r"[\w.-]+", line)[0]) for line in needed]
    return found


class Refused(importlib.abc.MetaPathFinder):
    """Hides every installed package that Colab does not bring."""

    def __init__(self):
        known = brought()
        self.modules = set()
        for module, names in importlib.metadata.packages_distributions().items():
            if not known & {plain(name) for name in names}:
                self.modules.add(module)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.modules:
            message = f"No module named {name!r} (Colab does not bring it)"
            raise ModuleNotFoundError(message, name=name)


def hide_the_rest() -> None:
    sys.meta_path.insert(0, Refused())


def main() -> None:
    groups = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path.pop(0)  # the folder of this file: a kernel does not have it
    hide_the_rest()
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    report = []
    for cells in groups:
        shell.reset()
        with capture_output() as captured:
            results = [shell.run_cell(source) for source in cells]
        errors = [result.error_before_exec or result.error_in_exec for result in results]
        errors = [repr(error) for error in errors if error]
        root = shell.user_ns.get("ROOT")
        report.append(
            {
                "stdout": captured.stdout,
                "error": errors[0] if errors else None,
                "root": root and str(root),
            }
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
