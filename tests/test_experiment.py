"""The command line, as a user meets it."""

import dataclasses
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers import data, experiment, training
from helpers.datasets import cifar10
from helpers.datasets.shapes import make_shapes
from helpers.evaluation import predict
from helpers.experiment import main
from helpers.networks import NETWORKS, ResNet9, build_model
from helpers.recipes import LADDER, RECIPES
from helpers.records import load_model, read_run

ROOT = Path(__file__).resolve().parents[1]
QUICK = "shapes --model resnet9 --epochs 2 --batch-size 32 --device cpu --precision float32".split()


@pytest.fixture
def quick(monkeypatch):
    """Commands train on 64 images of `shapes`."""
    tiny = make_shapes(64, 20, 30)
    real = data.load

    def load(name, root=None):
        return tiny if name in ("auto", "shapes") else real(name, root)

    monkeypatch.setattr(experiment, "load", load)
    return tiny


def fails(capsys, *arguments) -> str:
    """The one line a command that fails prints."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    if isinstance(stop.value.code, str):  # what Python prints to stderr on exit
        message = stop.value.code
    else:
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert stop.value.code == 2
    assert "\n" not in message and "error:" in message
    return message


def test_a_run_and_its_record(quick, tmp_path, capsys, monkeypatch):
    out, measured = tmp_path / "run", []

    def counting(model, dataset, split, **options):
        measured.append(len(split))
        return predict(model, dataset, split, **options)

    monkeypatch.setattr(training, "predict", counting)
    monkeypatch.setattr(experiment, "predict", counting)
    main([*QUICK, "--out", str(out), "--seed", "3", "--test-trace"])
    assert "on the test set after 2 epochs" in capsys.readouterr().out
    # one image to compare outputs with classes; validation and test images after each epoch (the
    # trace) and for the record
    assert measured == [1, 20, 30, 20, 30, 20, 30]
    run = read_run(out)
    metrics, config, environment = run["metrics"], run["config"], run["environment"]
    keys = "model recipe dataset split seed epochs classes parameters test_accuracy train_seconds"
    keys += " compile_seconds device precision"
    assert set(keys.split()) <= set(metrics)
    assert (metrics["model"], metrics["recipe"], metrics["dataset"], metrics["seed"]) == (
        "resnet9",
        "shapes",
        "shapes",
        3,
    )
    assert metrics["parameters"] == sum(p.numel() for p in ResNet9().parameters())
    assert config["device"] == "cpu" and config["precision"] == "float32" and config["epochs"] == 2
    assert {"command", "date", "commit", "torch", "processor"} <= set(environment)
    assert list(run["history"].epoch) == [1, 2] and "test_accuracy" not in run["history"]
    assert run["test_logits"].shape == (30, 10) and run["val_logits"].shape == (20, 10)
    assert torch.equal(run["test_labels"], quick.test.labels) and torch.equal(
        run["val_labels"], quick.val.labels
    )
    accuracy = (run["test_logits"].argmax(1) == run["test_labels"]).double().mean().item()
    assert metrics["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert run["test_trace"].test_accuracy.iloc[-1] == pytest.approx(
        accuracy, abs=1.1 / 30
    )  # float16 may flip a tie
    assert not (out / "checkpoint.pt").exists()

    logits = predict(load_model(out), quick, quick.test)
    torch.testing.assert_close(
        logits, run["test_logits"], rtol=1e-2, atol=1e-2
    )  # weights are kept in float16
    assert {value.dtype for value in load_file(out / "model.safetensors").values()} == {
        torch.float16,
        torch.int64,
    }
    (out / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="keeps no weights"):
        load_model(out)


def test_a_run_without_the_test_set_looks_at_none_of_it(quick, tmp_path, capsys, monkeypatch):
    blind = dataclasses.replace(quick, test=None)
    monkeypatch.setattr(experiment, "load", lambda name, root: blind)
    monkeypatch.setattr(data.Dataset, "to", lambda dataset, device: dataset)
    main([*QUICK, "--out", str(tmp_path / "run"), "--no-test"])
    run = read_run(tmp_path / "run")
    assert "test_accuracy" not in run["metrics"] and "test_logits" not in run
    assert run["metrics"]["val_accuracy"] == pytest.approx(
        run["history"].val_accuracy.iloc[-1], abs=1.1 / 20
    )
    assert "on the validation split after 2 epochs" in capsys.readouterr().out


def test_a_dry_run_plans_measures_and_writes_nothing(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(
        [*QUICK, "--batch-size", "16", "--epochs", "3", "--dry-run", "--out", str(tmp_path / "run")]
    )
    plan = capsys.readouterr().out
    for words in (
        "resnet9 (1,646,112 parameters",
        "95.3 million multiply-adds",
        "64 images of 10 classes",
        "3 epochs of 4 steps",
    ):
        assert words in plan
    per_step, minutes = (
        float(re.search(r"([\d.]+) s per step", plan)[1]),
        float(re.search(r"about ([\d.]+) minutes", plan)[1]),
    )
    validation = 3 * 20 / 16 / 3  # steps' worth: a third of a step per batch
    assert minutes == pytest.approx((12 + validation) * per_step / 60, abs=0.06) and per_step > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "split, minutes", [("train", 13.2), ("train+val", 15.0)]
)  # 12 steps and validation, or 15 steps
def test_a_dry_run_counts_every_step_and_validation(quick, monkeypatch, split, minutes):
    """A step of one minute; batches of 16 from 64 or 84 images; validation of 20: a third of a step
    per batch.
    """
    monkeypatch.setattr(
        experiment, "fit", lambda model, few, config, **_: [{"seconds": 60.0 * len(few.train) / 16}]
    )
    plan = experiment.dry_run(
        dataclasses.replace(
            RECIPES["shapes"], epochs=3, batch_size=16, split=split, precision="float32"
        )
    )
    assert float(re.search(r"about ([\d.]+) minutes", plan)[1]) == pytest.approx(minutes, abs=0.1)


@pytest.mark.parametrize("missing", [None, "empty"])
def test_a_missing_split_is_told_before_training(quick, tmp_path, capsys, monkeypatch, missing):
    nothing = quick.val[:0] if missing else None
    monkeypatch.setattr(experiment, "fit", lambda *_, **__: pytest.fail("it was trained"))
    without = dataclasses.replace(quick, test=nothing)
    monkeypatch.setattr(experiment, "load", lambda name, root: without)
    assert "--no-test" in fails(capsys, *QUICK, "--out", tmp_path / "run")
    without = dataclasses.replace(quick, val=nothing)
    for option in ("--dry-run", "--slim"):
        message = fails(capsys, *QUICK, option, "--out", tmp_path / "run")
        assert "no validation images" in message and "--split train+val" in message
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_one_batch_per_epoch_takes_one_step(quick, monkeypatch):
    monkeypatch.setattr(
        experiment, "fit", lambda model, few, config, **_: [{"seconds": 60.0 * len(few.train) / 64}]
    )
    plan = experiment.dry_run(dataclasses.replace(RECIPES["shapes"], precision="float32"))
    assert "60 s per step" in plan and "mean of 1 steps" in plan


def test_the_recipes_are_named_after_themselves_and_can_be_planned():
    for name, config in RECIPES.items():
        assert config.recipe == name and config.model in NETWORKS
    for name in ("laptop", "colab", "resnet50-gpu", "paper"):  # final: every choice is made
        assert (RECIPES[name].dataset, RECIPES[name].split) == ("cifar10", "train+val")
    assert RECIPES["paper"].epochs * (50_000 // 128) == pytest.approx(64_000, rel=0.002)


def test_options_reach_the_network_before_it_is_trained(quick):
    plain, zero, whitened = (
        experiment.prepare(
            training.TrainConfig(
                model="resnet9", dataset="shapes", device="cpu", precision="float32", **options
            )
        )[2]
        for options in ({}, {"zero_gamma": True}, {"whiten": True})
    )
    assert plain.layer1[-1].bn2.weight.min() == 1 and not zero.layer1[-1].bn2.weight.any()
    x = quick.normalize(quick.train.images)
    answers = whitened.conv1(x).transpose(0, 1).flatten(1)
    correlation = torch.corrcoef(answers[: answers.shape[0] // 2])
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.2
    assert not whitened.conv1.weight.requires_grad and plain.conv1.weight.requires_grad


def test_the_seed_decides_the_initial_weights(quick, tmp_path, monkeypatch):
    started = []

    def stop(model, *arguments, **options):
        started.append(model.conv1.weight.clone())
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "fit", stop)
    for number, seed in enumerate(["3", "3", "4"]):
        with pytest.raises(SystemExit):
            main([*QUICK, "--seed", seed, "--out", str(tmp_path / str(number))])
    assert torch.equal(started[0], started[1]) and not torch.equal(started[0], started[2])


def test_an_interrupted_command_goes_on_and_ends_with_the_same_record(
    quick, tmp_path, monkeypatch, capsys
):
    main([*QUICK, "--out", str(tmp_path / "undisturbed")])
    original = experiment.fit

    def interrupted(*arguments, **options):
        def stop(model, row):
            if row["epoch"] == 2:
                raise KeyboardInterrupt

        return original(*arguments, **{**options, "on_epoch": stop})

    monkeypatch.setattr(experiment, "fit", interrupted)
    with pytest.raises(SystemExit, match="goes on"):
        main([*QUICK, "--out", str(tmp_path / "stopped")])
    assert not (tmp_path / "stopped" / "metrics.json").exists()
    monkeypatch.setattr(experiment, "fit", original)
    main([*QUICK, "--out", str(tmp_path / "stopped")])
    one, other = read_run(tmp_path / "undisturbed"), read_run(tmp_path / "stopped")
    assert torch.equal(one["test_logits"], other["test_logits"])
    assert one["history"].drop(columns="seconds").equals(other["history"].drop(columns="seconds"))


def test_what_a_kill_during_the_first_save_leaves_is_no_obstacle(quick, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "checkpoint.pt.part").write_bytes(b"half")
    main([*QUICK, "--out", str(out)])
    assert read_run(out)["metrics"]["epochs"] == 2 and not [*out.glob("checkpoint*")]


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    quick, tmp_path, capsys, monkeypatch
):
    out, save, saved = tmp_path / "run", torch.save, []

    def full_at_the_second(state, file):
        saved.append(file)
        if len(saved) == 2:
            file.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full_at_the_second)
    assert "No space left on device" in fails(capsys, *QUICK, "--out", out)
    assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]
    assert len(torch.load(out / "checkpoint.pt", weights_only=True)["history"]) == 1
    main([*QUICK, "--out", str(out)])
    assert [row.epoch for row in read_run(out)["history"].itertuples()] == [1, 2]


def test_a_disk_full_while_the_record_is_written_keeps_the_checkpoint(
    quick, tmp_path, capsys, monkeypatch
):
    out, write = tmp_path / "run", Path.write_bytes

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "No space left on device" in fails(capsys, *QUICK, "--out", out)
    assert (out / "checkpoint.pt").exists() and not (out / "metrics.json").exists()
    monkeypatch.setattr(Path, "write_bytes", write)
    main([*QUICK, "--out", str(out)])
    assert read_run(out)["metrics"]["epochs"] == 2


def test_epochs_that_were_not_traced_leave_no_row(quick, tmp_path, monkeypatch):
    """A run traced in its first part only, and resumed without."""
    folder, save = str(tmp_path / "run"), training.save_checkpoint

    def stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", stop)
    with pytest.raises(SystemExit):
        main([*QUICK, "--test-trace", "--out", folder])
    monkeypatch.setattr(training, "save_checkpoint", save)
    main([*QUICK, "--out", folder])
    assert list(read_run(tmp_path / "run")["test_trace"].epoch) == [1]


def test_a_slim_record_keeps_classes_and_counts_the_same(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["notebook", "-f", "kernel.json"])
    for out, options in (("full", []), ("slim", ["--slim"])):
        main([*QUICK, *options, "--out", str(tmp_path / out)])
    full, slim = read_run(tmp_path / "full"), read_run(tmp_path / "slim")
    assert {path.name for path in (tmp_path / "slim").iterdir()} == {
        *("config.json", "environment.json", "history.csv", "metrics.json"),
        *("test_predictions.npz", "val_predictions.npz"),
    }
    for part in ("test", "val"):
        assert torch.equal(slim[f"{part}_predictions"], full[f"{part}_logits"].argmax(1))
        assert (
            torch.equal(slim[f"{part}_labels"], full[f"{part}_labels"])
            and f"{part}_logits" not in slim
        )
        assert slim["metrics"][f"{part}_loss"] == full["metrics"][f"{part}_loss"]
        assert slim["metrics"][f"{part}_accuracy"] == full["metrics"][f"{part}_accuracy"]
    assert slim["environment"]["command"].startswith(
        "python -m helpers.experiment shapes --model resnet9"
    )
    with pytest.raises(FileNotFoundError, match="keeps no weights"):
        load_model(tmp_path / "slim")


def test_a_run_keeps_everything_and_traces_nothing_unless_told(quick, tmp_path):
    config = dataclasses.replace(
        RECIPES["shapes"],
        model="resnet9",
        epochs=1,
        batch_size=32,
        device="cpu",
        precision="float32",
    )
    experiment.run(config, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"test_logits.npz", "model.safetensors"} <= names and "test_trace.csv" not in names


def test_the_ladder_climbs_from_the_first_notebook():
    """Each rung changes what LADDER says and nothing else; the last one differs from the laptop
    recipe as lesson 07 says.
    """
    for step, (_, changes) in enumerate(LADDER, start=1):
        below, rung = (dataclasses.asdict(RECIPES[f"ladder-{step - k}"]) for k in (1, 0))
        assert {name for name in rung if rung[name] != below[name]} == {"recipe", *changes}
    top, laptop = (
        dataclasses.asdict(RECIPES[f"ladder-{len(LADDER)}"]),
        dataclasses.asdict(RECIPES["laptop"]),
    )
    apart = {"recipe", "split", "epochs", "cutout", "precision", "ema", "mixing"}
    assert {name for name in top if top[name] != laptop[name]} == apart
    assert sum(p.numel() for p in build_model("resnet50-half").parameters()) == 5_902_890


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([*QUICK, "--no-test", "--test-trace"], "--split train, no trace"),
        ([*QUICK, "--no-test", "--split", "train+val"], "--split train, no trace"),
        (["resnet50-96"], "invalid choice: 'resnet50-96'"),
        (["shapes", "--model", "resnet19"], "unknown network 'resnet19': choose one of resnet9"),
        (["--dataset", "mnist"], "unknown data set 'mnist': choose"),
        (["shapes", "--device", "tpu9"], "device 'tpu9' cannot be used here"),
        (["shapes", "--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
        (["shapes", "--epochs", "-3"], "epochs must be positive, got -3"),
        (["shapes", "--epochs", "many"], "invalid int value"),
        (["shapes", "--batch-size", "100000"], "batch size 100000 does not fit"),
        (["shapes", "--model", "plain20", "--zero-gamma"], "zero_gamma needs shortcuts"),
        (["shapes", "--model", "resnet20-no-bn", "--zero-gamma"], "none without BatchNorm"),
        (
            ["shapes", "--lr", "1e30", "--warmup", "0", "--epochs", "1", "--model", "resnet9"],
            "loss became",
        ),
        (["shapes", "--colour", "blue"], "unrecognized arguments"),
    ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(quick, tmp_path, capsys, arguments, words):
    out = tmp_path / "run"
    assert words in fails(capsys, *arguments, "--out", out)
    assert not out.exists() or not list(out.iterdir())


def test_a_wrong_network_shows_before_anything_is_fetched(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "load", lambda name, root: pytest.fail("the data were loaded"))
    assert "unknown network" in fails(capsys, *QUICK, "--model", "lenet", "--out", tmp_path / "run")
    with pytest.raises(TypeError):  # no option is to blame
        build_model("resnet20", num_classes="ten")


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only"])
def test_a_folder_that_cannot_be_written_shows_before_training(
    quick, tmp_path, capsys, monkeypatch, kind
):
    (tmp_path / "file").write_text("mine")
    out = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "run",
        "read-only": tmp_path / "run",
    }[kind]
    monkeypatch.setattr(experiment, "fit", lambda *_, **__: pytest.fail("it began to train"))
    if kind == "read-only":  # root, as whom tests may run, can write anywhere

        def refuse(dir):
            raise PermissionError(errno.EACCES, "Permission denied", str(dir))

        monkeypatch.setattr(experiment.tempfile, "TemporaryFile", refuse)
    assert f"nothing can be written into {out}" in fails(capsys, *QUICK, "--out", out)
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_and_damaged_data_get_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    assert "data_batch_1 is missing" in fails(capsys, "laptop", "--out", tmp_path / "run")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for path in cifar10.missing(cifar10.CIFAR10, tmp_path):
        path.write_bytes(b"half a file")
    assert "is damaged" in fails(capsys, "laptop", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_is_overwritten(quick, tmp_path, capsys):
    out = tmp_path / "run"
    main([*QUICK, "--out", str(out)])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "is not empty" in fails(capsys, *QUICK, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("mine")
    assert "is not empty" in fails(capsys, *QUICK, "--out", tmp_path / "other")


def test_a_checkpoint_of_another_network_is_refused(quick, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(
        experiment, "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(SystemExit):
        main([*QUICK, "--out", str(out)])
    before = (out / "checkpoint.pt").read_bytes()
    assert "belongs to another run (model 'resnet9' there, 'resnet20' here" in fails(
        capsys, *QUICK, "--model", "resnet20", "--out", out
    )
    assert (out / "checkpoint.pt").read_bytes() == before


def test_the_shell_sees_one_line_and_a_code(tmp_path):
    """Once as a real process: no traceback, exit status not 0."""
    command = [
        sys.executable,
        "-m",
        "helpers.experiment",
        "shapes",
        "--model",
        "lenet",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )
    assert done.returncode == 1 and done.stderr.startswith("error: unknown network 'lenet'")
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = re.sub(r"-\n +", "-", capsys.readouterr().out)  # argparse breaks lines at hyphens
    for word in (
        "--model",
        "--epochs",
        "--batch-size",
        "--seed",
        "--device",
        "--dataset",
        "--out",
        *RECIPES,
        "resnet110",
    ):
        assert word in text
    assert "rises linearly from 0" in " ".join(text.split())  # and says what each is
    assert "--record" in text and "--root" in text


def test_own_runs_go_to_runs_and_records_to_results(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(experiment, "RESULTS", tmp_path / "results")
    main([*QUICK, "--epochs", "1"])
    name = "shapes-resnet9-shapes-train-seed0"
    assert (tmp_path / "runs" / name / "metrics.json").is_file()
    assert not (tmp_path / "results").exists()
    main([*QUICK, "--epochs", "1", "--record"])
    assert (tmp_path / "results" / name / "metrics.json").is_file()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/runs/" in ignored and "results/" not in ignored


def test_too_little_memory_is_one_line(quick, tmp_path, capsys, monkeypatch):
    def forward(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(training, "train_one_epoch", forward)
    assert "half the --batch-size" in fails(capsys, *QUICK, "--out", tmp_path / "run")


def test_the_arithmetic_is_that_of_the_images_at_hand(quick):
    """At twice the side, four times the multiply-adds in every convolution."""
    config = dataclasses.replace(RECIPES["shapes"], model="resnet18", batch_size=10)

    def millions(size):
        images = torch.zeros(20, 3, size, size, dtype=torch.uint8)
        split = data.Split(images, torch.arange(20) % 10)
        large = dataclasses.replace(quick, train=split, val=split, test=split)
        plan = experiment.describe(config, large, build_model("resnet18"))
        return float(re.search(r"([\d,.]+) million", plan)[1].replace(",", ""))

    assert millions(64) == pytest.approx(4 * millions(32), rel=1e-3)
