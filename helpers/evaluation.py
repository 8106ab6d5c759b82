"""Predictions for a whole split, and the loss and accuracy computed from them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data import Dataset, Split, resize


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in its old mode (a frozen BatchNorm in eval)."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def train_mode(model: nn.Module) -> None:
    """`model.train()`, except that a BatchNorm whose parameters are all frozen keeps to eval mode.

    Else a frozen network would still change: its running statistics would follow the new data.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)):
            trainable = [parameter.requires_grad for parameter in module.parameters()]
            if trainable and not any(trainable):
                module.eval()


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    batch_size: int = 500,
    autocast: AbstractContextManager | None = None,
    size: int | None = None,
) -> Tensor:
    """Logits (N, num_classes), float32 on the CPU, of every image of `split`, in its order.

    The images are normalised as `dataset` says and, with a `size`, made so many pixels wide and
    high. The model is in eval mode meanwhile (BatchNorm uses its running statistics) and in its old
    mode afterwards.
    """
    batches = []
    with evaluating(model), autocast or nullcontext():
        for images in split.images.split(batch_size):
            logits = model(resize(dataset.normalize(images), size))
            batches.append(logits.float())
    return torch.cat(batches).cpu()


def evaluate(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0–1) of logits (N, num_classes) for labels (N,).

    Raises ValueError if the shapes do not fit, and for N = 0.
    """
    if labels.shape != logits.shape[:1] or len(labels) == 0:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (N, num_classes) and labels (N,), N > 0, got {shapes}")
    labels = labels.to(logits.device)
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    return loss, accuracy


@dataclass(frozen=True)
class Difference:
    """A difference of two accuracies, 0–1, with its 95 % interval and the seeds behind each."""

    value: float
    low: float
    high: float
    seeds: tuple[int, int]

    @property
    def test_sampling_only(self) -> bool:
        """Whether one seed a side leaves the spread between seeds unknown: the true interval is
        wider.
        """
        return min(self.seeds) == 1

    def __str__(self) -> str:
        points = [100 * number for number in (self.value, self.low, self.high)]
        text = "{:+.2f} points, 95 % interval {:+.2f} to {:+.2f}".format(*points)
        ours, theirs = self.seeds
        n = f"{ours}" if ours == theirs else f"{ours} and {theirs}"
        return f"{text} (n = {n}{', test sampling only' if self.test_sampling_only else ''})"


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Difference:
    """How much more often `ours` is right than `theirs`, with a 95 % interval.

    Each is a list with one entry per seed: which of the same N images the network got right, (N,)
    bool. Two sources of chance are combined: the seeds (Welch's t interval) and the choice of the N
    images (from the per-image differences). With a single seed on a side only the second is known.
    Raises ValueError for empty lists and for entries of different lengths.
    """
    from scipy import stats  # here: training and the lessons' models need no SciPy

    lengths = {len(right) for right in [*ours, *theirs]}
    if not ours or not theirs or len(lengths) != 1:
        raise ValueError("expected one (N,) tensor per seed on both sides, N the same for all")
    ours, theirs = torch.stack(list(ours)).double(), torch.stack(list(theirs)).double()
    per_image = ours.mean(dim=0) - theirs.mean(dim=0)
    value = per_image.mean().item()
    sampling = 1.96 * math.sqrt(per_image.var().item() / len(per_image))
    between = 0.0
    if min(len(ours), len(theirs)) > 1:
        parts = [runs.mean(dim=1).var().item() / len(runs) for runs in (ours, theirs)]
        if sum(parts) > 0:
            shares = [part**2 / (len(runs) - 1) for part, runs in zip(parts, (ours, theirs))]
            between = stats.t.ppf(0.975, sum(parts) ** 2 / sum(shares)) * math.sqrt(sum(parts))
    margin = math.hypot(sampling, between)
    return Difference(value, value - margin, value + margin, (len(ours), len(theirs)))
