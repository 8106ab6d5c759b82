"""helpers.training against closed forms and an independent loop."""

import copy
import dataclasses
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_gpu
from small import CONFIG, equal, small_net
from torch import nn
from torch.amp import GradScaler

from helpers import training
from helpers.data import Split
from helpers.datasets.shapes import make_shapes
from helpers.recipes import RECIPES
from helpers.resnet import plain20, resnet20
from helpers.training import TrainConfig, epoch_batches, fit, lr_factor, set_seed, train_one_epoch
from helpers.variants import small

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
        assert lr_factor(step, total, warmup, "cosine") == pytest.approx(
            math.cos(math.pi * t / 2) ** 2
        )
        assert lr_factor(step, total, warmup, "linear") == pytest.approx(1 - t)
    assert 0 < lr_factor(total - 1, total, warmup, "cosine") < 1e-3


def test_steps_are_the_papers():
    """Section 4.2: divided by 10 at 32k and 48k iterations, ended at 64k."""
    factors = [
        lr_factor(step, 64_000, 0.0, "steps")
        for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)
    ]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_constant_rate_stays_after_the_warm_up():
    assert [lr_factor(step, 10, 0.2, "constant") for step in range(10)] == pytest.approx(
        [1 / 3, 2 / 3] + 8 * [1.0]
    )


def test_a_warm_up_may_fill_the_whole_run(shapes):
    """PyTorch's scheduler asks for one step more than a run has."""
    assert [lr_factor(step, 2, warmup=0.9) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=320, warmup=0.9)
    assert fit(small_net(), shapes, config, progress=False)[0]["lr"] == pytest.approx(CONFIG.lr / 2)


def test_fit_walks_the_whole_schedule(shapes):
    history = fit(small_net(), shapes, dataclasses.replace(CONFIG, epochs=4), progress=False)
    steps = 320 // 64
    expected = [
        0.1 * lr_factor(epoch * steps, 4 * steps, CONFIG.warmup, "cosine") for epoch in range(4)
    ]
    assert [row["lr"] for row in history] == pytest.approx(expected)


# --- one epoch


def test_train_one_epoch_equals_an_independent_loop():
    generator = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.randn(size, 3, 12, 12, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
        )
        for size in (16, 16, 5)
    ]
    ours, reference = small_net(), small_net()
    optimizer = torch.optim.SGD(ours.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    ours.eval()  # it has to switch to train mode by itself
    loss, accuracy = train_one_epoch(
        ours,
        batches,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        optimizer,
        scheduler,
        nullcontext(),
        GradScaler(enabled=False),
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
    assert loss == pytest.approx(
        sum(losses) / 37, rel=1e-5
    )  # by sample: the batch of 5 counts 5/37, not 1/3
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


def test_the_optimizer_follows_the_settings():
    for momentum in (0.9, 0.0):
        config = dataclasses.replace(CONFIG, lr=0.07, momentum=momentum)
        for group in training.make_optimizer(resnet20(), config).param_groups:
            assert (group["lr"], group["momentum"], group["nesterov"]) == (
                0.07,
                momentum,
                momentum > 0,
            )


def test_a_first_step_that_the_scaler_skips_leaves_no_momentum():
    """float16's first gradients often overflow: the step is skipped, and the next one must start
    from a velocity of 0.
    """
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
    torch.testing.assert_close(
        model.weight.detach(), before - CONFIG.lr * (velocity + CONFIG.momentum * velocity)
    )


def test_adam_takes_the_steps_of_its_paper():
    """Kingma and Ba's algorithm 1, by hand, on one weight; weight decay on weights only, as for
    SGD.
    """
    model = nn.Linear(1, 1).double()
    optimizer = training.make_optimizer(
        model, dataclasses.replace(CONFIG, optimizer="adam", lr=0.01, weight_decay=0.0)
    )
    weight, m, v = model.weight.item(), 0.0, 0.0
    for t, gradient in enumerate((0.5, -2.0, 0.1), start=1):
        model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        weight -= 0.01 * m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert model.weight.item() == pytest.approx(weight, abs=1e-12)
    decays = [
        group["weight_decay"]
        for group in training.make_optimizer(
            model, dataclasses.replace(CONFIG, optimizer="adam")
        ).param_groups
    ]
    assert decays == [CONFIG.weight_decay, 0.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_smoothed_cross_entropy(shapes, smoothing):
    """One batch of all images and no step to speak of: the loss of the history is that of the
    untrained network.
    """
    config = dataclasses.replace(
        CONFIG,
        epochs=1,
        batch_size=320,
        lr=1e-12,
        warmup=0.0,
        crop=0,
        flip="none",
        label_smoothing=smoothing,
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
        same = (
            (changed.flatten(1).sort(1).values == images.flatten(1).sort(1).values)
            .all(1)
            .double()
            .mean()
        )
        assert not torch.equal(changed, images) and (same < 0.2 or change == {"flip": "random"})


def test_mixing_follows_the_settings_and_ends(shapes):
    config = dataclasses.replace(CONFIG, epochs=10, mixing=1.0)
    for epoch in range(10):
        torch.manual_seed(epoch)
        for images, labels in epoch_batches(shapes, config, epoch):
            assert images.is_contiguous(memory_format=torch.channels_last)
            if epoch == 9:  # the last tenth shows images as they are
                assert labels.ndim == 1
            else:
                assert labels.shape == (64, 10) and labels.sum(1).allclose(torch.ones(64))
                assert (labels > 0).sum(1).max() == 2  # two images each
    halves = [
        labels.ndim
        for e in range(8)
        for _, labels in epoch_batches(shapes, dataclasses.replace(config, mixing=0.5), e)
    ]
    assert 10 < halves.count(2) < 30  # of 40 batches


def test_accuracy_on_mixed_images_counts_the_larger_part():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(4))
    labels = torch.tensor([[0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0], [0, 0, 0.1, 0.9]])
    images = torch.eye(4)[[0, 1, 3]].view(3, 1, 2, 2)  # the network answers 0, 1, 3
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    batches = [(images, labels)]
    _, accuracy = train_one_epoch(
        model,
        batches,
        F.cross_entropy,
        optimizer,
        scheduler,
        nullcontext(),
        GradScaler(enabled=False),
    )
    assert accuracy == pytest.approx(2 / 3)


# --- fit


def test_the_average_is_exponential_includes_batchnorm_and_is_what_counts(shapes, monkeypatch):
    """It starts as the weights after step 1; then average ← decay · average + (1 - decay) ·
    weights.

    The weights of every step are noted by a scheduler that is called after each.
    """
    steps, averaged = [], small_net()

    class Noting(torch.optim.lr_scheduler.LambdaLR):
        def step(self, *arguments):
            super().step(*arguments)
            state = averaged.state_dict()
            steps.append({name: value.clone().double() for name, value in state.items()})

    monkeypatch.setattr(training, "LambdaLR", Noting)
    config = dataclasses.replace(CONFIG, epochs=2, ema=0.7)
    history = fit(averaged, shapes, config, progress=False)
    plain = fit(small_net(), shapes, CONFIG, progress=False)

    steps = steps[
        1:11
    ]  # the first call is the constructor's, those after the tenth the other run's
    expected = steps[0]
    for step in steps[1:]:
        expected = {name: 0.7 * value + 0.3 * step[name] for name, value in expected.items()}
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert [row["train_loss"] for row in plain] == [row["train_loss"] for row in history]
    assert history[-1]["val_loss"] != plain[-1]["val_loss"]  # validation, too, is of the average


@pytest.mark.long
def test_a_compiled_network_learns_the_same(shapes):
    config = dataclasses.replace(CONFIG, epochs=1)
    eager, compiled = small_net(), small_net()
    one = fit(eager, shapes, config, progress=False)[0]
    other = fit(compiled, shapes, dataclasses.replace(config, compile=True), progress=False)[0]
    assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)


def test_a_run_repeats_bit_for_bit_and_the_seed_matters(shapes):
    shapes = dataclasses.replace(shapes, train=shapes.train[:128])

    def run(seed):
        set_seed(seed)
        model = resnet20()
        history = fit(
            model, shapes, dataclasses.replace(CONFIG, epochs=1, seed=seed), progress=False
        )
        return model, [{k: v for k, v in row.items() if k != "seconds"} for row in history]

    (one, first), (same, again), (other, _) = run(0), run(0), run(1)
    assert equal(one, same) and first == again
    assert not equal(one, other)


# ladder-1, ladder-2, … are mixtures of other recipes
NOT_CLIMBED = [name for name in RECIPES if name == "ladder-0" or not name.startswith("ladder-")]
LONG_RUN = {
    "epochs": 3,
    "batch_size": 32,
    "dataset": "shapes",
    "split": "train",
    "device": "cpu",
    "precision": "float32",
}


@pytest.mark.parametrize("config", [
    *(dataclasses.replace(RECIPES[name], **LONG_RUN) for name in NOT_CLIMBED),
    dataclasses.replace(RECIPES["resnet50-gpu-long"], **LONG_RUN | {"precision": "float16"}),
    dataclasses.replace(CONFIG, **LONG_RUN | {"precision": "bfloat16"}),
], ids=lambda config: f"{config.recipe} {config.precision}")  # fmt: skip
def test_a_resumed_run_ends_with_the_same_bits(shapes, tmp_path, config):
    """Every recipe: its augmentation, mixing, schedule, average of weights; float16 with the
    scaler's state.
    """
    shapes = dataclasses.replace(shapes, train=shapes.train[:96], val=shapes.val[:10])

    def run(checkpoint=None, on_epoch=None):
        set_seed(config.seed)
        model = small(14) if config.grow else small_net()
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
    assert {
        "val_loss",
        "val_accuracy",
        "train_loss",
        "train_accuracy",
        "lr",
        "seconds",
        "epoch",
    } == set(row)
    row = fit(
        small_net(),
        shapes,
        dataclasses.replace(CONFIG, epochs=1, split="train+val"),
        progress=False,
    )[0]
    assert "val_accuracy" not in row


@pytest.mark.parametrize("device, precision", [
    ("cpu", "float32"),
    pytest.param("cuda", "float32", marks=needs_gpu),
    pytest.param("cuda", "bfloat16", marks=needs_gpu),
    pytest.param("cuda", "float16", marks=needs_gpu),
])  # fmt: skip
def test_it_learns(shapes, device, precision):
    config = dataclasses.replace(
        CONFIG, epochs=8, lr=0.05, label_smoothing=0.0, device=device, precision=precision
    )
    history = fit(small_net(), shapes, config, progress=False)
    assert (
        history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
        and history[-1]["val_accuracy"] > 0.2
    )


def test_divergence_is_named(shapes):
    with pytest.raises(FloatingPointError, match=r"loss became (nan|inf) in epoch 1: .*lower lr"):
        fit(small_net(), shapes, dataclasses.replace(CONFIG, lr=1e30, warmup=0.0), progress=False)


def test_validation_without_images_is_refused_before_training(shapes):
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="no validation images .* choose split='train.val'"):
        fit(model, dataclasses.replace(shapes, val=shapes.val[:0]), CONFIG, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# --- what repeats


def test_neither_evaluation_nor_deterministic_algorithms_change_a_run(shapes, monkeypatch):
    """Evaluation in however many batches draws nothing; PyTorch's deterministic mode finds every
    operation it needs.
    """
    config = dataclasses.replace(CONFIG, ema=0.9, mixing=0.5, cutout=8)
    one, other, third = small_net(), small_net(), small_net()
    history = fit(one, shapes, config, progress=False)
    predict, sizes = training.predict, []

    def in_other_batches(model, dataset, split, **options):
        sizes.append(len(split))
        return predict(model, dataset, split, batch_size=7, **options)

    monkeypatch.setattr(training, "predict", in_other_batches)
    again = fit(other, shapes, config, progress=False)
    assert sizes == [1, 100, 100] and equal(one, other)  # one image to compare outputs and classes
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
        {"optimizer": "lion"},
        {"precision": "int4"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainConfig(**change)


def test_batch_size_larger_than_the_data_is_refused(shapes):
    with pytest.raises(ValueError, match="batch size 1000"):
        fit(small_net(), shapes, dataclasses.replace(CONFIG, batch_size=1000), progress=False)


# --- what cannot be learned from is refused before training


@pytest.mark.parametrize("outputs", [5, 9, 11, 1000])
def test_outputs_and_classes_must_agree(shapes, outputs):
    model = small_net(outputs)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"outputs \(1, {outputs}\).*num_classes=10") as stop:
        fit(model, shapes, CONFIG, progress=False)
    assert "\n" not in str(stop.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_network_without_logits_is_refused(shapes):
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10))  # (N, 10, H, W)
    with pytest.raises(ValueError, match="one image gives outputs"):
        fit(model, shapes, CONFIG, progress=False)


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_out_of_range_are_refused_before_training(shapes, split):
    part = getattr(shapes, split)
    wrong = dataclasses.replace(shapes, **{split: Split(part.images, part.labels + 1)})
    with pytest.raises(ValueError, match="labels"):
        fit(small_net(), wrong, CONFIG, progress=False)


@pytest.mark.parametrize("classes", [2, 300])
def test_any_number_of_classes_can_be_learned(classes):
    """Labels beyond 255 too, mixed labels included."""
    data = make_shapes(320, 60, 20)
    names = tuple(f"class {i}" for i in range(classes))

    def relabel(split):
        return Split(split.images, torch.arange(len(split)) % classes)

    train, val, test = relabel(data.train), relabel(data.val), relabel(data.test)
    data = dataclasses.replace(data, classes=names, train=train, val=val, test=test)
    config = dataclasses.replace(CONFIG, epochs=1, mixing=1.0)
    (row,) = fit(small_net(classes), data, config, progress=False)
    assert row["train_loss"] == pytest.approx(math.log(classes), rel=0.5)


# --- modes that the user set


def frozen_body(train_mode: bool) -> nn.Module:
    """ResNet-20, frozen but for a new last layer."""
    set_seed(0)
    model = resnet20().requires_grad_(False)
    model.fc = nn.Linear(64, 10)
    return model.train(train_mode)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("train_mode", [True, False])
def test_a_frozen_body_stays_as_it_is(shapes, train_mode, ema):
    model = frozen_body(train_mode)
    before = copy.deepcopy(model.state_dict())
    fit(model, shapes, dataclasses.replace(CONFIG, epochs=1, ema=ema), progress=False)
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value) == (not name.startswith("fc.")), name


def test_a_batchnorm_that_learns_or_has_nothing_to_learn_follows_the_data(shapes):
    """Only a BatchNorm with parameters, all of them frozen, keeps its statistics."""
    model = small_net()
    model[1].bias.requires_grad_(False)  # its scale still learns
    before = model[1].running_mean.clone()
    fit(model, shapes, dataclasses.replace(CONFIG, epochs=1), progress=False)
    assert not torch.equal(before, model[1].running_mean) and model[1].training

    model = small_net()
    model[1] = nn.BatchNorm2d(8, affine=False)
    fit(model, shapes, dataclasses.replace(CONFIG, epochs=1), progress=False)
    assert model[1].running_mean.any()


def test_everything_frozen_is_one_clear_error(shapes):
    with pytest.raises(ValueError, match="every parameter is frozen"):
        fit(resnet20().requires_grad_(False), shapes, CONFIG, progress=False)


# --- small images first, inner blocks later


def test_sizes_are_read_as_written():
    config = TrainConfig(epochs=14, sizes="16 24@0.79 32@0.93")
    sizes = [training.image_size(config, epoch) for epoch in range(14)]
    assert sizes == 11 * [16] + 2 * [24] + [32]
    assert training.image_size(TrainConfig(), 0) is None
    assert [training.first_epoch(0.55, TrainConfig(epochs=20))] == [11]  # not 11.000000000000002


@pytest.mark.parametrize(
    "sizes",
    ["16@0.5", "16 24@1", "16 24@x", "16 24@", "16 24@0.5@0.9", "big", "16 32@0.6 24@0.3", "0"],
)
def test_sizes_that_cannot_be_read_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes .* cannot be read"):
        TrainConfig(sizes=sizes)


def test_the_network_sees_the_sizes_and_is_validated_at_them(shapes):
    seen, model = [], small_net()
    model.register_forward_hook(lambda m, inputs, out: seen.append((m.training, *inputs[0].shape)))
    config = dataclasses.replace(CONFIG, sizes="16 32@0.5")
    history = fit(model, shapes, config, progress=False)
    assert [row["size"] for row in history] == [16, 32]
    first = seen[1 : 1 + len(seen) // 2]  # after the check of the outputs
    assert {shape[-1] for shape in first} == {16} and {shape[0] for shape in first} == {True, False}
    assert {shape[-1] for shape in seen[-2:]} == {32}


GROWING = dataclasses.replace(
    CONFIG, epochs=4, batch_size=32, sizes="8 16@0.5", grow=0.5, ema=0.5, products="on"
)


def run_growing(shapes, checkpoint=None, on_epoch=None):
    set_seed(0)
    model = small(14)
    fit(model, shapes, GROWING, checkpoint, on_epoch, progress=False)
    return model


def test_inner_blocks_sleep_until_they_join_and_then_learn(shapes):
    shapes = dataclasses.replace(shapes, train=shapes.train[:96], val=shapes.val[:10])
    set_seed(0)
    model = small(14)
    weight, lengths = model.layer1[1].conv1.weight, []
    inner = [weight.detach().clone()]

    def note(network, row):
        lengths.append(len(network.layer1))
        inner.append(weight.detach().clone())

    fit(model, shapes, GROWING, on_epoch=note, progress=False)
    assert lengths == [1, 1, 2, 2]  # of the network that is evaluated
    changed = [not torch.equal(one, other) for one, other in zip(inner, inner[1:])]
    assert changed == [False, False, True, True]


@pytest.mark.parametrize("stopped_in", [1, 2, 3, 4])
def test_a_growing_run_resumes_with_the_same_bits(shapes, tmp_path, stopped_in):
    shapes = dataclasses.replace(shapes, train=shapes.train[:96], val=shapes.val[:10])

    def stop(network, row):
        if row["epoch"] == stopped_in:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_growing(shapes, tmp_path / "checkpoint.pt", stop)
    assert equal(run_growing(shapes, tmp_path / "checkpoint.pt"), run_growing(shapes))


def test_a_plain_network_cannot_be_grown(shapes):
    with pytest.raises(ValueError, match="no residual blocks to be left out"):
        fit(plain20(), shapes, dataclasses.replace(CONFIG, grow=0.5), progress=False)
