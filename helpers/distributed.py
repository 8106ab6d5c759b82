"""Several processes that train one network, as `torchrun` starts them; alone, nothing happens here.

Each process computes the gradients of its share of every batch; DistributedDataParallel averages
them. What else has to agree is exchanged here.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def start() -> None:
    """Joins the processes that torchrun started: one GPU each, or the CPU (gloo)."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" means from now on
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def rank_and_size() -> tuple[int, int]:
    """Which process this is (0 … size - 1), and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share(batch_size: int) -> slice:
    """This process's part of a batch. Raises ValueError if the batch cannot be divided evenly."""
    rank, size = rank_and_size()
    if batch_size % size:
        raise ValueError(f"batch size {batch_size} is not a multiple of the {size} processes")
    return slice(rank * batch_size // size, (rank + 1) * batch_size // size)


def parallel(model: nn.Module) -> nn.Module:
    """The model, with gradients averaged over all processes during `backward`."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(model, broadcast_buffers=False)


def from_first(make: Callable[[], Any]) -> Any:
    """What `make()` returns in process 0, in every process: for what a disk or a clock decides."""
    box = [make() if rank_and_size()[0] == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]


@torch.no_grad()
def average(tensors: list[torch.Tensor]) -> None:
    """Replaces each floating-point tensor, in place, by its mean over all processes."""
    for tensor in tensors:
        if dist.is_initialized() and tensor.is_floating_point():
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
