"""Do the tests catch faults? Plants them one at a time, in a copy of the repository, and runs the tests that concern them.

    python tests/mutants.py [--workers 2] [--only WORDS] [--list]

Half of the faults are chosen (CHOSEN, TAUGHT_CHOSEN), half are drawn at random with a fixed seed from everything that the
operators in `sites` can change: in helpers/ (checks.py aside: tests/wrong_answers.py is for it) and in the lessons'
definitions. Survivors that change nothing anybody could observe are listed in EQUIVALENT, each with its reason. Fails below
95 % of the others.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELPERS = "data download training experiment evaluation inspection plotting resnet variants distributed".split()
RANDOM_HELPERS, RANDOM_TAUGHT, SEED = 49, 10, 2015
LIMIT = 300  # seconds for one fault: a test that never ends has caught it, too

# module, text, what takes its place (at the first occurrence), name
CHOSEN = [
    ("resnet", "stride=stride, padding=1", "stride=1, padding=1", "a 3×3 convolution ignores its stride"),
    ("resnet", "kernel_size=1, stride=stride", "kernel_size=1, stride=1", "a 1×1 convolution ignores its stride"),
    ("data", "self.data[indices]", "self.data[indices.sort().values]", "every batch is sorted"),
    (
        "data",
        'labels.append(torch.tensor(batch[b"labels"]))',
        'labels.append((torch.tensor(batch[b"labels"]) + 1) % 10)',
        "labels are shifted",
    ),
    ("data", "reshape(-1, 3, 32, 32)", "reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)", "axes are swapped"),
    ("data", "(0.4914, 0.4822, 0.4465)", "(0.4822, 0.4914, 0.4465)", "two channels' means are exchanged"),
    ("data", "torch.randint(-pad, pad + 1, (n, 1)", "torch.randint(-pad, pad + 1, (1, 1)", "one shift for the whole batch"),
    ("data", "torch.randint(-pad, pad + 1, (n, 1)", "torch.randint(-pad, pad, (n, 1)", "the largest shift is never drawn"),
    (
        "data",
        "flipped = torch.rand(n, 1, device=device, generator=generator) < 0.5",
        "flipped = torch.rand(1, 1, device=device, generator=generator) < 0.5",
        "the whole batch is flipped or not",
    ),
    ("data", "apart[random.permutation", "apart[np.random.permutation", "the split's seed is ignored"),
    ("data", "return data[~apart], data[apart]", "return data, data[apart]", "validation pictures leak into training"),
    ("data", "hashlib.md5(content).hexdigest() != md5", "False", "an unchecked file is unpickled"),
    ("download", '"Range": f"bytes={offset}-"', '"Range": f"bytes={offset + 1}-"', "a resumed download skips a byte"),
    (
        "download",
        "if md5_of(part) == md5:\n                return",
        "if True:\n                return",
        "the archive's checksum is ignored",
    ),
    ("download", "if response.status_code != 206:", "if False:", "a server that ignores Range is not noticed"),
    ("download", "part.unlink()\n            if before == 0:", "if before == 0:", "wrong bytes are kept"),
    ("download", "seconds > WINDOW_SECONDS and", "False and", "a slow source is never left"),
    ("data", "with FileLock(lock):", "if True:", "two processes do not wait for each other"),
    ("data", "root.rmdir()", "pass", "a failed download leaves an empty folder"),
    (
        "data",
        "train=self.train.to(device), val=self.val.to(device)",
        "train=self.train.to(device), val=self.train.to(device)",
        "on another device validation is on training pictures",
    ),
    ("training", "    model.train()\n    loss_sum", "    loss_sum", "an epoch does not switch to train mode"),
    ("training", "loss.detach() * len(labels)", "loss.detach()", "the mean loss is not by sample"),
    ("training", "/ (warmup_steps + 1)", "/ warmup_steps", "the warm-up is a step short"),
    ("training", "if p.ndim > 1]", "if p.ndim > 0]", "BatchNorm's parameters are decayed"),
    (
        "training",
        "manual_seed(config.seed * 100_000 + epoch)",
        "manual_seed(config.seed * 100_000)",
        "every epoch draws the same",
    ),
    ("training", "manual_seed(config.seed * 100_000 + epoch)", "manual_seed(epoch)", "the seed is ignored"),
    (
        "training",
        'dataset.train if config.split == "train" else dataset.train_val',
        "dataset.train_val",
        "validation pictures are trained on",
    ),
    ("training", "label_smoothing=label_smoothing", "label_smoothing=0.0", "label smoothing is ignored"),
    ("training", "nesterov=config.momentum > 0", "nesterov=False", "momentum is not Nesterov's"),
    ("training", "        scheduler.step()\n", "", "the schedule stands still"),
    ("training", '"scheduler": scheduler, "scaler"', '"scaler"', "the checkpoint forgets the schedule"),
    ("training", 'parts |= {"average": average} if average else {}', "", "the checkpoint forgets the average"),
    ("training", "weights_only=True", "weights_only=False", "a checkpoint may run code"),
    ("training", "    if path.exists():\n        os.replace(path, previous(path))\n", "", "only one checkpoint is kept"),
    ("training", "if stored.testzip():", "if False:", "a damaged checkpoint is believed"),
    ("training", "if number >= done:", "if True:", "an interrupted epoch starts again"),
    (
        "training",
        "zip(average.module.state_dict().values(), model.state_dict().values(), strict=True)",
        "zip(average.module.parameters(), model.parameters(), strict=True)",
        "the average leaves BatchNorm's statistics out",
    ),
    (
        "training",
        "for parameter in learned if config.momentum else ():",
        "for parameter in ():",
        "after a skipped first step momentum is what its memory held",
    ),
    ("training", ">= (8, 0)", "> (8, 0)", "an A100 gets float16"),
    ("training", "scaler.scale(loss / parts)", "scaler.scale(loss)", "every part of a batch counts as a whole one"),
    ("training", 'here.pop("accumulate")', "pass", "a run can't go on in parts"),
    (
        "variants",
        "self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride",
        "pass",
        "version 1 has its stride where version 1.5 has it",
    ),
    ("evaluation", "    model.eval()\n", "", "predictions are made in train mode"),
    ("evaluation", "part.training = training", "part.training = True", "predicting changes the mode"),
    ("experiment", "set_seed(config.seed)", "set_seed(0)", "the initial weights ignore the seed"),
    (
        "experiment",
        'logits["test"] = logits_of(dataset.test)',
        'logits["test"] = logits_of(dataset.val)',
        "the test logits are of the validation part",
    ),
    ("experiment", 'whiten(model.conv1, dataset.normalize(dataset.train.images[:1000]))', "pass", "the stem is not whitened"),
    ("experiment", "    remove_checkpoint(checkpoint)\n", "", "the checkpoint is left behind"),
    (
        "distributed",
        "whole[rank :: len(parts)] = rows",
        "whole[rank * len(rows) : (rank + 1) * len(rows)] = rows",
        "the logits of two processes are put one after the other",
    ),
]  # fmt: skip

# lesson, text, what takes its place, name
TAUGHT_CHOSEN = [
    ("02_building_resnet50", "kernel_size=3, stride=stride", "kernel_size=3, stride=1", "conv3x3 ignores its stride"),
    ("02_building_resnet50", "return self.relu(out)", "return out", "a block ends without ReLU"),
    ("02_building_resnet50", "out = out + (x", "out = out - (x", "the shortcut is subtracted"),
    ("02_building_resnet50", "// stride", "* stride", "a size is multiplied by the stride"),
    ("02_building_resnet50", "expansion = 4", "expansion = 2", "the bottleneck expands by two"),
    ("04_training", "optimizer.zero_grad()", "pass", "gradients are never set to zero"),
    ("04_training", "scaler.scale(loss).backward()", "loss.backward()", "the loss is not scaled"),
    ("04_training", "model.train()\n", "model.eval()\n", "an epoch in eval mode"),
    ("05_evaluation", "== labels", "!= labels", "the accuracy counts mistakes"),
    (
        "05_evaluation",
        "F.cross_entropy(logits, labels)",
        "F.nll_loss(logits, labels)",
        "logits are taken for log-probabilities",
    ),
]

EQUIVALENT = {
    "resnet.ResNet9.__init__.conv_pool: True → False": "a ReLU that is not in place takes more memory and gives the same",
    "download.append: 16 → 17": "the size of the pieces that are read from the network",
    "training.bfloat16_pays: False → True": "a bias in the layer whose speed is measured",
    "training.bfloat16_pays: layers.to(memory_format=torch.channels_last) → pass": "the layout in which a speed is measured",
    "data.Dataset.train_val: True → False": "both parts always have the same two fields",
    "05_evaluation[57].noisy: images + sd * noise → (images - sd * noise)": "noise is as likely as its negative",
    "data.draw_shapes: 0 * picture → (0 / picture)": "no colour of a background is exactly 0",
    "data.draw_shapes.texture: u * v → (u / v)": "only the sign counts, and v is never 0",
    "experiment.write_record.write_json: 2 → 3": "how far a JSON file is indented",
    "01_residual_learning[98].gradient_by_length: 8 → 9": "nine random pictures instead of eight",
    "experiment.run: True → False": "flush=True: the same line, later where nobody sits before a terminal",
    "01_residual_learning[116].input_gradient: 2 → 3": "networks of 2, 4, 8, … layers are asked for, none of three",
    "data.read_cifar10: 1 → 2": "NumPy takes any negative size, -2 as well as -1, for the one that it has to find",
}


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str  # below the root
    content: str  # of the whole file
    kind: str  # helpers or taught, chosen or random
    place: str  # module and function


# --- faults drawn at random


COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
               ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"}  # fmt: skip
ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "//", ast.Pow: "*",
              ast.BitAnd: "|", ast.BitOr: "&", ast.BitXor: "|"}  # fmt: skip


def sites(source: str, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, int, int, str]]:
    """Everything that the operators can change: (function, start, end, what takes its place), offsets in characters.

    Comparisons, arithmetic, and/or, not, signs, numbers, truth values, conditions, and calls that are statements (left out).
    Texts, annotations and what stands in `skip` (names of module-level assignments) stay as they are.
    """
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def offset(line: int, column: int) -> int:  # ast counts bytes of UTF-8
        text = source[lines[line - 1] : lines[line]]
        return lines[line - 1] + len(text.encode()[:column].decode())

    def span(node: ast.AST) -> tuple[int, int]:
        return offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)

    def text(node: ast.AST) -> str:
        return source[slice(*span(node))]

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.Assign) and not function and {getattr(t, "id", "") for t in node.targets} & set(skip):
            return
        if isinstance(node, ast.If) and "__name__" in text(node.test):
            return
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            function = f"{function}.{node.name}" if function else node.name
        new = None
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            new = f"{text(node.left)} {COMPARISONS[type(node.ops[0])]} {text(node.comparators[0])}"
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            new = f"{text(node.left)} {ARITHMETIC[type(node.op)]} {text(node.right)}"
        elif isinstance(node, ast.BoolOp):
            new = (" or " if isinstance(node.op, ast.And) else " and ").join(map(text, node.values))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            new = text(node.operand)
        elif isinstance(node, ast.IfExp):
            new = f"{text(node.orelse)} if {text(node.test)} else {text(node.body)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            new = str(not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            new = repr(node.value + 1 if isinstance(node.value, int) else node.value * 1.5)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and function:
            new = "pass"
        if new is not None:
            yield (function, *span(node), f"({new})" if isinstance(node, ast.expr) and " " in new else new)
        if isinstance(node, (ast.If, ast.While)):
            yield (function, *span(node.test), f"not ({text(node.test)})")
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child, function)

    yield from visit(ast.parse(source), "")


def drawn_mutants(files: dict[str, str], kind: str, count: int, in_functions: bool = False) -> list[Mutant]:
    """`count` faults from the files (place: source), at most two in one function, or outside all of one file."""
    everything, times = [], Counter()
    for place, source in files.items():
        for function, start, end, new in sites(source, skip=("RECIPES",)):
            fault = (place.split("[")[0], function, source[start:end], new)
            times[fault] += 1
            lot = hashlib.sha1(repr((SEED, fault, times[fault])).encode()).hexdigest()  # a change elsewhere leaves the draw
            everything.append((lot, place, function, start, end, new))
    found, taken = [], {}
    for _, place, function, start, end, new in sorted(everything):
        key = (place, function)
        if len(found) == count or taken.get(key, 0) == 2 or (in_functions and not function):
            continue
        source = files[place]
        old, changed = source[start:end], source[:start] + new + source[end:]
        with contextlib.suppress(SyntaxError):
            if ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)):
                taken[key] = taken.get(key, 0) + 1
                name = f"{place}.{function}: {' '.join(old.split())[:60]} → {' '.join(new.split())[:60]}"
                found.append(Mutant(name, place, changed, kind, f"{place}.{function}"))
    return found


# --- all faults


def cells(lesson: str) -> dict:
    return json.loads((ROOT / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8"))


def with_cell(lesson: str, number: int, source: str) -> str:
    """The lesson's file with another source in one cell."""
    notebook = cells(lesson)
    notebook["cells"][number]["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def all_mutants() -> list[Mutant]:
    files = {name: (ROOT / "helpers" / f"{name}.py").read_text(encoding="utf-8") for name in HELPERS}
    found = []
    for module, old, new, name in CHOSEN:
        source = files[module]
        assert old in source, f"{name}: {old!r} is not in helpers/{module}.py any more"
        line = source[: source.index(old)]
        functions = re.findall(r"^(?:def|class) (\w+)", line, re.MULTILINE)
        changed = source.replace(old, new, 1)
        ast.parse(changed)
        place = f"{module}.{functions[-1] if functions else ''}"
        found.append(Mutant(name, f"helpers/{module}.py", changed, "helpers, chosen", place))
    for mutant in drawn_mutants(files, "helpers, random", RANDOM_HELPERS):
        found.append(Mutant(mutant.name, f"helpers/{mutant.file}.py", mutant.content, mutant.kind, mutant.place))

    taught = {}  # (lesson, cell): source, of the cells that define something
    for lesson in sorted(path.stem for path in (ROOT / "notebooks").glob("0[1-9]_*.ipynb")):
        for number, cell in enumerate(cells(lesson)["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and re.search(r"^(def|class) ", source, re.MULTILINE):
                taught[f"{lesson}[{number}]"] = source
    for lesson, old, new, name in TAUGHT_CHOSEN:
        place = next((p for p, source in taught.items() if p.startswith(lesson) and old in source), None)
        assert place, f"{name}: no cell of lesson {lesson} defines {old!r} any more"
        found.append(Mutant(name, place, taught[place].replace(old, new, 1), "taught, chosen", lesson))
    found += drawn_mutants(taught, "taught, random", RANDOM_TAUGHT, in_functions=True)
    result = []
    for mutant in found:
        if "[" in mutant.file:
            lesson, number = mutant.file.rstrip("]").split("[")
            content = with_cell(lesson, int(number), mutant.content)
            result.append(Mutant(mutant.name, f"notebooks/{lesson}.ipynb", content, mutant.kind, lesson))
        else:
            result.append(mutant)
    return result


# --- one fault


Survey = dict[str, tuple[float, list[str]]]  # for each test that passes: its seconds, and the functions of helpers/ it calls

SURVEYED = tuple(name for name in HELPERS if name != "distributed")  # its tests start processes
AFTER = {"data": ["download", "training"], "variants": ["experiment"], "training": ["experiment"], "evaluation": ["training"],
         "resnet": ["training", "experiment"], "experiment": ["training"]}  # fmt: skip


def concerned(mutant: Mutant, survey: Survey) -> list[list[str]]:
    """The arguments of pytest, one list after the other until a test fails.

    For a function in helpers/: the tests that call it, in its own test file and in one of those that build on it, the
    quickest first; for a constant: all in these files.
    """
    if mutant.file.startswith("notebooks/"):
        lesson = mutant.place
        nbval = ["-p", "nbval", "--nbval", "--nbval-cell-timeout=600", mutant.file]
        return [["-p", "no:nbval", "tests/test_notebooks.py", "-k", f"taught_definitions and {lesson}"], nbval]
    module, _, function = mutant.place.partition(".")
    names = [f"tests/test_{name}.py" for name in [module, *AFTER.get(module, [])]]
    if module not in SURVEYED:
        return [["-p", "no:nbval", *names]]
    tests = [test for test in sorted(survey, key=lambda test: survey[test][0]) if test.split("::")[0] in names]
    calling = [t for t in tests if any(f"{name}.".startswith(f"{mutant.place}.") for name in survey[t][1])]
    lists = [calling or tests] if tests else []
    if "distributed." in mutant.name:  # what several processes call, no survey has seen
        lists.append(["tests/test_distributed.py"])
    return [["-p", "no:nbval", *each] for each in lists]


class Watch:
    """A pytest plugin: which functions of helpers/ does each test call? What a fixture calls counts for its whole file."""

    def __init__(self):
        self.called, self.shared, self.seconds = {}, {}, {}

    def noting(self, names: set[str]):
        folder = str(COPY / "helpers") + os.sep

        def note(frame, event, argument):
            code = frame.f_code
            if event == "call" and code.co_filename.startswith(folder):
                names.add(f"{Path(code.co_filename).stem}.{code.co_qualname.replace('<locals>.', '')}")

        @contextlib.contextmanager
        def on():
            threading.setprofile(note)
            sys.setprofile(note)
            try:
                yield
            finally:
                sys.setprofile(None)
                threading.setprofile(None)

        return on()

    def watch(self, item, names):
        with self.noting(names):
            yield

    def pytest_runtest_setup(self, item):
        yield from self.watch(item, self.shared.setdefault(item.nodeid.split("::")[0], set()))

    def pytest_runtest_call(self, item):
        yield from self.watch(item, self.called.setdefault(item.nodeid, set()))

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration

    def survey(self) -> Survey:
        shared = {test: self.shared.get(test.split("::")[0], set()) for test in self.seconds}
        return {test: (seconds, sorted(self.called[test] | shared[test])) for test, seconds in self.seconds.items()}


def look_at(module: str) -> Survey:
    """The survey of one test file, by one run of it as it is."""
    log, result = COPY.with_name(COPY.name + ".log"), COPY.with_name(f"{COPY.name}.{module}.json")
    run_tests(["-p", "no:nbval", f"tests/test_{module}.py"], log, result)
    return json.loads(result.read_text())


def pytest_hooks(watch: Watch) -> Watch:
    import pytest

    for name in ("pytest_runtest_setup", "pytest_runtest_call"):
        setattr(Watch, name, pytest.hookimpl(hookwrapper=True)(getattr(Watch, name)))
    return watch


COPY: Path  # each worker's own copy of the repository


def make_copy() -> None:
    global COPY
    COPY = Path(tempfile.mkdtemp(prefix="mutants-", dir=os.environ["MUTANTS_FOLDER"]))
    ignored = shutil.ignore_patterns("__pycache__", "data", "build", ".*", "exercises", "solutions")
    shutil.copytree(ROOT, COPY, dirs_exist_ok=True, ignore=ignored)


def run_tests(arguments: list[str], log: Path, survey: Path | None = None) -> int:
    """pytest's exit status, in a process forked from this one, which has imported torch already; -1 when time is up."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setsid()
            output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(COPY)
            sys.path[:] = [
                str(COPY),
                str(COPY / "tests"),
                *(p for p in sys.path if Path(p).resolve() not in (ROOT, ROOT / "tests")),
            ]
            import pytest

            plugin = pytest_hooks(Watch()) if survey else None
            options = [
                *([] if survey else ["-x"]),
                "-q",
                "-p",
                "no:cacheprovider",
                "-o",
                "addopts=",
                "-m",
                "not long",
                "--tb=line",
            ]
            status = int(pytest.main([*options, f"--basetemp={COPY}-tmp", *arguments], plugins=[plugin] if survey else []))
            if survey:
                survey.write_text(json.dumps(plugin.survey()))
        finally:
            os._exit(status)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def passes(arguments: list[str], failed: list[str], log: Path) -> bool:
    """Whether what failed passes as long as nothing is changed. Each such test is run once."""
    cells = not failed or ".ipynb" in failed[0]  # a cell needs those before it
    again = arguments if cells else ["-p", "no:nbval", failed[0]]
    note = Path(os.environ["MUTANTS_FOLDER"]) / hashlib.sha1(repr(again).encode()).hexdigest()
    if not note.exists():
        note.write_text("passes" if run_tests(again, log) == 0 else "fails")
    return note.read_text() == "passes"


def judge(task: tuple[Mutant, Survey]) -> tuple[Mutant, str, str, float]:
    """caught, survived or broken (the test fails without the fault, too), by what, and the seconds it took."""
    mutant, survey = task
    start, path, log = time.monotonic(), COPY / mutant.file, COPY.with_name(COPY.name + ".log")
    original = path.read_text(encoding="utf-8")
    verdict, by = "survived", ""
    for arguments in concerned(mutant, survey):
        path.write_text(mutant.content, encoding="utf-8")
        try:
            status = run_tests(arguments, log)
        finally:
            path.write_text(original, encoding="utf-8")
        if status not in (0, 5):  # 5: no test was selected
            failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", log.read_text(errors="replace"), re.MULTILINE)
            by = "it never ends" if status == -1 else failed[0].split("::")[-1] if failed else f"exit status {status}"
            verdict = "caught" if status == -1 or passes(arguments, failed, log) else "broken"
            break
    return mutant, verdict, by, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", default="", help="faults whose name or kind contains this")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    options = parser.parse_args()
    mutants = [m for m in all_mutants() if options.only in f"{m.kind}: {m.name} ({m.place})"]
    if options.list:
        print(*(f"{m.kind}: {m.name} ({m.place})" for m in mutants), sep="\n")
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1", "COURSE_DATA": "shapes"}
    os.environ["COURSE_UNATTENDED"] = "1"
    import matplotlib.pyplot  # noqa: F401  (what the tests need is imported once, here)
    import pandas  # noqa: F401
    import pytest  # noqa: F401
    import requests  # noqa: F401
    import safetensors.torch  # noqa: F401
    import seaborn  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MUTANTS_FOLDER"] = folder
        results = []
        with multiprocessing.get_context("fork").Pool(options.workers, make_copy) as pool:
            print(f"{len(mutants)} faults; first: which test calls what, as long as nothing is changed", flush=True)
            survey = {}
            for part in pool.imap_unordered(look_at, SURVEYED, chunksize=1):
                survey |= part
            tasks = [(mutant, survey) for mutant in mutants]
            for mutant, verdict, by, seconds in pool.imap_unordered(judge, tasks, chunksize=1):
                results.append((mutant, verdict))
                print(f"{len(results):3d}/{len(mutants)} {verdict:8} {seconds:4.0f} s  {mutant.kind}: {mutant.name}"
                      + (f"  [{by}]" if by else ""), flush=True)  # fmt: skip
    sys.exit(0 if report(results) else 1)


def report(results: list[tuple[Mutant, str]]) -> bool:
    """Prints the score of each kind and of all; returns whether helpers and taught cells both reach 95 %."""
    good = True
    for group in ("helpers, chosen", "helpers, random", "helpers", "taught, chosen", "taught, random", "taught"):
        these = [(m, verdict) for m, verdict in results if m.kind.startswith(group)]
        counted = [verdict for m, verdict in these if not (verdict == "survived" and m.name in EQUIVALENT)]
        if counted:
            caught = counted.count("caught")
            print(f"{group:16} {caught} of {len(counted)} caught: {caught / len(counted):.1%}"
                  f" ({len(these) - len(counted)} more change nothing)")  # fmt: skip
            good &= "," in group or caught >= 0.95 * len(counted)
    for mutant, verdict in results:
        if verdict != "caught":
            print(f"{verdict}: {mutant.name} ({mutant.place})", EQUIVALENT.get(mutant.name, ""))
    return good


if __name__ == "__main__":
    main()
