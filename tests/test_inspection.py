"""`summarize` against PyTorch's own counter and the networks' parameters."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import resnet
from helpers.inspection import summarize

CASES = [
    (lambda: resnet.resnet50(10, stem="cifar"), (3, 32, 32)),
    (lambda: resnet.resnet50(1000, stem="imagenet"), (3, 224, 224)),
    (lambda: resnet.resnet18(10, stem="imagenet"), (3, 33, 47)),
    (lambda: resnet.resnet20(), (3, 32, 32)),
    (lambda: resnet.plain20(), (3, 32, 32)),
    (lambda: resnet.resnet9(), (3, 32, 32)),
]


@pytest.mark.parametrize(("make", "size"), CASES)
def test_counts_agree_with_pytorch(make, size):
    model = make().eval()
    table = summarize(model, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *size))
    assert 2 * table.multiply_adds.sum() == counter.get_total_flops()
    by_part = counter.get_flop_counts()
    for part, multiply_adds in table.multiply_adds.items():
        assert 2 * multiply_adds == sum(by_part.get(f"{type(model).__name__}.{part}", {}).values()), part
    assert table.parameters.sum() == sum(p.numel() for p in model.parameters())
    for part, count in table.parameters.items():
        assert count == sum(p.numel() for p in model.get_submodule(part).parameters())


def test_known_costs():
    cost = {stem: summarize(resnet.resnet50(stem=stem)).multiply_adds.sum() for stem in ("cifar", "imagenet")}
    assert round(cost["cifar"] / 1e6) == 1298 and round(cost["imagenet"] / 1e6) == 83
    large = summarize(resnet.resnet50(1000, stem="imagenet"), (3, 224, 224))
    assert round(large.multiply_adds.sum() / 1e9, 2) == 4.09
    assert round(summarize(resnet.resnet20()).multiply_adds.sum() / 1e6, 1) == 40.6


def test_outputs():
    table = summarize(resnet.resnet50(1000, stem="imagenet"), (3, 224, 224))
    assert table.output.to_dict() == {
        "conv1": (64, 112, 112), "bn1": (64, 112, 112), "relu": (64, 112, 112), "maxpool": (64, 56, 56),
        "layer1": (256, 56, 56), "layer2": (512, 28, 28), "layer3": (1024, 14, 14), "layer4": (2048, 7, 7),
        "avgpool": (2048, 1, 1), "fc": (1000,),
    }  # fmt: skip
    assert list(table.columns) == ["output", "parameters", "multiply_adds"] and table.index.name == "part"


def test_grouped_and_strided_convolutions_by_hand():
    net = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, groups=4, bias=True), nn.Flatten(), nn.Linear(12 * 4 * 3, 5))
    table = summarize(net, (8, 9, 7))  # → 12 × 4 × 3
    assert table.output.tolist() == [(12, 4, 3), (144,), (5,)]
    assert table.multiply_adds.tolist() == [12 * 4 * 3 * (8 // 4) * 9, 0, 144 * 5]
    assert table.parameters.tolist() == [12 * 2 * 9 + 12, 0, 144 * 5 + 5]


def test_parts_that_do_not_run_have_no_row():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.used(x)

    assert list(summarize(Partly()).index) == ["used"]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_as_it_was(training):
    model = resnet.resnet20().train(training)
    before = copy.deepcopy(model.state_dict())
    first = summarize(model)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert hooks(model) == 0 and all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    assert summarize(model).equals(first)


def test_hooks_go_even_when_the_forward_pass_fails():
    model = resnet.resnet20().train()
    with pytest.raises(RuntimeError):
        summarize(model, (5, 32, 32))  # five channels do not fit
    assert hooks(model) == 0 and model.training
