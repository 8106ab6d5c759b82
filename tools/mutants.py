"""Do the tests notice faults? `make mutants` plants them one at a time and runs the tests.

    python tools/mutants.py [--jobs 2] [--only WORDS] [--list]

A fault is a line `old → new` of FAULTS, below the file that it is planted in and the tests that
must fail. Each is planted in a copy of the repository. The program ends with an error if a fault
survives, if its old text is not found exactly once any more, or if tests fail without a fault.
"""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 900  # seconds for one fault: tests that never end have noticed it, too

FAULTS = """
helpers/resnet.py: tests/test_resnet.py
    kernel_size=3, stride=stride → kernel_size=3, stride=1
    kernel_size=1, stride=stride → kernel_size=1, stride=1
    (0, 0, 0, 0, 0, self.extra) → (0, 0, 0, 0, self.extra, 0)
    self.conv2 = conv3x3(width, width, stride) → self.conv2 = conv3x3(width, width)
    expansion = 4 → expansion = 2
    for _ in range(depth - 1): → for _ in range(depth):
    mode="fan_out" → mode="fan_in"
    8 * width, depths[3], 2, → 8 * width, depths[3], 1,
    self.fc = nn.Linear(8 * width * out, num_classes) → self.fc = nn.Linear(8 * width * out, 10)

helpers/variants.py: tests/test_variants.py
    self.conv2.stride = self.conv2.stride, self.conv1.stride → self.conv2.stride = 1, 1
    module.bias = nn.Parameter(torch.zeros(module.out_channels)) → pass

helpers/networks.py: tests/test_networks.py
    torch.cat([largest, -largest]) → torch.cat([largest, largest])
    return 0.125 * self.fc(x) → return self.fc(x)

helpers/data.py: tests/test_data.py
    in order[: len(self) → in order.sort().values[: len(self)
    if self.mix: → if False:
    shift = torch.randint(-pad, pad + 1, (n, 1) → shift = torch.randint(-pad, pad + 1, (1, 1)
    shift = torch.randint(-pad, pad + 1 → shift = torch.randint(-pad, pad
    flipped = torch.rand(n, 1, → flipped = torch.rand(1, 1,
    mirrored = mirrored ^ bool(epoch % 2) → pass
    return data[~apart], data[apart] → return data, data[apart]
    [-m / s for m, s → [-m for m, s
    apart[shuffled[:per_class]] → apart[np.random.permutation(shuffled)[:per_class]]

helpers/datasets/cifar10.py: tests/test_cifar.py
    permute(0, 3, 1, 2) → permute(0, 3, 2, 1)
    torch.tensor(part.targets) → (torch.tensor(part.targets) + 1) % 10
    (0.4914, 0.4822, 0.4465) → (0.4822, 0.4914, 0.4465)
    if absent := missing(kind, root): → if absent := []:

helpers/datasets/download.py: tests/test_download.py
    f"bytes={offset}-" → f"bytes={offset + 1}-"
    if md5_of(part) == md5: → if True:
    if response.status_code != 206: → if False:
    if received < SLOWEST * seconds: → if False:

helpers/training.py: tests/test_training.py
    train_mode(model) → pass
    loss.detach() * len(labels) → loss.detach()
    / (warmup_steps + 1) → / warmup_steps
    if p.ndim > 1] → if p.ndim > 0]
    manual_seed(config.seed * 100_000 + epoch) → manual_seed(config.seed * 100_000)
    dataset.train if config.split == "train" else dataset.train_val → dataset.train_val
    label_smoothing=config.label_smoothing → label_smoothing=0.0
    nesterov = config.momentum > 0 → nesterov = False
    for parameter in learned: → for parameter in learned[:0]:
    get_ema_multi_avg_fn(decay) → get_ema_multi_avg_fn(1 - decay)
    state["average"].module if config.ema else model → model
    for epoch in range(first, config.epochs): → for epoch in range(config.epochs):

helpers/recipes.py: tests/test_training.py
    if not 0 <= self.mixing <= 1: → if False:
    starts[-1] < 1 → True

helpers/checkpoint.py: tests/test_checkpoint.py
    weights_only=True → weights_only=False
    if archive.testzip(): → if False:
    os.replace(temporary, path) → os.replace(temporary, path.with_name("other"))

helpers/evaluation.py: tests/test_evaluation.py
    part.training = training → part.training = True
    F.cross_entropy(logits, labels) → F.nll_loss(logits, labels)

helpers/experiment.py: tests/test_experiment.py
    set_seed(config.seed) → set_seed(0)
    logits["test"] = logits_of(dataset.test, model) → logits["test"] = logits_of(dataset.val, model)
    whiten(model.conv1, dataset.normalize(dataset.train.images[:1000])) → pass
    checkpoint.unlink(missing_ok=True) → pass

helpers/distributed.py: tests/test_distributed.py
    slice(rank * batch_size // size, → slice(0,
    tensor /= dist.get_world_size() → pass

notebooks/02_building_resnet50.ipynb: tests/test_notebooks.py
    kernel_size=3, stride=stride → kernel_size=3, stride=1

notebooks/02_building_resnet50.ipynb: notebooks/02_building_resnet50.ipynb
    // stride → * stride

notebooks/04_training.ipynb: tests/test_notebooks.py
    scheduler.step() → pass

notebooks/05_evaluation.ipynb: notebooks/05_evaluation.ipynb
    logits.double() / math.exp(log_T) → logits.double() * math.exp(log_T)
"""


class Fault(NamedTuple):
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.old} → {self.new}"


def read_faults(table: str) -> list[Fault]:
    faults = []
    for line in table.strip().splitlines():
        if line and not line.startswith(" "):
            file, tests = line.split(": ")
        elif line:
            old, new = line.strip().split(" → ")
            faults.append(Fault(file, old, new, tuple(tests.split())))
    return faults


def misfit(fault: Fault) -> str:
    """Why the fault cannot be planted, or ""."""
    path = ROOT / fault.file
    count = path.read_text(encoding="utf-8").count(fault.old) if path.is_file() else 0
    return "" if count == 1 else f"its old text is there {count} times, not once"


def make_copy(folder: Path) -> Path:
    large = shutil.ignore_patterns("data", "build", "runs", ".git", ".venv*", "*cache*")
    return Path(shutil.copytree(ROOT, folder, ignore=large))


def run_tests(copy: Path, tests: tuple[str, ...]) -> str:
    """What failed first, or "" if everything passed."""
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MPLBACKEND": "agg"}
    settings |= {"COURSE_DATA": "shapes", "COURSE_UNATTENDED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=", "--nbval", "--nbval-cell-timeout=600", "-m", "not long", *tests]
    environment = os.environ | settings
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return "it never ends"
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else f"exit status {done.returncode}"


def test_with(fault: Fault, copy: Path) -> str:
    """What notices the fault, or "" if it survives."""
    path = copy / fault.file
    original = path.read_text(encoding="utf-8")
    path.write_text(original.replace(fault.old, fault.new), encoding="utf-8")
    try:
        return run_tests(copy, fault.tests)
    finally:
        path.write_text(original, encoding="utf-8")


def run_all(faults: list[Fault], jobs: int) -> list[str]:
    """Plants every fault; returns a line for each problem."""
    problems = []
    copies: queue.Queue[Path] = queue.Queue()

    def in_a_copy(work, argument):
        copy = copies.get()
        try:
            return work(argument, copy)
        finally:
            copies.put(copy)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        for number in range(jobs):
            copies.put(make_copy(Path(folder) / str(number)))
        suites = list(dict.fromkeys(fault.tests for fault in faults))
        print(f"{len(suites)} groups of tests, without a fault first", flush=True)
        results = pool.map(lambda tests: in_a_copy(lambda t, c: run_tests(c, t), tests), suites)
        failing = {tests: failed for tests, failed in zip(suites, results) if failed}
        for tests, failed in failing.items():
            problems.append(f"{' '.join(tests)} fails without a fault: {failed}")
        planted = [fault for fault in faults if fault.tests not in failing]
        results = pool.map(lambda fault: in_a_copy(test_with, fault), planted)
        for number, (fault, noticed) in enumerate(zip(planted, results), start=1):
            print(f"{number}/{len(planted)} {fault}\n    {noticed or 'SURVIVED'}", flush=True)
            if not noticed:
                problems.append(f"survived: {fault}")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="faults whose line contains this")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    options = parser.parse_args()
    faults, problems = [], []
    for fault in read_faults(FAULTS):
        if options.only not in str(fault):
            continue
        reason = misfit(fault)
        if reason:
            problems.append(f"{fault}: {reason}")
        else:
            faults.append(fault)
    if options.list:
        print(*faults, sep="\n")
    else:
        problems += run_all(faults, options.jobs)
        print(f"{len(faults)} faults planted, {len(problems)} problems")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
