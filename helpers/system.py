"""The machine that a run trains on: device, precision, memory, and what a record says of it."""

import copy
import ctypes
import platform
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input


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


class WeightProducts(torch.autograd.Function):
    """A 3×3 convolution whose weight gradient is nine matrix products, one for each tap."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        gradient_x, s = None, ctx.stride
        if ctx.needs_input_grad[0]:
            gradient_x = conv2d_input(x.shape, weight, gradient, stride=s, padding=1)
        n, out_channels, height, width = gradient.shape
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, out_channels).T  # (K, N·H·W)
        padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (N, H + 2, W + 2, C)
        gradient_weight = torch.empty_like(weight)
        for i in range(3):
            for j in range(3):
                seen = padded[:, i : i + s * height : s, j : j + s * width : s]
                seen = seen[:, :height, :width].reshape(-1, x.shape[1])  # (N·H·W, C)
                gradient_weight[:, :, i, j] = rows @ seen
        return gradient_x, gradient_weight, None


class ProductConv2d(nn.Conv2d):
    """An `nn.Conv2d` that computes as matrix products what oneDNN computes slowly on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1):  # the same linear map at every pixel
            pixels = x.permute(0, 2, 3, 1)[:, :: self.stride[0], :: self.stride[1]]
            # one large product; without gradients torch would make many small ones of strided input
            return F.linear(pixels.contiguous(), self.weight[:, :, 0, 0]).permute(0, 3, 1, 2)
        weight = self.weight
        if torch.is_autocast_enabled(x.device.type):  # an autograd function is not cast by itself
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        return WeightProducts.apply(x, weight, self.stride[0])


def use_products(model: nn.Module) -> None:
    """Computes deep convolutions of `model` as matrix products: 1×1 ones with 1,024 channels on a
    side, and the weight gradient of 3×3 ones with 256 or more.

    Names, parameters and, but for rounding, results stay.
    """
    for module in model.modules():
        if type(module) is not nn.Conv2d or module.bias is not None or module.groups > 1:
            continue
        widest = max(module.in_channels, module.out_channels)
        point = module.kernel_size == (1, 1) and module.padding == (0, 0) and widest >= 1024
        deep = module.kernel_size == (3, 3) and module.in_channels >= 256
        if point or deep and module.padding == module.dilation == (1, 1):
            module.__class__ = ProductConv2d


def resolve_products(name: str, device: torch.device, precision: str) -> str:
    """What `name` means: for "auto" "on" where a probe finds a gain (CPU, bfloat16), else "off"."""
    if name != "auto":
        return name
    return "on" if device.type == "cpu" and precision == "bfloat16" and products_pay() else "off"


@lru_cache
def products_pay() -> bool:
    """Whether ResNet-50's last block trains at least 1.2 times faster as matrix products, on 2×2
    pixels (images of 16×16). Takes a second.
    """
    with torch.random.fork_rng(devices=[]):
        narrow = nn.Conv2d(2048, 512, 1, bias=False)
        conv = nn.Conv2d(512, 512, 3, padding=1, bias=False)
        branch = nn.Sequential(narrow, conv, nn.Conv2d(512, 2048, 1, bias=False))
    branch.to(memory_format=torch.channels_last)
    branches = (branch, copy.deepcopy(branch))
    use_products(branches[1])
    maps = torch.ones(64, 2048, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(6):
        for branch, times in zip(branches, seconds):
            start = time.perf_counter()
            with make_autocast("bfloat16", torch.device("cpu")):
                branch(maps).sum().backward()
            times.append(time.perf_counter() - start)
    return min(seconds[0]) > 1.2 * min(seconds[1])


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
    """The processor's model as the system calls it; on Linux also its cores and bfloat16."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    if not models:
        return platform.machine()
    names = {"amx_bf16": ", AMX-BF16", "avx512_bf16": ", AVX512-BF16"}  # fastest first
    found = (name for flag, name in names.items() if any(flag in line for line in lines))
    return f"{models[0]}, {len(models)} cores{next(found, '')}"
