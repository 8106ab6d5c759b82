"""From settings to a trained network and its record: `python -m helpers.experiment --help`.

The only module that joins all others.
"""

import argparse
import dataclasses
import shlex
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers import distributed
from helpers.data import Dataset, Split, load
from helpers.evaluation import evaluate, predict
from helpers.inspection import summarize
from helpers.networks import NETWORKS, build_model, first_blocks, whiten
from helpers.recipes import RECIPES, TrainConfig, first_epoch, image_size
from helpers.records import RESULTS, RUNS, describe_environment, write_record
from helpers.system import make_autocast, resolve_device, resolve_precision, resolve_products
from helpers.training import check_validation, epoch_batches, fit, set_seed


def prepare(
    config: TrainConfig, root: str | Path | None = None
) -> tuple[TrainConfig, Dataset, nn.Module]:
    """The settings with every "auto" resolved, the data on the device, and the untrained network.

    `root` is where the data set lies, if it needs to be told (`helpers.data.load`).
    """
    options = {"zero_gamma": True} if config.zero_gamma else {}
    with torch.device("meta"):  # a wrong name shows at once, before anything is downloaded
        build_model(config.model, **options)
    device = resolve_device(config.device)
    precision = distributed.from_first(lambda: resolve_precision(config.precision, device))
    products = distributed.from_first(lambda: resolve_products(config.products, device, precision))
    dataset = load(config.dataset, root)
    check_validation(dataset, config)
    changes = {"dataset": dataset.name, "device": str(device)}
    changes |= {"precision": precision, "products": products}
    config = dataclasses.replace(config, **changes)
    set_seed(config.seed)
    model = build_model(config.model, num_classes=len(dataset.classes), **options)
    if config.whiten:
        whiten(model.conv1, dataset.normalize(dataset.train.images[:1000]))
    return config, dataset.to(device), model


def describe(config: TrainConfig, dataset: Dataset, model: nn.Module) -> str:
    """What is about to be trained, in two lines."""
    batches = epoch_batches(dataset, config, epoch=0)
    image_size = tuple(dataset.train.images.shape[1:])
    parameters = sum(p.numel() for p in model.parameters())
    multiply_adds = summarize(model, image_size).multiply_adds.sum() / 1e6
    return (
        f"{config.model} ({parameters:,} parameters, {multiply_adds:,.1f} million multiply-adds "
        f"per image) on {dataset.name}: {len(batches.data):,} images of {len(dataset.classes)} "
        f"classes\n{config.epochs} epochs of {len(batches)} steps, {config.batch_size} images "
        f"each, {config.precision} on {config.device}, seed {config.seed}"
    )


def seconds_of(steps: int, config: TrainConfig, dataset: Dataset, model: nn.Module) -> float:
    """How long so many training steps take now."""
    few = dataclasses.replace(dataset, train=dataset.train[: steps * config.batch_size], val=None)
    settings = dataclasses.replace(config, split="train+val", epochs=1, compile=False, grow=0.0)
    return fit(model, few, settings, progress=False)[0]["seconds"]


def time_step(config: TrainConfig, dataset: Dataset, model: nn.Module) -> tuple[float, int]:
    """Seconds of a training step, the mean of a few really taken, and how many those were."""
    seconds_of(1, config, dataset, model)  # the first step also sets everything up
    one = seconds_of(1, config, dataset, model)
    most = len(dataset.train) // config.batch_size
    steps = distributed.from_first(lambda: max(1, min(50, int(5 / one), most)))
    return seconds_of(steps, config, dataset, model) / steps, steps


def dry_run(config: TrainConfig, root: str | Path | None = None) -> str:
    """The plan of a run, with its time estimated from a few steps really taken.

    Writes no record and looks at no test image. A missing data set is downloaded.
    """
    config, dataset, model = prepare(config, root)
    lines = [describe(config, dataset, model)]
    steps = len(epoch_batches(dataset, config, epoch=0))
    compiled = ", not compiled" if config.compile else ""
    estimate, parts = 0.0, phases(config)
    for (size, whole), epochs in parts.items():
        settings = dataclasses.replace(config, sizes=str(size or ""))
        network = model if whole else first_blocks(model)
        per_step, taken = time_step(settings, dataset, network)
        estimate += epochs * steps * per_step
        if config.split == "train":  # a forward pass is about a third of a step
            estimate += epochs * len(dataset.val) / config.batch_size * per_step / 3
        line = f"{per_step:.3g} s per step ({config.batch_size / per_step:,.0f} images/s, "
        line += f"mean of {taken} steps{compiled})"
        if len(parts) > 1:
            blocks = "" if whole else ", first blocks"
            line = f"{epochs} epochs, {size or 'all'} pixels{blocks}: {line}"
        lines.append(line)
    lines.append(f"about {estimate / 60:,.1f} minutes for {config.epochs * steps:,} steps")
    return "\n".join(lines)


def phases(config: TrainConfig) -> Counter:
    """How many epochs see images of which size, and with the whole network or only a part."""
    grown_at = first_epoch(config.grow, config)
    return Counter((image_size(config, epoch), epoch >= grown_at) for epoch in range(config.epochs))


def check_folder(out: Path, checkpoint: Path) -> None:
    """Raises ValueError if `out` has files but no checkpoint, OSError if it cannot be written."""
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    if names and not any(name.startswith(checkpoint.name) for name in names):
        raise ValueError(f"{out} is not empty: choose another --out, or delete it first")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as reason:
        problem = f"nothing can be written into {out} ({reason.strerror})"
        raise OSError(f"{problem}: choose another --out") from None


def run(
    config: TrainConfig,
    out: str | Path,
    command: str = "",
    root: str | Path | None = None,
    test_trace: bool = False,
    use_test: bool = True,
    slim: bool = False,
) -> dict:
    """Trains, evaluates the last epoch once on the full test set, records, returns the metrics.

    A checkpoint in `out` lets the same call go on where it was stopped (see `fit`). With
    `test_trace` the test accuracy is also noted after each epoch, to show later what choosing an
    epoch by it would have claimed; nothing is selected. Without `use_test` no test image is looked
    at: for runs that help to choose a recipe. `slim` as in `write_record`.
    Raises ValueError if `out` already holds anything but this run's checkpoint, and OSError, before
    training begins, if nothing can be written there.
    """
    out = Path(out).expanduser()
    checkpoint = out / "checkpoint.pt"
    rank, _ = distributed.rank_and_size()
    if not use_test and (test_trace or config.split != "train"):
        raise ValueError("without the test set only validation is left: --split train, no trace")
    config, dataset, model = prepare(config, root)
    if use_test and not dataset.test:
        raise ValueError("there are no test images: choose --split train with --no-test")
    if rank == 0:
        check_folder(out, checkpoint)
        print(f"{describe(config, dataset, model)}\nrecord: {out}", flush=True)
    environment = describe_environment(config.device, command)
    autocast = make_autocast(config.precision, torch.device(config.device))

    def logits_of(split: Split, network: nn.Module, size: int | None = None) -> Tensor:
        return predict(network, dataset, split, autocast=autocast, size=size)

    def trace(network: nn.Module, row: dict) -> None:
        logits = logits_of(dataset.test, network, row.get("size"))
        row["test_accuracy"] = evaluate(logits, dataset.test.labels)[1]

    history = fit(model, dataset, config, checkpoint, on_epoch=trace if test_trace else None)
    logits = {}
    if config.split == "train":
        logits["val"] = logits_of(dataset.val, model)
    if use_test:
        logits["test"] = logits_of(dataset.test, model)
    if rank > 0:
        return {}
    metrics = write_record(out, config, environment, model, dataset, history, logits, slim)
    checkpoint.unlink(missing_ok=True)
    return metrics


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line: a recipe, and an option for every field of TrainConfig."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.experiment",
        description="Train a network and record the run. The same command resumes a stopped run.",
        epilog="networks: " + ", ".join(NETWORKS),
    )
    add = parser.add_argument
    recipes = {"choices": list(RECIPES), "metavar": "recipe"}
    add("recipe", nargs="?", default="custom", help="start from: " + ", ".join(RECIPES), **recipes)
    add("--root", type=Path, help="where the data set lies (folder: one subfolder per class)")
    add("--out", type=Path, help="folder of the record (default: in runs/, named by the settings)")
    add("--record", action="store_true", help="write into results/, which the lessons read")
    add("--dry-run", action="store_true", help="print the plan and an estimate of its time only")
    add("--test-trace", action="store_true", help="also note the test accuracy of each epoch")
    add("--no-test", action="store_true", help="look at no test image: to choose a recipe")
    add("--slim", action="store_true", help="keep predicted classes only, no logits, no weights")
    options = parser.add_argument_group("settings (default: the recipe's)")
    for field in dataclasses.fields(TrainConfig):
        if field.name == "recipe":
            continue
        kind = {"type": field.type}
        if field.type is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        flag = "--" + field.name.replace("_", "-")
        kind |= {"help": field.metadata["help"], "default": argparse.SUPPRESS}
        options.add_argument(flag, **kind)
    return parser.parse_args(arguments)


def chosen_config(options: argparse.Namespace) -> TrainConfig:
    """The recipe's settings with those of the command line in their place."""
    given = vars(options)  # of the settings, only what the command line names
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"recipe"}
    changes = {name: value for name, value in given.items() if name in names}
    return dataclasses.replace(RECIPES[options.recipe], **changes)


def default_folder(config: TrainConfig, record: bool) -> Path:
    """Where a run is written that names no folder: results/ or runs/, and what it is of."""
    split = config.split.replace("+", "-")
    name = f"{config.dataset}-{config.model}-{config.recipe}-{split}-seed{config.seed}"
    return (RESULTS if record else RUNS) / name


def train(options: argparse.Namespace, command: str) -> None:
    """Does what the command line asks for, and prints what came out."""
    config = chosen_config(options)
    distributed.start()
    if options.dry_run:
        plan = dry_run(config, options.root)
        if distributed.rank_and_size()[0] == 0:
            print(plan)
        return
    out = options.out or default_folder(config, options.record)
    use_test = not options.no_test
    metrics = run(config, out, command, options.root, options.test_trace, use_test, options.slim)
    for split, words in (("val", "validation split"), ("test", "test set")):
        accuracy = metrics.get(f"{split}_accuracy")
        if accuracy is not None:
            print(
                f"{metrics['model']} on {metrics['dataset']}: {accuracy:.2%} on the {words} "
                f"after {metrics['epochs']} epochs in {metrics['train_seconds']:.0f} s"
            )


def main(arguments: list[str] | None = None) -> None:
    """The command line; `arguments` default to the shell's. Exits with one line on an error."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse_arguments(arguments)
    try:
        train(options, "python -m helpers.experiment " + shlex.join(arguments))
    except torch.OutOfMemoryError:
        sys.exit("error: not enough memory on the device: try half the --batch-size and --lr")
    except (ValueError, OSError, FloatingPointError) as reason:
        sys.exit(f"error: {reason}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on after the last finished epoch")


if __name__ == "__main__":
    main()
