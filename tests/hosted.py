"""Runs cells as Colab or Kaggle would, in the current folder, for test_platforms.py: `python hosted.py groups.json`.

The file holds groups of cells; each begins with nothing defined. Prints as JSON, for each group, what its cells printed, the
error that ended it, the folder that was found, and torch's version. What Colab does not bring (colab.txt) cannot be imported.
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
    """The distributions that Colab brings, as far as the course may need them: those of colab.txt, and what they require."""
    found, waiting = set(), [plain(name) for name in re.findall(r"^([\w-]+)==", LISTED, re.MULTILINE)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [plain(re.match(r"[\w.-]+", line)[0]) for line in needed if "extra ==" not in line]
    return found


class Refused(importlib.abc.MetaPathFinder):
    """Hides every installed package that Colab does not bring."""

    def __init__(self):
        known = brought()
        owners = importlib.metadata.packages_distributions()
        self.modules = {module for module, names in owners.items() if not known & {plain(name) for name in names}}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"No module named {name!r} (Colab does not bring it)", name=name)


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
        errors = [repr(result.error_before_exec or result.error_in_exec) for result in results if not result.success]
        root = shell.user_ns.get("ROOT")
        torch = sys.modules.get("torch")
        report.append(
            {
                "stdout": captured.stdout,
                "error": errors[0] if errors else None,
                "root": root and str(root),
                "torch": torch and str(getattr(torch, "__version__", "a stand-in")),
            }
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
