"""Checkpoints: whole or not at all, and taken up only by the run that they belong to."""

import copy
import dataclasses
import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from small import CONFIG, equal, small_net
from torch import nn

from helpers import checkpoint
from helpers.data import Split
from helpers.datasets.shapes import make_shapes
from helpers.resnet import BasicBlock, CifarResNet, ZeroPad, plain20, projection, resnet20
from helpers.training import fit


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "checkpoint.pt"


# --- what a save leaves


def test_a_failed_save_leaves_the_old_checkpoint(shapes, path, monkeypatch):
    fit(small_net(), shapes, CONFIG, path, progress=False)
    assert list(path.parent.iterdir()) == [path]  # nothing temporary
    before = path.read_bytes()

    def full_disk(state, file):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    words = "could not be written .*No space left on device.*The last checkpoint is kept"
    with pytest.raises(OSError, match=words):
        checkpoint.save_checkpoint(path, {})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_is_really_full(shapes, path):
    fit(small_net(), shapes, CONFIG, path, progress=False)
    before = path.read_bytes()
    path.with_name("checkpoint.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="could not be written .*is the disk full") as stop:
        checkpoint.save_checkpoint(path, {"model": small_net().state_dict()})
    assert "\n" not in str(stop.value)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_home_folder_in_a_path_is_expanded(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fit(small_net(), shapes, CONFIG, "~/übel und/c.pt", progress=False)
    assert (tmp_path / "übel und" / "c.pt").is_file() and not (tmp_path / "~").exists()


# --- damaged files


class Evil:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


@pytest.mark.parametrize(
    "kind", ["list", "number", "empty", "weights", "pickle", "evil", "no history", "text", "cut",
             "a byte changed", "nothing"],
)  # fmt: skip
def test_a_bad_file_is_one_line_and_nothing_in_it_is_executed(shapes, path, tmp_path, kind):
    evil = tmp_path / "evil"
    fit(small_net(), shapes, CONFIG, path, progress=False)
    good, whole = torch.load(path, weights_only=True), path.read_bytes()
    at = whole.index(good["model"]["5.bias"].numpy().tobytes())  # the first byte of a weight
    as_bytes = {
        "pickle": pickle.dumps(Evil(evil)),
        "text": b"my notes",
        "cut": whole[: len(whole) // 2],
        "a byte changed": whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :],
        "nothing": b"",
    }
    saved = {
        "list": [1, 2],
        "number": 7,
        "empty": {},
        "weights": {"weights": torch.ones(1)},
        "evil": good | {"optimizer": Evil(evil)},
        "no history": {name: value for name, value in good.items() if name != "history"},
    }
    if kind in as_bytes:
        path.write_bytes(as_bytes[kind])
    else:
        torch.save(saved[kind], path)
    before = path.read_bytes()
    words = r"checkpoint.pt is no readable checkpoint \(.*delete it to start anew"
    with pytest.raises(ValueError, match=words) as stop:
        fit(small_net(), shapes, CONFIG, path, progress=False)
    assert "\n" not in str(stop.value) and not evil.exists() and path.read_bytes() == before


def test_a_folder_is_no_checkpoint_and_nobody_is_told_to_delete_it(shapes, tmp_path):
    with pytest.raises(ValueError, match="is no readable checkpoint .*: name another path"):
        fit(small_net(), shapes, CONFIG, tmp_path, progress=False)


# --- whose checkpoint is it?


@pytest.mark.parametrize(
    "change", [{"model": "resnet56"}, {"seed": 3}, {"epochs": 9}, {"lr": 0.2}, {"ema": 0.9}]
)
def test_other_settings_are_named_and_refused(shapes, path, change):
    fit(small_net(), shapes, CONFIG, path, progress=False)
    before = path.read_bytes()
    ((name, value),) = change.items()
    words = f"another run .*{name} {getattr(CONFIG, name)!r} there, {value!r} here"
    with pytest.raises(ValueError, match=words):
        fit(small_net(), shapes, dataclasses.replace(CONFIG, **change), path, progress=False)
    assert path.read_bytes() == before


def other_pixels(data):
    images = data.train.images.clone()
    images[0, 0, 0, 0] += 1
    return dataclasses.replace(data, train=Split(images, data.train.labels))


def other_labels(data):
    return dataclasses.replace(data, train=Split(data.train.images, data.train.labels.flip(0)))


def other_validation(data):
    return dataclasses.replace(data, val=data.val[:50])


def other_order(data):
    return dataclasses.replace(data, train=data.train[torch.arange(319, -1, -1)])


def other_mean(data):
    return dataclasses.replace(data, mean=(0.5, 0.5, 0.5))


def other_names(data):
    return dataclasses.replace(data, classes=data.classes[::-1])


def drawn_anew(data):
    return make_shapes(320, 100, 130, seed=1)


@pytest.mark.parametrize(
    "change",
    [other_pixels, other_labels, other_validation, other_order, other_mean, other_names,
     drawn_anew],
)  # fmt: skip
def test_other_data_are_refused(shapes, path, change):
    fit(small_net(), shapes, CONFIG, path, progress=False)
    with pytest.raises(ValueError, match=r"another run \(other data\)"):
        fit(small_net(), change(shapes), CONFIG, path, progress=False)


def test_other_test_images_are_not_its_business(shapes, path):
    fit(small_net(), shapes, CONFIG, path, progress=False)
    fit(small_net(), dataclasses.replace(shapes, test=shapes.test[:9]), CONFIG, path, False)


def with_shortcut(shortcut) -> nn.Module:
    return CifarResNet(BasicBlock, (1, 1, 1), shortcut=shortcut)


def with_a_stride() -> nn.Module:
    model = small_net()
    model[0].stride = (1, 1)
    return model


def with_a_frozen_layer() -> nn.Module:
    model = small_net()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "one, other",
    [
        (resnet20, plain20),  # the same names and shapes of weights, other shortcuts
        (lambda: with_shortcut(ZeroPad), lambda: with_shortcut(projection)),
        (small_net, with_a_stride),
        (small_net, with_a_frozen_layer),
        (small_net, lambda: nn.Sequential(*small_net(), nn.Identity())),
    ],
)
def test_another_network_is_refused(shapes, path, one, other):
    few = dataclasses.replace(shapes, train=shapes.train[:64], val=shapes.val[:10])
    fit(one(), few, CONFIG, path, progress=False)
    with pytest.raises(ValueError, match="another network"):
        fit(other(), few, CONFIG, path, progress=False)


def test_the_same_structure_has_one_fingerprint():
    assert checkpoint.network_fingerprint(resnet20()) == checkpoint.network_fingerprint(
        copy.deepcopy(resnet20()).eval()
    )


@pytest.mark.parametrize("name", ["ema", "whiten", "mixing"])
def test_a_setting_that_is_younger_than_the_checkpoint_has_its_default(shapes, path, name):
    history = fit(small_net(), shapes, CONFIG, path, progress=False)
    saved = torch.load(path, weights_only=True)
    del saved["identity"]["settings"][name]
    saved["identity"]["settings"]["of the past"] = 7  # one that no longer exists
    torch.save(saved, path)
    assert fit(small_net(), shapes, CONFIG, path, progress=False) == history


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_finished_run_says_that_nothing_is_left(shapes, path, capsys, ema):
    config = dataclasses.replace(CONFIG, ema=ema)
    one, other = small_net(), small_net()
    history = fit(one, shapes, config, path)
    assert "nothing left" not in capsys.readouterr().out
    assert fit(other, shapes, config, path) == history and equal(one, other)
    assert f"nothing left to train: {path} holds all 2 epochs" in capsys.readouterr().out
