"""Predictions for a whole split, and the loss and accuracy computed from them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data import Dataset, Split


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
) -> Tensor:
    """Logits (N, num_classes), float32 on the CPU, of every image of `split`, in its order.

    The images are normalised as `dataset` says. The model is in eval mode meanwhile (BatchNorm uses
    its running statistics) and in its old mode afterwards.
    """
    batches = []
    with evaluating(model), autocast or nullcontext():
        for images in split.images.split(batch_size):
            logits = model(dataset.normalize(images))
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
