"""The machine that a run trains on: device, precision, memory, and what a record says of it."""

import ctypes
import os
import platform
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn


def resolve_device(name: str) -> torch.device:
    """The device that `name` means; "auto" is the first CUDA GPU, else the CPU.

    Raises ValueError for a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the real test: does it compute?
    except (RuntimeError, AssertionError, NotImplementedError) as reason:
        problem = str(reason).splitlines()[0]
        advice = "try 'auto' or 'cpu'"
        raise ValueError(f"device {name!r} cannot be used here ({problem}): {advice}") from None
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision that `name` means on `device`.

    "auto" is bfloat16 on a GPU that computes in it and float16 on an older one; on a CPU it is what
    is faster. `torch.cuda.is_bf16_supported()` is no guide: it is true on a T4, which emulates
    bfloat16 slowly.
    """
    if name == "float16" and device.type == "cpu":
        warnings.warn("float16 is very slow on a CPU: choose 'auto' or 'float32'", stacklevel=2)
    if name != "auto":
        return name
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return "bfloat16" if has_bfloat16 else "float16"
    if device.type == "cpu" and bfloat16_pays():
        return "bfloat16"
    return "float32"


@lru_cache  # measured once in a process
def bfloat16_pays() -> bool:
    """Whether this CPU trains at least 1.3 times faster in bfloat16: a probe of under a second."""
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    layers = nn.Sequential(conv, nn.BatchNorm2d(64), nn.ReLU())
    layers.to(memory_format=torch.channels_last)
    images = torch.ones(64, 64, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(6):
        for precision, times in seconds.items():
            start = time.perf_counter()
            with make_autocast(precision, torch.device("cpu")):
                layers(images).sum().backward()
            times.append(time.perf_counter() - start)
    return min(seconds["float32"]) > 1.3 * min(seconds["bfloat16"])


def make_autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """A context in which convolutions and matrix products compute in `precision`.

    The weights stay float32.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def set_up(device: torch.device) -> None:
    """Settings of the whole process that make training faster on `device`."""
    if device.type == "cuda":
        # try the convolution kernels once and keep the fastest: not always the same one
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        torch.set_float32_matmul_precision("high")  # TensorFloat-32 for what is not in 16 bits
    elif device.type == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Asks the C library to keep large blocks that are freed, for the next step.

    A training step on a CPU frees gigabytes and asks for them again; that the system clears every
    page of them each time costs a sixth of the step or more. In return the process keeps what it
    once needed. For Linux (glibc 2.35 or newer); elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # malloc.h's numbers for the two settings
    if mallopt(mmap_threshold, 2**31 - 1):  # glibc before 2.35 refuses
        mallopt(trim_threshold, 2**31 - 1)


def processor_name() -> str:
    """The processor's model as the system calls it; on Linux also its cores, and AMX if there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    if not models:
        return platform.machine()
    amx = ", AMX-BF16" if any("amx_bf16" in line for line in lines) else ""
    return f"{models[0]}, {len(models)} cores{amx}"


def waiting_policy() -> str:
    """How OpenMP's threads wait for work, as the environment sets it ("default": libgomp's own).

    Threads that spin while they wait make a training several times slower when another process
    uses the same cores; OMP_WAIT_POLICY=PASSIVE, set before Python starts, cures it.
    """
    policy = os.environ.get("OMP_WAIT_POLICY", "default").lower()
    spin_count = os.environ.get("GOMP_SPINCOUNT")
    return f"{policy}, spin count {spin_count}" if spin_count else policy
