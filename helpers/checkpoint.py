"""Checkpoints: written whole or not at all, and only taken up by the run that they belong to."""

import hashlib
import os
import zipfile
from pathlib import Path

import torch
from torch import nn

from helpers import distributed
from helpers.data import Dataset


def save_checkpoint(path: Path, state: dict) -> None:
    """Writes `state` beside `path` and moves it into place.

    Whenever the process dies, `path` is the old checkpoint or the new one. Raises OSError if it
    cannot be written; the old one is kept.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as reason:  # RuntimeError: torch's own writer, on a full disk
        temporary.unlink(missing_ok=True)
        problem = str(reason).splitlines()[0]
        message = f"{path} could not be written ({problem}): is the disk full?"
        raise OSError(f"{message} The last checkpoint is kept") from None


def load_checkpoint(path: Path) -> dict | None:
    """What `save_checkpoint` wrote, on the CPU, or None if there is no file.

    Nothing in the file is executed. Raises ValueError for a file that is damaged or no checkpoint.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare checksums
            if archive.testzip():
                raise zipfile.BadZipFile
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"identity", "history", "model"} - set(state)
    except Exception as reason:  # torch raises many kinds for a file that is no checkpoint
        missing = {type(reason).__name__}
    if missing:
        problem = f"{path} is no readable checkpoint ({', '.join(sorted(missing))})"
        advice = "name another path or, if it was one, delete it to start anew"
        raise ValueError(f"{problem}: {advice}")
    return state


def identity(settings: dict, model: nn.Module, dataset: Dataset) -> dict:
    """What a run is: its settings, and fingerprints of the network's structure and of the data."""
    return {
        "settings": settings,
        "network": network_fingerprint(model),
        "data": data_fingerprint(dataset),
    }


def network_fingerprint(model: nn.Module) -> str:
    """A hash of the structure: every module's class and plain attributes, every parameter's shape.

    Strides and shortcuts count, and whether a parameter is frozen; values of weights do not.
    """
    lines = []
    for name, module in model.named_modules():
        plain = {
            attribute: value
            for attribute, value in vars(module).items()
            if isinstance(value, (bool, int, float, str, tuple)) and not attribute.startswith("_")
        }
        plain.pop("training", None)
        lines.append(f"{name} {type(module).__name__} {sorted(plain.items())}")
    for name, parameter in model.named_parameters():
        lines.append(f"{name} {tuple(parameter.shape)} {parameter.requires_grad}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def data_fingerprint(dataset: Dataset) -> str:
    """A hash of everything that is learned from or validated on."""
    digest = hashlib.sha256(repr((dataset.classes, dataset.mean, dataset.std)).encode())
    for split in (dataset.train, dataset.val):
        if split is None:
            continue
        for values in (split.images, split.labels):
            digest.update(repr(tuple(values.shape)).encode())
            digest.update(values.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def check_identity(path: Path, saved: dict, here: dict, defaults: dict) -> None:
    """Raises ValueError if a checkpoint belongs to another run.

    A setting that the checkpoint does not know yet has the value in `defaults` there.
    """
    there = defaults | saved["settings"]
    differing = [
        f"{name} {there[name]!r} there, {value!r} here"
        for name, value in here["settings"].items()
        if there[name] != value
    ]
    for what in ("network", "data"):
        if saved[what] != here[what]:
            differing.append(f"another {what}" if what == "network" else "other data")
    if differing:
        advice = "give it what it was made with, choose another folder, or delete it to start anew"
        raise ValueError(f"{path} belongs to another run ({'; '.join(differing)}): {advice}")


def resume(path: Path, run: dict, state: dict, defaults: dict) -> list[dict]:
    """Loads a checkpoint of this run into the parts of `state`; its history, [] if there is none.

    Of several processes the first one reads. Raises ValueError for a checkpoint of another run.
    """
    saved = distributed.from_first(lambda: load_checkpoint(path))
    if saved is None:
        return []
    check_identity(path, saved["identity"], run, defaults)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return saved["history"]
