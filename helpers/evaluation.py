"""How good is a trained network? Predictions on a whole split, and the measures computed from them."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data import Dataset, Split  # the two types that every signature here speaks of


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part is in the mode it was in (a frozen BatchNorm, say, stays frozen)."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    batch_size: int = 500,
    autocast: AbstractContextManager | None = None,
) -> Tensor:
    """Logits (N, num_classes), float32 on the CPU, of every picture of `split`, in its order.

    The model is put into eval mode for this (BatchNorm uses its running statistics) and back into its mode afterwards.
    """
    with evaluating(model), autocast or nullcontext():
        logits = [model(dataset.normalize(images)).float() for images in split.images.split(batch_size)]
    return torch.cat(logits).cpu()


def evaluate(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (in nats) and accuracy (0–1) over samples: logits (N, num_classes) against labels (N,)."""
    if labels.shape != logits.shape[:1] or len(labels) == 0:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (N, num_classes) and as many labels (N,), at least one, got {shapes}")
    labels = labels.cpu()
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    return loss, accuracy


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> pd.DataFrame:
    """Is the network right as often as it claims? A row per confidence bin: number of pictures, mean confidence, accuracy.

    The bins divide 0–1 into equal widths; those without a picture have no row.
    """
    confidence, answer = logits.double().softmax(dim=1).max(dim=1)
    table = pd.DataFrame({"confidence": confidence.numpy(), "accuracy": (answer == labels).double().numpy()})
    groups = table.groupby(np.minimum((table.confidence * bins).astype(int), bins - 1).rename("bin"))
    return groups.mean().assign(pictures=groups.size())


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The expected calibration error (Naeini et al. 2015; Guo et al. 2017): |accuracy - confidence|, averaged over pictures."""
    table = reliability(logits, labels, bins)
    return float((table.pictures * (table.accuracy - table.confidence).abs()).sum() / table.pictures.sum())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T that minimises the cross-entropy of logits / T (Guo et al. 2017), on pictures not learned from; 0.01 … 100.

    In β = 1/T the cross-entropy is convex, with the derivative E[expected logit - true logit]: its zero is bisected.
    """
    logits = logits.double()
    true = logits[torch.arange(len(logits)), labels].mean()
    low, high = math.log(0.01), math.log(100)  # of T
    for _ in range(50):
        middle = (low + high) / 2
        expected = ((logits / math.exp(middle)).softmax(dim=1) * logits).sum(dim=1).mean()
        low, high = (middle, high) if expected > true else (low, middle)  # too sure: a higher temperature
    return math.exp(middle)
