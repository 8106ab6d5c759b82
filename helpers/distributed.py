"""Several processes that train one network together, as `torchrun` starts them; alone, everything here does nothing.

Each process computes the gradients of its share of every batch, and PyTorch's DistributedDataParallel averages them. What
else has to agree is exchanged here: the numbers of an epoch, BatchNorm's statistics, the logits of a split.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def start() -> None:
    """Joins the processes that torchrun started: one GPU each where there are GPUs, else the CPU (gloo)."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # from now on "cuda" means this process's own
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def rank_and_size() -> tuple[int, int]:
    """Which process this is (0 … size - 1), and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share(batch_size: int) -> slice:
    """This process's part of a batch. Raises ValueError where the batch cannot be divided evenly."""
    rank, size = rank_and_size()
    if batch_size % size:
        raise ValueError(f"batch size {batch_size} cannot be divided among {size} processes: choose a multiple of {size}")
    part = batch_size // size
    return slice(rank * part, (rank + 1) * part)


def parallel(model: nn.Module) -> nn.Module:
    """The model, with gradients averaged over all processes during `backward`."""
    return DistributedDataParallel(model, broadcast_buffers=False) if dist.is_initialized() else model


def from_first(make: Callable[[], Any]) -> Any:
    """What `make()` returns in process 0, in every process: for what is read from a disk or measured with a clock."""
    if not dist.is_initialized():
        return make()
    box = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box)
    return box[0]


def first_then_others(make: Callable[[], Any]) -> Any:
    """`make()` in process 0, and in the others when that is done: one downloads, the others find what it left."""
    if rank_and_size()[0] == 0:
        made = make()
    if dist.is_initialized():
        dist.barrier()
    return made if rank_and_size()[0] == 0 else make()


def mean(*values: float) -> list[float]:
    """Each value's mean over the processes."""
    _, size = rank_and_size()
    return [sum(column) / size for column in zip(*_gather(values))]


def interleave(part: Tensor) -> Tensor:
    """Puts together what process r of n computed for the samples r, r + n, r + 2n, …; the split need not divide evenly."""
    parts = _gather(part)
    whole = torch.empty(sum(map(len, parts)), *part.shape[1:], dtype=part.dtype)
    for rank, rows in enumerate(parts):
        whole[rank :: len(parts)] = rows
    return whole


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Gives every process the mean of all BatchNorm statistics: each has seen its own share of the pictures only."""
    _, size = rank_and_size()
    for buffer in model.buffers():
        if size > 1 and buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= size


def _gather(value: Any) -> list:
    rank, size = rank_and_size()
    gathered = [value] * size
    if size > 1:
        dist.all_gather_object(gathered, value)
    return gathered
