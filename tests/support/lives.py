"""A run that is killed again and again: each life is a process, forked from one that has imported
everything.

`python tests/support/lives.py FOLDER KILLS SEED` kills a small run with SIGKILL at random moments,
starts it again each time, and compares every run that reached its end with one that nobody
disturbed. Prints a line for each run that ended.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from helpers import experiment  # noqa: E402
from helpers.data import Dataset  # noqa: E402
from helpers.datasets.shapes import make_shapes  # noqa: E402

COMMAND = "shapes --batch-size 4 --device cpu --precision float32 --ema 0.9 --mixing 0.5".split()
COMMAND.append("--test-trace")
EPOCHS = 12


def start(folder: Path, dataset: Dataset) -> int:
    """Starts a life of the run in `folder`; returns the number of its process."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(folder.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        experiment.load = lambda name, root: dataset
        # the real one asks git, which takes longer than the run
        experiment.describe_environment = lambda device, command: {}
        experiment.main([*COMMAND, "--epochs", str(EPOCHS), "--out", str(folder)])
        status = 0
    finally:
        os._exit(status)


def result(folder: Path) -> tuple[bytes, ...]:
    """What a run leaves: the exact weights and logits, and the history without its times."""
    history = [line.rsplit(",", 1)[0] for line in (folder / "history.csv").read_text().splitlines()]
    assert history[0].startswith("epoch,lr,train_loss") and len(history) == 1 + EPOCHS
    names = sorted(path.name for path in folder.iterdir())
    assert not [name for name in names if "checkpoint" in name], names
    files = ("model.safetensors", "test_logits.npz", "val_logits.npz", "test_trace.csv")
    with_times_removed = "\n".join(history).encode()
    return (with_times_removed, *((folder / name).read_bytes() for name in files))


def main(folder: Path, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    whole = make_shapes(12, 4, 4)
    folder.mkdir(parents=True, exist_ok=True)

    began = time.monotonic()
    assert os.waitpid(start(folder / "undisturbed", whole), 0)[1] == 0, (
        folder / "undisturbed.log"
    ).read_text()
    span = time.monotonic() - began
    expected = result(folder / "undisturbed")

    killed, runs, lives = 0, 0, 0
    while killed < kills or lives:
        child = start(folder / f"run{runs}", whole)
        lives += 1
        if killed < kills:
            time.sleep(draw.uniform(0, 0.5 * span))
            if draw.random() < 0.2:  # every fifth time Ctrl-C first
                os.kill(child, signal.SIGINT)
                time.sleep(draw.uniform(0, 0.1 * span))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status)
        if (folder / f"run{runs}" / "metrics.json").exists() and status == 0:
            assert result(folder / f"run{runs}") == expected, f"run {runs} ended with other bits"
            print(f"run {runs}: {lives} lives, the same bits", flush=True)
            runs, lives = runs + 1, 0
        else:
            log = (folder / f"run{runs}.log").read_text()
            assert (
                "error:" not in log
                and "Traceback" not in log
                and not (killed >= kills and status == 256)
            ), log
    print(f"killed {killed} times")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
