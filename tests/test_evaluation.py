"""helpers.evaluation against NumPy and SciPy; lesson 05's calibration against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from torch import nn

from helpers.evaluation import difference, evaluate, predict, train_mode
from helpers.records import compare
from helpers.resnet import resnet20
from tools.from_notebook import definitions

ROOT = Path(__file__).resolve().parents[1]

LESSON = definitions(
    "05_evaluation", "confidence", "reliability", "calibration_error", "fit_temperature"
)


def test_evaluate_against_numpy():
    random = np.random.RandomState(0)
    logits = random.normal(0, 3, (101, 10)).astype(np.float32)
    labels = random.randint(0, 10, 101)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    loss, accuracy = evaluate(torch.from_numpy(logits), torch.from_numpy(labels))
    expected = -np.log(probabilities[np.arange(101), labels]).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == (logits.argmax(1) == labels).mean()


@pytest.mark.parametrize(
    "logits, labels", [(3, (4,)), (0, (0,)), (10, (10, 10))], ids=["more labels", "none", "one-hot"]
)
def test_evaluate_refuses_what_does_not_fit(logits, labels):
    with pytest.raises(ValueError, match=r"labels \(N,\), N > 0, got"):
        evaluate(torch.zeros(logits, 10), torch.zeros(labels, dtype=torch.long))


@pytest.mark.parametrize("training", [True, False])
def test_predict_keeps_order_mode_and_statistics(shapes, training):
    torch.manual_seed(0)
    model = resnet20().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = predict(model, shapes, shapes.test, batch_size=50)  # the last of 130 images: 30
    assert logits.shape == (130, 10) and logits.dtype == torch.float32 and not logits.requires_grad
    assert model.training is training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()
    alone = [model(shapes.normalize(image[None])) for image in shapes.test.images[45:55]]
    torch.testing.assert_close(logits[45:55], torch.cat(alone).detach(), rtol=1e-3, atol=1e-4)


def test_predict_leaves_each_module_in_its_mode(shapes):
    """A BatchNorm in eval mode stays there, also if the forward pass fails."""

    def fail(module, inputs):
        raise KeyboardInterrupt

    model = resnet20().train()
    model.bn1.eval()
    predict(model, shapes, shapes.val)
    assert model.training and not model.bn1.training and model.layer1.training
    model.fc.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        predict(model, shapes, shapes.val)
    assert model.training and not model.bn1.training and model.layer1.training


def test_predict_under_autocast_returns_float32(shapes):
    torch.manual_seed(0)
    model = resnet20()
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    low = predict(model, shapes, shapes.val, autocast=autocast)
    full = predict(model, shapes, shapes.val)
    assert low.dtype == torch.float32
    assert 0 < (low - full).abs().max() < 0.2 * full.std() + 0.2


def test_train_mode_leaves_frozen_batchnorm_alone():
    model = resnet20().eval()
    model.layer1.requires_grad_(False)
    train_mode(model)
    frozen = [m.training for m in model.layer1.modules() if isinstance(m, nn.BatchNorm2d)]
    assert frozen == [False] * 6 and model.training and model.bn1.training and model.layer2.training
    model.requires_grad_(True)
    train_mode(model)
    assert all(module.training for module in model.modules())


# --- the rule of evidence


def expected_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Value and interval of rows of 0 and 1, one per seed: SciPy's Welch interval for the seeds."""
    per_image = ours.mean(axis=0) - theirs.mean(axis=0)
    sampling = 1.96 * stats.sem(per_image)
    welch = stats.ttest_ind(ours.mean(axis=1), theirs.mean(axis=1), equal_var=False)
    low, high = welch.confidence_interval(0.95)
    margin = np.sqrt(sampling**2 + ((high - low) / 2) ** 2)
    return per_image.mean(), per_image.mean() - margin, per_image.mean() + margin


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (3, 5), (2, 7)])
def test_difference_against_scipy(seeds):
    random = np.random.RandomState(0)
    skill = random.uniform(0.3, 0.95, 400)
    ours = random.uniform(size=(seeds[0], 400)) < skill + random.normal(0, 0.05, (seeds[0], 1))
    theirs = random.uniform(size=(seeds[1], 400)) < skill - 0.05
    found = difference(list(torch.from_numpy(ours)), list(torch.from_numpy(theirs)))
    expected = expected_interval(ours.astype(float), theirs.astype(float))
    assert (found.value, found.low, found.high) == pytest.approx(expected, rel=1e-6)
    assert found.seeds == seeds and not found.test_sampling_only
    back = difference(list(torch.from_numpy(theirs)), list(torch.from_numpy(ours)))
    assert (-back.value, -back.high, -back.low) == pytest.approx(expected, rel=1e-6)


def test_difference_of_lesson_07s_records_against_scipy():
    """From the stored files, without helpers.records: the tables that the lesson shows."""
    pairs = [
        ("resnet20-C", "resnet20"),
        ("plain32", "plain20"),
        ("bottleneck11", "bottleneck11-v1"),
    ]
    for pair in pairs:
        arms = []
        for name in pair:
            rows = []
            for seed in range(3):
                folder = ROOT / "results" / f"ablation-{name}-seed{seed}"
                stored = np.load(folder / "val_predictions.npz")
                rows.append(stored["predictions"] == stored["labels"])
            arms.append(np.array(rows, dtype=float))
        value, low, high = expected_interval(*arms)
        row = compare([f"ablation-{pair[1]}", f"ablation-{pair[0]}"]).iloc[1]
        assert row["difference"] == f"{100 * value:+.2f}"
        assert row["95 % interval"] == f"{100 * low:+.2f} to {100 * high:+.2f}"


def test_difference_of_single_seeds_says_so():
    ours, theirs = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 0, 0, 0]).bool()
    margin = 1.96 * np.std([0, 1, 1, 0], ddof=1) / 2
    for others in ([theirs], [theirs, theirs]):
        found = difference([ours], others)
        assert found.test_sampling_only and "test sampling only" in str(found)
        bounds = (found.value, found.low, found.high)
        assert bounds == pytest.approx((0.5, 0.5 - margin, 0.5 + margin))
    assert str(difference([ours], [theirs])).endswith("(n = 1, test sampling only)")
    assert "(n = 1 and 2, test sampling only)" in str(found)
    text = str(difference([ours, ours], [theirs, theirs]))  # seeds that agree add nothing
    assert text.startswith("+50.00 points, 95 % interval ") and text.endswith("(n = 2)")


@pytest.mark.parametrize("ours, theirs", [([], [10]), ([10], []), ([10], [9]), ([10, 9], [10, 10])])
def test_difference_refuses_what_does_not_fit(ours, theirs):
    ours, theirs = ([torch.ones(n).bool() for n in lengths] for lengths in (ours, theirs))
    with pytest.raises(ValueError, match="one .N,. tensor per seed"):
        difference(ours, theirs)


def coverage(spread: float, seeds: int, comparisons: int = 600, images: int = 500) -> float:
    """How often the interval holds the true difference: seeds and images are drawn anew each time.

    An image is easy or hard (`skill`), a seed good or bad by `spread` (sd of the accuracy).
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, generator=generator)

    covered = 0
    for _ in range(comparisons):
        skill = 0.25 + 0.5 * draw(images)
        luck = spread * torch.randn(2, seeds, 1, generator=generator)
        ours = draw(seeds, images) < skill + 0.04 + luck[0].clamp(-0.2, 0.2)
        theirs = draw(seeds, images) < skill + luck[1].clamp(-0.2, 0.2)
        found = difference(list(ours), list(theirs))
        covered += found.low <= 0.04 <= found.high
    return covered / comparisons


@pytest.mark.parametrize("seeds, spread", [(2, 0.05), (3, 0.0), (3, 0.05), (8, 0.05)])
def test_the_interval_covers_the_truth(seeds, spread):
    """At least in 95 of 100 cases, within chance: it errs on the wide side.

    (A seed's luck on single images is in both parts.)
    """
    assert coverage(spread, seeds) > 0.93


def test_single_seeds_cover_less():
    """The label is needed: without the spread between seeds the interval is too narrow."""
    assert coverage(0.05, 1) < 0.8


# --- calibration


@pytest.fixture(scope="module")
def overconfident():
    """20,000 labels drawn from the softmax of logits that are then stated 1.7 times too large."""
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(honest.softmax(dim=1), 1, generator=generator).squeeze(1)
    return 1.7 * honest, labels


@pytest.mark.parametrize("bins", [10, 15])
def test_reliability_against_scikit_learn(overconfident, bins):
    logits, labels = overconfident
    confidence, answer = logits.double().softmax(dim=1).max(dim=1)
    right = (answer == labels).numpy()
    accuracy, mean_confidence = calibration_curve(right, confidence.numpy(), n_bins=bins)
    table = LESSON.reliability(logits, labels, bins)
    np.testing.assert_allclose(table.accuracy, accuracy)
    np.testing.assert_allclose(table.confidence, mean_confidence)
    assert table.images.sum() == 20_000


@pytest.mark.parametrize("bins", [1, 15, 40])
def test_calibration_error_by_a_loop_over_bins(overconfident, bins):
    logits, labels = overconfident[0][:3000], overconfident[1][:3000]
    exponentials = np.exp(logits.numpy().astype(np.float64))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels.numpy()
    error = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence >= low) & (confidence < low + 1 / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert LESSON.calibration_error(logits, labels, bins) == pytest.approx(error, rel=1e-6)


def test_calibration_error_of_known_cases():
    error = LESSON.calibration_error
    sure = torch.tensor([[100.0, 0.0], [100.0, 0.0]])  # confidence 1 lies in the last bin
    assert error(sure, torch.tensor([0, 0])) == 0.0
    assert error(sure, torch.tensor([0, 1])) == pytest.approx(0.5)
    # confidence 1 and wrong, 0.95 and right: in one bin
    nearly = torch.stack([sure[0], torch.tensor([0.95, 0.05]).log()])
    assert error(nearly, torch.tensor([1, 0]), bins=10) == pytest.approx(abs(0.5 - 0.975))
    undecided = torch.zeros(4, 2)
    assert error(undecided, torch.tensor([0, 1, 0, 1])) == 0.0


@pytest.mark.parametrize("scale", [1.0, 0.1, 20.0])
def test_temperature_makes_the_derivative_zero(overconfident, scale):
    """There the logit that the network expects equals, in the mean, that of the truth."""
    logits, labels = scale * overconfident[0].double(), overconfident[1]
    found = LESSON.fit_temperature(logits, labels)
    expected = ((logits / found).softmax(dim=1) * logits).sum(dim=1).mean().item()
    of_truth = logits[torch.arange(len(logits)), labels].mean().item()
    assert expected == pytest.approx(of_truth, rel=1e-4)
    assert found == pytest.approx(1.7 * scale, rel=0.03)  # what the logits were multiplied by


def test_temperature_calibrates(overconfident):
    logits, labels = overconfident
    temperature = LESSON.fit_temperature(logits[:10_000], labels[:10_000])
    before = LESSON.calibration_error(logits[10_000:], labels[10_000:])
    after = LESSON.calibration_error(logits[10_000:] / temperature, labels[10_000:])
    assert after < 0.02 < 0.05 < before


def test_temperature_refuses_labels_of_other_images(overconfident):
    logits, labels = overconfident
    with pytest.raises(ValueError):
        LESSON.fit_temperature(logits, labels[:100])


def test_temperature_stays_in_its_range():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    always_right, always_wrong = torch.tensor([0, 1]), torch.tensor([1, 0])
    assert 0.01 <= LESSON.fit_temperature(logits, always_right) < 0.03  # there the loss is 0
    assert LESSON.fit_temperature(logits, always_wrong) == pytest.approx(100, rel=1e-3)
