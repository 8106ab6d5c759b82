"""`make bench`: our training step and input pipeline beside torchvision's, in one run.

Writes results/bench/<machine>.json and draws the table of it. Times are medians over rounds in
which every contestant has one turn, so that whatever else the machine does slows all of them;
ratios are medians of the rounds' ratios.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.data import DataLoader
from torchvision.transforms import v2

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from helpers.data import Batches, Dataset, load, random_crop_flip
from helpers.inspection import summarize
from helpers.recipes import CHOICES, TrainConfig
from helpers.records import describe_environment
from helpers.resnet import resnet50
from helpers.system import (
    keep_freed_memory,
    make_autocast,
    resolve_device,
    resolve_precision,
    resolve_products,
    set_up,
    use_products,
)
from helpers.training import make_optimizer, set_seed, train_one_epoch
from tools.run_lessons import bench_table, write_tables

# what a training step of ResNet-50 moves at least per image, fused, in bfloat16 (counted)
BYTES_PER_IMAGE = 107e6

Measure = Callable[[], float]  # returns the seconds that a unit of work took


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def compare(contestants: dict[str, Measure], rounds: int) -> dict[str, list[float]]:
    """What each returns, round by round; a first round warms up and does not count."""
    for measure in contestants.values():
        measure()
    results: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        say(f"  round {number + 1} of {rounds}")
        for name, measure in contestants.items():
            results[name].append(measure())
    return results


def ratio(results: dict[str, list[float]], ours: str, peer: str) -> float:
    return statistics.median(a / b for a, b in zip(results[ours], results[peer]))


# --- a training step


def torchvision_resnet50() -> nn.Module:
    """torchvision's network with the stem for 32×32 images, as users write it."""
    model = torchvision.models.resnet50(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def random_batch(batch_size: int, device: torch.device, size: int = 32) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.randint(10, (batch_size,), device=device)
    return images, labels


def peer_step(batch_size: int, device: torch.device, precision: str = "float32") -> Measure:
    """One step in the usual setting: torchvision's network, NCHW, eager, the textbook loop."""
    set_seed(0)
    model = torchvision_resnet50().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    autocast = make_autocast(precision, device)
    scaler = GradScaler(device.type, enabled=precision == "float16")
    images, labels = random_batch(batch_size, device)

    def step() -> float:
        synchronize(device)
        start = time.perf_counter()
        optimizer.zero_grad()
        with autocast:
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()  # the usual loop prints or sums it
        return time.perf_counter() - start

    return step


def our_step(
    batch_size: int,
    device: torch.device,
    precision: str,
    compiled: bool = False,
    size: int = 32,
) -> Measure:
    """One step of our network and loop: channels last in `precision`; "usual": NCHW, float32."""
    set_seed(0)
    layout = torch.channels_last
    if precision == "usual":
        layout, precision = torch.contiguous_format, "float32"
    model = resnet50().to(device, memory_format=layout).train()
    if resolve_products("auto", device, precision) == "on":
        use_products(model)
    optimizer = make_optimizer(model, TrainConfig())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    autocast = make_autocast(precision, device)
    scaler = GradScaler(device.type, enabled=precision == "float16")
    images, labels = random_batch(batch_size, device, size)
    batches = [(images.to(memory_format=layout), labels)]
    learner = torch.compile(model) if compiled else model

    def step() -> float:
        synchronize(device)
        start = time.perf_counter()
        train_one_epoch(learner, batches, F.cross_entropy, optimizer, scheduler, autocast, scaler)
        return time.perf_counter() - start

    return step


def peak_memory(contestant: str, batch_size: int, device: torch.device, precision: str) -> float:
    """MiB at the peak of two steps: of the GPU, or of a whole process of their own on a CPU."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        take_two_steps(contestant, batch_size, device, precision)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    command = [sys.executable, __file__, "--peak", contestant]
    command += ["--batch-size", str(batch_size), "--precision", precision, "--device", str(device)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def take_two_steps(contestant: str, batch_size: int, device: torch.device, precision: str) -> None:
    if contestant == "peer":
        step = peer_step(batch_size, device)
    else:
        step = our_step(batch_size, device, precision)
        if precision != "usual":
            keep_freed_memory()  # as `fit` does; it has a price
    step()
    step()


def print_peak(contestant: str, batch_size: int, device: torch.device, precision: str) -> None:
    take_two_steps(contestant, batch_size, device, precision)
    status = Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` would be the parent's where that was larger
        kilobytes = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
        print(kilobytes / 1024)
    else:
        import resource  # macOS counts in bytes

        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


# --- the input pipeline


class PeerDataset(torchvision.datasets.CIFAR10):
    """torchvision's data set, its way of getting a sample included, over the images at hand."""

    def __init__(self, dataset: Dataset, transform: Callable, size: int):
        images = dataset.train_val.images.permute(0, 2, 3, 1)
        repeats = -(-size // len(images))
        self.data = images.repeat(repeats, 1, 1, 1)[:size].contiguous().numpy()
        self.targets = dataset.train_val.labels.repeat(repeats)[:size].tolist()
        self.transform, self.target_transform = transform, None


def peer_pipeline(dataset: Dataset, batch_size: int, workers: int, size: int) -> Measure:
    """A pass with DataLoader and transforms.v2 (shift, flip, convert, normalise), per image."""
    steps = [
        v2.RandomCrop(32, padding=4, padding_mode="reflect"),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(dataset.mean, dataset.std),
    ]
    loader = DataLoader(
        PeerDataset(dataset, v2.Compose(steps), size),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda: seconds_per_image(loader)


def our_pipeline(dataset: Dataset, batch_size: int) -> Measure:
    """The same work by tensor operations on whole batches."""

    def transform(images: Tensor) -> Tensor:
        return dataset.normalize(random_crop_flip(images))

    batches = Batches(dataset.train_val, batch_size, transform)
    return lambda: seconds_per_image(batches)


def seconds_per_image(batches) -> float:
    start, seen = time.perf_counter(), 0
    for images, _ in batches:
        seen += len(images)
    synchronize(images.device)
    return (time.perf_counter() - start) / seen


# --- what the machine could do


def best_seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    """The shortest of ten times."""
    seconds = []
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def product_limit(device: torch.device) -> float:
    """FLOP/s of a large bfloat16 matrix product: what no step can exceed."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    b = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / best_seconds(lambda: a @ b, device)


def copy_limit(device: torch.device) -> float:
    """Bytes that a copy moves per second, read and written."""
    x = torch.empty(2**30, device=device, dtype=torch.uint8)
    return 2 * len(x) / best_seconds(x.clone, device)


def flops_per_image(size: int = 32) -> int:
    """Operations of a training step of ResNet-50 for one image of size × size pixels."""
    multiply_adds = int(summarize(resnet50(), (3, size, size)).multiply_adds.sum())
    return 2 * 3 * multiply_adds  # 2 per multiply-add; the two gradients cost a pass each


def limit_row(what: str, ours: float, per_image: float, floor: float, size: int = 32) -> dict:
    """A measurement in seconds beside the limit; `per_image` is ours, `floor` the shortest."""
    return {
        "what": what,
        "ours": ours,
        "unit": "s",
        "images_per_second": 1 / per_image,
        "tflops": flops_per_image(size) / per_image / 1e12,
        "share_of_floor": floor / per_image,
    }


def cpu_rows(batch_size: int, device: torch.device, precision: str) -> list[dict]:
    """Our step at three image sizes beside what the arithmetic alone would take."""
    rows = []
    for size in (16, 24, 32):
        step = our_step(batch_size, device, precision, size=size)
        step()
        seconds, limits = [], []
        for _ in range(5):  # interleaved: a busy neighbour slows both
            limits.append(product_limit(device))
            seconds.append(step())
        ours = statistics.median(seconds)
        floor = flops_per_image(size) / statistics.median(limits)
        what = f"step of ResNet-50, batch {batch_size}, {size}×{size}, {precision}"
        rows.append(limit_row(what, ours, ours / batch_size, floor, size))
    return rows


def gpu_rows(device: torch.device, precision: str) -> list[dict]:
    """Seconds per epoch of ResNet-50 on 50,000 images, eager and compiled, beside the limit."""
    floor = max(flops_per_image() / product_limit(device), BYTES_PER_IMAGE / copy_limit(device))
    rows = []
    for mode, batch_size in (("eager", 256), ("eager", 512), ("compiled", 512)):
        say(f"epoch of ResNet-50, {mode}, batch {batch_size}")
        step = our_step(batch_size, device, precision, mode == "compiled")
        step()
        seconds = statistics.median(step() for _ in range(20)) / batch_size
        what = f"epoch of ResNet-50, batch {batch_size}, {precision}, {mode}"
        rows.append(limit_row(what, 50_000 * seconds, seconds, floor))
    return rows


# --- all of it


def row_of(
    what: str, unit: str, results: dict[str, list[float]], ours: str, peer: str, scale: float = 1
) -> dict:
    return {
        "what": what,
        "ours": statistics.median(results[ours]) * scale,
        "peer": statistics.median(results[peer]) * scale,
        "ratio": ratio(results, ours, peer),
        "unit": unit,
    }


def bench(batch_size: int, rounds: int, device: torch.device, precision: str) -> dict:
    """Every comparison, as rows {what, ours, peer, ratio, unit}; ratio is ours / peer."""
    dataset, rows = load(), []
    set_up(device)  # as `fit` does, and here for everybody: some of it cannot be had for one

    say(f"training steps of ResNet-50, batch {batch_size}, on {device}")
    steps = {
        "peer": peer_step(batch_size, device),
        "peer with autocast": peer_step(batch_size, device, precision),
        "same setting": our_step(batch_size, device, "usual"),
        "our setting": our_step(batch_size, device, precision),
    }
    results = compare(steps, rounds)
    work = f"training step of ResNet-50, batch {batch_size}"
    for setting, ours, peer in (
        ("both NCHW, float32", "same setting", "peer"),
        (f"ours channels last, {precision}", "our setting", "peer"),
        (f"both {precision}, ours channels last", "our setting", "peer with autocast"),
    ):
        rows.append(row_of(f"{work}: {setting}", "s", results, ours, peer))

    say(f"input pipelines on {dataset.name}")
    pipelines = {
        "ours": our_pipeline(dataset.to(device), 500),
        "no worker": peer_pipeline(dataset, 500, 0, 10_000),
        "two workers": peer_pipeline(dataset, 500, 2, 20_000),
    }
    results = compare(pipelines, rounds)
    for peer in ("no worker", "two workers"):
        what = f"shift, flip, normalise: DataLoader with {peer}"
        rows.append(row_of(what, "µs per image", results, "ours", peer, 1e6))

    say("peak memory")
    for ours, setting in (
        ("usual", "both NCHW, float32"),
        (precision, f"ours channels last, {precision}"),
    ):
        peak = {}
        for who in ("ours", "peer"):
            peak[who] = [peak_memory(who, batch_size, device, ours) for _ in range(3)]
        rows.append(row_of(f"peak memory of that step: {setting}", "MiB", peak, "ours", "peer"))
    if device.type == "cuda":
        rows += gpu_rows(device, precision)
    elif precision == "bfloat16":
        say("share of the machine's limit")
        rows += cpu_rows(batch_size, device, precision)
    environment = describe_environment(str(device), "make bench")
    return {"environment": environment | {"dataset": dataset.name}, "rows": rows}


def file_name(environment: dict) -> str:
    """The machine's name in small letters, digits and dashes."""
    machine = environment["gpu"] or environment["processor"].replace("(R)", "")
    return re.sub(r"\W+", "-", machine).strip("-").lower() + ".json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--batch-size", type=int, default=64)
    add("--rounds", type=int, default=7)
    add("--device", default="auto")
    add("--precision", default="auto", help=f"of our setting: {', '.join(CHOICES['precision'])}")
    add("--out", type=Path, default=ROOT / "results" / "bench")
    add("--peak", choices=["ours", "peer"], help=argparse.SUPPRESS)  # in processes of their own
    options = parser.parse_args()
    if min(options.rounds, options.batch_size) < 1:
        parser.error("--rounds and --batch-size must be at least 1")
    if options.precision not in (*CHOICES["precision"], "usual"):
        parser.error(f"unknown precision {options.precision}")
    try:
        device = resolve_device(options.device)
        if options.peak:
            return print_peak(options.peak, options.batch_size, device, options.precision)
        precision = resolve_precision(options.precision, device)
        report = bench(options.batch_size, options.rounds, device, precision)
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / file_name(report["environment"])
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        write_tables()
    except (ValueError, OSError) as reason:
        sys.exit(f"error: {reason}")
    print(bench_table(options.out))


if __name__ == "__main__":
    main()
