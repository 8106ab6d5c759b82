"""The course where readers are: Colab and Kaggle, simulated; Windows and macOS, by what the code does not do.

COURSE_COLAB_PYTHON may name the Python of an environment like Colab's (torch 2.11, IPython 7.34, pandas 2.2, Python 3.12);
otherwise this one's is used. In either case only packages that Colab brings can be imported there (hosted.py, colab.txt).
"""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from badges import FIRST_CELL, first_cell, notebooks
from exercises import SOLUTIONS
from lessons import LESSONS, ROOT
from nbclient import NotebookClient
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers import data, training
from helpers.evaluation import predict
from helpers.resnet import resnet20

COLAB_PYTHON = os.environ.get("COURSE_COLAB_PYTHON", sys.executable)
KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
HERE = Path(__file__).parent
SLUG = "ada/resnet-course"
STAND_IN = "class cuda:\n    is_available = staticmethod(lambda: {gpu})\n"  # a torch that is imported in no time


def code(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


# --- Colab and Kaggle, simulated


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> dict[str, str]:
    """Settings with which git fetches https://github.com/ada/resnet-course from a commit of the files as they are here."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git, and the course in it")
    folder = tmp_path_factory.mktemp("served")
    git = ["git", f"--git-dir={folder}", f"--work-tree={ROOT}", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--no-verify", "-m", "as it is"]):
        subprocess.run([*git, "-c", "core.autocrlf=false", *command], cwd=ROOT, check=True, capture_output=True)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{SLUG}",
    }


@pytest.fixture
def host(tmp_path):
    """Makes an empty folder called `name` and runs groups of cells in it, on a host's Python, without a GPU."""

    def run(name: str, groups: list[list[str]], settings: dict[str, str], torch_has_gpu: bool | None = None) -> list[dict]:
        folder, modules = tmp_path / name, colabs_modules(tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        if torch_has_gpu is not None:
            (modules / "torch.py").write_text(STAND_IN.format(gpu=torch_has_gpu), encoding="utf-8")
        (tmp_path / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
        command = [COLAB_PYTHON, str(HERE / "hosted.py"), str(tmp_path / "groups.json")]
        environment = environment_of(modules, settings)
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def environment_of(modules: Path, settings: dict[str, str]) -> dict[str, str]:
    ours = ("COURSE_", "CIFAR10_", "PYTHON", "KAGGLE_", "GIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    fixed = {"COURSE_DATA": "shapes", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg", "PYTHONUTF8": "1"}
    return kept | fixed | {"PYTHONPATH": str(modules)} | settings


def colabs_modules(folder: Path) -> Path:
    """A folder with Colab's own package: what mounts a Google Drive makes an empty one."""
    package = folder / "modules" / "google" / "colab"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    mount = "import pathlib\n\ndef mount(path):\n    pathlib.Path(path, 'MyDrive').mkdir(parents=True)\n"
    (package / "drive.py").write_text(mount, encoding="utf-8")
    return folder / "modules"


def colab_cell(cell: str) -> str:
    """A cell of a kernel in which Colab's own package is loaded, as it is on Colab."""
    return f"import google.colab\n{cell}"


def imports(source: str) -> str:
    """Every import of a program, wherever it stands, as a cell of its own."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(dict.fromkeys(ast.unparse(node) for node in found))


def test_lessons_start_on_colab(host, served, tmp_path):
    """The first lesson fetches the course into the empty folder; all notebooks find it, and everything that they import."""
    cell = first_cell(SLUG)
    all_cells = [code(nbformat.read(path, as_version=4)) for path in [*LESSONS, *SOLUTIONS]]
    groups = [[colab_cell(cell), imports("\n".join(cells[1:])), cells[1]] for cells in all_cells]
    inside = [imports(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "helpers").glob("*.py"))]
    started = host("content", [*groups, [cell, *inside]], served)
    assert [group["error"] for group in started] == [None] * len(started)
    assert {group["root"] for group in started} == {str(tmp_path / "content" / "resnet-course")}
    assert [path.name for path in (tmp_path / "content").iterdir()] == ["resnet-course"]
    assert not (tmp_path / "content" / "resnet-course" / "data").exists()
    for group in started[:-1]:
        assert group["stdout"].count("No GPU here.") == 1 and "Runtime > Change runtime type > T4 GPU" in group["stdout"]
    if "COURSE_COLAB_PYTHON" not in os.environ:
        assert started[0]["torch"] == torch.__version__  # the one that was there


def test_what_colab_lacks_cannot_be_imported_there(host):
    """The simulation, simulated: a package of the test suite is refused, one that a lesson needs is not."""
    importlib.metadata.version("nbgrader"), importlib.metadata.version("tqdm")
    refused, found = host("content", [["import nbgrader"], ["import tqdm"]], {})
    assert "Colab does not bring it" in refused["error"] or "COURSE_COLAB_PYTHON" in os.environ
    assert "nbgrader" in refused["error"] and found["error"] is None


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("settings, menu", [({}, "Runtime > Change runtime type > T4 GPU"), (KAGGLE, "Settings > Accelerator")])
def test_a_missing_gpu_is_said_with_the_way_to_one(host, served, settings, menu, gpu):
    cell = first_cell(SLUG) if settings else colab_cell(first_cell(SLUG))
    (started,) = host("kaggle/working", [[cell]], served | settings, torch_has_gpu=gpu)
    said = f"No GPU here. The lessons work without one; for long training runs switch one on: {menu}\n"
    assert started["error"] is None and started["stdout"] == ("" if gpu else said)


def test_without_internet_kaggle_readers_are_told(host, tmp_path):
    nowhere = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{(tmp_path / 'gone').as_uri()}.insteadOf"}
    nowhere["GIT_CONFIG_VALUE_0"] = "https://github.com/"
    (kaggle,) = host("working", [[first_cell(SLUG)]], nowhere | KAGGLE, torch_has_gpu=True)
    assert kaggle["error"].startswith("FileNotFoundError") and f"https://github.com/{SLUG} could not" in kaggle["error"]
    assert "Settings > Internet must be on, or the course attached as a dataset" in kaggle["error"]
    (elsewhere,) = host("content", [[first_cell(SLUG)]], nowhere | {"PATH": ""}, torch_has_gpu=True)  # not even git
    assert "is there a network?" in elsewhere["error"] and "Kaggle" not in elsewhere["error"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and any(path.iterdir())] == ["modules"]


def test_git_waits_for_no_password(tmp_path, monkeypatch):
    """A repository that does not exist makes git ask who you are, in a terminal that nobody sees."""
    asked = []

    def run(command, **options):
        asked.append((command, options))
        raise OSError("no git")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(FileNotFoundError, match="no git.*is there a network"):
        exec(first_cell(SLUG), {})
    ((command, options),) = asked
    assert command[:2] == ["git", "clone"] and command[-2:] == [f"https://github.com/{SLUG}", str(tmp_path / "resnet-course")]
    assert options["env"] == os.environ | {"GIT_TERMINAL_PROMPT": "0"} and options["check"]


def test_the_course_attached_as_a_dataset_is_found(host, tmp_path):
    attached = tmp_path / "input" / "datasets" / "ada" / "a-course" / "resnet-course-main"
    (attached / "helpers").mkdir(parents=True)
    (attached / "helpers" / "resnet.py").touch()
    assert "/kaggle/input" in FIRST_CELL
    cell = FIRST_CELL.replace("/kaggle/input", (tmp_path / "input").as_posix())
    (found,) = host("working", [[cell]], KAGGLE, torch_has_gpu=True)
    assert found == {"stdout": "", "error": None, "root": str(attached), "torch": "a stand-in"}
    (not_kaggle,) = host("elsewhere", [[cell]], {"PATH": ""}, torch_has_gpu=True)
    assert not_kaggle["error"]


def test_a_laptop_hears_nothing(host, tmp_path):
    """In the course's folder, below it, or anywhere with the course on PYTHONPATH: found, in silence, without torch."""
    course = tmp_path / "my copy"
    (course / "helpers").mkdir(parents=True)
    (course / "helpers" / "resnet.py").touch()
    silent = {"stdout": "", "error": None, "root": str(course), "torch": None}
    assert host("my copy", [[FIRST_CELL]], {}) == [silent]
    assert host("my copy/notebooks/exercises", [[FIRST_CELL]], {}) == [silent]
    assert host("autograded", [[FIRST_CELL]], {"PYTHONPATH": str(course)}) == [silent]


def test_a_run_on_colab_is_kept_in_drive(host, served, tmp_path):
    """The cell of lesson 04 that trains on Colab, asked to, with a stand-in for the training: where its record goes."""
    cells = code(nbformat.read(ROOT / "notebooks" / "04_training.ipynb", as_version=4))
    asked = [cell.replace('keep_in = ""', 'keep_in = "drive"') for cell in cells if "drive.mount" in cell]
    stand_in = "import types\nexperiment = types.SimpleNamespace(main=print)"
    cell = colab_cell(first_cell(SLUG))
    (done,) = host("content", [[cell, stand_in, *asked]], served, torch_has_gpu=True)
    kept = tmp_path / "content" / "drive" / "MyDrive" / "resnet-course" / "colab-seed0"
    assert done["error"] is None and done["stdout"] == f"{['colab', '--out', str(kept)]}\n"
    (unasked,) = host("elsewhere", [[cell, stand_in, *(cell for cell in cells if "drive.mount" in cell)]], served, True)
    assert unasked["error"] is None and unasked["stdout"] == "" and not (tmp_path / "elsewhere" / "drive").exists()


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, KAGGLE], ids=["colab", "kaggle"])
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_whole_lessons_run_there(path, settings, served, tmp_path, monkeypatch):
    """From an empty folder to the last cell, in a kernel of the host's Python that can import what Colab brings."""
    kernel, folder = tmp_path / "jupyter" / "kernels" / "host", tmp_path / "content"
    kernel.mkdir(parents=True)
    folder.mkdir()
    lines = ["import runpy", f"runpy.run_path({str(HERE / 'hosted.py')!r})['hide_the_rest']()"]
    if not settings:
        lines.append(colab_cell(""))
    command = [COLAB_PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
    specification = {"argv": [*command, f"--IPKernelApp.exec_lines={lines}"], "display_name": "host", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(specification), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = first_cell(SLUG)
    client = NotebookClient(notebook, timeout=1200, kernel_name="host", resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment_of(colabs_modules(tmp_path), served | settings))
    first = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert "No GPU here." in first and ("Accelerator" in first) == bool(settings)
    warnings = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert not [text for text in warnings if "Warning" in text]


# --- what works on one system only: each rule yields a line for every fault it finds in a program

POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
POSIX_NAMES = {"os.fork", "os.getuid", "os.geteuid", "os.uname", "os.sched_getaffinity", "os.nice", "os.mkfifo"}
POSIX_NAMES |= {"signal.alarm", "signal.setitimer", "signal.SIGALRM", "signal.SIGKILL", "signal.SIGUSR1", "signal.SIGHUP"}


def imported(tree: ast.AST) -> set[str]:
    """Names of modules, and of what is taken from them: {"os", "IPython.display", "IPython.display.Image", …}."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def names(tree: ast.AST) -> set[str]:
    """Everything that is written as a.b, and what is imported."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | imported(tree)


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).split(".")[-1], {keyword.arg: keyword.value for keyword in node.keywords}


def worker_processes(tree):
    for name in names(tree):
        if name.split(".")[0] == "multiprocessing" or name.startswith(("torch.multiprocessing", "concurrent.futures")):
            yield name
    for name, keywords in calls(tree):
        if "num_workers" in keywords and ast.unparse(keywords["num_workers"]) != "0":
            yield f"{name}(num_workers=…)"


def a_shell(tree):
    yield from names(tree) & {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
    yield from (f"{name}(shell=…)" for name, keywords in calls(tree) if "shell" in keywords)
    yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "get_ipython")


def paths_of_one_system(tree):
    yield from (name for name in names(tree) if re.match(r"os\.(path|sep|curdir|pardir)\b", name))
    documented = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    documentation = {ast.get_docstring(node, clean=False) for node in documented}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in documentation:
            if re.match(r"/(tmp|home|content|usr|root|mnt|Users|dev)\b|~|[A-Za-z]:\\|\w+\\\w+", node.value):
                yield repr(node.value)


def one_system_only(tree):
    yield from (name for name in imported(tree) if name.split(".")[0] in POSIX_MODULES)
    yield from names(tree) & POSIX_NAMES


def newer_than_ipython_7(tree):
    """IPython.display of version 7.34, which Colab has; `Image(alt=…)` and `display(clear=…)` came later."""
    for name in imported(tree):
        if name.startswith("IPython.") and name not in {
            *("IPython.display", "IPython.display.display", "IPython.display.Image", "IPython.display.Markdown"),
            *("IPython.display.HTML", "IPython.display.clear_output", "IPython.display.DisplayHandle"),
        }:
            yield name
    for name, keywords in calls(tree):
        yield from (f"{name}({key}=…)" for key in keywords if (name, key) in {("Image", "alt"), ("display", "clear")})


RULES = {
    worker_processes: "from multiprocessing import Pool; import torch.utils.data as d; d.DataLoader(x, num_workers=2)",
    a_shell: "import os, subprocess; os.system('ls'); subprocess.run('ls', shell=True); get_ipython().system('ls')",
    paths_of_one_system: r"import os; os.path.join('a', 'b'); open('/tmp/x'); open('data\\x')",
    one_system_only: "import fcntl; import os; os.fork()",
    newer_than_ipython_7: "from IPython.display import Image, Video; Image('x.png', alt='a cat')",
}
PROGRAMS = sorted((ROOT / "helpers").glob("*.py")) + [path for path in notebooks() if path.parent.name != "exercises"]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_programs_work_on_every_system(path):
    if path.suffix == ".py":
        cells = [path.read_text(encoding="utf-8")]
    else:
        cells = code(nbformat.read(path, as_version=4))[1:]  # the first one is tried above
        assert not [cell for cell in cells if "subprocess" in cell or re.search(r"^\s*[!%]", cell, re.MULTILINE)]
    tree = ast.parse("\n\n".join(cells))
    assert {rule.__name__: list(rule(tree)) for rule in RULES} == {rule.__name__: [] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_rule_reports_its_faults(rule):
    *imports_of_it, _ = faults = RULES[rule].split("; ")
    found = list(rule(ast.parse("\n".join(faults))))
    assert len(found) >= 2 and list(rule(ast.parse("import torch\nx = torch.ones(2)"))) == []


def test_file_names_work_on_every_system():
    """As git keeps them: no two that differ in case alone, none that Windows refuses, none too long for it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git, and the course in it")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = listed.stdout.decode("utf-8").strip("\0").split("\0")
    assert len(files) > 50 and len({file.lower() for file in files}) == len(files)
    reserved = r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)"
    assert not [file for file in files if re.search(rf'[<>:"|?*\\]|[. ](/|$)|{reserved}', file, re.I) or len(file) > 150]


def test_nothing_depends_on_the_encoding_of_the_system():
    """Windows reads text as cp1252 unless told otherwise: recorded runs and the command line, with ASCII for the default."""
    program = (
        "import locale, pathlib, helpers.checks, helpers.inspection\n"
        "from helpers.experiment import ROOT, main, read_run\n"
        "print(locale.getpreferredencoding(False), len([read_run(p.parent) for p in ROOT.glob('results/*/metrics.json')]))\n"
        "main(['--help'])"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | plain, capture_output=True, encoding="cp1252")
    assert done.returncode == 0, done.stderr
    encoding, runs = done.stdout.splitlines()[0].split()
    assert int(runs) >= 6 and (sys.platform != "linux" or encoding == "ANSI_X3.4-1968")


def test_ci_tries_three_systems():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    systems = {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"} and job["runs-on"] == "${{ matrix.os }}"
    assert job["strategy"]["fail-fast"] is False  # each system says what it found
    assert any("make test" in step.get("run", "") and "if" not in step for step in job["steps"])


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE))


def test_readme_says_where_it_was_tried():
    """Each row has a day or says that nobody tried; the rows that a test repeats name the versions that it asks for."""
    section = re.search(r"^## Where it was tried\n(.+?)^## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    lines = [line for line in section[1].splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    where = {name: " ".join(cells) for name, *cells in rows}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d|not tried", tried) for _, tried, *_ in rows)
    for place in ("Colab, simulated", "Kaggle, simulated", "Colab and Kaggle themselves", "VS Code", "Windows", "macOS"):
        assert any(place in name for name in where), place
    ours, colabs = pins(ROOT / "requirements.txt"), pins(HERE / "colab.txt")
    assert f"torch {ours['torch']}" in next(text for name, text in where.items() if name.startswith("Linux"))
    for package, name in {"torch": "torch", "ipython": "IPython", "pandas": "pandas", "numpy": "NumPy"}.items():
        assert f"{name} {colabs[package]}" in where["Colab, simulated"]


# --- the GPU of a Mac


class NoFloat64(TorchDispatchMode):
    """A device that has no float64, which is Apple's: whatever makes such a tensor fails."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            raise TypeError(f"{function} makes float64")
        return result


def test_training_needs_no_float64():
    """Every way to augment, an epoch with moving average, predictions: what would run on the device, on one without float64."""
    config = training.TrainConfig(
        model="resnet20", dataset="shapes", batch_size=64, cutout=8, mixing=1.0, ema=0.9, zero_gamma=True, precision="float32"
    )
    few = data.make_shapes(128, 20, 20)
    training.set_seed(0)
    model = resnet20(zero_gamma=True)
    with pytest.raises(TypeError, match="float64"), NoFloat64():
        torch.ones(2).double()
    with NoFloat64():
        optimizer = training.make_optimizer(model, config)
        training.make_average(model, config.ema, optimizer)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: training.lr_factor(step, 2))
        criterion, losses = training.make_criterion(config.label_smoothing)
        parts = criterion, optimizer, scheduler, training.make_autocast("float32", torch.device("cpu"))
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        training.train_one_epoch(model, training.epoch_batches(few, config, 0), *parts, scaler)
        logits = predict(model, few, few.val)
    assert len(losses) == 2 and logits.shape == (20, 10)


def test_a_macs_gpu_works_or_is_refused_with_a_reason():
    """`auto` never chooses it; asked for by name it trains, or an error says why not."""
    assert training.resolve_device("auto").type in ("cpu", "cuda")
    config = training.TrainConfig(model="resnet20", dataset="shapes", epochs=1, batch_size=32, device="mps")
    small = data.make_shapes(64, 20, 20)
    try:
        training.resolve_device("mps")
    except ValueError as reason:
        assert "device 'mps' cannot be used here (" in str(reason) and "try 'auto' or 'cpu'" in str(reason)
        with pytest.raises(ValueError, match="mps"):
            training.fit(resnet20(), small, config, progress=False)
    else:
        (row,) = training.fit(resnet20(), small, config, progress=False)
        assert 0 <= row["val_accuracy"] <= 1
