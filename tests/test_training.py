"""helpers.training against closed forms, an independent loop, and interruption."""

import copy
import dataclasses
import errno
import math
import os
import pickle
import platform
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_gpu
from torch import nn
from torch.amp import GradScaler

from helpers import training
from helpers.experiment import LADDER, RECIPES
from helpers.resnet import resnet20
from helpers.training import TrainConfig, epoch_batches, fit, lr_factor, set_seed, train_one_epoch

CONFIG = TrainConfig(model="resnet20", dataset="shapes", epochs=2, batch_size=64, lr=0.1, device="cpu", precision="float32")


def small_net() -> nn.Module:
    set_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    )


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- the schedule


def test_warmup_rises_linearly_and_ends_below_its_peak():
    factors = [lr_factor(step, 100, warmup=0.2) for step in range(100)]
    assert factors[:20] == pytest.approx([(step + 1) / 21 for step in range(20)])
    assert factors[20] == max(factors) == 1.0


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
def test_cosine_and_linear_follow_their_formulas_and_end(warmup):
    total, start = 200, round(warmup * 200)
    for step in range(start, total):
        t = (step - start) / (total - start)
        assert lr_factor(step, total, warmup, "cosine") == pytest.approx(math.cos(math.pi * t / 2) ** 2)
        assert lr_factor(step, total, warmup, "linear") == pytest.approx(1 - t)
    assert 0 < lr_factor(total - 1, total, warmup, "cosine") < 1e-3


def test_steps_are_the_papers():
    """Section 4.2: divided by 10 at 32k and 48k iterations, ended at 64k."""
    factors = [lr_factor(step, 64_000, 0.0, "steps") for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_constant_rate_stays_after_the_warm_up():
    assert [lr_factor(step, 10, 0.2, "constant") for step in range(10)] == pytest.approx([1 / 3, 2 / 3] + 8 * [1.0])


def test_a_warm_up_may_fill_the_whole_run(shapes):
    """PyTorch's scheduler asks for one step more than a run has."""
    assert [lr_factor(step, 2, warmup=0.9) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=320, warmup=0.9)
    assert fit(small_net(), shapes, config, progress=False)[0]["lr"] == pytest.approx(CONFIG.lr / 2)


def test_fit_walks_the_whole_schedule(shapes):
    history = fit(small_net(), shapes, dataclasses.replace(CONFIG, epochs=4), progress=False)
    steps = 320 // 64
    expected = [0.1 * lr_factor(epoch * steps, 4 * steps, CONFIG.warmup, "cosine") for epoch in range(4)]
    assert [row["lr"] for row in history] == pytest.approx(expected)


# --- one epoch


def test_train_one_epoch_equals_an_independent_loop():
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(size, 3, 12, 12, generator=generator), torch.randint(0, 10, (size,), generator=generator))
        for size in (16, 16, 5)
    ]
    ours, reference = small_net(), small_net()
    optimizer = torch.optim.SGD(ours.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    ours.eval()  # it has to switch to train mode by itself
    loss, accuracy = train_one_epoch(
        ours, batches, nn.CrossEntropyLoss(label_smoothing=0.1), optimizer, scheduler, nullcontext(), GradScaler(enabled=False)
    )

    velocities = [torch.zeros_like(p) for p in reference.parameters()]
    losses, hits = [], 0
    reference.train()
    for step, (images, labels) in enumerate(batches):
        logits = reference(images)
        target = F.one_hot(labels, 10) * 0.9 + 0.01
        each = -(target * logits.log_softmax(1)).sum(1)
        losses += each.tolist()
        hits += int((logits.argmax(1) == labels).sum())
        gradients = torch.autograd.grad(each.mean(), list(reference.parameters()))
        with torch.no_grad():
            for p, v, g in zip(reference.parameters(), velocities, gradients):
                v.mul_(0.9).add_(g)
                p.sub_(0.1 / (1 + step) * v)
    assert loss == pytest.approx(sum(losses) / 37, rel=1e-5)  # by sample: the batch of 5 counts 5/37, not 1/3
    assert accuracy == pytest.approx(hits / 37)
    for a, b in zip(ours.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_weight_decay_spares_norms_and_biases():
    model = resnet20()
    decayed, spared = training.make_optimizer(model, CONFIG).param_groups
    kinds = {id(p): type(m) for m in model.modules() for p in m.parameters(recurse=False)}
    assert {kinds[id(p)] for p in decayed["params"]} == {nn.Conv2d, nn.Linear}
    assert len(decayed["params"]) == 22 - 2 and decayed["weight_decay"] == CONFIG.weight_decay
    assert spared["weight_decay"] == 0
    assert {id(p) for p in spared["params"]} == {id(p) for p in model.parameters() if p.ndim == 1}


def test_the_random_streams_are_those_of_the_recorded_runs(shapes, monkeypatch):
    """Another stream would be as good, but the recorded commands would no longer repeat their runs."""
    config, seeds = dataclasses.replace(CONFIG, seed=3), []
    for epoch in range(2):
        assert epoch_batches(shapes, config, epoch).generator.initial_seed() == 300_000 + epoch
    monkeypatch.setattr(training, "set_seed", seeds.append)
    fit(small_net(), shapes, config, progress=False)
    assert seeds[-2:] == [300_000, 300_001]


def test_the_optimizer_follows_the_settings():
    for momentum in (0.9, 0.0):
        config = dataclasses.replace(CONFIG, lr=0.07, momentum=momentum)
        for group in training.make_optimizer(resnet20(), config).param_groups:
            assert (group["lr"], group["momentum"], group["nesterov"]) == (0.07, momentum, momentum > 0)


def test_a_first_step_that_the_scaler_skips_leaves_no_momentum():
    """float16's first gradients often overflow: the step is skipped, and the next one must start from a velocity of 0."""
    try:
        torch.use_deterministic_algorithms(True)  # fills memory that nobody has written to with NaN
        model = nn.Linear(4, 2)
        optimizer = training.make_optimizer(model, CONFIG)
        scaler = GradScaler("cpu")
        for factor in (math.inf, 1.0):
            optimizer.zero_grad()
            before = model.weight.detach().clone()
            scaler.scale(model(torch.ones(3, 4)).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(before, model.weight) == (factor == math.inf)
    finally:
        torch.use_deterministic_algorithms(False)
    velocity = 3 + CONFIG.weight_decay * before
    torch.testing.assert_close(optimizer.state[model.weight]["momentum_buffer"], velocity)
    torch.testing.assert_close(model.weight.detach(), before - CONFIG.lr * (velocity + CONFIG.momentum * velocity))


@pytest.mark.skipif(platform.libc_ver() < ("glibc", "2.35"), reason="only glibc from 2.35 can be told to keep freed memory")
def test_fit_lets_the_system_clear_no_memory_for_a_step_like_the_last():
    """The pages that the system had to hand out, as it counts them, in a second fit like the first, in a process of its own.

    The largest blocks here have 42 MB; of blocks below 32 MB glibc learns by itself, sometimes, to keep them.
    """
    program = """
import dataclasses, resource
from helpers import training
from helpers.data import load
from helpers.resnet import resnet20
if {without}:
    training.keep_freed_memory = lambda: None
data, faults = load("shapes"), []
few = dataclasses.replace(data, train=data.train[:640], val=data.val[:10])
config = training.TrainConfig(dataset="shapes", epochs=1, batch_size=640, lr=0.1, device="cpu", precision="float32")
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    training.fit(resnet20(), few, config, progress=False)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[1])
"""

    def pages(without: bool) -> int:
        command = [sys.executable, "-c", program.format(without=without)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    kept, returned = pages(without=False), pages(without=True)
    assert kept < returned / 2, f"{kept} pages with keep_freed_memory, {returned} without"


def test_adam_takes_the_steps_of_its_paper():
    """Kingma and Ba's algorithm 1, by hand, on one weight; weight decay on weights only, as for SGD."""
    model = nn.Linear(1, 1).double()
    optimizer = training.make_optimizer(model, dataclasses.replace(CONFIG, optimizer="adam", lr=0.01, weight_decay=0.0))
    weight, m, v = model.weight.item(), 0.0, 0.0
    for t, gradient in enumerate((0.5, -2.0, 0.1), start=1):
        model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        weight -= 0.01 * m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert model.weight.item() == pytest.approx(weight, abs=1e-12)
    decays = [
        group["weight_decay"]
        for group in training.make_optimizer(model, dataclasses.replace(CONFIG, optimizer="adam")).param_groups
    ]
    assert decays == [CONFIG.weight_decay, 0.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_smoothed_cross_entropy(shapes, smoothing):
    """One batch of all pictures and no step to speak of: the loss of the history is that of the untrained network."""
    config = dataclasses.replace(
        CONFIG, epochs=1, batch_size=320, lr=1e-12, warmup=0.0, crop=0, flip="none", label_smoothing=smoothing
    )
    log_p = small_net().train()(shapes.normalize(shapes.train.images)).log_softmax(1)
    target = F.one_hot(shapes.train.labels, 10) * (1 - smoothing) + smoothing / 10
    row = fit(small_net(), shapes, config, progress=False)[0]
    assert row["train_loss"] == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-4)


# --- batches of an epoch


def test_an_epoch_is_a_function_of_seed_and_number(shapes):
    def first(config, epoch):
        images, labels = next(iter(epoch_batches(shapes, config, epoch)))
        return images.sum().item(), labels.tolist()

    assert first(CONFIG, 3) == first(CONFIG, 3)
    others = [first(CONFIG, 4), first(dataclasses.replace(CONFIG, seed=1), 3)]
    assert all(first(CONFIG, 3) != other for other in others)


@pytest.mark.parametrize("split, size", [("train", 320), ("train+val", 420)])
def test_only_the_chosen_split_is_learned_from(shapes, split, size):
    data = epoch_batches(shapes, dataclasses.replace(CONFIG, split=split), 0).data
    assert len(data) == size
    allowed = {image.numpy().tobytes() for image in shapes.train.images}
    if split == "train+val":
        allowed |= {image.numpy().tobytes() for image in shapes.val.images}
    assert {image.numpy().tobytes() for image in data.images} == allowed


def test_augmentation_follows_the_settings(shapes):
    plain = dataclasses.replace(CONFIG, crop=0, flip="none", cutout=0, batch_size=320)
    images, labels = next(iter(epoch_batches(shapes, plain, 0)))
    clean = shapes.normalize(shapes.train.images)
    order = [int((clean == image).flatten(1).all(1).nonzero()[0]) for image in images[:40]]
    assert shapes.train.labels[order].tolist() == labels[:40].tolist()
    for change in ({"crop": 4}, {"flip": "random"}, {"cutout": 8}):
        changed, _ = next(iter(epoch_batches(shapes, dataclasses.replace(plain, **change), 0)))
        same = (changed.flatten(1).sort(1).values == images.flatten(1).sort(1).values).all(1).double().mean()
        assert not torch.equal(changed, images) and (same < 0.2 or change == {"flip": "random"})


def test_mixing_follows_the_settings_and_ends(shapes):
    config = dataclasses.replace(CONFIG, epochs=10, mixing=1.0)
    for epoch in range(10):
        torch.manual_seed(epoch)
        for images, labels in epoch_batches(shapes, config, epoch):
            assert images.is_contiguous(memory_format=torch.channels_last)
            if epoch == 9:  # the last tenth shows pictures as they are
                assert labels.ndim == 1
            else:
                assert labels.shape == (64, 10) and labels.sum(1).allclose(torch.ones(64))
                assert (labels > 0).sum(1).max() == 2  # two pictures each
    halves = [labels.ndim for e in range(8) for _, labels in epoch_batches(shapes, dataclasses.replace(config, mixing=0.5), e)]
    assert 10 < halves.count(2) < 30  # of 40 batches


def test_accuracy_on_mixed_pictures_counts_the_larger_part():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(4))
    labels = torch.tensor([[0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0], [0, 0, 0.1, 0.9]])
    images = torch.eye(4)[[0, 1, 3]].view(3, 1, 2, 2)  # the network answers 0, 1, 3
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    batches = [(images, labels)]
    _, accuracy = train_one_epoch(
        model, batches, F.cross_entropy, optimizer, scheduler, nullcontext(), GradScaler(enabled=False)
    )
    assert accuracy == pytest.approx(2 / 3)


def test_the_host_asks_for_numbers_every_50_steps(monkeypatch):
    asked, item = [], torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: asked.append(1) or item(tensor))
    model, reports = small_net(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    batches = [(torch.randn(4, 3, 12, 12), torch.zeros(4, dtype=torch.int64))] * 150
    train_one_epoch(
        model,
        batches,
        F.cross_entropy,
        optimizer,
        scheduler,
        nullcontext(),
        GradScaler(enabled=False),
        lambda *r: reports.append(r),
    )
    assert len(reports) == 3 and len(asked) == 3 * 2 + 2  # loss and accuracy at steps 50, 100 and 150, and at the end


# --- fit


def test_the_average_is_exponential_includes_batchnorm_and_is_what_counts(shapes):
    """Against the formula: it starts as the weights after step 1; then average ← decay · average + (1 - decay) · weights."""
    config, seen = dataclasses.replace(CONFIG, epochs=2, ema=0.7), []
    averaged = small_net()
    history = fit(averaged, shapes, config, on_epoch=lambda model, row: seen.append(model.state_dict()), progress=False)

    model, steps = small_net(), []
    original = training.make_average
    training.make_average = lambda model, decay, optimizer: (
        optimizer.register_step_post_hook(
            lambda *_: steps.append({k: v.clone().double() for k, v in model.state_dict().items()})
        )
        and None
    )
    try:
        plain = fit(model, shapes, config, progress=False)
    finally:
        training.make_average = original
    assert len(steps) == 10 and [row["train_loss"] for row in plain] == [row["train_loss"] for row in history]
    expected = steps[0]
    for step in steps[1:]:
        expected = {name: 0.7 * value + 0.3 * step[name] for name, value in expected.items()}
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
            assert torch.equal(value, seen[-1][name])
    assert history[-1]["val_loss"] != plain[-1]["val_loss"]  # validation, too, is of the average
    assert not torch.allclose(averaged.state_dict()["1.running_mean"], model.state_dict()["1.running_mean"])


def test_where_compiling_fails_the_run_goes_on_without(shapes, monkeypatch):
    def broken(model):
        def call(*arguments):
            raise RuntimeError("no C++ compiler here\nand many more lines")

        return call

    config = dataclasses.replace(CONFIG, epochs=2)
    eager, compiled = small_net(), small_net()
    fit(eager, shapes, config, progress=False)
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"torch.compile failed \(no C\+\+ compiler here\)"):
        history = fit(compiled, shapes, dataclasses.replace(config, compile=True), progress=False)
    assert equal(eager, compiled)
    assert history[0]["compile_seconds"] > 0 == history[1]["compile_seconds"]


def test_compiling_leaves_no_trace_in_weights_or_statistics(shapes, monkeypatch):
    used = []

    def traced(model):
        def call(images):
            used.append(len(images))
            return model(images)

        return call

    model = small_net().train()
    monkeypatch.setattr(torch, "compile", traced)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    training.compile_model(model, shapes.normalize(shapes.train.images[:64]), nullcontext())
    assert used == [64] and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.long
@pytest.mark.filterwarnings("error:torch.compile failed")
def test_a_compiled_network_learns_the_same(shapes):
    config = dataclasses.replace(CONFIG, epochs=1)
    eager, compiled = small_net(), small_net()
    one = fit(eager, shapes, config, progress=False)[0]
    other = fit(compiled, shapes, dataclasses.replace(config, compile=True), progress=False)[0]
    assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3) and other["compile_seconds"] > 1


def test_a_run_repeats_bit_for_bit_and_the_seed_matters(shapes):
    shapes = dataclasses.replace(shapes, train=shapes.train[:128])

    def run(seed):
        set_seed(seed)
        model = resnet20()
        history = fit(model, shapes, dataclasses.replace(CONFIG, epochs=1, seed=seed), progress=False)
        return model, [{k: v for k, v in row.items() if k != "seconds"} for row in history]

    (one, first), (same, again), (other, _) = run(0), run(0), run(1)
    assert equal(one, same) and first == again
    assert not equal(one, other)


CLIMBED = [f"ladder-{step}" for step in range(1, len(LADDER) + 1)]  # mixtures of ladder-0, laptop and resnet50-97
LONG_RUN = {"epochs": 3, "batch_size": 32, "dataset": "shapes", "split": "train", "device": "cpu", "precision": "float32"}


@pytest.mark.parametrize("config", [
    *(dataclasses.replace(r, model="resnet20", **LONG_RUN) for r in RECIPES.values() if r.recipe not in CLIMBED),
    dataclasses.replace(RECIPES["resnet50-97"], **LONG_RUN | {"precision": "float16"}),
    dataclasses.replace(CONFIG, **LONG_RUN | {"precision": "bfloat16"}),
], ids=lambda config: f"{config.recipe} {config.precision}")  # fmt: skip
def test_a_resumed_run_ends_with_the_same_bits(shapes, tmp_path, config):
    """Every recipe: its augmentation, mixing, schedule, average of weights; float16 with the scaler's state."""
    make = small_net if config.precision == "float16" else resnet20  # float16 is slow on a CPU
    shapes = dataclasses.replace(shapes, train=shapes.train[:96], val=shapes.val[:10])

    def run(checkpoint=None, on_epoch=None):
        set_seed(config.seed)
        model = make()
        return model, fit(model, shapes, config, checkpoint, on_epoch, progress=False)

    def stop(model, row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    undisturbed, history = run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "checkpoint.pt", stop)
    resumed, resumed_history = run(str(tmp_path / "checkpoint.pt"))
    assert equal(undisturbed, resumed)
    assert [row["train_loss"] for row in history] == [row["train_loss"] for row in resumed_history]


def test_float16_trains_with_a_scaler(shapes, tmp_path):
    model = small_net()
    config = dataclasses.replace(CONFIG, precision="float16", epochs=3)
    history = fit(model, shapes, config, tmp_path / "checkpoint.pt", progress=False)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["scaler"]["scale"] > 1
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


def test_validation_is_measured_only_where_it_is_not_trained_on(shapes):
    row = fit(small_net(), shapes, dataclasses.replace(CONFIG, epochs=1), progress=False)[0]
    assert {"val_loss", "val_accuracy", "train_loss", "train_accuracy", "lr", "seconds", "epoch"} == set(row)
    row = fit(small_net(), shapes, dataclasses.replace(CONFIG, epochs=1, split="train+val"), progress=False)[0]
    assert "val_accuracy" not in row


@pytest.mark.parametrize("device, precision", [
    ("cpu", "float32"),
    *(pytest.param("cuda", precision, marks=needs_gpu) for precision in ("float32", "bfloat16", "float16")),
])  # fmt: skip
def test_it_learns(shapes, device, precision):
    config = dataclasses.replace(CONFIG, epochs=8, lr=0.05, label_smoothing=0.0, device=device, precision=precision)
    history = fit(small_net(), shapes, config, progress=False)
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"] and history[-1]["val_accuracy"] > 0.2


def test_divergence_is_named(shapes):
    with pytest.raises(FloatingPointError, match=r"train_loss became nan in epoch 1, step [2-5] .*lower --lr"):
        fit(small_net(), shapes, dataclasses.replace(CONFIG, lr=1e30, warmup=0.0), progress=False)


# --- checkpoints


def test_a_checkpoint_of_another_run_is_refused_and_kept(shapes, tmp_path):
    path = tmp_path / "checkpoint.pt"
    fit(small_net(), shapes, CONFIG, path, progress=False)
    before = path.read_bytes()
    for change in ({"model": "resnet56"}, {"seed": 3}, {"epochs": 9}):
        with pytest.raises(ValueError, match=f"another run.*{next(iter(change))}"):
            fit(small_net(), shapes, dataclasses.replace(CONFIG, **change), path, progress=False)
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_named(shapes, tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="checkpoint.pt is no readable checkpoint"):
        fit(small_net(), shapes, CONFIG, path, progress=False)
    assert path.read_bytes() == b"no checkpoint"


def test_a_file_of_something_else_is_named(shapes, tmp_path):
    torch.save({"weights": torch.ones(1)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="checkpoint.pt is no readable checkpoint"):
        fit(small_net(), shapes, CONFIG, tmp_path / "checkpoint.pt", progress=False)


def test_a_failed_save_leaves_the_old_checkpoint(shapes, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    fit(small_net(), shapes, CONFIG, path, progress=False)
    assert sorted(tmp_path.iterdir()) == [path, training.previous(path)]  # the last two, and nothing temporary
    before = path.read_bytes()

    def full_disk(state, file):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="checkpoint.pt could not be written .*No space left on device.*The last one is kept"):
        training.save_checkpoint(path, {}, CONFIG, [])
    assert path.read_bytes() == before and sorted(tmp_path.iterdir()) == [path, training.previous(path)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_is_really_full(shapes, tmp_path):
    path = tmp_path / "checkpoint.pt"
    fit(small_net(), shapes, CONFIG, path, progress=False)
    before = path.read_bytes()
    path.with_name("checkpoint.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="checkpoint.pt could not be written .*is the disk full") as stop:
        training.save_checkpoint(path, {"model": small_net()}, CONFIG, [])
    assert "\n" not in str(stop.value)
    assert path.read_bytes() == before and sorted(tmp_path.iterdir()) == [path, training.previous(path)]


def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(shapes, tmp_path):
    config, path = dataclasses.replace(CONFIG, epochs=3), tmp_path / "checkpoint.pt"
    undisturbed = small_net()
    history = fit(undisturbed, shapes, config, path, progress=False)
    whole = path.read_bytes()
    saved = [len(torch.load(file, weights_only=True)["history"]) for file in (path, training.previous(path))]
    assert saved == [3, 2]
    for damaged in (whole[: len(whole) // 2], b"", whole[:5000] + bytes(4000) + whole[9000:]):
        path.write_bytes(damaged)
        model = small_net()
        with pytest.warns(UserWarning, match=r"checkpoint.pt is no readable checkpoint .*going on from the one before it"):
            again = fit(model, shapes, config, path, progress=False)
        assert equal(model, undisturbed) and [row["train_loss"] for row in again] == [row["train_loss"] for row in history]
        saved = [len(torch.load(file, weights_only=True)["history"]) for file in (path, training.previous(path))]
        assert saved == [3, 2]  # the good one was not overwritten by the damaged one
    path.unlink()  # as if killed between two renames
    model = small_net()
    fit(model, shapes, config, path, progress=False)
    assert equal(model, undisturbed)
    for file in (path, training.previous(path)):
        file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="checkpoint.pt.previous is no readable checkpoint"):
        fit(small_net(), shapes, config, path, progress=False)
    training.remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


class Evil:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


@pytest.mark.parametrize(
    "kind", ["list", "number", "empty", "pickle", "evil", "evil in a state", "no history", "other shapes", "text"]
)
def test_a_bad_checkpoint_is_one_line_and_nothing_in_it_is_run(shapes, tmp_path, kind):
    path, evil = tmp_path / "checkpoint.pt", tmp_path / "evil"
    fit(small_net(), shapes, CONFIG, path, progress=False)
    good = torch.load(path, weights_only=True)
    training.remove_checkpoint(path)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil(evil)))
    elif kind == "text":
        path.write_text("my notes")
    else:
        torch.save(
            {
                "list": [1, 2],
                "number": 7,
                "empty": {},
                "evil": Evil(evil),
                "evil in a state": good | {"optimizer": Evil(evil)},
                "no history": {k: v for k, v in good.items() if k != "history"},
                "other shapes": good | {"model": resnet20().state_dict()},
            }[kind],
            path,
        )
    before = path.read_bytes()
    words = "does not fit this network" if kind == "other shapes" else r"is no readable checkpoint \("
    with pytest.raises(ValueError, match=f"checkpoint.pt {words}.*delete it to start anew") as stop:
        fit(small_net(), shapes, CONFIG, path, progress=False)
    assert "\n" not in str(stop.value) and not evil.exists() and path.read_bytes() == before


def test_a_folder_is_no_checkpoint_and_nobody_is_told_to_delete_it(shapes, tmp_path):
    with pytest.raises(ValueError, match="is no readable checkpoint .*: name another path"):
        fit(small_net(), shapes, CONFIG, tmp_path, progress=False)


def test_validation_without_pictures_is_refused_before_training(shapes):
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="no validation pictures .* choose split='train.val'"):
        fit(model, dataclasses.replace(shapes, val=shapes.val[:0]), CONFIG, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# --- Ctrl-C, and memory


def ctrl_c(monkeypatch, steps: set[int]) -> list[int]:
    """Sends this process SIGINT during these steps, counted over everything that follows; returns where they are counted."""
    make, seen = training.make_criterion, []

    def make_criterion(smoothing):
        criterion, losses = make(smoothing)

        def counting(logits, labels):
            seen.append(len(seen))
            if seen[-1] in steps:
                signal.raise_signal(signal.SIGINT)
            return criterion(logits, labels)

        return counting, losses

    monkeypatch.setattr(training, "make_criterion", make_criterion)
    return seen


@pytest.fixture
def default_sigint():
    """As in a terminal: a shell without job control lets its background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


INTERRUPTED = [dataclasses.replace(RECIPES[recipe], model="resnet20", **LONG_RUN) for recipe in ("laptop", "resnet50-97")]
INTERRUPTED += [dataclasses.replace(CONFIG, **LONG_RUN | {"precision": "float16"})]


@pytest.mark.usefixtures("default_sigint")
@pytest.mark.parametrize("config", INTERRUPTED, ids=lambda config: f"{config.recipe} {config.precision}")
def test_ctrl_c_saves_after_the_step_and_the_run_ends_with_the_same_bits(shapes, tmp_path, monkeypatch, config):
    """In the middle of an epoch, in its first and last step, twice in one epoch; 5 steps an epoch."""
    shapes = dataclasses.replace(shapes, train=shapes.train[:160], val=shapes.val[:10])
    if config.split == "train+val":
        shapes = dataclasses.replace(shapes, train=shapes.train[:150])
    path = tmp_path / "checkpoint.pt"

    def run(checkpoint=None):
        model = small_net()
        return model, fit(model, shapes, config, checkpoint, progress=False)

    undisturbed, history = run()
    seen = ctrl_c(monkeypatch, {0, 2, 4, 7})
    for done in (1, 3, 5, 8):
        with pytest.raises(KeyboardInterrupt):
            run(path)
        assert len(seen) == done  # the step in progress was finished, and no other begun
        saved = torch.load(path, weights_only=True)
        assert len(saved["history"]) == done // 5 and saved["scheduler"]["last_epoch"] == done
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed, again = run(path)
    assert len(seen) == 15 and equal(undisturbed, resumed)
    assert [row["lr"] for row in history] == [row["lr"] for row in again]
    for name in ("train_loss", "train_accuracy", *(["val_loss"] if config.split == "train" else [])):
        assert [row[name] for row in again] == pytest.approx([row[name] for row in history], abs=1e-6)


@pytest.mark.usefixtures("default_sigint")
def test_the_time_of_both_parts_of_an_epoch_counts(shapes, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    ctrl_c(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        fit(small_net(), shapes, CONFIG, path, progress=False)
    saved = torch.load(path, weights_only=True)
    saved["begun"]["seconds"] += 1000
    torch.save(saved, path)
    first, second = fit(small_net(), shapes, CONFIG, path, progress=False)
    assert 1000 < first["seconds"] < 1100 and second["seconds"] < 100


@pytest.mark.usefixtures("default_sigint")
def test_a_second_ctrl_c_and_one_without_a_checkpoint_stop_at_once(shapes, tmp_path, monkeypatch):
    seen = ctrl_c(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        fit(small_net(), shapes, CONFIG, progress=False)
    assert len(seen) == 3
    with training.interrupts_noted(True) as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("default_sigint")
def test_a_handler_of_somebody_else_and_other_threads_are_left_alone():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with training.interrupts_noted(True) as interrupts:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
        assert interrupts == [] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    entered = []

    def elsewhere():
        with training.interrupts_noted(True) as interrupts:
            entered.append(interrupts)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert entered == [[]]


@pytest.mark.usefixtures("default_sigint")
def test_divergence_after_a_resume_names_the_step_of_the_epoch(shapes, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    ctrl_c(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        fit(small_net(), shapes, CONFIG, path, progress=False)
    saved = torch.load(path, weights_only=True)
    saved["model"]["5.bias"][:] = math.nan
    torch.save(saved, path)
    with pytest.raises(FloatingPointError, match="epoch 1, step 4 "):
        fit(small_net(), shapes, CONFIG, path, progress=False)


class Hungry(nn.Module):
    """Fails as a GPU does, or asks the CPU for more memory than any has."""

    def __init__(self, gpu: bool):
        super().__init__()
        self.layer, self.gpu = nn.Linear(1, 1), gpu

    def forward(self, x):
        if self.gpu:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return torch.empty(1 << 58)


ADVICE = (
    "^no memory for {} pictures at once on cpu: add --accumulate {} to go on with each batch in {} parts, "
    "or start anew with --batch-size 32 --lr 0.05$"
)


@pytest.mark.parametrize("gpu", [True, False])
def test_out_of_memory_says_what_to_try(shapes, gpu):
    with pytest.raises(MemoryError, match=ADVICE.format(64, 2, 2)):
        fit(Hungry(gpu), shapes, CONFIG, progress=False)
    with pytest.raises(MemoryError, match=ADVICE.format(16, 8, 8)):
        fit(Hungry(gpu), shapes, dataclasses.replace(CONFIG, accumulate=4), progress=False)
    odd = dataclasses.replace(CONFIG, batch_size=100, accumulate=4)
    with pytest.raises(MemoryError, match="^no memory for 25 .* add --accumulate 10 .* --batch-size 50 --lr 0.05$"):
        fit(Hungry(gpu), shapes, odd, progress=False)  # 100 pictures do not come in 8 equal parts
    with pytest.raises(MemoryError, match="^no memory for 1 pictures at once on cpu: start anew with --batch-size 32"):
        fit(Hungry(gpu), shapes, dataclasses.replace(CONFIG, accumulate=64), progress=False)


def without_batchnorm(*limit: int) -> nn.Module:
    """A small network that looks at each picture by itself; with a limit it has memory for so many pictures at once."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))

    def look(module, arguments):
        if len(arguments[0]) > limit[0] and module.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    if limit:
        net.register_forward_pre_hook(look)
    return net


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("changes", [{}, {"mixing": 1.0, "ema": 0.9, "epochs": 3, "cutout": 4}], ids=["plain", "mixed"])
def test_a_batch_in_parts_is_the_same_step(shapes, precision, changes):
    config = dataclasses.replace(CONFIG, precision=precision, **changes)
    whole, parts, steps = without_batchnorm(), without_batchnorm(16), []
    history = fit(whole, shapes, config, progress=False)
    again = fit(parts, shapes, dataclasses.replace(config, accumulate=4), progress=False, on_epoch=lambda *_: steps.append(1))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5 if precision == "float32" else 2e-3)
    assert not torch.allclose(next(whole.parameters()), next(without_batchnorm().parameters()), atol=1e-2)
    for name in ("lr", "train_loss", "train_accuracy"):
        assert [row[name] for row in again] == pytest.approx([row[name] for row in history], rel=2e-3)


def test_a_run_without_memory_goes_on_in_parts(shapes, tmp_path):
    """The first epoch whole, then memory becomes scarce, then in parts: the same run as one that had memory all along."""
    path, undisturbed, model = tmp_path / "checkpoint.pt", without_batchnorm(), without_batchnorm()
    history = fit(undisturbed, shapes, CONFIG, progress=False)

    def scarce(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def after_the_first_epoch(*_):
        model.register_forward_pre_hook(lambda module, arguments: scarce() if module.training else None)

    with pytest.raises(MemoryError, match="add --accumulate 2 to go on"):
        fit(model, shapes, CONFIG, path, progress=False, on_epoch=after_the_first_epoch)
    resumed = without_batchnorm(32)
    again = fit(resumed, shapes, dataclasses.replace(CONFIG, accumulate=2), path, progress=False)
    assert [row["epoch"] for row in again] == [row["epoch"] for row in history] and again[0]["lr"] == history[0]["lr"]
    for one, other in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.usefixtures("default_sigint")
def test_ctrl_c_waits_for_all_parts_of_a_batch(shapes, tmp_path, monkeypatch):
    path, config = tmp_path / "checkpoint.pt", dataclasses.replace(CONFIG, accumulate=4)
    undisturbed, resumed = without_batchnorm(), without_batchnorm()
    history = fit(undisturbed, shapes, config, progress=False)
    seen = ctrl_c(monkeypatch, {5})  # the second part of the second batch
    with pytest.raises(KeyboardInterrupt):
        fit(resumed, shapes, config, path, progress=False)
    assert len(seen) == 8 and torch.load(path, weights_only=True)["begun"]["steps"] == 2
    again = fit(resumed, shapes, config, path, progress=False)
    assert equal(undisturbed, resumed) and again[0]["train_loss"] == pytest.approx(history[0]["train_loss"], abs=1e-6)


def test_a_loss_that_diverges_names_the_batch_not_the_part(shapes, monkeypatch):
    make = training.make_criterion

    def make_criterion(smoothing):
        criterion, losses = make(smoothing)
        return lambda logits, labels: criterion(logits * (math.nan if len(losses) == 9 else 1), labels), losses

    monkeypatch.setattr(training, "make_criterion", make_criterion)
    with pytest.raises(FloatingPointError, match="epoch 1, step 3 "):
        fit(without_batchnorm(), shapes, dataclasses.replace(CONFIG, accumulate=4), progress=False)


@pytest.mark.parametrize("batch_size, parts, words", [(64, 0, "accumulate must be positive"), (64, 3, "64 pictures.*3 equal")])
def test_parts_that_cannot_be_equal_are_refused(batch_size, parts, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CONFIG, batch_size=batch_size, accumulate=parts)


def test_other_errors_pass_as_they_are(shapes):
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(7, 10)), shapes, CONFIG, progress=False)


# --- what repeats


def test_neither_evaluation_nor_deterministic_algorithms_change_a_run(shapes, monkeypatch):
    """Evaluation in however many batches draws nothing; PyTorch's deterministic mode finds every operation it needs."""
    config = dataclasses.replace(CONFIG, ema=0.9, mixing=0.5, cutout=8)
    one, other, third = small_net(), small_net(), small_net()
    history = fit(one, shapes, config, progress=False)
    predict, sizes = training.predict, []

    def in_other_batches(model, dataset, split, **options):
        sizes.append(len(split))
        return predict(model, dataset, split, batch_size=7, **options)

    monkeypatch.setattr(training, "predict", in_other_batches)
    again = fit(other, shapes, config, progress=False)
    assert sizes == [100, 100] and equal(one, other)
    assert [row["train_loss"] for row in history] == [row["train_loss"] for row in again]
    fit(third, dataclasses.replace(shapes, val=shapes.val[:3]), config, progress=False)
    assert equal(one, third)
    torch.use_deterministic_algorithms(True)
    try:
        third = small_net()
        fit(third, shapes, config, progress=False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert equal(one, third)


# --- settings, device, precision


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"batch_size": 0},
        {"lr": -0.1},
        {"momentum": -1.0},
        {"weight_decay": -1.0},
        {"crop": -1},
        {"cutout": -2},
        {"seed": -1},
        {"warmup": 1.0},
        {"label_smoothing": 1.5},
        {"flip": "sometimes"},
        {"mixing": 1.5},
        {"ema": 1.0},
        {"schedule": "cosinus"},
        {"split": "test"},
        {"precision": "int4"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainConfig(**change)


def test_devices():
    assert training.resolve_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:99", "nonsense"):
        with pytest.raises(ValueError, match=name):
            training.resolve_device(name)


@pytest.mark.parametrize("capability, expected", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_precision_follows_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert training.resolve_precision("auto", torch.device("cuda")) == expected
    assert training.resolve_precision("float32", torch.device("cuda")) == "float32"


@pytest.mark.parametrize(
    "device, pays, expected", [("cpu", True, "bfloat16"), ("cpu", False, "float32"), ("mps", True, "float32")]
)
def test_auto_on_a_cpu_follows_the_probe(monkeypatch, device, pays, expected):
    monkeypatch.setattr(training, "bfloat16_pays", lambda: pays)
    assert training.resolve_precision("auto", torch.device(device)) == expected


def test_the_probe_is_timed_and_leaves_the_generator_alone(monkeypatch):
    """A clock that charges bfloat16 (every second measurement) half as much, then as much as float32."""
    before = torch.get_rng_state()
    for cost, expected in ((0.5, True), (1.0, False)):
        training.bfloat16_pays.cache_clear()
        ticks = iter([0.0, 1.0, 0.0, cost] * 6)
        monkeypatch.setattr(training.time, "perf_counter", ticks.__next__)
        assert training.bfloat16_pays() is expected
    training.bfloat16_pays.cache_clear()
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_size_larger_than_the_data_is_refused(shapes):
    with pytest.raises(ValueError, match="batch size 1000"):
        fit(small_net(), shapes, dataclasses.replace(CONFIG, batch_size=1000), progress=False)
