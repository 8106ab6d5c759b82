"""From one set of settings to a trained network and its record: `python -m helpers.experiment --help`.

The only module that joins all others, and the only one that writes below `results/`.
"""

import argparse
import dataclasses
import inspect
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
import zlib
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from helpers import distributed
from helpers.data import Dataset, Split, load
from helpers.evaluation import evaluate
from helpers.inspection import summarize
from helpers.resnet import MODELS, whiten
from helpers.training import (
    TrainConfig,
    epoch_batches,
    fit,
    make_autocast,
    predict_together,
    remove_checkpoint,
    resolve_device,
    resolve_precision,
    set_seed,
)
from helpers.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[1]

NETWORKS = MODELS | VARIANTS

final = partial(TrainConfig, dataset="cifar10", split="train+val")  # every choice is made: it learns from all 50,000

RECIPES = {
    config.recipe: config
    for config in (
        TrainConfig(),
        # a residual network for two CPU cores; every choice was made on the validation pictures (notebook 04)
        final(recipe="laptop", model="resnet9", epochs=16, flip="alternate", cutout=8, whiten=True),
        # a free Colab T4 (float16 there, as `auto` resolves it); not measured yet
        final(recipe="colab", model="resnet18", epochs=30, lr=0.2, cutout=8, zero_gamma=True),
        # ResNet-50 on one large GPU; not measured yet
        final(
            recipe="resnet50-96", model="resnet50", epochs=80, batch_size=512, lr=0.4, warmup=5 / 80, cutout=12, zero_gamma=True
        ),
        final(
            recipe="resnet50-97", model="resnet50", epochs=140, batch_size=512, lr=0.4, warmup=5 / 140, mixing=0.5, ema=0.999,
            zero_gamma=True,
        ),
        # the embedded data set, in minutes on two cores
        TrainConfig(recipe="shapes", model="resnet20", dataset="shapes", epochs=12, batch_size=64, lr=0.2),
        # the paper's section 4.2, for ResNet-20 … 110 and their plain twins: 64k steps of 128 on the 50,000
        # (unlike there: Nesterov's momentum, edges mirrored, no decay on BatchNorm, no warm-up for 110 unless asked for)
        final(
            recipe="paper", model="resnet20", epochs=164, batch_size=128, lr=0.1, warmup=0.0, schedule="steps",
            weight_decay=1e-4, label_smoothing=0.0,
        ),
        # the common footing of notebook 07's ablations: what one core does in a few minutes
        TrainConfig(
            recipe="ablation", model="resnet20", dataset="cifar10", epochs=3, batch_size=128, lr=0.2, label_smoothing=0.0
        ),
        # the notebook this course started from (75.55 % after 50 epochs, in TensorFlow), at a laptop's number of epochs
        TrainConfig(
            recipe="ladder-0", model="resnet50-half", dataset="cifar10", epochs=2, batch_size=32, optimizer="adam", lr=1e-3,
            warmup=0.0, schedule="constant", weight_decay=0.0, label_smoothing=0.0, crop=0, flip="none", precision="float32",
        ),
    )
}  # fmt: skip

LADDER = (  # from that notebook to today's habits, one group of settings at a time: each changes these and keeps all before it
    ("computing in bfloat16", {"precision": "bfloat16"}),
    ("a network for 32×32 pictures", {"model": "resnet9"}),
    (
        "SGD and a schedule",
        {"batch_size": 256, "optimizer": "sgd", "lr": 0.3, "warmup": 0.2, "schedule": "cosine", "weight_decay": 5e-4},
    ),
    ("a whitened stem", {"whiten": True}),
    ("label smoothing", {"label_smoothing": 0.1}),
    ("shifted and mirrored pictures", {"crop": 4, "flip": "alternate"}),
    ("a moving average of the weights", {"ema": 0.99}),  # over about 100 of some 350 steps
    ("pictures mixed of two", {"mixing": 0.5}),
)
for step, (_, changes) in enumerate(LADDER, start=1):
    RECIPES[f"ladder-{step}"] = dataclasses.replace(RECIPES[f"ladder-{step - 1}"], recipe=f"ladder-{step}", **changes)


def build_model(name: str, num_classes: int = 10, **options) -> nn.Module:
    """The network called `name`. Raises ValueError for a name that neither helpers.resnet nor helpers.variants knows."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](num_classes=num_classes, **options)
    except TypeError:  # the plain twins, say, have no shortcut to start from
        if not options:
            raise
        raise ValueError(f"{name} does not take {', '.join(options)}") from None


def describe_environment(device: str) -> dict:
    """Versions, processor, the GPU where `device` is one, commit, command and date: what places a recorded number."""

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    return {
        "command": "python -m helpers.experiment " + shlex.join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "helpers") else ""),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy")},
        "system": platform.platform(),
        "processor": processor_name(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "processes": distributed.rank_and_size()[1],
    }


def processor_name() -> str:
    """The processor's model, as the system calls it, and its number of cores where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    amx = ", AMX-BF16" if any("amx_bf16" in line for line in lines) else ""
    return f"{models[0]}, {len(models)} cores{amx}" if models else platform.machine()


def prepare(config: TrainConfig) -> tuple[TrainConfig, Dataset, nn.Module]:
    """The settings with every "auto" resolved, the data on the device, and the untrained network."""
    set_seed(config.seed)
    # first, so that a wrong name shows before anything is fetched; every data set here has ten classes
    model = build_model(config.model, **({"zero_gamma": True} if config.zero_gamma else {}))
    device = resolve_device(config.device)
    precision = distributed.from_first(lambda: resolve_precision(config.precision, device))
    dataset = distributed.first_then_others(lambda: load(config.dataset))
    config = dataclasses.replace(config, dataset=dataset.name, device=str(device), precision=precision)
    if config.whiten:
        whiten(model.conv1, dataset.normalize(dataset.train.images[:1000]))
    return config, dataset.to(device), model


def describe(config: TrainConfig, dataset: Dataset, model: nn.Module) -> str:
    """What is about to be trained, in two lines."""
    batches = epoch_batches(dataset, config, epoch=0)
    return (
        f"{config.model} ({sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{summarize(model).multiply_adds.sum() / 1e6:,.1f} million multiply-adds a picture) on {dataset.name}: "
        f"{len(batches.data):,} pictures\n{config.epochs} epochs of {len(batches)} steps, {config.batch_size} pictures each, "
        f"{config.precision} on {config.device}, seed {config.seed}"
    )


def dry_run(config: TrainConfig) -> str:
    """The plan of a run, with its time estimated from a few steps really taken. Writes nothing, looks at no test picture."""
    config, dataset, model = prepare(config)
    total_steps = config.epochs * len(epoch_batches(dataset, config, epoch=0))

    def seconds(steps: int) -> float:
        few = dataclasses.replace(dataset, train=dataset.train[: steps * config.batch_size], val=dataset.train[:0])
        settings = dataclasses.replace(config, split="train+val", epochs=1, compile=False)
        return fit(model, few, settings, progress=False)[0]["seconds"]

    plan = describe(config, dataset, model)
    seconds(1)  # the first step also sets everything up
    one = seconds(1)
    enough = distributed.from_first(lambda: max(2, min(50, int(5 / one), len(dataset.train) // config.batch_size)))
    per_step = seconds(enough) / enough
    estimate = total_steps * per_step
    if config.split == "train":  # a forward pass is about a third of a step
        estimate += config.epochs * len(dataset.val) / config.batch_size * per_step / 3
    return (
        f"{plan}\n{per_step:.3g} s a step ({config.batch_size / per_step:,.0f} pictures/s, mean of {enough} steps"
        f"{', not compiled' if config.compile else ''}): about {estimate / 60:,.1f} minutes for {total_steps:,} steps"
    )


def run(config: TrainConfig, out: str | Path, test_trace: bool = False, use_test: bool = True, slim: bool = False) -> dict:
    """Trains, evaluates the last epoch once on the full test set, writes the record into `out`, returns its metrics.

    A checkpoint (see `fit`) lets the same command go on where it was stopped. With `test_trace` the test accuracy
    is also noted after each epoch, to show later what choosing an epoch by it would have claimed; nothing is selected.
    Without `use_test` no test picture is looked at: for runs that help to choose a recipe. A `slim` record keeps the
    predicted classes instead of logits and weights, a hundredth of the size: for runs of which there are many.
    Raises ValueError where `out` already holds anything but this run's checkpoint, and OSError, before training begins, where
    nothing can be written there.
    """
    out = Path(out)
    checkpoint = out / "checkpoint.pt"
    names = distributed.from_first(lambda: [path.name for path in out.iterdir()] if out.is_dir() else [])
    if names and not any(name.startswith(checkpoint.name) for name in names):
        raise ValueError(f"{out} is not empty: choose another --out, or delete it first")
    if not use_test and (test_trace or config.split != "train"):
        raise ValueError("without the test set there is only the validation part to measure on: --split train, no --test-trace")
    config, dataset, model = prepare(config)
    environment = describe_environment(config.device)
    rank, _ = distributed.rank_and_size()
    if rank == 0:
        try:
            out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()
        except OSError as reason:
            raise OSError(f"nothing can be written into {out} ({reason.strerror}): choose another --out") from None
        print(f"{describe(config, dataset, model)}\nrecord: {out}", flush=True)
    autocast = make_autocast(config.precision, torch.device(config.device))

    def logits_of(split: Split, model: nn.Module = model) -> Tensor:
        return predict_together(model, dataset, split, autocast)

    def trace(model: nn.Module, row: dict) -> None:
        row["test_accuracy"] = evaluate(logits_of(dataset.test, model), dataset.test.labels)[1]

    history = fit(model, dataset, config, checkpoint, on_epoch=trace if test_trace else None)
    logits = {"val": logits_of(dataset.val)} if config.split == "train" else {}
    if use_test:
        logits["test"] = logits_of(dataset.test)
    if rank > 0:
        return {}
    metrics = write_record(out, config, environment, model, dataset, history, logits, slim)
    remove_checkpoint(checkpoint)
    return metrics


def write_record(
    out: Path,
    config: TrainConfig,
    environment: dict,
    model: nn.Module,
    dataset: Dataset,
    history: list[dict],
    logits: dict[str, Tensor],
    slim: bool = False,
) -> dict:
    """Writes settings, environment, history, logits and weights, and, last, `metrics.json`, which it returns.

    Losses and accuracies in it are computed from the logits as stored (float16). A `slim` record has `…_predictions.npz`
    (predicted classes and labels, uint8) in their place, and no weights.
    """

    def write_json(file: str, content: dict) -> None:
        (out / f"{file}.part").write_text(json.dumps(content, indent=2) + "\n")
        os.replace(out / f"{file}.part", out / file)  # whole or not at all

    def write_csv(file: str, table: pd.DataFrame) -> None:
        table.round(6).to_csv(out / file, index=False, lineterminator="\n")

    from safetensors.torch import save  # here, so that training alone does not need it

    write_json("config.json", dataclasses.asdict(config))
    write_json("environment.json", environment)
    table = pd.DataFrame(history)
    write_csv("history.csv", table.drop(columns=["test_accuracy", "compile_seconds"], errors="ignore"))
    if "test_accuracy" in table:
        write_csv("test_trace.csv", table[["epoch", "test_accuracy"]].dropna())
    measured = {}
    for part, values in logits.items():
        stored, labels = values.half(), getattr(dataset, part).labels.cpu()
        kind, kept = ("predictions", stored.argmax(dim=1).byte()) if slim else ("logits", stored)
        np.savez_compressed(out / f"{part}_{kind}.npz", **{kind: kept.numpy(), "labels": labels.numpy().astype(np.uint8)})
        loss, accuracy = evaluate(stored.float(), labels)
        measured |= {f"{part}_accuracy": round(accuracy, 6), f"{part}_loss": round(loss, 6)}
    if not slim:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}  # half the size
        (out / "model.safetensors").write_bytes(save({k: v.contiguous() for k, v in weights.items()}))
    metrics = {
        **{name: getattr(config, name) for name in ("model", "recipe", "dataset", "split", "seed", "epochs")},
        "parameters": sum(p.numel() for p in model.parameters()),
        **measured,
        "train_seconds": round(sum(row["seconds"] for row in history), 1),
        "compile_seconds": round(sum(row.get("compile_seconds", 0.0) for row in history), 1),
        **{name: getattr(config, name) for name in ("device", "precision")},
    }
    write_json("metrics.json", metrics)
    return metrics


def read_run(name: str | Path) -> dict:
    """A recorded run, by its name below `results/` or by its folder.

    Returns `config`, `environment`, `metrics` (dicts), `history` (a pandas table, a row per epoch) and, where recorded,
    `test_logits`, `test_labels`, `val_logits`, `val_labels` (tensors; of a slim record `…_predictions`) and `test_trace`
    (a table). A setting younger than the record has its default, which leaves everything as it was. Raises
    FileNotFoundError for a run that was not recorded or not finished, and ValueError for a record with a damaged file.
    """
    folder = name if isinstance(name, Path) else ROOT / "results" / name
    if not (folder / "metrics.json").is_file():
        known = sorted(path.parent.name for path in (ROOT / "results").glob("*/metrics.json"))
        raise FileNotFoundError(f"{folder} holds no finished run; recorded are: {', '.join(known) or 'none'}")
    try:
        run = {part: json.loads((folder / f"{part}.json").read_text()) for part in ("config", "environment", "metrics")}
        run["history"] = pd.read_csv(folder / "history.csv")
        for part in ("test", "val"):
            for file in folder.glob(f"{part}_*.npz"):
                with file.open("rb") as opened, np.load(opened) as stored:  # NumPy leaves a damaged file open
                    for kind, values in stored.items():
                        run[f"{part}_{kind}"] = torch.from_numpy(values).to(torch.float32 if kind == "logits" else torch.int64)
        if (folder / "test_trace.csv").is_file():
            run["test_trace"] = pd.read_csv(folder / "test_trace.csv")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as reason:
        raise ValueError(f"the record in {folder} is damaged ({reason}): fetch it again, or delete it and train anew") from None
    run["config"] = dataclasses.asdict(TrainConfig()) | run["config"]
    if run["config"]["flip"] is True:  # as records say it that are older than "alternate"
        run["config"]["flip"] = "random"
    return run


def load_model(name: str | Path) -> nn.Module:
    """The trained network of a recorded run, in eval mode, float32 on the CPU.

    Raises FileNotFoundError for a run that was not recorded, or whose weights were not kept, and ValueError for damaged ones.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    metrics = read_run(name)["metrics"]
    weights = (name if isinstance(name, Path) else ROOT / "results" / name) / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{weights.parent} keeps no weights: `python -m helpers.experiment` trains and writes them")
    model = build_model(metrics["model"])
    try:
        model.load_state_dict(load_file(weights))
    except SafetensorError as reason:
        raise ValueError(f"{weights} is damaged ({reason}): fetch it again, or delete its folder and train anew") from None
    return model.eval()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line: a recipe, and an option for every field of TrainConfig."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.experiment",
        description="Train a network and record the run. The same command goes on with a run that was interrupted.",
        epilog="networks: " + ", ".join(NETWORKS),
    )
    parser.add_argument("recipe", nargs="?", default="custom", help="settings to start from: " + ", ".join(RECIPES))
    parser.add_argument("--out", type=Path, help="folder of the record (default: results/<dataset>-<model>-…)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and an estimate of its time, then stop")
    parser.add_argument("--test-trace", action="store_true", help="also note the test accuracy of each epoch")
    parser.add_argument("--no-test", action="store_true", help="look at no test picture: a run to choose a recipe by")
    parser.add_argument("--slim", action="store_true", help="keep predicted classes only, no logits and no weights")
    options = parser.add_argument_group("settings (default: the recipe's)")
    notes = dict(re.findall(r"^    (\w+): .*  # (.+)$", inspect.getsource(TrainConfig), re.MULTILINE))
    for field in dataclasses.fields(TrainConfig):
        if field.name == "recipe":
            continue
        kind = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": field.type}
        options.add_argument(f"--{field.name.replace('_', '-')}", help=notes.get(field.name), **kind)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    sys.argv[1:] = sys.argv[1:] if arguments is None else arguments  # what the record names as its command, from a notebook too
    options = vars(parse_arguments(arguments))
    try:
        recipe, out, plan_only, test_trace, no_test, slim = (
            options.pop(name) for name in ("recipe", "out", "dry_run", "test_trace", "no_test", "slim")
        )
        if recipe not in RECIPES:
            raise ValueError(f"unknown recipe {recipe!r}: choose one of {', '.join(RECIPES)}")
        config = dataclasses.replace(RECIPES[recipe], **{k: v for k, v in options.items() if v is not None})
        distributed.start()
        if plan_only:
            plan = dry_run(config)
            if distributed.rank_and_size()[0] == 0:
                print(plan)
            return
        name = "-".join([config.dataset, config.model, recipe, config.split.replace("+", "-"), f"seed{config.seed}"])
        metrics = run(config, out or ROOT / "results" / name, test_trace, not no_test, slim)
    except (ValueError, OSError, FloatingPointError, MemoryError) as reason:
        sys.exit(f"error: {reason}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from what was saved")
    for part, words in (("val", "validation part"), ("test", "test set")):
        if f"{part}_accuracy" in metrics:
            accuracy, seconds = metrics[f"{part}_accuracy"], metrics["train_seconds"]
            print(
                f"{metrics['model']} on {metrics['dataset']}: {accuracy:.2%} on the {words} "
                f"after {metrics['epochs']} epochs in {seconds:.0f} s"
            )


if __name__ == "__main__":
    main()
