"""Two processes on one CPU do together what one does alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes

from helpers import distributed
from helpers.records import load_model, read_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, two_processes.__file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_gradients_weights_and_numbers_are_those_of_one_process(folder):
    alone = two_processes.train_frozen()
    for rank in (0, 1):
        together = torch.load(folder / f"rank{rank}.pt")["frozen"]
        assert together.keys() == alone.keys() and len(together) > 100
        for name, value in alone.items():
            error = (together[name] - value).norm() / value.norm().clamp(
                min=1e-12
            )  # sums in another order differ by rounding
            assert error < 1e-4, f"{name} differs by {error:.1e} of its size"


def test_each_sample_goes_to_one_process_and_only_the_short_batch_is_dropped(folder):
    seen = [torch.load(folder / f"rank{rank}.pt")["seen"] for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 32
    assert len(set(seen[0] + seen[1])) == 64 == 70 - 70 % 32


def test_both_end_with_the_same_statistics(folder):
    one, other = (torch.load(folder / f"rank{rank}.pt")["statistics"] for rank in (0, 1))
    assert len(one) == 2 * 19 and all(torch.equal(one[name], other[name]) for name in one)


def test_one_process_writes_a_record_and_a_resumed_run_ends_with_the_same_bits(folder):
    whole, resumed = read_run(folder / "undisturbed"), read_run(folder / "resumed")
    assert whole["environment"]["processes"] == 2
    assert whole["test_logits"].shape == (129, 10) and len(whole["test_trace"]) == 3
    assert torch.equal(whole["test_logits"], resumed["test_logits"])
    assert (
        whole["history"].drop(columns="seconds").equals(resumed["history"].drop(columns="seconds"))
    )
    weights = [load_model(folder / name).state_dict() for name in ("undisturbed", "resumed")]
    assert all(
        torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True)
    )


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "rank_and_size", lambda: (1, 3))
    assert distributed.share(48) == slice(16, 32)
    with pytest.raises(ValueError, match="not a multiple of the 3 processes"):
        distributed.share(32)


def test_each_process_of_several_takes_its_own_gpu(monkeypatch):
    taken = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(distributed.dist, "init_process_group", taken.append)
    distributed.start()
    assert taken == [1, "nccl"]
