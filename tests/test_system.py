"""What the machine is asked for, and what is said of it."""

import warnings
from pathlib import Path

import pytest
import torch

from helpers import system


def test_devices():
    assert system.resolve_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:99", "nonsense"):
        with pytest.raises(ValueError, match=name):
            system.resolve_device(name)


@pytest.mark.parametrize(
    "capability, expected", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_precision_follows_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert system.resolve_precision("auto", torch.device("cuda")) == expected
    assert system.resolve_precision("float32", torch.device("cuda")) == "float32"


@pytest.mark.parametrize(
    "device, pays, expected",
    [("cpu", True, "bfloat16"), ("cpu", False, "float32"), ("mps", True, "float32")],
)
def test_auto_on_a_cpu_follows_the_probe(monkeypatch, device, pays, expected):
    monkeypatch.setattr(system, "bfloat16_pays", lambda: pays)
    assert system.resolve_precision("auto", torch.device(device)) == expected


def test_what_is_slow_is_said():
    with pytest.warns(UserWarning, match="float16 is very slow on a CPU"):
        assert system.resolve_precision("float16", torch.device("cpu")) == "float16"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        system.resolve_precision("float16", torch.device("cuda"))
        system.resolve_precision("bfloat16", torch.device("cpu"))


def test_the_probe_is_timed_and_leaves_the_generator_alone(monkeypatch):
    """A clock that charges bfloat16 (every second measurement) half as much, then as much."""
    before = torch.get_rng_state()
    for cost, expected in ((0.5, True), (1.0, False)):
        system.bfloat16_pays.cache_clear()
        ticks = iter([0.0, 1.0, 0.0, cost] * 6)
        monkeypatch.setattr(system.time, "perf_counter", ticks.__next__)
        assert system.bfloat16_pays() is expected
    system.bfloat16_pays.cache_clear()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_processor_is_named_as_the_system_names_it(monkeypatch):
    lines = ["processor\t: 0", "model name\t: Maker: Model 7", "flags\t\t: avx amx_bf16"]
    monkeypatch.setattr(Path, "read_text", lambda path: "\n".join(2 * lines))
    assert system.processor_name() == "Maker: Model 7, 2 cores, AMX-BF16"
    monkeypatch.setattr(Path, "read_text", lambda path: "\n".join(lines[:2]))
    assert system.processor_name() == "Maker: Model 7, 1 cores"
    monkeypatch.setattr(Path, "read_text", lambda path: "no such lines")
    assert system.processor_name()


@pytest.mark.parametrize(
    "policy, spins, expected",
    [(None, None, "default"), ("PASSIVE", None, "passive"), (None, "9", "default, spin count 9")],
)
def test_the_waiting_policy_is_the_environments(monkeypatch, policy, spins, expected):
    for name, value in (("OMP_WAIT_POLICY", policy), ("GOMP_SPINCOUNT", spins)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    assert system.waiting_policy() == expected
