"""The course where readers are: Colab, simulated; Windows and macOS, by what the code does not do.

COURSE_COLAB_PYTHON may name the Python of an environment like Colab's (tests/support/colab.txt);
otherwise this one's is used. In either case only packages that Colab brings can be imported there.
"""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hosted
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers import training
from helpers.evaluation import predict
from helpers.resnet import resnet20
from helpers.system import make_autocast, resolve_device
from tools.badges import FIRST_CELL, first_cell, notebooks
from tools.release_exercises import SOLUTIONS
from tools.run_lessons import LESSONS, ROOT

COLAB_PYTHON = os.environ.get("COURSE_COLAB_PYTHON", sys.executable)
SLUG = "ada/resnet-course"
MODULES = sorted((ROOT / "helpers").rglob("*.py"))
needs_git = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(),
    reason="needs git, and the course in it",
)


def code(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


# --- Colab, simulated


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> dict[str, str]:
    """Settings with which git clones https://github.com/ada/resnet-course from the files here."""
    folder = tmp_path_factory.mktemp("served")
    git = ["git", f"--git-dir={folder}", f"--work-tree={ROOT}"]
    git += ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "core.autocrlf=false"]
    for command in (["init"], ["add", "--all"], ["commit", "--no-verify", "-m", "as it is"]):
        subprocess.run([*git, *command], cwd=ROOT, check=True, capture_output=True)
    return clones_from(folder.as_uri(), f"https://github.com/{SLUG}")


def clones_from(source: str, instead_of: str) -> dict[str, str]:
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{source}.insteadOf",
        "GIT_CONFIG_VALUE_0": instead_of,
    }


@pytest.fixture
def host(tmp_path):
    """Makes an empty folder called `name` and runs groups of cells in it, on Colab's Python."""

    def run(name: str, groups: list[list[str]], settings: dict[str, str]) -> list[dict]:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
        command = [COLAB_PYTHON, hosted.__file__, str(tmp_path / "groups.json")]
        environment = environment_of(colabs_modules(tmp_path), settings)
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout.decode().splitlines()[-1])

    return run


def environment_of(modules: Path, settings: dict[str, str]) -> dict[str, str]:
    ours = ("COURSE_", "CIFAR10_", "PYTHON", "GIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    fixed = {"COURSE_DATA": "shapes", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    return kept | fixed | {"PYTHONUTF8": "1", "PYTHONPATH": str(modules)} | settings


def colabs_modules(folder: Path) -> Path:
    """A folder with Colab's own package: what mounts a Google Drive makes an empty one."""
    package = folder / "modules" / "google" / "colab"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    mount = "import pathlib\ndef mount(path): pathlib.Path(path, 'MyDrive').mkdir(parents=True)"
    (package / "drive.py").write_text(mount, encoding="utf-8")
    return folder / "modules"


def imports(source: str) -> str:
    """Every import of a program, wherever it stands, as a cell of its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        inside_the_package = isinstance(node, ast.ImportFrom) and node.level > 0
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not inside_the_package:
            found.append(ast.unparse(node))
    return "\n".join(dict.fromkeys(found))


@needs_git
def test_lessons_start_on_colab(host, served, tmp_path):
    """The first one clones the course; all find it, and everything that they import."""
    groups = []
    for path in [*LESSONS, *SOLUTIONS]:
        groups.append([first_cell(SLUG), imports("\n".join(code(path)[1:]))])
    inside = [imports(path.read_text(encoding="utf-8")) for path in MODULES]
    started = host("content", [*groups, [first_cell(SLUG), *inside]], served)
    assert [group["error"] for group in started] == [None] * len(started)
    assert {group["root"] for group in started} == {str(tmp_path / "content" / "resnet-course")}
    assert [path.name for path in (tmp_path / "content").iterdir()] == ["resnet-course"]


def test_what_colab_lacks_cannot_be_imported_there(host):
    """The simulation refuses a package of the test suite, but not one that a lesson needs."""
    importlib.metadata.version("nbgrader"), importlib.metadata.version("tqdm")  # both are here
    refused, found = host("content", [["import nbgrader"], ["import tqdm"]], {})
    assert "nbgrader" in refused["error"] and found["error"] is None


def test_what_cannot_be_cloned_is_one_clear_error(host, tmp_path):
    gone = (tmp_path / "gone").as_uri()
    (failed,) = host("content", [[first_cell(SLUG)]], clones_from(gone, "https://github.com/"))
    assert re.fullmatch(rf"ConnectionError\(.*{SLUG} could not be .*network.*\)", failed["error"])
    assert not list((tmp_path / "content").iterdir())


def test_an_own_copy_is_found_without_a_network(host, tmp_path):
    """In the course's folder, below it, or anywhere with the course on PYTHONPATH."""
    course = tmp_path / "my copy"
    (course / "helpers").mkdir(parents=True)
    (course / "helpers" / "resnet.py").touch()
    silent = [{"stdout": "", "error": None, "root": str(course)}]
    assert host("my copy", [[FIRST_CELL]], {}) == silent
    assert host("my copy/notebooks/exercises", [[FIRST_CELL]], {}) == silent
    assert host("autograded", [[FIRST_CELL]], {"PYTHONPATH": str(course)}) == silent


@needs_git
def test_a_run_on_colab_is_kept_in_drive(host, served, tmp_path):
    """The cell of lesson 04 that trains on Colab, with a stand-in for the training."""
    cells = code(ROOT / "notebooks" / "04_training.ipynb")
    (unasked,) = [cell for cell in cells if "drive.mount" in cell]
    asked = unasked.replace('keep_in = ""', 'keep_in = "drive"')
    stand_in = "import types\nexperiment = types.SimpleNamespace(main=print)"
    groups = [[first_cell(SLUG), stand_in, asked], [first_cell(SLUG), stand_in, unasked]]
    kept, nothing = host("content", groups, served)
    drive = tmp_path / "content" / "drive" / "MyDrive"
    assert kept["error"] is None and f"'--out', '{drive}" in kept["stdout"]
    assert nothing["error"] is None and nothing["stdout"] == ""


@needs_git
@pytest.mark.long
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_whole_lessons_run_on_colab(path, served, tmp_path, monkeypatch):
    """From an empty folder to the last cell, in a kernel that can import what Colab brings."""
    kernel, folder = tmp_path / "jupyter" / "kernels" / "host", tmp_path / "content"
    kernel.mkdir(parents=True)
    folder.mkdir()
    hide = f"import runpy; runpy.run_path({hosted.__file__!r})['hide_the_rest']()"
    command = [COLAB_PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command += ["--log-level=ERROR", f"--IPKernelApp.exec_lines={[hide]}"]
    specification = {"argv": command, "display_name": "host", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(specification), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = first_cell(SLUG)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=1200, kernel_name="host", resources=resources)
    client.execute(env=environment_of(colabs_modules(tmp_path), served))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr" or "Warning" not in output.text, output.text


# --- what works on one system only


def only_on_some(source: str) -> list[str]:
    """What a program uses that Windows, macOS or Colab's IPython 7.34 does not have."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func).split(".")[-1]
            names = [f"{function}({k.arg}={ast.unparse(k.value)})" for k in node.keywords]
        else:
            continue
        found += [name for name in names if NOT_EVERYWHERE.match(name)]
    return found


NOT_EVERYWHERE = re.compile(
    r"""(fcntl|grp|posix|pty|pwd|resource|termios|tty|multiprocessing|concurrent)\b
    | os\.(fork|getuid|geteuid|uname|sched_getaffinity|nice|mkfifo|system|popen)
    | signal\.(alarm|setitimer|SIGALRM|SIGKILL|SIGUSR1|SIGHUP)
    | \w+\((num_workers=[1-9]|shell=True) | Image\(alt= | display\(clear=""",
    re.VERBOSE,
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_helpers_work_on_every_system(path):
    assert only_on_some(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_notebooks_work_on_every_system(path):
    assert only_on_some("\n".join(code(path)[1:])) == []


def test_the_search_finds_what_is_not_everywhere():
    source = "import fcntl, os; os.fork(); DataLoader(x, num_workers=2); Image('x', alt='a cat')"
    assert len(only_on_some(source)) == 4
    assert only_on_some("import torch, os; DataLoader(x, num_workers=0); os.replace(a, b)") == []


@needs_git
def test_file_names_work_on_every_system():
    """No two that differ in case alone, none that Windows refuses, none too long for it."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    files = listed.stdout.decode("utf-8").strip("\0").split("\0")
    assert len({file.lower() for file in files}) == len(files) > 50
    reserved = r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)"
    refused = re.compile(rf'[<>:"|?*\\]|[. ](/|$)|{reserved}', re.IGNORECASE)
    assert [file for file in files if refused.search(file) or len(file) > 150] == []


def test_nothing_depends_on_the_encoding_of_the_system():
    """Windows reads text as cp1252 unless told otherwise: recorded runs, and the command line."""
    program = (
        "import locale, helpers.checks\n"
        "from helpers.experiment import main\n"
        "from helpers.records import RESULTS, read_run\n"
        "runs = [read_run(path.parent) for path in RESULTS.glob('cifar10-*/metrics.json')]\n"
        "print(locale.getpreferredencoding(False), len(runs))\n"
        "main(['--help'])"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | plain | {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, encoding="cp1252"
    )
    assert done.returncode == 0, done.stderr
    encoding, runs = done.stdout.splitlines()[0].split()
    assert int(runs) >= 6 and (sys.platform != "linux" or encoding == "ANSI_X3.4-1968")


# --- the GPU of a Mac


class NoFloat64(TorchDispatchMode):
    """A device that has no float64, which is Apple's: whatever makes such a tensor fails."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                raise TypeError(f"{function} makes float64")
        return result


def test_training_needs_no_float64(shapes):
    """Every way to augment, an epoch with a moving average, predictions."""
    config = training.TrainConfig(
        model="resnet20", batch_size=32, cutout=8, mixing=1.0, ema=0.9, precision="float32"
    )
    model = resnet20(zero_gamma=True)
    optimizer = training.make_optimizer(model, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: training.lr_factor(step, total_steps=2)
    )
    autocast = make_autocast("float32", torch.device("cpu"))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(TypeError, match="float64"), NoFloat64():
        torch.ones(2).double()
    with NoFloat64():
        training.make_average(model, config.ema, optimizer)
        few = replace(shapes, train=shapes.train[:64])
        batches = training.epoch_batches(few, config, epoch=0)
        loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        training.train_one_epoch(model, batches, loss, optimizer, scheduler, autocast, scaler)
        predict(model, shapes, shapes.val)


def test_a_macs_gpu_works_or_is_refused_with_a_reason(shapes):
    """`auto` never chooses it; asked for by name it trains, or an error says why not."""
    assert resolve_device("auto").type in ("cpu", "cuda")
    config = training.TrainConfig(model="resnet20", epochs=1, batch_size=160, device="mps")
    try:
        resolve_device("mps")
    except ValueError as reason:
        assert "'mps' cannot be used here (" in str(reason) and "'auto' or 'cpu'" in str(reason)
        with pytest.raises(ValueError, match="mps"):
            training.fit(resnet20(), shapes, config, progress=False)
    else:
        (row,) = training.fit(resnet20(), shapes, config, progress=False)
        assert 0 <= row["val_accuracy"] <= 1
