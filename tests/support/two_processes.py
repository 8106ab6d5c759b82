"""What test_distributed.py lets two processes do together: `torchrun --nproc-per-node=2
tests/support/two_processes.py FOLDER`.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from helpers import distributed, experiment, training  # noqa: E402
from helpers.data import Dataset, Split  # noqa: E402
from helpers.datasets.shapes import make_shapes  # noqa: E402
from helpers.evaluation import predict  # noqa: E402
from helpers.resnet import resnet20  # noqa: E402

CONFIG = training.TrainConfig(
    model="resnet20",
    dataset="shapes",
    epochs=1,
    batch_size=32,
    lr=0.1,
    mixing=0.5,
    cutout=8,
    device="cpu",
    precision="float32",
)
COMMAND = "shapes --epochs 3 --batch-size 32 --device cpu --precision float32 --ema 0.9".split()
COMMAND.append("--test-trace")


def small_shapes() -> Dataset:
    return make_shapes(70, 33, 129)  # 70 = 2 · 32 + 6; 33 and 129 do not divide by two


def frozen_resnet20() -> nn.Module:
    """ResNet-20 whose BatchNorms neither use nor update the statistics of a batch, which differ
    between its shares.
    """
    training.set_seed(1)
    model = resnet20()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, FrozenBatchNorm2d(child.num_features))
    return model


def train_frozen() -> dict[str, torch.Tensor]:
    """Gradients of the last step and weights after two steps, the epoch's numbers, and the test
    logits.
    """
    data, model = small_shapes(), frozen_resnet20()
    row = training.fit(model, data, CONFIG, progress=False)[0]
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return {
        **{f"gradient of {name}": p.grad for name, p in model.named_parameters()},
        **model.state_dict(),
        "numbers": torch.tensor([row[name] for name in names]),
        "logits": predict(model, data, data.test),
    }


def statistics() -> dict[str, torch.Tensor]:
    """BatchNorm's running statistics after an epoch in which each process saw its own share of the
    images.
    """
    training.set_seed(1)
    model = resnet20()
    training.fit(model, small_shapes(), CONFIG, progress=False)
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def samples_seen() -> list[int]:
    """The numbers of the images that this process is given in one epoch."""
    numbers = torch.arange(70)
    data = small_shapes()
    numbered = Dataset(
        "numbers",
        data.classes,
        data.mean,
        data.std,
        Split(data.train.images, numbers),
        data.val,
        data.test,
    )
    plain = training.TrainConfig(batch_size=32, dataset="shapes")
    return [
        int(n) for _, labels in training.epoch_batches(numbered, plain, epoch=0) for n in labels
    ]


def record(out: Path, stop_after: int | None = None) -> None:
    """One run of the command line, interrupted in the epoch after `stop_after`."""
    original = training.fit

    def fit(*arguments, on_epoch, **options):
        def interrupt(model, row):
            on_epoch(model, row)
            if stop_after is not None and row["epoch"] > stop_after:
                raise KeyboardInterrupt

        return original(*arguments, on_epoch=interrupt, **options)

    experiment.fit, experiment.load = fit, lambda name, root: small_shapes()
    try:
        experiment.main([*COMMAND, "--out", str(out)])
    except SystemExit as stop:
        assert stop_after is not None, stop


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    distributed.start()
    rank, _ = distributed.rank_and_size()
    torch.save(
        {"frozen": train_frozen(), "seen": samples_seen(), "statistics": statistics()},
        folder / f"rank{rank}.pt",
    )
    record(folder / "undisturbed")
    record(folder / "resumed", stop_after=1)
    record(folder / "resumed")
