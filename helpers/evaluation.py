"""How good is a trained network? Predictions on a whole split, and the measures computed from them."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data import Dataset, Split  # the two types that every signature here speaks of


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
    was_training = model.training
    model.eval()
    with autocast or nullcontext():
        logits = [model(dataset.normalize(images)).float() for images in split.images.split(batch_size)]
    model.train(was_training)
    return torch.cat(logits).cpu()


def evaluate(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (in nats) and accuracy (0–1) over samples: logits (N, num_classes) against labels (N,)."""
    if len(logits) != len(labels) or len(labels) == 0:
        raise ValueError(f"expected as many logits as labels and at least one, got {len(logits)} and {len(labels)}")
    labels = labels.cpu()
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    return loss, accuracy
