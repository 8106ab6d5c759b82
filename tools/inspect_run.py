"""Looks into a trained ResNet-50: `python tools/inspect_run.py results/cifar10-resnet50-night`.

Writes inspection.npz into the run's folder, or into `--out`: what lesson 06 shows of a network
whose weights are too large for the repository. It uses the lesson's own definitions, and needs
CIFAR-10 and the run's model.safetensors. 1,000 test images take some minutes on two CPU cores.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from helpers.data import Dataset, Split, load
from helpers.inspection import block_names, capture
from helpers.records import folder_of, load_model
from helpers.system import make_autocast, resolve_device, resolve_precision
from tools.from_notebook import definitions

LESSON = definitions(
    "06_inside_the_network",
    "without_branch",
    "drop_blocks",
    "refreshed",
    "change_ratio",
    "grad_cam",
)
REFRESH = 256  # training images from which BatchNorm's statistics are estimated anew


def say(start: float, what: str) -> None:
    print(f"{time.perf_counter() - start:5.0f} s  {what}", flush=True)


@torch.no_grad()
def run(part: nn.Module, x: Tensor) -> Tensor:
    """What `part` outputs for x (N, …), computed 250 at a time."""
    return torch.cat([part(some) for some in x.split(250)])


def correct(part: nn.Module, x: Tensor, labels: Tensor) -> np.ndarray:
    """Of which inputs x (N, …) the classes are right, (N,) bool, where `part` ends the network."""
    return (run(part, x).argmax(dim=1) == labels).numpy()


def drop_each_block(model: nn.Module, x: Tensor, labels: Tensor, train: Tensor, start: float):
    """Arrays about the network without each of its B blocks, on test images x and their labels.

    `…_stored` is with BatchNorm's stored statistics, `…_refreshed` with those of the images
    `train`. The input of every block is computed once: only what follows the block runs again.
    """
    names = block_names(model)
    blocks = [model.get_submodule(name) for name in names]
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    head = nn.Sequential(model.avgpool, nn.Flatten(), model.fc)
    found = {"without_stored": [], "without_refreshed": [], "ratio": []}

    stored = run(stem, x)  # the states of the test images, with either statistics
    stem = LESSON.refreshed(stem, train)
    refreshed = run(stem, x)
    train = run(stem, train)
    for i, block in enumerate(blocks):
        rest = nn.Sequential(LESSON.without_branch(block), *blocks[i + 1 :], head)
        found["without_stored"].append(correct(rest, stored, labels))
        rest = LESSON.refreshed(rest, train)
        found["without_refreshed"].append(correct(rest, refreshed, labels))
        found["ratio"].append(LESSON.change_ratio(block, stored[:200]).numpy().astype(np.float16))
        stored = run(block, stored)
        block = LESSON.refreshed(block, train)
        refreshed = run(block, refreshed)
        train = run(block, train)
        accuracies = [100 * found[f"without_{kind}"][i].mean() for kind in ("stored", "refreshed")]
        say(start, "without {}: {:.1f} % stored, {:.1f} % refreshed".format(names[i], *accuracies))

    arrays = {name: np.stack(rows) for name, rows in found.items()}
    arrays["whole_stored"] = correct(head, stored, labels)
    arrays["whole_refreshed"] = correct(head, refreshed, labels)
    numbers = [name.removeprefix("layer").split(".") for name in names]
    arrays["stage"], arrays["block"] = np.array(numbers, dtype=np.int64).T
    arrays["keeps_shape"] = np.array([block.downsample is None for block in blocks])
    return arrays


def only_first_blocks(model: nn.Module, x: Tensor, labels: Tensor, train: Tensor) -> dict:
    """Arrays about the network without all blocks that keep the shape: a ResNet-50's ResNet-14."""
    names = [name for name in block_names(model) if model.get_submodule(name).downsample is None]
    first = LESSON.drop_blocks(model, names)
    refreshed = LESSON.refreshed(first, train)
    return {
        "first_stored": correct(first, x, labels),
        "first_refreshed": correct(refreshed, x, labels),
    }


def to_bytes(maps: Tensor) -> np.ndarray:
    """Maps (N, H, W) ≥ 0, each scaled to its own maximum, as uint8."""
    highest = maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    return (255 * maps / highest).round().byte().numpy()


def look_at_images(model: nn.Module, dataset: Dataset, test: Split) -> dict:
    """Arrays about twelve images: the first six right answers and the six most confident mistakes.

    `map_answer` and `map_truth` are Grad-CAM's for the answer and for the true class;
    `features1` … of the first image are the six strongest channels of each stage.
    """
    logits = run(model, dataset.normalize(test.images))
    confidence, answer = logits.softmax(dim=1).max(dim=1)
    right = answer == test.labels
    mistakes = torch.where(right, 0, confidence).argsort(descending=True)[:6]
    chosen = torch.cat([right.nonzero().flatten()[:6], mistakes])
    x = dataset.normalize(test.images[chosen])
    arrays = {
        "index": chosen.numpy(),
        "images": test.images[chosen].numpy(),
        "truth": test.labels[chosen].numpy(),
        "answer": answer[chosen].numpy(),
        "confidence": confidence[chosen].float().numpy(),
    }
    for name, classes in (("answer", answer[chosen]), ("truth", test.labels[chosen])):
        arrays[f"map_{name}"] = to_bytes(LESSON.grad_cam(model, model.layer4, x, classes).float())
    stages = ["layer1", "layer2", "layer3", "layer4"]
    for number, maps in enumerate(capture(model, stages, x[:1]).values(), start=1):
        strongest = maps[0].mean(dim=(1, 2)).argsort(descending=True)[:6]
        arrays[f"features{number}"] = to_bytes(maps[0, strongest].float())
    return arrays


def inspect(model: nn.Module, dataset: Dataset, count: int) -> dict:
    """Everything that inspection.npz holds, measured on the first `count` test images."""
    start = time.perf_counter()
    device = resolve_device("cpu")
    autocast = make_autocast(resolve_precision("auto", device), device)
    model = model.to(memory_format=torch.channels_last)
    test = dataset.test[:count]
    x = dataset.normalize(test.images)
    train = dataset.normalize(dataset.train.images[:REFRESH])
    with autocast:
        say(start, f"twelve of {len(test)} test images")
        arrays = look_at_images(model, dataset, test)
        arrays |= drop_each_block(model, x, test.labels, train, start)
        arrays |= only_first_blocks(model, x, test.labels, train)
    arrays["refreshed_on"] = np.array(REFRESH)
    say(start, "done")
    return arrays


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a finished ResNet-50")
    parser.add_argument("--images", type=int, default=1000, help="test images (default: 1000)")
    parser.add_argument("--out", type=Path, help="where to write (default: the run's folder)")
    options = parser.parse_args(arguments)
    file = (options.out or folder_of(options.run)) / "inspection.npz"
    arrays = inspect(load_model(options.run), load("cifar10"), options.images)
    np.savez_compressed(file, **arrays)
    for name in ("whole", "first"):
        stored = 100 * arrays[f"{name}_stored"].mean()
        refreshed = 100 * arrays[f"{name}_refreshed"].mean()
        print(f"{name}: {stored:.1f} % stored, {refreshed:.1f} % refreshed")
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
