"""helpers.inspection, and what lesson 06 defines: against PyTorch's counter, brute force, finite
differences and networks taken apart by hand."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.inspection import block_names, capture, summarize
from helpers.networks import NETWORKS, ResNet9
from helpers.resnet import (
    Bottleneck,
    ResNet,
    make_stage,
    plain20,
    plain32,
    resnet18,
    resnet20,
    resnet50,
)
from tools import inspect_run
from tools.from_notebook import definitions

LESSON = definitions(
    "06_inside_the_network",
    "receptive_field",
    "grad_cam",
    "without_branch",
    "drop_blocks",
    "refreshed",
    "change_ratio",
    "side_of_half",
    "rank_correlation",
)

CASES = [
    (lambda: resnet50(10, stem="cifar"), (3, 32, 32)),
    (lambda: resnet50(1000, stem="imagenet"), (3, 224, 224)),
    (lambda: resnet18(10, stem="imagenet"), (3, 33, 47)),
    (resnet20, (3, 32, 32)),
    (plain20, (3, 32, 32)),
    (ResNet9, (3, 32, 32)),
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
        flops = by_part.get(f"{type(model).__name__}.{part}", {})
        assert 2 * multiply_adds == sum(flops.values()), part
    assert table.parameters.sum() == sum(p.numel() for p in model.parameters())
    for part, count in table.parameters.items():
        assert count == sum(p.numel() for p in model.get_submodule(part).parameters())


def test_known_costs():
    cifar, imagenet = resnet50(stem="cifar"), resnet50(stem="imagenet")
    assert round(summarize(cifar).multiply_adds.sum() / 1e6) == 1298
    assert round(summarize(imagenet).multiply_adds.sum() / 1e6) == 83
    large = summarize(resnet50(1000, stem="imagenet"), (3, 224, 224))
    assert round(large.multiply_adds.sum() / 1e9, 2) == 4.09
    assert round(summarize(resnet20()).multiply_adds.sum() / 1e6, 1) == 40.6


def test_outputs():
    table = summarize(resnet50(1000, stem="imagenet"), (3, 224, 224))
    assert table.output.to_dict() == {
        "conv1": (64, 112, 112), "bn1": (64, 112, 112), "relu": (64, 112, 112),
        "maxpool": (64, 56, 56), "layer1": (256, 56, 56), "layer2": (512, 28, 28),
        "layer3": (1024, 14, 14), "layer4": (2048, 7, 7), "avgpool": (2048, 1, 1), "fc": (1000,),
    }  # fmt: skip
    assert list(table.columns) == ["output", "parameters", "multiply_adds"]
    assert table.index.name == "part"


def test_grouped_and_strided_convolutions_by_hand():
    conv = nn.Conv2d(8, 12, 3, stride=2, groups=4, bias=True)
    net = nn.Sequential(conv, nn.Flatten(), nn.Linear(12 * 4 * 3, 5))
    table = summarize(net, (8, 9, 7))  # → 12 × 4 × 3
    assert table.output.tolist() == [(12, 4, 3), (144,), (5,)]
    assert table.multiply_adds.tolist() == [12 * 4 * 3 * (8 // 4) * 9, 0, 144 * 5]
    assert table.parameters.tolist() == [12 * 2 * 9 + 12, 0, 144 * 5 + 5]


class Uneven(nn.Module):
    """One part runs twice, one not at all."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.used(self.used(x))


def test_parts_count_as_often_as_they_run():
    table = summarize(Uneven(), (3, 5, 5))
    assert list(table.index) == ["used"] and table.parameters.tolist() == [9]
    assert table.multiply_adds.tolist() == [2 * 25 * 9]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_number_format_is_summarized(dtype):
    assert summarize(resnet20().to(dtype)).equals(summarize(resnet20()))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_as_it_was(training):
    model = resnet20().train(training)
    before = copy.deepcopy(model.state_dict())
    first = summarize(model)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert hooks(model) == 0 and all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    assert summarize(model).equals(first)


def test_hooks_go_even_when_the_forward_pass_fails():
    model = resnet20().train()
    with pytest.raises(RuntimeError):
        summarize(model, (5, 32, 32))  # five channels do not fit
    assert hooks(model) == 0 and model.training


# --- capture


def test_capture_returns_what_the_parts_output(shapes):
    torch.manual_seed(0)
    model = resnet20().eval()
    x = shapes.normalize(shapes.test.images[:4])
    with torch.no_grad():
        stem = model.bn1(model.conv1(x))  # before the ReLU, which works in place
        first = model.layer1[0](model.relu(stem.clone()))
        expected = {"bn1": stem, "layer1.0": first, "fc": model(x)}
    seen = capture(model, list(expected), x)
    assert hooks(model) == 0 and list(seen) == list(expected)
    for name, output in expected.items():
        assert not seen[name].requires_grad
        torch.testing.assert_close(seen[name], output)


def test_capture_removes_its_hooks_when_it_fails():
    model = resnet20().eval()
    with pytest.raises(RuntimeError):
        capture(model, ["layer1", "fc"], torch.zeros(1, 5, 32, 32))
    with pytest.raises(AttributeError):
        capture(model, ["fc", "layer9"], torch.zeros(1, 3, 32, 32))
    assert hooks(model) == 0


# --- lesson 06: receptive field


def measured_fields(model: nn.Module, parts: list[str], pixels: int = 129) -> list[int]:
    """Brute force: the side of the input region on which each part's central output depends.

    With positive weights and inputs no ReLU closes and nothing cancels, so every pixel that can
    matter does.
    """
    model = copy.deepcopy(model).eval().double()
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    x = torch.ones(1, 3, pixels, pixels, dtype=torch.float64, requires_grad=True)
    kept: dict[str, Tensor] = {}
    for part in parts:
        model.get_submodule(part).register_forward_hook(
            lambda module, inputs, output, part=part: kept.update({part: output})
        )
    model(x)
    fields = []
    for part in parts:
        middle = kept[part].shape[-1] // 2
        value = kept[part][0, 0, middle, middle]
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        rows = gradient[0].sum(dim=(0, 2)).nonzero().flatten()
        columns = gradient[0].sum(dim=(0, 1)).nonzero().flatten()
        assert rows[0] > 0 and rows[-1] < pixels - 1  # the image is large enough
        assert rows[-1] - rows[0] == columns[-1] - columns[0]
        fields.append(int(rows[-1] - rows[0]) + 1)
    return fields


@pytest.mark.parametrize("make", [resnet20, plain20])
def test_receptive_field_by_brute_force(make):
    model = make()
    fields = LESSON.receptive_field(model)
    assert list(fields) == ["conv1", "layer1", "layer2", "layer3"]
    assert [step for _, step in fields.values()] == [1, 1, 2, 4]
    assert [size for size, _ in fields.values()] == measured_fields(model, list(fields))


class Pooled(nn.Module):
    """A stem with pooling, as for ImageNet, and bottlenecks with a projection."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7, stride=2, padding=3)
        self.maxpool = nn.AvgPool2d(3, 2, 1)
        self.layer1 = make_stage(Bottleneck, 4, 2, 2, 2)

    def forward(self, x):
        return self.layer1(self.maxpool(self.conv1(x)))


def test_receptive_field_with_pooling_and_bottlenecks():
    by_average = Pooled()  # a maximum would pass the gradient of one pixel only
    by_maximum = copy.deepcopy(by_average)
    by_maximum.maxpool = nn.MaxPool2d(3, 2, 1)
    fields = LESSON.receptive_field(by_maximum)
    assert [size for size, _ in fields.values()] == measured_fields(by_average, list(fields))
    assert [step for _, step in fields.values()] == [2, 4, 8]


def test_receptive_field_of_resnet50_by_hand():
    # e.g. layer1: 11 + three 3×3 convolutions at steps of 4 pixels, 2 · 4 each
    assert LESSON.receptive_field(resnet50(1000, stem="imagenet")) == {
        "conv1": (7, 2), "maxpool": (11, 4), "layer1": (35, 4), "layer2": (91, 8),
        "layer3": (267, 16), "layer4": (427, 32),
    }  # fmt: skip
    # 1 + 2 (stem), + 3 · 2; + 2, + 3 · 4; + 4, + 5 · 8; + 8, + 2 · 16
    assert LESSON.receptive_field(resnet50()) == {
        "conv1": (3, 1), "layer1": (9, 1), "layer2": (23, 2), "layer3": (67, 4), "layer4": (107, 8),
    }  # fmt: skip


def test_side_of_half_of_an_even_weight_and_of_one_pixel():
    assert LESSON.side_of_half(torch.ones(81, 81)) == 59  # 57² is less than half of 81², 59² more
    point = torch.zeros(9, 9)
    point[4, 4] = 1
    assert LESSON.side_of_half(point) == 1


# --- lesson 06: Grad-CAM


@pytest.fixture(scope="module")
def tried(shapes):
    """A ResNet-20 with random weights, six images and classes; BatchNorm's statistics fit them."""
    torch.manual_seed(1)
    model = resnet20()
    x = shapes.normalize(shapes.test.images[:64])
    model.train()
    for _ in range(20):
        model(x)
    return model.eval(), x[:6], torch.tensor([3, 1, 4, 1, 5, 9])


def test_grad_cam_on_the_last_stage_is_class_activation_mapping(tried):
    model, x, classes = tried
    features = capture(model, ["layer3"], x)["layer3"]
    # 64: the gradient of a mean of 8×8 values
    cam = torch.einsum("nc,nchw->nhw", model.fc.weight[classes], features) / 64
    expected = F.interpolate(cam.relu()[:, None], (32, 32), mode="bilinear", align_corners=False)
    maps = LESSON.grad_cam(model, model.layer3, x, classes)
    assert maps.shape == (6, 32, 32) and not maps.requires_grad and hooks(model) == 0
    assert maps.max() > 0
    torch.testing.assert_close(maps, expected[:, 0].detach())


def test_grad_cam_inside_by_finite_differences(tried):
    """Channel weights by moving each channel of layer2 up and down, in float64: no autograd."""
    model, x, classes = copy.deepcopy(tried[0]).double(), tried[1][:2].double(), tried[2][:2]

    def rest(features):
        pooled = model.avgpool(model.layer3(features)).flatten(1)
        return model.fc(pooled).gather(1, classes[:, None])[:, 0]

    with torch.no_grad():
        features = capture(model, ["layer2"], x)["layer2"]
        step, weights = 1e-6, torch.zeros(2, 32, dtype=torch.float64)
        for channel in range(32):
            moved = torch.zeros_like(features)
            moved[:, channel] = step
            change = rest(features + moved) - rest(features - moved)
            weights[:, channel] = change / (2 * step) / 16**2
        cam = (weights[:, :, None, None] * features).sum(dim=1).relu()
    maps = LESSON.grad_cam(model, model.layer2, x, classes)
    expected = F.interpolate(cam[:, None], (32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6 * float(cam.max()))


def test_grad_cam_treats_each_image_alone_and_works_on_frozen_networks(tried):
    model, x, classes = copy.deepcopy(tried[0]).requires_grad_(False), tried[1], tried[2]
    together = LESSON.grad_cam(model, model.layer3, x, classes)
    alone = [
        LESSON.grad_cam(model, model.layer3, x[i : i + 1], classes[i : i + 1]) for i in range(6)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    other = LESSON.grad_cam(model, model.layer3, x, (classes + 1) % 10)
    assert not torch.allclose(together, other)  # the class matters
    assert all(p.grad is None for p in model.parameters())


def test_grad_cam_wants_a_part_of_the_model_and_leaves_no_hook(tried):
    model, x, classes = tried
    other = copy.deepcopy(model)
    with pytest.raises(IndexError):  # the layer did not run
        LESSON.grad_cam(model, other.layer3, x, classes)
    with pytest.raises(RuntimeError):
        LESSON.grad_cam(model, model.layer3, x[:, :1], classes)
    assert hooks(model) == hooks(other) == 0


# --- blocks, and lesson 06: dropped blocks


def test_block_names():
    nine = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert block_names(resnet20()) == nine
    assert len(block_names(resnet50())) == 16 and len(block_names(plain32())) == 15
    assert block_names(ResNet9()) == ["layer1.4", "layer3.4"]


@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet9"])
def test_dropping_a_block_is_removing_the_module(tried, name):
    """A block that keeps its shape can be deleted from the Sequential it stands in."""
    torch.manual_seed(2)
    model = NETWORKS[name]().eval()
    before = copy.deepcopy(model.state_dict())
    for block in (n for n in block_names(model) if not n.endswith(".0")):
        stage, number = block.split(".")
        removed = copy.deepcopy(model)
        children = list(removed.get_submodule(stage))
        del children[int(number)]
        setattr(removed, stage, nn.Sequential(*children))
        dropped = LESSON.drop_blocks(model, [block])
        assert torch.equal(dropped(tried[1]), removed(tried[1])), block
        assert not torch.equal(dropped(tried[1]), model(tried[1]))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["layer1", "conv1", ""])
def test_what_is_no_block_is_not_dropped(name):
    with pytest.raises(ValueError, match="only a block that ends with a ReLU"):
        LESSON.drop_blocks(resnet20(), [name])


def test_a_preactivation_block_is_not_dropped():
    """It ends with the addition: with a ReLU in its place the network would be another one."""
    with pytest.raises(ValueError, match="only a block that ends with a ReLU"):
        LESSON.drop_blocks(NETWORKS["resnet20-preact"](), ["layer1.1"])


def test_a_dropped_block_that_changes_the_shape_keeps_its_shortcut(tried):
    torch.manual_seed(3)
    x = torch.rand(2, 16, 32, 32)
    padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 16))
    for make in (resnet20, plain20):
        model = make().eval()
        dropped = LESSON.drop_blocks(model, ["layer2.0"])
        shortcut = model.layer2[0].downsample
        expected = padded if shortcut is None else shortcut(x)
        torch.testing.assert_close(dropped.layer2[0](x), expected.relu())
        assert dropped(tried[1]).shape == (6, 10)
    model = resnet50().eval()  # a bottleneck: four times the channels, projected
    for name, width in (("layer1.0", 64), ("layer2.0", 256)):
        x, block = torch.rand(1, width, 8, 8), model.get_submodule(name)
        dropped = LESSON.drop_blocks(model, [name]).get_submodule(name)
        torch.testing.assert_close(dropped(x), block.downsample(x).relu())


def test_a_bottleneck_that_keeps_its_shape_is_dropped_without_a_trace():
    x = torch.rand(1, 256, 8, 8)
    for residual in (True, False):
        dropped = LESSON.drop_blocks(resnet50(residual=residual), ["layer1.1"]).layer1[1]
        assert torch.equal(dropped(x), x)


def test_a_residual_block_is_dropped_by_zero_gamma(tried):
    """Another way to the same network: with scale and offset of its last BatchNorm 0, F(x) is 0."""
    model = tried[0]
    names = ["layer1.1", "layer2.0", "layer3.2"]
    silent = copy.deepcopy(model)
    for name in names:
        nn.init.zeros_(silent.get_submodule(name).bn2.weight)
        nn.init.zeros_(silent.get_submodule(name).bn2.bias)
    dropped = LESSON.drop_blocks(model, names)
    torch.testing.assert_close(dropped(tried[1]), silent(tried[1]))


# --- lesson 06: statistics, changes, correlations


def test_refreshed_statistics_are_those_of_the_images(tried):
    model, x, _ = tried
    before = copy.deepcopy(model.state_dict())
    anew = LESSON.refreshed(model, x)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(part.training for part in anew.modules())
    outputs = model.conv1(x)
    torch.testing.assert_close(anew.bn1.running_mean, outputs.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(anew.bn1.running_var, outputs.var(dim=(0, 2, 3)))  # divided by n - 1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, anew.get_parameter(name))


def test_change_ratio_by_hand(tried):
    torch.manual_seed(5)
    for block, width in ((tried[0].layer1[1], 16), (tried[0].layer2[0], 16)):
        x = torch.rand(3, width, 8, 8)
        with torch.no_grad():
            branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
            kept = x if block.downsample is None else block.downsample(x)
        expected = [float(branch[i].norm() / kept[i].norm()) for i in range(3)]
        torch.testing.assert_close(LESSON.change_ratio(block, x), torch.tensor(expected))
    bottleneck = resnet50().eval().layer2[0]
    x = torch.rand(2, 256, 8, 8)
    with torch.no_grad():
        kept = bottleneck.downsample(x)
        bottleneck.relu = nn.Identity()  # then the output is the sum, but the branch is linear
        branch = bottleneck(x) - kept
        expected = branch.flatten(1).norm(dim=1) / kept.flatten(1).norm(dim=1)
    torch.testing.assert_close(LESSON.change_ratio(bottleneck, x), expected)


def test_rank_correlation_is_scipys():
    torch.manual_seed(6)
    one, other = torch.rand(4, 8, 8), torch.rand(4, 8, 8).round(decimals=1)  # with ties
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, other)]
    assert LESSON.rank_correlation(one, other) == pytest.approx(sum(expected) / 4)


# --- tools/inspect_run.py


def small_resnet50() -> nn.Module:
    """ResNet-50's parts, fewer and narrower; BatchNorm's statistics are those of random images."""
    torch.manual_seed(7)
    model = ResNet(Bottleneck, (2, 1, 2, 1), width=4)
    return LESSON.refreshed(model, torch.rand(64, 3, 16, 16))


def test_inspection_walks_through_the_network_as_dropping_does():
    model = small_resnet50()
    x, train = torch.rand(300, 3, 16, 16), torch.rand(128, 3, 16, 16)
    labels = torch.randint(0, 10, (300,))
    found = inspect_run.drop_each_block(model, x, labels, train, start=0)
    names = block_names(model)
    assert [f"layer{s}.{b}" for s, b in zip(found["stage"], found["block"])] == names
    assert found["keeps_shape"].tolist() == [False, True, False, False, True, False]
    assert found["ratio"].shape == (6, 200)

    def right(net):
        with torch.no_grad():
            return (net(x).argmax(dim=1) == labels).numpy()

    assert (found["whole_stored"] == right(model)).all()
    for i, name in enumerate(names):
        dropped = LESSON.drop_blocks(model, [name])
        assert (found["without_stored"][i] == right(dropped)).mean() > 0.99
        refreshed = right(LESSON.refreshed(dropped, train))
        assert (found["without_refreshed"][i] == refreshed).mean() > 0.95


def test_inspection_of_a_run(shapes, capsys):
    """All arrays that lesson 06 reads are there, and small."""
    arrays = inspect_run.inspect(small_resnet50(), shapes, 40)
    assert arrays["without_refreshed"].shape == (6, 40) and arrays["first_stored"].shape == (40,)
    assert arrays["images"].dtype == np.uint8 and len(arrays["images"]) == len(arrays["index"])
    assert len(arrays["features1"]) == 6 and arrays["map_truth"].shape[1:] == (32, 32)
    for values in arrays.values():  # `read_run` reads every array of a record as numbers
        assert values.dtype.kind in "biuf"
    assert "without layer4.0" in capsys.readouterr().out
