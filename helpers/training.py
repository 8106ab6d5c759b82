"""Training: one frozen set of settings, one plain epoch, and `fit`, which repeats it and survives an interruption."""

import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm

from helpers.data import Batches, Dataset, random_crop_flip, random_cutout
from helpers.evaluation import evaluate, predict

SCHEDULES = ("cosine", "linear", "steps")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run. Raises ValueError for a value that cannot be meant."""

    recipe: str = "custom"  # the name of the recipe these settings started from
    model: str = "resnet9"  # a name in helpers.resnet.MODELS
    dataset: str = "auto"  # auto, cifar10 or shapes
    split: str = "train"  # train (validation pictures kept apart) or train+val (all of them, for a final run)
    epochs: int = 10
    batch_size: int = 256
    lr: float = 0.3  # peak learning rate
    warmup: float = 0.2  # share of all steps in which the learning rate rises linearly from 0
    schedule: str = "cosine"  # after the warm-up: cosine or linear to 0, or steps (a tenth at 1/2 and at 3/4)
    momentum: float = 0.9  # SGD's; Nesterov's form where it is not 0
    weight_decay: float = 5e-4  # on the weights of convolutions and linear layers, not on BatchNorm and biases
    label_smoothing: float = 0.1
    crop: int = 4  # random shift in pixels, edges mirrored; 0 for none
    flip: bool = True  # mirror half of the pictures
    cutout: int = 0  # side of the square set to the mean colour; 0 for none
    zero_gamma: bool = False  # every residual block starts as the identity
    precision: str = "auto"  # auto, float32, bfloat16 or float16
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps …
    seed: int = 0

    def __post_init__(self):
        def check(good: bool, message: str):
            if not good:
                raise ValueError(message)

        check(self.split in ("train", "train+val"), f"split must be 'train' or 'train+val', got {self.split!r}")
        check(self.schedule in SCHEDULES, f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        check(self.precision in PRECISIONS, f"unknown precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        for name in ("epochs", "batch_size", "lr"):
            check(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("momentum", "weight_decay", "crop", "cutout", "seed"):
            check(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("warmup", "label_smoothing"):
            check(0 <= getattr(self, name) < 1, f"{name} must lie in 0 … 1, got {getattr(self, name)}")


def set_seed(seed: int) -> None:
    """Seeds torch's generators on every device. On a CPU in float32 a run then repeats bit for bit."""
    torch.manual_seed(seed)


def resolve_device(name: str) -> torch.device:
    """The device that `name` means; "auto" is the first CUDA GPU, else the CPU. Raises ValueError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the real test: is it there, and does it answer?
    except (RuntimeError, AssertionError, NotImplementedError) as reason:
        raise ValueError(f"device {name!r} cannot be used here ({str(reason).splitlines()[0]}): try 'auto' or 'cpu'") from None
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """What "auto" means on `device`: bfloat16 on a GPU that computes in it, float16 on an older one, float32 elsewhere.

    `torch.cuda.is_bf16_supported()` is no guide: it is true on a T4, which only emulates bfloat16, slowly.
    """
    if name != "auto":
        return name
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"


def make_autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """A context in which convolutions and matrix products compute in `precision`; weights stay float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, dtype=getattr(torch, precision))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum. Weight decay acts on weights of two or more dimensions: not on BatchNorm's scale, not on biases."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def lr_factor(step: int, total_steps: int, warmup: float = 0.2, schedule: str = "cosine") -> float:
    """The learning rate of step 0 … total_steps - 1, as a share of its peak: a linear rise, then the schedule."""
    warmup_steps = round(warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "steps":  # the paper's: 32k and 48k of 64k iterations
        return 0.1 ** (int(step >= total_steps / 2) + int(step >= total_steps * 3 / 4))
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    autocast: AbstractContextManager,
    scaler: GradScaler,
) -> tuple[float, float]:
    """One pass over `batches`: returns the mean loss and the accuracy (0–1) over samples, measured while it learns.

    `autocast` and `scaler` are PyTorch's two halves of mixed precision; in float32 both do nothing. The sums stay on the
    device, so that the host waits for it only once, at the end.
    """
    model.train()
    loss_sum, correct, seen = 0.0, 0, 0
    for images, labels in batches:  # (N, 3, H, W), (N,)
        with autocast:
            logits = model(images)  # (N, num_classes)
            loss = criterion(logits, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        loss_sum += loss.detach() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum()
        seen += len(labels)
    return (loss_sum / seen).item(), (correct / seen).item()


def epoch_batches(dataset: Dataset, config: TrainConfig, epoch: int) -> Batches:
    """The shuffled and augmented batches of one epoch (0, 1, …).

    Their randomness is a function of seed and epoch alone, so that a resumed run sees what an undisturbed one does.
    """
    data = dataset.train if config.split == "train" else dataset.train_val
    generator = torch.Generator(data.images.device).manual_seed(config.seed * 100_000 + epoch)

    def transform(images: Tensor) -> Tensor:
        x = dataset.normalize(random_crop_flip(images, config.crop, config.flip, generator))
        return random_cutout(x, config.cutout, generator) if config.cutout else x

    return Batches(data, config.batch_size, transform, generator)


def fit(
    model: nn.Module,
    dataset: Dataset,
    config: TrainConfig,
    checkpoint: Path | None = None,
    on_epoch: Callable[[nn.Module, dict], None] | None = None,
    progress: bool = True,
) -> list[dict]:
    """Trains `model` for `config.epochs` epochs and returns the history: one dict an epoch, accuracies in 0–1.

    With a `checkpoint` path the state is saved there after each epoch, and a run that finds one goes on from it.
    `on_epoch(model, row)` is called after each epoch and may add to the row. Model, data and batches all live on
    `config.device`. Raises ValueError for a checkpoint of another run and FloatingPointError where the loss diverges.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    model.to(device, memory_format=torch.channels_last)
    dataset = dataset.to(device)
    autocast = make_autocast(precision, device)
    scaler = GradScaler(device.type, enabled=precision == "float16")
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    optimizer = make_optimizer(model, config)
    total_steps = config.epochs * len(epoch_batches(dataset, config, epoch=0))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, total_steps, config.warmup, config.schedule)
    )
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    history = load_checkpoint(checkpoint, parts, config) if checkpoint and checkpoint.exists() else []

    for epoch in range(len(history), config.epochs):
        start = time.perf_counter()
        lr = scheduler.get_last_lr()[0]
        batches = epoch_batches(dataset, config, epoch)
        if progress:
            batches = tqdm(batches, desc=f"epoch {epoch + 1}/{config.epochs}", unit="batch", leave=False)
        loss, accuracy = train_one_epoch(model, batches, criterion, optimizer, scheduler, autocast, scaler)
        row = {"epoch": epoch + 1, "lr": lr, "train_loss": loss, "train_accuracy": accuracy}
        if config.split == "train":
            logits = predict(model, dataset, dataset.val, autocast=autocast)
            row["val_loss"], row["val_accuracy"] = evaluate(logits, dataset.val.labels)
        for name, value in row.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} became {value} in epoch {epoch + 1} (lr {lr:.3g}): try a lower --lr")
        row["seconds"] = time.perf_counter() - start
        if on_epoch:
            on_epoch(model, row)
        history.append(row)
        if checkpoint:
            save_checkpoint(checkpoint, parts, config, history)
        if progress:
            tqdm.write("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v:3d}" for k, v in row.items()))
    return history


def save_checkpoint(path: Path, parts: dict, config: TrainConfig, history: list[dict]) -> None:
    """Writes the state of every part, the settings and the history. The old file stays until the new one is complete."""
    state = {name: part.state_dict() for name, part in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save({**state, "config": asdict(config), "history": history}, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path, parts: dict, config: TrainConfig) -> list[dict]:
    """Puts a saved state back into the parts, and returns its history. Raises ValueError where it belongs to another run."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        there = saved["config"]
    except Exception as reason:  # torch raises many kinds for a file that is no checkpoint
        raise ValueError(f"{path} is no readable checkpoint ({type(reason).__name__}): delete it to start anew") from None
    differing = [f"{k} {there.get(k)!r} there, {v!r} here" for k, v in asdict(config).items() if there.get(k) != v]
    if differing:
        raise ValueError(f"{path} belongs to another run ({'; '.join(differing)}): choose another folder or delete it")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["history"]
