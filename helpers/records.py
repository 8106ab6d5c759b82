"""Recorded runs: results/ holds those of the course, runs/ a reader's own; one folder for each."""

import dataclasses
import json
import os
import platform
import re
import subprocess
import zipfile
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from helpers import distributed
from helpers.data import Dataset
from helpers.evaluation import difference, evaluate
from helpers.networks import build_model
from helpers.recipes import TrainConfig
from helpers.system import processor_name

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
RUNS = ROOT / "runs"


def git(*arguments: str) -> str:
    """What git prints in this checkout, or "" where there is no git or no repository."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def describe_environment(device: str, command: str) -> dict:
    """Command, date, commit, versions and machine: what places a recorded number.

    The commit is git's, marked "+changes" if helpers/ differs from it, or COURSE_COMMIT.
    """
    commit = git("rev-parse", "HEAD") or os.environ.get("COURSE_COMMIT", "")
    if git("status", "--porcelain", "--", "helpers"):
        commit += "+changes"
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "system": platform.system(),
        "processor": processor_name(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "waiting": os.environ.get("OMP_WAIT_POLICY", "default").lower(),  # of OpenMP's threads
        "processes": distributed.rank_and_size()[1],
    }


def write_json(file: Path, content: dict) -> None:
    """Writes `file` whole or not at all."""
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, file)


def write_csv(file: Path, table: pd.DataFrame) -> None:
    table.round(6).to_csv(file, index=False, lineterminator="\n")


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
    """Writes a run into the folder `out`; `metrics.json` comes last and is returned.

    `logits` has (N, num_classes) of "val", "test" or both. Losses and accuracies are computed from
    them as stored (float16). A `slim` record has predicted classes in their place and no weights.
    """
    from safetensors.torch import save  # here, so that training alone does not need it

    write_json(out / "config.json", dataclasses.asdict(config))
    write_json(out / "environment.json", environment)
    table = pd.DataFrame(history)
    write_csv(out / "history.csv", table.drop(columns="test_accuracy", errors="ignore"))
    if "test_accuracy" in table:
        write_csv(out / "test_trace.csv", table[["epoch", "test_accuracy"]].dropna())
    label_type = np.min_scalar_type(len(dataset.classes) - 1)  # uint8 up to 256 classes
    measured = {}
    for split, values in logits.items():
        stored = values.half()
        labels = getattr(dataset, split).labels.cpu()
        kept = {"labels": labels.numpy().astype(label_type)}
        if slim:
            kept["predictions"] = stored.argmax(dim=1).numpy().astype(label_type)
        else:
            kept["logits"] = stored.numpy()
        kind = "predictions" if slim else "logits"
        np.savez_compressed(out / f"{split}_{kind}.npz", **kept)
        loss, accuracy = evaluate(stored.float(), labels)
        measured[f"{split}_accuracy"] = round(accuracy, 6)
        measured[f"{split}_loss"] = round(loss, 6)
    if not slim:
        weights = {}
        for name, value in model.state_dict().items():
            weights[name] = (value.half() if value.is_floating_point() else value).contiguous()
        (out / "model.safetensors").write_bytes(save(weights))
    # what torch.compile cost: by how much the first epoch was longer than the median epoch
    longer = max(0.0, float(table.seconds.iloc[0] - table.seconds.median()))
    metrics = {
        "model": config.model,
        "recipe": config.recipe,
        "dataset": config.dataset,
        "split": config.split,
        "seed": config.seed,
        "epochs": config.epochs,
        "classes": list(dataset.classes),
        "parameters": sum(p.numel() for p in model.parameters()),
        **measured,
        "train_seconds": round(float(table.seconds.sum()), 1),
        "compile_seconds": round(longer, 1) if config.compile else 0.0,
        "device": config.device,
        "precision": config.precision,
    }
    write_json(out / "metrics.json", metrics)
    return metrics


def folder_of(name: str | Path) -> Path:
    """The folder of a finished run: a path, or a name in results/ or runs/.

    Raises FileNotFoundError for a run that was not recorded or not finished.
    """
    places = [Path(name).expanduser()]
    if isinstance(name, str):
        places += [RESULTS / name, RUNS / name]
    for folder in places:
        if (folder / "metrics.json").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in RESULTS.glob("*/metrics.json")))
    raise FileNotFoundError(f"{name} holds no finished run; recorded are: {known or 'none'}")


def read_run(name: str | Path) -> dict:
    """A recorded run, by its name in results/ or runs/ or by its folder.

    Returns `config`, `environment`, `metrics` (dicts), `history` (a table, a row per epoch) and,
    where recorded, `test_logits`, `test_labels`, `val_logits`, `val_labels` (tensors; of a slim
    record `…_predictions`) and `test_trace` (a table). A setting younger than the record has its
    default; one that no longer exists is dropped. Raises FileNotFoundError for a run that was not
    recorded or not finished, and ValueError for a damaged file.
    """
    folder = folder_of(name)
    try:
        run = {}
        for part in ("config", "environment", "metrics"):
            run[part] = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
        run["history"] = pd.read_csv(folder / "history.csv")
        for file in sorted(folder.glob("*_*.npz")):
            split = file.name.split("_")[0]
            with file.open("rb") as opened, np.load(opened) as stored:
                for kind, values in stored.items():
                    dtype = np.float32 if kind == "logits" else np.int64
                    run[f"{split}_{kind}"] = torch.from_numpy(values.astype(dtype))
        if (folder / "test_trace.csv").is_file():
            run["test_trace"] = pd.read_csv(folder / "test_trace.csv")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as reason:
        advice = "fetch it again, or delete it and train anew"
        raise ValueError(f"the record in {folder} is damaged ({reason}): {advice}") from None

    run["config"].setdefault("products", "off")  # older records knew no other way
    defaults = dataclasses.asdict(TrainConfig())
    run["config"] = {name: run["config"].get(name, default) for name, default in defaults.items()}
    return run


def read_seeds(name: str) -> list[dict]:
    """The runs `name`-seed0, `name`-seed1, … of results/ and runs/, in the order of their seeds.

    A run that is called `name` alone counts, and of two with one seed that in results/. Raises
    FileNotFoundError if there is none and ValueError if they differ in another setting.
    """
    found = {}
    for folder in [*RUNS.glob(f"{name}*"), *RESULTS.glob(f"{name}*")]:
        ending = folder.name.removeprefix(name)
        if re.fullmatch(r"(-seed\d+)?", ending) and (folder / "metrics.json").is_file():
            run = read_run(folder)
            found[run["config"]["seed"]] = run
    if not found:
        raise FileNotFoundError(f"no finished run is called {name} or {name}-seed0, …")
    runs = [found[seed] for seed in sorted(found)]
    differing = differing_settings(runs)
    if differing:
        raise ValueError(f"the runs {name}-seed… are not of one arm: they differ in {differing}")
    return runs


def differing_settings(runs: Sequence[dict]) -> list[str]:
    """The settings in which runs differ, apart from the seed and the recipe's name."""
    names = [name for name in runs[0]["config"] if name not in ("seed", "recipe")]
    return [name for name in names if len({str(run["config"][name]) for run in runs}) > 1]


def right_answers(name: str, split: str = "val") -> list[Tensor]:
    """For each seed of `name`, which images of "val" or "test" the network got right, (N,) bool."""
    return [is_right(run, split) for run in read_seeds(name)]


def is_right(run: dict, split: str) -> Tensor:
    """Which images of "val" or "test" the network of a run got right, (N,) bool."""
    predictions = run.get(f"{split}_predictions")  # of a slim record
    if predictions is None:
        predictions = run[f"{split}_logits"].argmax(dim=1)
    return predictions == run[f"{split}_labels"]


def compare(names: Sequence[str], split: str = "val") -> pd.DataFrame:
    """A row for each arm (runs that differ in their seed): accuracy, and difference to the first.

    Columns say in which settings the arms differ. Accuracies are means over seeds ± sd, in percent;
    differences are in points, with the 95 % interval of `evaluation.difference`. "training" is
    counted while the last epoch runs, on augmented images.
    """
    arms = {name: read_seeds(name) for name in names}
    right = {name: [is_right(run, split) for run in runs] for name, runs in arms.items()}
    differing = differing_settings([runs[0] for runs in arms.values()])
    title = {"val": "validation", "test": "test"}[split]
    rows = []
    for name, runs in arms.items():
        training = [100 * run["history"].train_accuracy.iloc[-1] for run in runs]
        row = {"arm": name} | {setting: runs[0]["config"][setting] for setting in differing}
        row |= {"n": len(runs), "training (%)": mean_and_sd(training)}
        accuracies = [100 * answers.double().mean().item() for answers in right[name]]
        row[f"{title} (%)"] = mean_and_sd(accuracies)
        row["difference"] = row["95 % interval"] = ""
        if name != names[0]:
            found = difference(right[name], right[names[0]])
            row["difference"] = f"{100 * found.value:+.2f}"
            row["95 % interval"] = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
            if found.test_sampling_only:
                row["95 % interval"] += " (test sampling only)"
        rows.append(row)
    return pd.DataFrame(rows).set_index("arm")


def mean_and_sd(values: Sequence[float]) -> str:
    """As in "77.69 ± 0.27"; of a single value itself."""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def load_model(name: str | Path) -> nn.Module:
    """The trained network of a recorded run, in eval mode, float32 on the CPU.

    Raises FileNotFoundError for a run that was not recorded or whose weights were not kept, and
    ValueError for damaged ones.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder_of(name) / "model.safetensors"
    if not file.is_file():
        advice = "`python -m helpers.experiment` trains and writes them"
        raise FileNotFoundError(f"{file.parent} keeps no weights: {advice}")
    try:
        weights = load_file(file)
    except SafetensorError as reason:
        advice = "fetch it again, or delete its folder and train anew"
        raise ValueError(f"{file} is damaged ({reason}): {advice}") from None
    model = build_model(read_run(name)["config"]["model"], num_classes=len(weights["fc.weight"]))
    model.load_state_dict(weights)
    return model.eval()
