"""The variants of lesson 07, against formulas, torchvision and the definitions themselves."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from helpers.inspection import capture, summarize
from helpers.networks import build_model
from helpers.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    ZeroPad,
    initialize,
    plain20,
    projection,
    resnet20,
)
from helpers.variants import (
    BottleneckV1,
    PreActivationBlock,
    ProjectedBlock,
    small,
    without_batchnorm,
)

WIDTHS = (16, 32, 64)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def conv_bn(c: int, d: int, k: int) -> int:
    """Numbers in a k×k convolution from c to d channels and the BatchNorm after it."""
    return c * d * k * k + 2 * d


def expected(depth: int, option: str = "A", stem: int = 3) -> int:
    """Parameters of the paper's CIFAR family, counted by hand."""
    n, total, c = (depth - 2) // 6, conv_bn(3, 16, stem), 16
    for d in WIDTHS:
        total += conv_bn(c, d, 3) + (2 * n - 1) * conv_bn(d, d, 3)
        if option in "BC" and c != d:
            total += conv_bn(c, d, 1)
        if option == "C":
            total += (n - (c != d)) * conv_bn(d, d, 1)
        c = d
    return total + 64 * 10 + 10


def expected_bottleneck() -> int:
    """Parameters of the 11-layer network of three bottlenecks with projections."""
    total, c = conv_bn(3, 16, 3), 16
    for width in WIDTHS:
        total += (
            conv_bn(c, width, 1)
            + conv_bn(width, width, 3)
            + conv_bn(width, 4 * width, 1)
            + conv_bn(c, 4 * width, 1)
        )
        c = 4 * width
    return total + c * 10 + 10


BATCHNORMS = (
    16 * 7 + 32 * 6 + 64 * 6
)  # channels of ResNet-20's nineteen BatchNorms; without them one bias a channel each


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet8", expected(8)),
        ("plain8", expected(8)),
        ("resnet20-B", expected(20, "B")),
        ("resnet20-C", expected(20, "C")),
        (
            "resnet20-preact",
            expected(20) + 2 * ((16 - 32) + (32 - 64) + (64 - 16)),
        ),  # BatchNorms before, not after
        ("resnet20-no-bn", expected(20) - BATCHNORMS),
        ("plain20-no-bn", expected(20) - BATCHNORMS),
        ("resnet20-imagenet-stem", expected(20, stem=7)),
        ("bottleneck11", expected_bottleneck()),
        ("bottleneck11-v1", expected_bottleneck()),
    ],
)
def test_parameters_by_formula(name, parameters):
    model = build_model(name)
    assert size(model) == parameters
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert build_model(name, num_classes=7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_the_formula_knows_the_paper():
    assert [expected(depth) for depth in (20, 32, 44, 56, 110)] == [
        269_722,
        464_154,
        658_586,
        853_018,
        1_727_962,
    ]


def test_the_default_is_the_core():
    torch.manual_seed(0)
    ours = small(20)
    torch.manual_seed(0)
    core = resnet20()
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), core.state_dict().values(), strict=True)
    )
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours.eval()(x), core.eval()(x))


@pytest.mark.parametrize(
    ("depth", "block"), [(9, BasicBlock), (2, BasicBlock), (12, Bottleneck), (2, Bottleneck)]
)
def test_a_depth_that_cannot_be(depth, block):
    with pytest.raises(
        ValueError, match=f"depth {depth} is not of the form {9 if block is Bottleneck else 6}n"
    ):
        small(depth, block=block)


@pytest.mark.parametrize("depth", [8, 14, 20, 32])
def test_depth_counts_the_weighted_layers(depth):
    layers = [m for m in small(depth).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth  # option A: no convolutions on the shortcuts
    eleven = [
        n
        for n, m in small(11, block=Bottleneck).named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    assert len([name for name in eleven if "downsample" not in name]) == 11


# --- shortcuts


def test_option_c_projects_everywhere_and_b_only_where_shapes_differ():
    for name, projected in (
        ("resnet20-B", [False] * 3 + [True, False, False] * 2),
        ("resnet20-C", [True] * 9),
    ):
        blocks = [m for m in build_model(name).modules() if isinstance(m, BasicBlock)]
        assert [block.downsample is not None for block in blocks] == projected
        for block in blocks:
            if block.downsample is not None:
                assert [type(part) for part in block.downsample] == [nn.Conv2d, nn.BatchNorm2d]
                assert block.downsample[0].stride == block.conv1.stride and block.downsample[
                    0
                ].kernel_size == (1, 1)


def test_a_projected_block_adds_its_projection():
    block = ProjectedBlock(8, 8).eval()
    nn.init.zeros_(block.bn2.weight)  # F = 0
    x = torch.randn(2, 8, 6, 6)
    weight = block.downsample[0].weight[:, :, 0, 0]
    by_hand = torch.einsum("dc,nchw->ndhw", weight, x) / (1 + block.downsample[1].eps) ** 0.5
    assert torch.allclose(block(x), by_hand.relu(), atol=1e-5)
    assert not torch.allclose(block(x), x.relu(), atol=0.1)


def test_plain_variants_add_nothing():
    for name in ("plain8", "plain20-no-bn"):
        net = build_model(name)
        blocks = [m for m in net.modules() if isinstance(m, BasicBlock)]
        assert blocks and not any(block.residual or block.downsample for block in blocks)
        nn.init.zeros_(blocks[0].conv2.weight)
        out = capture(net.eval(), ["layer1.0"], torch.randn(2, 3, 32, 32))["layer1.0"]
        assert (out == 0).all()  # with F = 0 nothing is left; a shortcut would hand x on


# --- where the stride sits


def test_v1_has_its_stride_in_the_first_convolution():
    v15, v1 = Bottleneck(16, 8, stride=2), BottleneckV1(16, 8, stride=2)
    assert (v15.conv1.stride, v15.conv2.stride, v15.conv3.stride) == ((1, 1), (2, 2), (1, 1))
    assert (v1.conv1.stride, v1.conv2.stride, v1.conv3.stride) == ((2, 2), (1, 1), (1, 1))
    v1.load_state_dict(v15.state_dict())
    x = torch.randn(2, 16, 8, 8)
    assert v1(x).shape == v15(x).shape == (2, 32, 4, 4)
    assert not torch.allclose(v1(x), v15(x), atol=1e-3)


def test_v1_equals_v15_without_a_stride():
    v15, v1 = Bottleneck(16, 8), BottleneckV1(16, 8)
    v1.load_state_dict(v15.state_dict())
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(v1(x), v15(x))


def test_v1_is_torchvisions_with_the_strides_moved():
    ours = ResNet(BottleneckV1, (3, 4, 6, 3), 1000, "imagenet")
    theirs = torchvision.models.resnet50()
    for module in theirs.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_v1_costs_less():
    """The paper's 3.86 billion multiply-adds of ResNet-50 at 224×224, against 4.09 of v1.5."""
    v1 = summarize(
        ResNet(BottleneckV1, (3, 4, 6, 3), 1000, "imagenet"), (3, 224, 224)
    ).multiply_adds.sum()
    assert round(v1 / 1e9, 2) == 3.86


# --- pre-activation


def test_a_preactivation_block_is_exactly_additive():
    block = PreActivationBlock(8, 8)
    x = torch.randn(4, 8, 6, 6)

    def normalise(x, bn):  # BatchNorm in training mode, by hand
        mean, variance = (
            x.mean(dim=(0, 2, 3), keepdim=True),
            x.var(dim=(0, 2, 3), keepdim=True, unbiased=False),
        )
        return (x - mean) / (variance + bn.eps).sqrt()

    inner = nn.functional.conv2d(normalise(x, block.bn1).relu(), block.conv1.weight, padding=1)
    residual = nn.functional.conv2d(
        normalise(inner, block.bn2).relu(), block.conv2.weight, padding=1
    )
    before = x.clone()
    assert torch.allclose(block(x) - x, residual, atol=1e-5)
    assert torch.equal(x, before)  # a ReLU in place must not reach the shortcut
    assert (block(x) < 0).any()  # nothing follows the addition


def test_the_identity_path_is_exact():
    block = PreActivationBlock(8, 8)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    assert torch.equal(block(x), x)
    upstream = torch.randn(2, 8, 6, 6)
    block(x).backward(upstream)
    assert torch.equal(x.grad, upstream)


def test_a_preactivation_block_changes_shape():
    assert PreActivationBlock(8, 8, stride=2)(torch.randn(2, 8, 6, 6)).shape == (2, 8, 3, 3)
    block = PreActivationBlock(4, 8, stride=2)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    out = block(x)
    assert out.shape == (2, 8, 3, 3) and isinstance(block.downsample, ZeroPad)
    assert torch.equal(out[:, :4], x[:, :, ::2, ::2]) and (out[:, 4:] == 0).all()
    assert isinstance(PreActivationBlock(4, 8, 2, projection).downsample, nn.Sequential)


def test_the_preactivation_network_ends_with_batchnorm_and_relu():
    net = build_model("resnet20-preact").eval()
    assert net.bn1.num_features == 64 and net.conv1.out_channels == 16
    x = torch.randn(2, 3, 32, 32)
    parts = capture(net, ["conv1", "layer1.0", "layer3.2", "fc"], x)
    features = (parts["layer3.2"] / (1 + net.bn1.eps) ** 0.5).relu().mean(dim=(2, 3))
    assert torch.allclose(parts["fc"], net.fc(features), atol=1e-5)
    first = net.layer1[0]
    inner = first.conv1((parts["conv1"] / (1 + first.bn1.eps) ** 0.5).relu())  # the stem is bare
    by_hand = parts["conv1"] + first.conv2((inner / (1 + first.bn2.eps) ** 0.5).relu())
    assert torch.allclose(parts["layer1.0"], by_hand, atol=1e-4)
    assert all(
        (m.weight == 1).all() and (m.bias == 0).all()
        for m in net.modules()
        if isinstance(m, nn.BatchNorm2d)
    )
    conv = net.layer3[2].conv2.weight
    assert abs(conv.std() / (2 / (64 * 9)) ** 0.5 - 1) < 0.05  # Kaiming, by fan-out


# --- without BatchNorm


@pytest.mark.parametrize("build", [resnet20, plain20, lambda: build_model("resnet20-C")])
def test_without_batchnorm(build):
    net = without_batchnorm(build())
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions and all(
        m.bias is not None and m.bias.shape == (m.out_channels,) for m in convolutions
    )
    assert all((m.bias == 0).all() and m.bias.requires_grad for m in convolutions)


@pytest.mark.parametrize("build", [resnet20, plain20])
def test_a_network_with_folded_batchnorm_says_the_same(build):
    """BatchNorm in eval mode is linear: scale the filters, set the biases, and the network without
    it must agree.
    """
    original = build()
    for bn in (m for m in original.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(bn.running_mean, -0.2, 0.2)
        nn.init.uniform_(bn.running_var, 0.5, 1.5)
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.uniform_(bn.bias, -0.2, 0.2)
    original.eval()
    bare = without_batchnorm(copy.deepcopy(original))
    for name, module in original.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            conv = bare.get_submodule(name.replace("bn", "conv"))
            scale = module.weight / (module.running_var + module.eps).sqrt()
            conv.weight.data *= scale.view(-1, 1, 1, 1).detach()
            conv.bias.data.copy_(module.bias - module.running_mean * scale)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(bare(x), original(x), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(
        without_batchnorm(copy.deepcopy(original))(x), original(x), rtol=1e-3, atol=1e-3
    )


# --- the stem, and the starting notebook's network


def test_stages_behind_the_imagenet_stem():
    for name, pixels in (("resnet20-imagenet-stem", [8, 4, 2]), ("resnet8", [32, 16, 8])):
        outputs = capture(
            build_model(name).eval(), ["layer1", "layer2", "layer3"], torch.zeros(1, 3, 32, 32)
        )
        assert [output.shape[-1] for output in outputs.values()] == pixels


def test_half_of_a_resnet50():
    ours, theirs = build_model("resnet50-half"), torchvision.models.resnet50(num_classes=10)
    whole = {name: p.shape for name, p in theirs.named_parameters()}
    assert list(whole) == [name for name, _ in ours.named_parameters()]
    for name, p in ours.named_parameters():
        keeps = {"fc.bias": [0], "fc.weight": [0], "conv1.weight": [1]}.get(name, [])
        half = [full if i >= 2 or i in keeps else full // 2 for i, full in enumerate(whole[name])]
        assert list(p.shape) == half, name
    assert 5.8e6 < size(ours) < 6.0e6  # its own summary says 5.9 million


# --- zero-gamma


def test_zero_gamma_starts_every_block_as_a_relu_and_is_refused_for_plain_networks():
    net = small(8, zero_gamma=True).eval()
    stem = net.relu(net.bn1(net.conv1(torch.ones(1, 3, 32, 32))))
    assert torch.equal(net.layer1[0](stem), stem)
    with pytest.raises(ValueError, match="zero_gamma needs shortcuts"):
        small(8, shortcut=None, zero_gamma=True)
    with pytest.raises(ValueError, match="does not take zero_gamma"):
        build_model("resnet20-preact", zero_gamma=True)
    initialize(net)  # leaves scales alone
    assert (net.layer1[0].bn2.weight == 0).all()


def test_names_are_what_they_say():
    assert isinstance(build_model("bottleneck11-v1").layer1[0], BottleneckV1)
    assert type(build_model("bottleneck11").layer1[0]) is Bottleneck
    assert type(build_model("resnet20-preact").layer1[0]) is PreActivationBlock
    assert build_model("resnet50-half", num_classes=3).fc.out_features == 3
