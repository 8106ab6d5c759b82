"""Training: optimiser, schedule, one plain epoch, and `fit`, which repeats it."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from helpers import data, distributed
from helpers.checkpoint import identity, resume, save_checkpoint
from helpers.data import Batches, Dataset
from helpers.evaluation import evaluate, predict, train_mode
from helpers.networks import first_blocks, grow
from helpers.recipes import TrainConfig, first_epoch, image_size
from helpers.system import (
    make_autocast,
    resolve_device,
    resolve_precision,
    resolve_products,
    set_up,
    use_products,
)


def set_seed(seed: int) -> None:
    """Seeds torch on every device. On a CPU a run then repeats bit for bit, on a GPU nearly."""
    torch.manual_seed(seed)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam (Kingma and Ba 2015, arXiv:1412.6980) as torch sets it.

    Weight decay acts on weights of two or more dimensions: not on BatchNorm's scale, not on biases.
    Raises ValueError if every parameter is frozen.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    if not learned:
        raise ValueError("every parameter is frozen: call requires_grad_(True) on what is to learn")
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = learned[0].device.type in ("cuda", "cpu")  # one kernel for all weights
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr, fused=fused)
    nesterov = config.momentum > 0
    optimizer = torch.optim.SGD(groups, config.lr, config.momentum, nesterov=nesterov, fused=fused)
    if config.momentum > 0:  # a fused SGD would start from uninitialised memory
        for parameter in learned:  # if the scaler skips the first step
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def lr_factor(step: int, total_steps: int, warmup: float = 0.2, schedule: str = "cosine") -> float:
    """The learning rate of step 0 … total_steps - 1 as a fraction of its peak."""
    warmup_steps = round(warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "steps":  # the paper's: 32k and 48k of 64k iterations
        return 0.1 ** (int(step >= total_steps / 2) + int(step >= total_steps * 3 / 4))
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return 1 - progress
    return (1 + math.cos(math.pi * progress)) / 2


def make_average(model: nn.Module, decay: float, optimizer: torch.optim.Optimizer) -> AveragedModel:
    """An exponential moving average of weights and BatchNorm statistics: `average.module`.

    It is updated after every step of `optimizer`, and begins with the weights after the first.
    """
    update = get_ema_multi_avg_fn(decay)
    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    return average


def epoch_batches(dataset: Dataset, config: TrainConfig, epoch: int) -> Batches:
    """The shuffled, augmented, mixed batches of epoch 0, 1, …; they depend on seed and epoch only.

    Of several processes, each gets its share of every batch.
    """
    split = dataset.train if config.split == "train" else dataset.train_val
    if config.flip == "alternate":
        split = data.alternate_flip(split, config.seed, epoch)
    generator = torch.Generator(split.images.device).manual_seed(config.seed * 100_000 + epoch)
    size = image_size(config, epoch)

    def transform(images: Tensor) -> Tensor:
        images = data.random_crop_flip(images, config.crop, config.flip == "random", generator)
        x = dataset.normalize(images)
        x = data.random_cutout(x, config.cutout, generator) if config.cutout else x
        return data.resize(x, size)

    mix = None
    if config.mixing and epoch < 0.9 * config.epochs:
        mix = data.make_mixing(config.mixing, len(dataset.classes))
    share = distributed.share(config.batch_size)
    return Batches(split, config.batch_size, transform, generator, mix, share)


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    autocast: AbstractContextManager,
    scaler: GradScaler,
    report: Callable[[float, float], None] | None = None,
) -> tuple[float, float]:
    """One pass over `batches`: the mean loss and the accuracy (0–1) over samples, while it learns.

    `autocast` and `scaler` are the two halves of mixed precision; in float32 both do nothing. The
    sums stay on the device, which the host waits for at the end and, to `report`, every 50 steps.
    """
    train_mode(model)
    loss_sum, correct, seen = 0.0, 0, 0
    for step, (images, labels) in enumerate(batches, start=1):  # (N, 3, H, W); (N,)
        optimizer.zero_grad()  # first, so that old gradients take no memory in the forward pass
        with autocast:
            logits = model(images)  # (N, num_classes)
            loss = criterion(logits, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)  # mixed: the larger part
        loss_sum += loss.detach() * len(labels)
        correct += (logits.argmax(dim=1) == classes).sum()
        seen += len(labels)
        if report and step % 50 == 0:
            report((loss_sum / seen).item(), (correct / seen).item())
    return (loss_sum / seen).item(), (correct / seen).item()


def check_outputs(model: nn.Module, dataset: Dataset) -> None:
    """Raises ValueError if `model` does not give one output per class."""
    shape, classes = tuple(predict(model, dataset, dataset.train[:1]).shape), len(dataset.classes)
    if shape != (1, classes):
        advice = f"build the network with num_classes={classes}"
        raise ValueError(f"one image gives outputs {shape}, not {(1, classes)}: {advice}")


def check_validation(dataset: Dataset, config: TrainConfig) -> None:
    """Raises ValueError if validation images are asked for and there are none."""
    if config.split == "train" and not dataset.val:
        advice = "choose split='train+val' (--split train+val)"
        raise ValueError(f"there are no validation images to measure on: {advice}")


def check_finite(loss: float, epoch: int, config: TrainConfig) -> None:
    """Raises FloatingPointError for a loss that is NaN or infinite."""
    if not math.isfinite(loss):
        advice = f"try a lower lr than {config.lr:g}"
        raise FloatingPointError(f"the loss became {loss} in epoch {epoch + 1}: {advice}")


def report(bar: tqdm, epoch: int, config: TrainConfig, loss: float, accuracy: float) -> None:
    """What `train_one_epoch` calls every 50 steps."""
    check_finite(loss, epoch, config)
    bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}")


def fit(
    model: nn.Module,
    dataset: Dataset,
    config: TrainConfig,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[nn.Module, dict], None] | None = None,
    progress: bool = True,
) -> list[dict]:
    """Trains `model` for `config.epochs` epochs; returns the history, one dict per epoch.

    Accuracies lie in 0–1. With a `checkpoint` path the state is saved there after each epoch; a run
    that finds one goes on from it and, on a CPU, ends with the same bits. `on_epoch(model, row)` is
    called after each epoch and may add numbers to the row. The model is moved to
    `config.device` and stays there; with `config.ema` it holds the averaged weights in the end.
    While images are small (`config.sizes`), validation images are, too.
    Raises ValueError for a checkpoint of another run and for data that cannot be learned from,
    FloatingPointError if the loss diverges, and OSError if a checkpoint cannot be written.
    """
    dataset.check()
    check_validation(dataset, config)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    products = resolve_products(config.products, device, precision)
    config = replace(config, precision=precision, products=products)
    set_up(device)
    if products == "on":
        use_products(model)
    model.to(device, memory_format=torch.channels_last)
    dataset = dataset.to(device)
    check_outputs(model, dataset)
    path = Path(checkpoint).expanduser() if checkpoint else None
    rank, _ = distributed.rank_and_size()
    progress = progress and rank == 0

    autocast = make_autocast(precision, device)
    scaler = GradScaler(device.type, enabled=precision == "float16")
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    optimizer = make_optimizer(model, config)
    steps = config.epochs * len(epoch_batches(dataset, config, epoch=0))
    factor = partial(lr_factor, total_steps=steps, warmup=config.warmup, schedule=config.schedule)
    scheduler = LambdaLR(optimizer, factor)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    if config.ema:
        state["average"] = make_average(model, config.ema, optimizer)
    run = identity(asdict(config), model, dataset) if path else {}
    history = resume(path, run, state, defaults=asdict(TrainConfig())) if path else []
    if progress and len(history) == config.epochs:
        tqdm.write(f"nothing left to train: {path} holds all {config.epochs} epochs")
    averaged = state["average"].module if config.ema else model
    grown_at = first_epoch(config.grow, config)

    first = len(history)
    for epoch in range(first, config.epochs):
        if epoch == grown_at > 0:
            grow(model, config.grow_gamma)
            grow(averaged, config.grow_gamma)
        if epoch in (first, grown_at):
            whole = epoch >= grown_at
            learner = distributed.parallel(model if whole else first_blocks(model))
            learner = torch.compile(learner) if config.compile else learner
            evaluated = averaged if whole else first_blocks(averaged)
        set_seed(config.seed * 100_000 + epoch)  # for what draws from the global generator
        start, lr = time.perf_counter(), scheduler.get_last_lr()[0]
        batches = epoch_batches(dataset, config, epoch)
        size = image_size(config, epoch)
        title = f"epoch {epoch + 1}/{config.epochs}"
        with tqdm(batches, title, leave=False, disable=not progress) as bar:
            tell = partial(report, bar, epoch, config)
            means = train_one_epoch(
                learner, bar, criterion, optimizer, scheduler, autocast, scaler, tell
            )
        means = torch.tensor(means, device=device)  # loss and accuracy
        distributed.average([means, *model.buffers(), *evaluated.buffers()])
        loss, accuracy = means.tolist()
        check_finite(loss, epoch, config)
        row = {"epoch": epoch + 1, "lr": lr, "train_loss": loss, "train_accuracy": accuracy}
        if config.sizes:
            row["size"] = size
        if config.split == "train":
            logits = predict(evaluated, dataset, dataset.val, autocast=autocast, size=size)
            row["val_loss"], row["val_accuracy"] = evaluate(logits, dataset.val.labels)
            check_finite(row["val_loss"], epoch, config)
        row["seconds"] = time.perf_counter() - start
        if on_epoch:
            on_epoch(evaluated, row)
        history.append(row)
        if path and rank == 0:
            values = {name: part.state_dict() for name, part in state.items()}
            save_checkpoint(path, {"identity": run, "history": history, **values})
        if progress:
            tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    if config.ema:
        model.load_state_dict(averaged.state_dict())
    return history
