"""helpers.evaluation against NumPy."""

import numpy as np
import pytest
import torch

from helpers.evaluation import evaluate, predict
from helpers.resnet import resnet20


def test_evaluate_against_numpy():
    random = np.random.RandomState(0)
    logits, labels = random.normal(0, 3, (101, 10)).astype(np.float32), random.randint(0, 10, 101)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    loss, accuracy = evaluate(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss == pytest.approx(-np.log(probabilities[np.arange(101), labels]).mean(), rel=1e-5)
    assert accuracy == (logits.argmax(1) == labels).mean()


@pytest.mark.parametrize("logits, labels", [(3, 4), (0, 0)])
def test_evaluate_refuses_what_does_not_fit(logits, labels):
    with pytest.raises(ValueError, match="as many logits as labels"):
        evaluate(torch.zeros(logits, 10), torch.zeros(labels, dtype=torch.long))


@pytest.mark.parametrize("training", [True, False])
def test_predict_keeps_order_mode_and_statistics(shapes, training):
    torch.manual_seed(0)
    model = resnet20().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = predict(model, shapes, shapes.test, batch_size=50)  # 130 pictures: the last batch is short
    assert logits.shape == (130, 10) and logits.dtype == torch.float32 and not logits.requires_grad
    assert model.training is training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()
    one_by_one = torch.cat([model(shapes.normalize(image[None])) for image in shapes.test.images[45:55]])
    torch.testing.assert_close(logits[45:55], one_by_one.detach(), rtol=1e-3, atol=1e-4)


def test_predict_under_autocast_returns_float32(shapes):
    torch.manual_seed(0)
    model = resnet20()
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    low, full = predict(model, shapes, shapes.val, autocast=autocast), predict(model, shapes, shapes.val)
    assert low.dtype == torch.float32
    assert 0 < (low - full).abs().max() < 0.2 * full.std() + 0.2
