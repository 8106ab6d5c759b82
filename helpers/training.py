"""Training: one frozen set of settings, one plain epoch, and `fit`, which repeats it and survives an interruption."""

import copy
import ctypes
import itertools
import math
import os
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from helpers import distributed
from helpers.data import Batches, Dataset, Split, alternate_flip, random_crop_flip, random_cutout
from helpers.evaluation import evaluate, predict

SCHEDULES = ("cosine", "linear", "steps", "constant")
OPTIMIZERS = ("sgd", "adam")
FLIPS = ("random", "alternate", "none")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run. Raises ValueError for a value that cannot be meant."""

    recipe: str = "custom"  # the name of the recipe these settings started from
    model: str = "resnet9"  # a name in helpers.experiment.NETWORKS
    dataset: str = "auto"  # auto, cifar10 or shapes
    split: str = "train"  # train (validation pictures kept apart) or train+val (all of them, for a final run)
    epochs: int = 10
    batch_size: int = 256
    accumulate: int = 1  # compute each batch in so many parts, one after the other: less memory, the same step
    optimizer: str = "sgd"  # sgd or adam
    lr: float = 0.3  # peak learning rate
    warmup: float = 0.2  # share of all steps in which the learning rate rises linearly from 0
    schedule: str = "cosine"  # after the warm-up: cosine or linear to 0, steps (a tenth at 1/2 and at 3/4) or constant
    momentum: float = 0.9  # SGD's; Nesterov's form where it is not 0
    weight_decay: float = 5e-4  # on the weights of convolutions and linear layers, not on BatchNorm and biases
    label_smoothing: float = 0.1
    crop: int = 4  # random shift in pixels, edges mirrored; 0 for none
    flip: str = "random"  # mirror half of the pictures, drawn at random; alternate: each one every other epoch; or none
    cutout: int = 0  # side of the square set to the mean colour; 0 for none
    mixing: float = 0.0  # share of the batches that CutMix or mixup mixes; none in the last tenth of the epochs
    ema: float = 0.0  # decay of the moving average of the weights, which is then what is evaluated and kept; 0 for none
    zero_gamma: bool = False  # every residual block starts as the identity
    whiten: bool = False  # the first convolution's filters are computed from the training pictures, and frozen
    compile: bool = False  # fuse operations with torch.compile before training
    precision: str = "auto"  # auto, float32 (on a recent GPU: TensorFloat-32), bfloat16 or float16
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps …
    seed: int = 0

    def __post_init__(self):
        def check(good: bool, message: str):
            if not good:
                raise ValueError(message)

        check(self.split in ("train", "train+val"), f"split must be 'train' or 'train+val', got {self.split!r}")
        check(self.schedule in SCHEDULES, f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        check(self.optimizer in OPTIMIZERS, f"unknown optimizer {self.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
        check(self.flip in FLIPS, f"unknown flip {self.flip!r}: choose one of {', '.join(FLIPS)}")
        check(self.precision in PRECISIONS, f"unknown precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        for name in ("epochs", "batch_size", "accumulate", "lr"):
            check(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("momentum", "weight_decay", "crop", "cutout", "seed"):
            check(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("warmup", "label_smoothing", "ema"):
            check(0 <= getattr(self, name) < 1, f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        check(0 <= self.mixing <= 1, f"mixing must lie in 0 … 1, got {self.mixing}")
        parts = self.accumulate
        check(self.batch_size % parts == 0, f"batches of {self.batch_size} pictures can't be computed in {parts} equal parts")


def set_seed(seed: int) -> None:
    """Seeds torch's generators on every device.

    On a CPU a run then repeats bit for bit (same processor, torch and number of threads), however often it was stopped and
    resumed; evaluation draws nothing. On a GPU it repeats up to rounding, which grows with the steps, unless
    `torch.use_deterministic_algorithms(True)` is called first and CUBLAS_WORKSPACE_CONFIG=:4096:8 is set: kernels are then
    chosen for order, not for speed, and an operation that has no such kernel raises an error.
    """
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
    """What "auto" means on `device`: bfloat16 on a GPU that computes in it, float16 on an older one; on a CPU, what is faster.

    `torch.cuda.is_bf16_supported()` is no guide: it is true on a T4, which only emulates bfloat16, slowly.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if device.type == "cpu" and bfloat16_pays() else "float32"


@lru_cache  # measured once in a process
def bfloat16_pays() -> bool:
    """Whether this CPU trains clearly faster in bfloat16 (by 1.3 times or more): a timed probe, under a second."""
    with torch.random.fork_rng(devices=[]):
        layers = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
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


def keep_freed_memory() -> None:
    """Asks the C library to keep large blocks that are freed, for the next step, instead of giving them back to the system.

    A training step on a CPU frees gigabytes and asks for them again; that the system clears every page of them each time
    costs a sixth of the step or more. In return the process keeps what it once needed (and up to a quarter more, measured with
    ResNet-50). For Linux (glibc 2.35 or newer); elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h; above these sizes, in bytes, it gives back
    if mallopt(M_MMAP_THRESHOLD, 2**31 - 1):  # glibc before 2.35 refuses, and does better without the other, too
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def make_autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """A context in which convolutions and matrix products compute in `precision`; weights stay float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, dtype=getattr(torch, precision))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam (Kingma and Ba 2015, arXiv:1412.6980) as torch sets it.

    Weight decay acts on weights of two or more dimensions: not on BatchNorm's scale, not on biases.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).device.type in ("cuda", "cpu")  # one kernel for all weights, and no wait for the scaler
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr, fused=fused)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)
    for parameter in learned if config.momentum else ():  # where the scaler skips the first step, a fused SGD would go on
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)  # from whatever its memory held
    return optimizer


def lr_factor(step: int, total_steps: int, warmup: float = 0.2, schedule: str = "cosine") -> float:
    """The learning rate of step 0 … total_steps - 1, as a share of its peak: a linear rise, then the schedule."""
    warmup_steps = round(warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "steps":  # the paper's: 32k and 48k of 64k iterations
        return 0.1 ** (int(step >= total_steps / 2) + int(step >= total_steps * 3 / 4))
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


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
    """One pass over `batches`: returns the mean loss and the accuracy (0–1) over samples, measured while it learns.

    `autocast` and `scaler` are PyTorch's two halves of mixed precision; in float32 both do nothing. The sums stay on the
    device: the host waits for it at the end, and where it tells `report` the loss and accuracy so far, every 50 steps.
    """
    model.train()
    loss_sum, correct, seen = 0.0, 0, 0
    for step, (images, labels) in enumerate(batches, start=1):  # (N, 3, H, W); (N,), of mixed pictures (N, num_classes)
        optimizer.zero_grad()  # here, so that the last step's gradients take no memory during the forward pass
        with autocast:
            logits = model(images)  # (N, num_classes)
            loss = criterion(logits, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)  # of a mixed picture: the larger part
        loss_sum += loss.detach() * len(labels)
        correct += (logits.argmax(dim=1) == classes).sum()
        seen += len(labels)
        if report and step % 50 == 0:
            report((loss_sum / seen).item(), (correct / seen).item())
    return (loss_sum / seen).item(), (correct / seen).item()


def epoch_batches(dataset: Dataset, config: TrainConfig, epoch: int) -> Batches:
    """The shuffled, augmented and mixed batches of one epoch (0, 1, …): of several processes, each gets its share of them.

    Their randomness is a function of seed and epoch alone, so that a resumed run sees what an undisturbed one does.
    """
    data = dataset.train if config.split == "train" else dataset.train_val
    if config.flip == "alternate":
        data = alternate_flip(data, config.seed, epoch)
    generator = torch.Generator(data.images.device).manual_seed(config.seed * 100_000 + epoch)

    def transform(images: Tensor) -> Tensor:
        x = dataset.normalize(random_crop_flip(images, config.crop, config.flip == "random", generator))
        return random_cutout(x, config.cutout, generator) if config.cutout else x

    mix = make_mixing(config.mixing, len(dataset.classes)) if epoch < 0.9 * config.epochs else None
    return Batches(data, config.batch_size, transform, generator, mix, distributed.share(config.batch_size))


def make_mixing(share: float, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Mixes each picture of a batch with another one, and their labels alike: `share` of the batches, by CutMix or mixup.

    CutMix (Yun et al. 2019, α = 1) pastes a rectangle, mixup (Zhang et al. 2018, α = 0.2) superimposes; torchvision's.
    Mixed labels are (N, num_classes) and sum to 1. Draws from torch's global generator.
    """
    if share == 0:
        return None
    from torchvision.transforms import v2  # here: most runs need no torchvision

    ways = [v2.CutMix(alpha=1.0, num_classes=num_classes), v2.MixUp(alpha=0.2, num_classes=num_classes)]
    return v2.RandomApply([v2.RandomChoice(ways)], p=share)


def make_criterion(label_smoothing: float) -> tuple[Callable[[Tensor, Tensor], Tensor], list[Tensor]]:
    """Label-smoothed cross-entropy, and the list in which it leaves every loss it computed, on the device."""
    losses: list[Tensor] = []

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        losses.append(loss.detach())
        return loss

    return criterion, losses


def check_finite(name: str, value: float, losses: list[Tensor], place: str, config: TrainConfig, done: int = 0) -> None:
    """Raises FloatingPointError for a loss that is NaN or infinite, and names the step in which that began.

    `losses` are those computed in this epoch, after the `done` steps of it that an earlier session took.
    """
    if not math.isfinite(value):
        bad = (~torch.stack(losses).isfinite()).nonzero()
        step = f", step {done + bad[0].item() // config.accumulate + 1}" if len(bad) else ""
        raise FloatingPointError(f"{name} became {value} in {place}{step} (peak lr {config.lr:.3g}): try a lower --lr")


def make_average(model: nn.Module, decay: float, optimizer: torch.optim.Optimizer) -> AveragedModel | None:
    """An exponential moving average of weights and BatchNorm statistics, updated after every step of `optimizer`.

    It begins with the weights after the first step. AveragedModel's own update would let the host wait for a GPU each time.
    """
    if decay == 0:
        return None
    average = AveragedModel(model)
    pairs = zip(average.module.state_dict().values(), model.state_dict().values(), strict=True)
    ours, theirs = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)

    @torch.no_grad()
    def update(*_) -> None:
        torch._foreach_lerp_(ours, theirs, 1 - decay if average.n_averaged else 1.0)
        average.n_averaged += 1

    optimizer.register_step_post_hook(update)
    return average


def compile_model(model: nn.Module, images: Tensor, autocast: AbstractContextManager) -> tuple[nn.Module, float]:
    """`torch.compile`, done at once for batches like `images`; returns the compiled model and the seconds it took.

    Weights and statistics stay as they are. Where compiling fails (no C compiler, say), a warning tells why, and the model
    comes back as it was.
    """
    state, start = copy.deepcopy(model.state_dict()), time.perf_counter()
    compiled = torch.compile(model)
    try:
        with autocast:
            logits = compiled(images)
        logits.float().sum().backward()
    except Exception as reason:  # many kinds, from many layers below
        warnings.warn(f"torch.compile failed ({str(reason).strip().splitlines()[0]}): training goes on without", stacklevel=2)
        compiled = model
    model.load_state_dict(state)
    model.zero_grad()
    return compiled, time.perf_counter() - start


def progress_bar(batches: Batches, config: TrainConfig, epoch: int, wanted: bool) -> tqdm:
    """The steps of one epoch with pictures per second and the time that remains; `fit` adds loss and accuracy."""
    name = f"epoch {epoch + 1}/{config.epochs}"
    return tqdm(batches, name, unit=" img", unit_scale=config.batch_size, leave=False, disable=not wanted)


@contextmanager
def memory_advice(config: TrainConfig) -> Iterator[None]:
    """Says what to try where memory runs out, as a MemoryError."""
    try:
        yield
    except RuntimeError as reason:
        if isinstance(reason, torch.OutOfMemoryError) or "can't allocate memory" in str(reason):
            share = config.batch_size // distributed.rank_and_size()[1]  # of each process
            parts = next((n for n in range(2 * config.accumulate, share + 1) if share % n == 0), None)
            go_on = f"add --accumulate {parts} to go on with each batch in {parts} parts, or " if parts else ""
            raise MemoryError(
                f"no memory for {share // config.accumulate} pictures at once on {config.device}: {go_on}"
                f"start anew with --batch-size {config.batch_size // 2} --lr {config.lr / 2:g}"
            ) from None
        raise


@contextmanager
def interrupts_noted(wanted: bool) -> Iterator[list[int]]:
    """Notes the first Ctrl-C in a list instead of raising it, so that a step can be finished; the second one is raised."""
    noted: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (wanted and in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield noted
        return

    def note(number: int, frame) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def in_parts(parts: int, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, scaler: GradScaler) -> tuple:
    """Optimizer, schedule and scaler for `train_one_epoch` that act once for `parts` calls: gradients add up in between.

    The loss of each part counts 1/`parts`, so that a step is that of the whole batch; only BatchNorm, which looks at one part
    at a time, can tell the difference.
    """
    if parts == 1:
        return optimizer, scheduler, scaler

    def once(call: Callable, part: int) -> Callable:
        calls = itertools.count()
        return lambda *arguments: call(*arguments) if next(calls) % parts == part else None

    last = parts - 1
    return (
        SimpleNamespace(zero_grad=once(optimizer.zero_grad, 0)),
        SimpleNamespace(step=once(scheduler.step, last)),
        SimpleNamespace(
            scale=lambda loss: scaler.scale(loss / parts),
            step=once(lambda _: scaler.step(optimizer), last),
            update=once(scaler.update, last),
        ),
    )


def remaining(batches: Iterable, done: int, interrupts: list[int], parts: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches after the first `done`, which are made again to draw their randomness, until a Ctrl-C has been noted.

    Each batch (images, labels) comes in so many `parts`.
    """
    for number, (images, labels) in enumerate(batches):
        if interrupts and number > done:
            return
        if number >= done:
            yield from zip(images.chunk(parts), labels.chunk(parts), strict=True)


def predict_together(model: nn.Module, dataset: Dataset, split: Split, autocast: AbstractContextManager) -> Tensor:
    """`predict`, the work divided among all processes; each gets the logits of the whole split."""
    rank, size = distributed.rank_and_size()
    return distributed.interleave(predict(model, dataset, split[rank::size], autocast=autocast))


def fit(
    model: nn.Module,
    dataset: Dataset,
    config: TrainConfig,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[nn.Module, dict], None] | None = None,
    progress: bool = True,
) -> list[dict]:
    """Trains `model` for `config.epochs` epochs and returns the history: one dict an epoch, accuracies in 0–1.

    With a `checkpoint` path the state is saved there after each epoch, and on Ctrl-C after the current step (of several
    processes that train together: not at all); a run that finds one goes on from it and, on a CPU, ends with the same bits. Of
    the settings only `accumulate` may have changed since. `on_epoch(model, row)` is called after each epoch and may add to the
    row. The model is moved to `config.device` and stays there, in train mode; `dataset` stays as it is. With `config.ema` the
    averaged weights are what is evaluated, and what `model` holds in the end. The settings `model`, `dataset`, `zero_gamma`
    and `whiten` say how data and network were made (`helpers.experiment.prepare`); nothing is made here.
    Raises ValueError for a checkpoint of another run and for data that cannot be learned from, FloatingPointError where the
    loss diverges, MemoryError where a batch is too large, and OSError where a checkpoint cannot be written.
    """
    dataset.check()
    if config.split == "train" and not len(dataset.val):
        raise ValueError("there are no validation pictures to measure on after each epoch: choose split='train+val'")
    checkpoint = Path(checkpoint) if checkpoint else None
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    if device.type == "cuda":
        # try the convolution kernels once, keep the fastest: not always the same one
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        torch.set_float32_matmul_precision("high")  # TensorFloat-32 for what is not computed in 16 bits
    elif device.type == "cpu":
        keep_freed_memory()
    model.to(device, memory_format=torch.channels_last)
    dataset = dataset.to(device)
    autocast = make_autocast(precision, device)
    scaler = GradScaler(device.type, enabled=precision == "float16")
    optimizer = make_optimizer(model, config)
    average = make_average(model, config.ema, optimizer)
    rank, processes = distributed.rank_and_size()
    if (each := config.batch_size // processes) % config.accumulate:
        raise ValueError(f"the {each} pictures of each process can't be computed in {config.accumulate} equal parts")
    total_steps = config.epochs * len(epoch_batches(dataset, config, epoch=0))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, total_steps, config.warmup, config.schedule)
    )
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    parts |= {"average": average} if average else {}
    history, begun = load_checkpoint(checkpoint, parts, config) if checkpoint else ([], {})
    first = len(history)

    learner, compile_seconds = distributed.parallel(model.train()), 0.0
    if config.compile and first < config.epochs:
        images, _ = next(remaining(epoch_batches(dataset, config, epoch=0), 0, [], config.accumulate))
        learner, compile_seconds = compile_model(learner, images, autocast)
    evaluated = average.module if average else model
    criterion, losses = make_criterion(config.label_smoothing)
    acting = in_parts(config.accumulate, optimizer, scheduler, scaler)

    with interrupts_noted(checkpoint is not None and processes == 1) as interrupts:
        for epoch in range(first, config.epochs):
            set_seed(config.seed * 100_000 + epoch)  # whatever draws from the global generator is resumed exactly, too
            start = time.perf_counter() - begun.get("seconds", 0.0)
            lr = begun.get("lr", scheduler.get_last_lr()[0])
            losses.clear()
            batches = epoch_batches(dataset, config, epoch)
            done = begun.get("steps", 0)

            def report(loss: float, accuracy: float, place=f"epoch {epoch + 1}", done=done) -> None:
                check_finite("train_loss", loss, losses, place, config, done)
                bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}")

            with memory_advice(config), progress_bar(batches, config, epoch, progress and rank == 0) as bar:
                steps = remaining(bar, done, interrupts, config.accumulate)
                loss, accuracy = train_one_epoch(learner, steps, criterion, acting[0], acting[1], autocast, acting[2], report)
            loss, accuracy = distributed.mean(loss, accuracy)
            check_finite("train_loss", loss, losses, f"epoch {epoch + 1}", config, done)
            taken = done + len(losses) // config.accumulate
            if begun:  # the means over all of the epoch's steps
                loss += (begun["loss"] - loss) * done / taken
                accuracy += (begun["accuracy"] - accuracy) * done / taken
                begun = {}
            if taken < len(batches):  # Ctrl-C
                seconds = time.perf_counter() - start
                begun = {"steps": taken, "loss": loss, "accuracy": accuracy, "lr": lr, "seconds": seconds}
                save_checkpoint(checkpoint, parts, config, history, begun)
                raise KeyboardInterrupt
            for each in (model, average.module) if average else (model,):
                distributed.average_buffers(each)
            row = {"epoch": epoch + 1, "lr": lr, "train_loss": loss, "train_accuracy": accuracy}
            if config.split == "train":
                logits = predict_together(evaluated, dataset, dataset.val, autocast)
                row["val_loss"], row["val_accuracy"] = evaluate(logits, dataset.val.labels)
                check_finite("val_loss", row["val_loss"], losses, f"epoch {epoch + 1}", config, done)
            row["seconds"] = time.perf_counter() - start
            if config.compile:
                row["compile_seconds"] = compile_seconds if epoch == first else 0.0
            if on_epoch:
                on_epoch(evaluated, row)
            history.append(row)
            if checkpoint and rank == 0:
                save_checkpoint(checkpoint, parts, config, history)
            if interrupts:
                raise KeyboardInterrupt
            if progress and rank == 0:
                tqdm.write("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v:3d}" for k, v in row.items()))
    if average:
        model.load_state_dict(average.module.state_dict())
    return history


def previous(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".previous")


def save_checkpoint(path: Path, parts: dict, config: TrainConfig, history: list[dict], begun: dict | None = None) -> None:
    """Writes the state of every part, the settings, the history and what is known of an epoch that was `begun`.

    The file before it is kept, and both stay as they are until the new one is complete. Raises OSError where it cannot be
    written.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        torch.save({**state, "config": asdict(config), "history": history, "begun": begun or {}}, temporary)
    except (OSError, RuntimeError) as reason:  # RuntimeError: torch's own writer, on a full disk
        temporary.unlink(missing_ok=True)
        problem = str(reason).splitlines()[0]
        raise OSError(f"{path} could not be written ({problem}): is the disk full? The last one is kept") from None
    if path.exists():
        os.replace(path, previous(path))
    os.replace(temporary, path)


def load_checkpoint(path: Path, parts: dict, config: TrainConfig) -> tuple[list[dict], dict]:
    """Puts a saved state back into the parts; returns its history and what was saved of an epoch in progress, or [], {}.

    A damaged file is named in a warning, and the one before it takes its place. Raises ValueError where none is readable, or
    where it belongs to another run. Of several processes the first one reads.
    """

    def read() -> dict | None:
        files = [file for file in (path, previous(path)) if file.exists()]
        for file in files:
            try:
                with zipfile.ZipFile(file) as stored:  # torch.load does not compare checksums
                    if stored.testzip():
                        raise zipfile.BadZipFile
                saved = torch.load(file, map_location="cpu", weights_only=True)
                saved["config"].get, saved["history"].append, *(saved[name] for name in parts)  # is it one of ours?
            except Exception as reason:  # torch raises many kinds for a file that is no checkpoint
                problem = f"{file} is no readable checkpoint ({type(reason).__name__})"
                if file == files[-1]:
                    raise ValueError(f"{problem}: name another path or, if it was one, delete it to start anew") from None
                warnings.warn(f"{problem}: going on from the one before it", stacklevel=2)
                continue
            if file != path and path.exists():
                os.replace(file, path)
            return saved
        return None

    saved = distributed.from_first(read)
    if saved is None:
        return [], {}
    there, here = saved["config"], asdict(config)
    here.pop("accumulate")  # may change on the way, where memory has run out
    differing = [f"{k} {there.get(k)!r} there, {v!r} here" for k, v in here.items() if there.get(k) != v]
    if differing:
        advice = "give the settings it has there to go on with it, choose another folder, or delete it"
        raise ValueError(f"{path} belongs to another run ({'; '.join(differing)}): {advice}")
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    except (RuntimeError, ValueError, KeyError, TypeError) as reason:
        raise ValueError(f"{path} does not fit this network ({str(reason).splitlines()[0]}): delete it to start anew") from None
    return saved["history"], saved.get("begun", {})


def remove_checkpoint(path: Path) -> None:
    """Removes what `save_checkpoint` left, `path` itself last: a run killed meanwhile is taken up again."""
    for file in (path.with_name(path.name + ".part"), previous(path), path):
        file.unlink(missing_ok=True)
