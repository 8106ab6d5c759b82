"""`make bench`: our training step and input pipeline against torchvision's, measured side by side in one run.

Writes results/bench/<machine>.json and draws README's table from it. Times are medians over rounds in which every
contestant has one turn, so that whatever else the machine does slows all of them; ratios are medians of the rounds' ratios.
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

from helpers.data import Batches, Dataset, load, random_crop_flip  # noqa: E402
from helpers.experiment import describe_environment  # noqa: E402
from helpers.inspection import summarize  # noqa: E402
from helpers.resnet import resnet50  # noqa: E402
from helpers.training import (  # noqa: E402
    PRECISIONS,
    TrainConfig,
    compile_model,
    keep_freed_memory,
    make_autocast,
    make_optimizer,
    resolve_device,
    resolve_precision,
    set_seed,
    train_one_epoch,
)

BYTES_PER_IMAGE = 107e6  # what a training step of ResNet-50 moves at the least, fused, in bfloat16 (counted, not measured)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each returns (seconds for a unit of work), round by round; a first round warms up and does not count."""
    for measure in contestants.values():
        measure()
    results: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name, measure in contestants.items():
            results[name].append(measure())
    return results


def ratio(results: dict[str, list[float]], ours: str, peer: str) -> float:
    return statistics.median(a / b for a, b in zip(results[ours], results[peer]))


# --- a training step


def torchvision_resnet50() -> nn.Module:
    """torchvision's network with the stem for 32×32 pictures, as users write it."""
    model = torchvision.models.resnet50(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def peer_step(batch_size: int, device: torch.device, precision: str = "float32") -> Callable[[], float]:
    """Seconds of one step in the usual setting: torchvision's network, NCHW, eager, the textbook loop, autocast or not."""
    set_seed(0)
    model = torchvision_resnet50().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    autocast, scaler = make_autocast(precision, device), GradScaler(device.type, enabled=precision == "float16")
    images, labels = torch.randn(batch_size, 3, 32, 32, device=device), torch.randint(10, (batch_size,), device=device)

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


def our_step(batch_size: int, device: torch.device, precision: str, compiled: bool = False) -> Callable[[], float]:
    """Seconds of one step of our network and loop: in `usual` NCHW float32, or channels last in `precision`."""
    set_seed(0)
    fast, precision = precision != "usual", "float32" if precision == "usual" else precision
    layout = torch.channels_last if fast else torch.contiguous_format
    model = resnet50().to(device, memory_format=layout).train()
    optimizer = make_optimizer(model, TrainConfig())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    autocast, scaler = make_autocast(precision, device), GradScaler(device.type, enabled=precision == "float16")
    images, labels = torch.randn(batch_size, 3, 32, 32, device=device), torch.randint(10, (batch_size,), device=device)
    images = images.to(memory_format=layout)
    learner = compile_model(model, images, autocast)[0] if compiled else model

    def step() -> float:
        synchronize(device)
        start = time.perf_counter()
        train_one_epoch(learner, [(images, labels)], F.cross_entropy, optimizer, scheduler, autocast, scaler)
        return time.perf_counter() - start

    return step


def peak_memory(contestant: str, batch_size: int, device: torch.device, precision: str) -> float:
    """MiB at the peak of two steps in a process of their own: of the GPU where there is one, else of the whole process."""
    command = [sys.executable, __file__, "--peak", contestant, "--batch-size", str(batch_size), "--precision", precision]
    done = subprocess.run([*command, "--device", str(device)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(contestant: str, batch_size: int, device: torch.device, precision: str) -> None:
    step = peer_step(batch_size, device) if contestant == "peer" else our_step(batch_size, device, precision)
    if contestant == "ours" and precision != "usual":
        keep_freed_memory()  # as `fit` does; it has a price
    step(), step()
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device) / 2**20)
    elif Path("/proc/self/status").is_file():  # `ru_maxrss` would be the parent's where that was larger
        print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
    else:
        import resource  # macOS counts in bytes

        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


# --- the input pipeline


class PeerDataset(torchvision.datasets.CIFAR10):
    """torchvision's data set, its way of getting a sample included, over the pictures at hand."""

    def __init__(self, dataset: Dataset, transform: Callable, size: int):
        images = dataset.train_val.images.permute(0, 2, 3, 1)
        repeats = -(-size // len(images))
        self.data = images.repeat(repeats, 1, 1, 1)[:size].contiguous().numpy()
        self.targets = dataset.train_val.labels.repeat(repeats)[:size].tolist()
        self.transform, self.target_transform = transform, None


def peer_pipeline(dataset: Dataset, batch_size: int, workers: int, size: int) -> Callable[[], float]:
    """Seconds per picture of a pass with DataLoader and transforms.v2: shift, flip, convert, normalise."""
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


def our_pipeline(dataset: Dataset, batch_size: int) -> Callable[[], float]:
    """The same work by tensor operations on whole batches."""
    batches = Batches(dataset.train_val, batch_size, lambda images: dataset.normalize(random_crop_flip(images)))
    return lambda: seconds_per_image(batches)


def seconds_per_image(batches) -> float:
    start, seen = time.perf_counter(), 0
    for images, _ in batches:
        seen += len(images)
    synchronize(images.device)
    return (time.perf_counter() - start) / seen


# --- a large GPU


def hardware_limits(device: torch.device) -> tuple[float, float]:
    """TFLOP/s of a large bfloat16 matrix product, and TB/s of a copy: the floor that a step of training stands on."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    x = torch.empty(2**30, device=device, dtype=torch.uint8)

    def best(work: Callable[[], Tensor]) -> float:
        seconds = []
        for _ in range(10):
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return 2 * 8192**3 / best(lambda: a @ b) / 1e12, 2 * 2**30 / best(lambda: x.clone()) / 1e12


def gpu_rows(device: torch.device, precision: str) -> list[dict]:
    """Seconds per epoch of ResNet-50 on 50,000 pictures, eager and compiled, and their share of the hardware's limit."""
    flops = 6 * int(
        summarize(resnet50()).multiply_adds.sum()
    )  # forward, and twice that for the two gradients; 2 per multiply-add
    tflops, bandwidth = hardware_limits(device)
    floor = 50_000 * max(flops / (tflops * 1e12), BYTES_PER_IMAGE / (bandwidth * 1e12))
    rows = []
    for compiled in (False, True):
        for batch_size in (256, 512, 1024):
            step = our_step(batch_size, device, precision, compiled)
            step()
            seconds = statistics.median(step() for _ in range(20)) / batch_size
            rows.append(
                {
                    "what": f"epoch of ResNet-50, batch {batch_size}, {precision}, {'compiled' if compiled else 'eager'}",
                    "ours": 50_000 * seconds,
                    "unit": "s",
                    "images_per_second": 1 / seconds,
                    "tflops": flops / seconds / 1e12,
                    "share_of_floor": floor / (50_000 * seconds),
                }
            )
    return rows


# --- all of it


def bench(batch_size: int, rounds: int, device: torch.device, precision: str) -> dict:
    """Every comparison, as rows {what, ours, peer, ratio, unit}; ratio is ours / peer, below 1 where ours needs less."""
    dataset, rows = load(), []
    if device.type == "cuda":  # as `fit` sets them, and as many of the peers do; here for everybody
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()  # for everybody, too: it cannot be had for one of them

    def add(what: str, unit: str, results: dict[str, list[float]], ours: str, peer: str, scale: float = 1) -> None:
        values = {who: statistics.median(results[name]) * scale for who, name in (("ours", ours), ("peer", peer))}
        rows.append({"what": what, **values, "ratio": ratio(results, ours, peer), "unit": unit})

    print(f"training steps of ResNet-50, batch {batch_size}, on {device}", file=sys.stderr, flush=True)
    steps = {
        "peer": peer_step(batch_size, device),
        "peer with autocast": peer_step(batch_size, device, precision),
        "same setting": our_step(batch_size, device, "usual"),
        "our setting": our_step(batch_size, device, precision),
    }
    results = compare(steps, rounds)
    work = f"training step of ResNet-50, batch {batch_size}"
    add(f"{work}: both NCHW, float32", "s", results, "same setting", "peer")
    add(f"{work}: ours channels last, {precision}", "s", results, "our setting", "peer")
    add(f"{work}: both {precision}, ours channels last", "s", results, "our setting", "peer with autocast")

    print(f"input pipelines on {dataset.name}", file=sys.stderr, flush=True)
    results = compare(
        {
            "ours": our_pipeline(dataset.to(device), 500),
            "no worker": peer_pipeline(dataset, 500, 0, 10_000),
            "two workers": peer_pipeline(dataset, 500, 2, 20_000),
        },
        rounds,
    )
    for peer in ("no worker", "two workers"):
        add(f"shift, flip, normalise: DataLoader with {peer}", "µs a picture", results, "ours", peer, 1e6)

    print("peak memory", file=sys.stderr, flush=True)
    for ours, setting in (("usual", "both NCHW, float32"), (precision, f"ours channels last, {precision}")):
        peak = {who: [peak_memory(who, batch_size, device, ours) for _ in range(3)] for who in ("ours", "peer")}
        add(f"peak memory of that step: {setting}", "MiB", peak, "ours", "peer")
    if device.type == "cuda":
        rows += gpu_rows(device, precision)
    return {"environment": describe_environment(str(device)) | {"command": "make bench", "dataset": dataset.name}, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of our own setting; auto: as in training")
    parser.add_argument(
        "--peak", choices=["ours", "peer"], help=argparse.SUPPRESS
    )  # for the processes whose memory is measured
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    options = parser.parse_args()
    if min(options.rounds, options.batch_size) < 1:
        parser.error("--rounds and --batch-size must be at least 1")
    device = resolve_device(options.device)
    if options.peak:
        return print_peak(options.peak, options.batch_size, device, options.precision)
    report = bench(options.batch_size, options.rounds, device, resolve_precision(options.precision, device))
    environment = report["environment"]
    machine = re.sub(r"\W+", "-", environment["gpu"] or environment["processor"].replace("(R)", "")).strip("-").lower()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{machine}.json").write_text(json.dumps(report, indent=2) + "\n")
    from lessons import bench_table, refresh_readme

    print(bench_table(options.out))
    refresh_readme()


if __name__ == "__main__":
    main()
