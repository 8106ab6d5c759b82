"""Records: what is written is what is read back, and the committed ones are complete and true."""

import dataclasses
import json
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from helpers import plotting, records
from helpers.data import Dataset, Split, load
from helpers.datasets.shapes import make_shapes
from helpers.evaluation import predict
from helpers.experiment import main
from helpers.records import (
    compare,
    describe_environment,
    load_model,
    read_run,
    read_seeds,
    right_answers,
    write_record,
)
from helpers.resnet import resnet20
from helpers.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
RUNS = sorted(path.parent for path in ROOT.glob("results/*/metrics.json"))


@pytest.fixture
def own_images(tmp_path) -> Path:
    """Ten images for each of three classes, of several sizes and modes."""
    random = np.random.RandomState(0)
    root = tmp_path / "my images"
    modes = {"cat": "RGB", "dog": "RGBA", "übel": "L"}
    for number, (name, mode) in enumerate(modes.items()):
        (root / name).mkdir(parents=True)
        for i in range(10):
            height, width = 32 + 5 * i, 60 - 2 * i
            pixels = random.randint(0, 100, (height, width, 3)) + 70 * number
            image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
            image.save(root / name / f"image {i}.png")
    return root


# --- the environment


def test_the_system_is_named_without_the_hosts_kernel():
    environment = describe_environment("cpu", "the command")
    assert environment["system"] == platform.system()
    assert environment["command"] == "the command" and environment["waiting"]


def test_the_gpu_is_named_where_it_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU {device}")
    named = [describe_environment(device, "")["gpu"] for device in ("cpu", "cuda", "cuda:1")]
    assert named == [None, "the GPU cuda", "the GPU cuda:1"]


def test_the_commit_is_named_and_whether_helpers_have_changed_since(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert describe_environment("cpu", "")["commit"] == ""  # no repository
    monkeypatch.setenv("COURSE_COMMIT", "abc")
    assert describe_environment("cpu", "")["commit"] == "abc"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "data.py").write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    commit = describe_environment("cpu", "")["commit"]
    assert len(commit) == 40
    (tmp_path / "README.md").write_text("elsewhere")
    assert describe_environment("cpu", "")["commit"] == commit
    (tmp_path / "helpers" / "data.py").write_text("2")
    assert describe_environment("cpu", "")["commit"] == commit + "+changes"


# --- other numbers of classes


def dataset_of(classes: int) -> Dataset:
    """Random images of so many classes, two for each in every split."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2 * classes, 3, 16, 16), generator=generator).byte()
    split = Split(images, torch.arange(2 * classes) % classes)
    names = tuple(f"class {i}" for i in range(classes))
    return Dataset("own", names, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), split, split, split)


@pytest.mark.parametrize("slim", [False, True])
@pytest.mark.parametrize("classes", [2, 100, 256, 257, 300])
def test_a_record_knows_its_classes(tmp_path, classes, slim):
    dataset, model = dataset_of(classes), resnet20(classes)
    config = TrainConfig(model="resnet20", dataset="own", device="cpu", precision="float32")
    history = [{"epoch": 1, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5, "seconds": 1.0}]
    logits = {"val": predict(model, dataset, dataset.val)}
    logits["test"] = torch.nn.functional.one_hot(dataset.test.labels, classes).float()
    write_record(tmp_path, config, {}, model, dataset, history, logits, slim)
    run = read_run(tmp_path)
    assert run["metrics"]["classes"] == list(dataset.classes)
    assert run["metrics"]["test_accuracy"] == 1.0
    assert torch.equal(run["test_labels"], dataset.test.labels)
    if slim:
        assert torch.equal(run["test_predictions"], dataset.test.labels)
    else:
        assert run["test_logits"].shape == (2 * classes, classes)
        again = predict(load_model(tmp_path), dataset, dataset.val)
        torch.testing.assert_close(again, run["val_logits"], rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("error")
def test_a_folder_of_ones_own_images_is_trained_on_recorded_and_read_back(tmp_path, own_images):
    out = tmp_path / "my run"
    command = "--dataset folder --model resnet8 --epochs 2 --batch-size 8 --warmup 0 --crop 2"
    command += " --device cpu --precision float32"
    main([*command.split(), "--root", str(own_images), "--out", str(out)])
    run = read_run(str(out))
    assert run["metrics"]["classes"] == ["cat", "dog", "übel"]
    dataset = load("folder", own_images)
    assert torch.equal(run["test_labels"], dataset.test.labels)
    logits = predict(load_model(out), dataset, dataset.test)
    torch.testing.assert_close(logits, run["test_logits"], rtol=1e-2, atol=1e-2)
    matrix = np.zeros((3, 3), dtype=int)
    np.add.at(matrix, (run["test_labels"], run["test_logits"].argmax(1)), 1)
    ax = plotting.plot_confusion(matrix, run["metrics"]["classes"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "dog", "übel"]
    plotting.plt.close(ax.figure)


# --- transfer: what docs/own.md shows


def documented_code(word: str) -> str:
    """The Python block of docs/own.md that contains `word`."""
    text = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = [block for block in blocks if word in block]
    return code


@pytest.mark.parametrize("frozen", [True, False])
def test_a_recorded_network_goes_on_to_ones_own_images(own_images, monkeypatch, frozen):
    monkeypatch.chdir(own_images.parent)
    code = documented_code("cifar10-resnet20").replace("my/images", own_images.name)
    code = code.replace("epochs=10, batch_size=32", "epochs=6, batch_size=8, crop=2")
    if not frozen:
        code = code.replace("model.requires_grad_(False)", "")
    found = {}
    exec(code.replace("\nfit(", "\nhistory = fit("), found)
    original, model = load_model("cifar10-resnet20"), found["model"]
    same = torch.equal(original.layer3[2].conv2.weight, model.layer3[2].conv2.weight)
    same_statistics = torch.equal(original.bn1.running_mean, model.bn1.running_mean)
    assert same == same_statistics == frozen
    assert found["history"][-1]["train_loss"] < found["history"][0]["train_loss"]


def test_imagenet_weights_of_torchvision_fit_our_resnet50(monkeypatch):
    """With weights of the same form, made here: the file itself is not downloaded."""
    theirs = torchvision.models.resnet50().eval()
    weights = torchvision.models.ResNet50_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: theirs.state_dict())
    found = {}
    exec(documented_code("ResNet50_Weights"), found)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(found["model"].eval()(x), theirs(x))


# --- reading


def test_a_run_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="resnet1000 holds no finished run"):
        read_run("resnet1000")


def test_a_run_of_ones_own_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RUNS", tmp_path)
    shutil.copytree(ROOT / "results" / "shapes-plain20", tmp_path / "mine")
    assert read_run("mine")["metrics"] == read_run("shapes-plain20")["metrics"]
    assert load_model("mine").training is False


def test_a_run_that_looked_at_no_test_image_can_be_read(tmp_path):
    shutil.copytree(ROOT / "results" / "shapes-plain20", tmp_path / "run")
    (tmp_path / "run" / "test_logits.npz").unlink()
    run = read_run(tmp_path / "run")
    assert "test_logits" not in run and len(run["val_labels"]) == 1000


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "metrics.json",
        "history.csv",
        "test_logits.npz",
        "environment.json",
        "model.safetensors",
    ],
)
def test_a_damaged_record_is_named(tmp_path, file):
    shutil.copytree(ROOT / "results" / "shapes-plain20", tmp_path / "run")
    content = (tmp_path / "run" / file).read_bytes()
    (tmp_path / "run" / file).write_bytes(content[:40] if file != "history.csv" else b"")
    with pytest.raises(ValueError, match="is damaged .*(fetch it again|train anew)"):
        load_model(tmp_path / "run")


def test_an_older_record_has_the_defaults_of_younger_settings(tmp_path):
    """Else lesson 07 would take the same settings for different ones."""
    shutil.copytree(ROOT / "results" / "shapes-plain20", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["ema"]
    config |= {"lr": 0.123, "accumulate": 1}  # the last one no longer exists
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(read_run(tmp_path / "old")["config"]) == names
    config = read_run(tmp_path / "old")["config"]
    assert (config["ema"], config["lr"]) == (0, 0.123)


# --- several seeds


@pytest.fixture
def arms(tmp_path, monkeypatch):
    """Two folders of records: seeds 0 and 1 of an arm in results/, others in runs/."""
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "RUNS", tmp_path / "runs")

    def copy(original: str, to: str, **settings) -> Path:
        folder = tmp_path / to
        shutil.copytree(ROOT / "results" / original, folder)
        config = json.loads((folder / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    for seed in (1, 0):
        copy(f"ablation-resnet20-seed{seed}", f"results/arm-seed{seed}")
    return copy


def test_the_seeds_of_an_arm_are_found_in_their_order(arms):
    def seeds(name):
        return [run["config"]["seed"] for run in read_seeds(name)]

    arms("ablation-resnet20-seed2", "runs/arm-seed2")
    for other in ("arm-B-seed0", "arm-seed0-copy", "armada", "arm-seed"):
        arms("ablation-plain20-seed0", f"results/{other}")
    (arms("ablation-plain20-seed0", "results/arm-seed7") / "metrics.json").unlink()  # unfinished
    assert seeds("arm") == [0, 1, 2]
    arms("ablation-resnet20-seed0", "results/alone")
    assert seeds("alone") == [0]


def test_a_run_of_ones_own_does_not_replace_a_recorded_seed(arms):
    folder = arms("ablation-resnet20-seed0", "runs/arm-seed0")
    (folder / "environment.json").write_text('{"mine": true}')
    assert "mine" not in read_seeds("arm")[0]["environment"]


def test_other_settings_are_no_seed_of_the_arm(arms):
    arms("ablation-resnet20-seed2", "runs/arm-seed2", lr=0.1, precision="float32")
    with pytest.raises(ValueError, match=r"arm-seed… are not of one arm.*'lr', 'precision'"):
        read_seeds("arm")
    with pytest.raises(FileNotFoundError, match="no finished run is called arm-7 or arm-7-seed0"):
        read_seeds("arm-7")


@pytest.mark.parametrize(
    "name, split",
    [("ablation-resnet20", "val"), ("ablation-resnet20", "test"), ("cifar10-resnet20", "test")],
)
def test_right_answers_give_the_recorded_accuracy(name, split):
    """Of slim records and of those with logits."""
    for run, right in zip(read_seeds(name), right_answers(name, split), strict=True):
        assert right.dtype == torch.bool
        accuracy = run["metrics"][f"{split}_accuracy"]
        assert right.double().mean().item() == pytest.approx(accuracy, abs=1e-6)


def test_a_table_says_in_what_arms_differ(arms):
    for seed in (0, 1):
        arms(f"ablation-plain20-seed{seed}", f"runs/plain-seed{seed}", lr=0.1, recipe="mine")
    table = compare(["arm", "plain"])
    assert list(table.model) == ["resnet20", "plain20"] and list(table.lr) == [0.2, 0.1]
    expected = ["model", "lr", "n", "training (%)", "validation (%)", "difference"]
    assert list(table.columns) == [*expected, "95 % interval"]
    assert list(table.n) == [2, 2] and list(table.index) == ["arm", "plain"]
    accuracies = [100 * run["metrics"]["val_accuracy"] for run in read_seeds("arm")]
    spread = abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert table["validation (%)"].iloc[0] == f"{sum(accuracies) / 2:.2f} ± {spread:.2f}"
    assert table["difference"].iloc[0] == "" and table["difference"].iloc[1].startswith("-")


def test_a_table_of_single_runs_says_what_its_interval_lacks():
    table = compare(["paper-plain20", "paper-resnet20"], "test")
    assert table["95 % interval"].iloc[1].endswith("(test sampling only)")
    assert "±" not in table["test (%)"].iloc[1]


# --- the records that are committed


def test_the_shipped_network_still_sees_what_it_saw():
    """The weights, the images of `shapes` and the recorded logits belong together everywhere."""
    run, shapes = read_run("shapes-resnet20"), make_shapes()
    assert torch.equal(run["test_labels"], shapes.test.labels)
    assert torch.equal(run["val_labels"], shapes.val.labels)
    logits = predict(load_model("shapes-resnet20"), shapes, shapes.test[:500])
    torch.testing.assert_close(logits, run["test_logits"][:500], rtol=0.02, atol=0.05)


def test_there_are_records():
    assert RUNS


def test_the_errors_that_the_table_of_results_names_are_recorded():
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for network in ("resnet20", "plain20"):
        accuracy = read_run(f"paper-{network}-seed0")["metrics"]["test_accuracy"]
        assert f"{100 * (1 - accuracy):.2f} %" in text


@pytest.mark.long
def test_the_recorded_command_repeats_the_run_on_shapes(tmp_path):
    """Minutes of training; other processors round differently: it may move, but only by chance."""
    recorded = read_run("shapes-resnet20")
    arguments = shlex.split(recorded["environment"]["command"])[3:]
    arguments[arguments.index("--out") + 1] = str(tmp_path / "again")
    main(arguments)
    accuracy = read_run(tmp_path / "again")["metrics"]["test_accuracy"]
    assert accuracy == pytest.approx(recorded["metrics"]["test_accuracy"], abs=0.02)


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_a_committed_record_is_complete_and_true(folder):
    run = read_run(folder)
    config, environment, metrics = run["config"], run["environment"], run["metrics"]
    for split in ("test", "val"):
        if f"{split}_accuracy" in metrics:
            labels = run[f"{split}_labels"]
            predicted = run.get(f"{split}_predictions")  # of a slim record
            if predicted is None:
                predicted = run[f"{split}_logits"].argmax(1)
            accuracy = (predicted == labels).double().mean().item()
            assert metrics[f"{split}_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    for name in ("model", "recipe", "dataset", "split", "seed", "epochs", "precision"):
        assert metrics[name] == config[name]
    assert len(metrics["classes"]) == 10
    assert "auto" not in config.values()
    assert environment["command"].startswith("python -m helpers.experiment")
    assert len(environment["commit"].removesuffix("+changes")) == 40
    assert environment["system"] == "Linux"
    assert "/" not in re.sub("(results|runs)/", "", environment["command"])
    assert list(run["history"].epoch) == list(range(1, metrics["epochs"] + 1))
    assert metrics["train_seconds"] == pytest.approx(run["history"].seconds.sum(), abs=1)
    assert ("val_accuracy" in run["history"]) == (metrics["split"] == "train")
