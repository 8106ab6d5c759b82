"""The networks against torchvision's, the paper's counts, NumPy and closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from helpers import networks, resnet
from helpers.resnet import (
    BasicBlock,
    Bottleneck,
    ZeroPad,
    cifar_resnet,
    initialize,
    make_stage,
)

NAMES = ("resnet18", "resnet34", "resnet50")
PLAIN = ("plain20", "plain32", "plain44", "plain56", "plain110")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def torchvision_model(name: str, num_classes: int, stem: str) -> nn.Module:
    model = getattr(torchvision.models, name)(weights=None, num_classes=num_classes)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def twins(name: str, num_classes: int, stem: str) -> tuple[nn.Module, nn.Module]:
    """Our network and torchvision's with the same weights, and BatchNorms that are not where they
    start.
    """
    torch.manual_seed(0)
    ours, theirs = (
        getattr(resnet, name)(num_classes, stem=stem),
        torchvision_model(name, num_classes, stem),
    )
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def one_pass(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits, the gradient of every parameter and of the image, and the buffers, by name."""
    x = x.clone().requires_grad_()
    logits = model(x)
    F.cross_entropy(logits, torch.arange(len(x))).backward()
    seen = {"logits": logits.detach(), "d/image": x.grad}
    seen |= {f"d/{name}": p.grad for name, p in model.named_parameters()}
    return seen | {f"buffer {name}": buffer for name, buffer in model.named_buffers()}


# --- against torchvision


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_classes", "stem"), [(1000, "imagenet"), (10, "cifar")])
def test_names_and_shapes_are_torchvisions(name, num_classes, stem):
    ours, theirs = (
        getattr(resnet, name)(num_classes, stem=stem),
        torchvision_model(name, num_classes, stem),
    )
    if (
        stem == "imagenet"
    ):  # replacing a module keeps its place, but compare an untouched network too
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [(k, v.shape, v.dtype) for k, v in ours.state_dict().items()] == [
        (k, v.shape, v.dtype) for k, v in theirs.state_dict().items()
    ]


@pytest.mark.parametrize(
    ("name", "num_classes", "stem", "expected"),
    [
        ("resnet18", 1000, "imagenet", 11_689_512),
        ("resnet34", 1000, "imagenet", 21_797_672),
        ("resnet50", 1000, "imagenet", 25_557_032),
        ("resnet50", 10, "imagenet", 23_528_522),
        ("resnet50", 10, "cifar", 23_520_842),
    ],
)
def test_parameter_counts(name, num_classes, stem, expected):
    assert parameters(getattr(resnet, name)(num_classes, stem=stem)) == expected


SMALL = [("cifar", 32), ("cifar", 33), ("imagenet", 32), ("imagenet", 33), ("imagenet", 64)]
LARGE = [
    ("cifar", 64),
    ("imagenet", 224),
]  # slow; ResNet-34 would show nothing that 18 and 50 do not
CASES = [(name, *case) for name in NAMES for case in SMALL + (LARGE if name != "resnet34" else [])]


@pytest.mark.parametrize(("name", "stem", "size"), CASES)
def test_equal_to_torchvision_to_the_last_bit(name, stem, size):
    ours, theirs = twins(name, 1000 if stem == "imagenet" else 10, stem)
    x = torch.randn(2, 3, size, size)
    for mode in (True, False):  # train, then eval with the statistics that training left
        for model in (ours, theirs):
            model.train(mode)
            model.zero_grad()
        a, b = one_pass(ours, x), one_pass(theirs, x)
        assert list(a) == list(b)
        different = [name for name in a if not torch.equal(a[name], b[name])]
        assert not different, f"train mode {mode}: {different[:5]}"
        assert a["d/image"].abs().sum() > 0 and a["logits"].isfinite().all()


def test_initialisation_has_torchvisions_distribution():
    """Same rule, layer by layer: the standard deviations agree within sampling error; BatchNorm and
    biases exactly.
    """
    torch.manual_seed(0)
    ours, theirs = resnet.resnet50(1000, stem="imagenet"), torchvision.models.resnet50(weights=None)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if p.ndim == 1 and name != "fc.bias":
            assert torch.equal(p, q), name
        else:  # sd of a sample sd: about sd / √(2n)
            assert abs(p.std() / q.std() - 1) < 6 / p.numel() ** 0.5, name


# --- shapes, stages and blocks


@pytest.mark.parametrize(("block", "expansion"), [(BasicBlock, 1), (Bottleneck, 4)])
@pytest.mark.parametrize("shortcut", [resnet.projection, ZeroPad, None])
@pytest.mark.parametrize("size", [8, 9])
def test_block_shapes(block, expansion, shortcut, size):
    x = torch.randn(2, 16, size, size)
    assert block(16, 32, 2, shortcut)(x).shape == (2, 32 * expansion, -(-size // 2), -(-size // 2))
    assert block(16, 16 // expansion, 1, shortcut)(x).shape == x.shape


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_module_on_the_shortcut_only_where_shapes_differ(block):
    same, wider, strided = (
        block(64, 64 // block.expansion),
        block(64, 64),
        block(64, 64 // block.expansion, 2),
    )
    assert same.downsample is None and strided.downsample is not None
    assert (wider.downsample is None) == (block is BasicBlock)
    assert block(64, 64, 2, None).downsample is None


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_block_adds_its_input(block):
    """y = ReLU(F(x) + x) against F computed apart, from the block's own layers."""
    torch.manual_seed(0)
    module = block(16, 16 // block.expansion).eval()
    plain = block(16, 16 // block.expansion, shortcut=None).eval()
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 16, 8, 8)
    last = "bn2" if block is BasicBlock else "bn3"
    residual = []
    plain.get_submodule(last).register_forward_hook(lambda *call: residual.append(call[-1].clone()))
    y = plain(x)  # the plain twin is the same layers with nothing added
    assert torch.equal(y, F.relu(residual[0]))
    assert torch.equal(module(x), F.relu(residual[0] + x))


def test_stride_sits_in_the_3x3():
    block = Bottleneck(64, 32, stride=2)
    assert [conv.stride for conv in (block.conv1, block.conv2, block.conv3)] == [
        (1, 1),
        (2, 2),
        (1, 1),
    ]


def test_stage_changes_shape_once():
    stage = make_stage(Bottleneck, 64, 32, depth=4, stride=2)
    assert len(stage) == 4 and [block.downsample is not None for block in stage] == [
        True,
        False,
        False,
        False,
    ]
    assert stage(torch.randn(2, 64, 8, 8)).shape == (2, 128, 4, 4)


def test_unknown_stem():
    with pytest.raises(ValueError, match="unknown stem 'tiny'.*cifar.*imagenet"):
        resnet.resnet50(stem="tiny")


# --- the paper's CIFAR family

FAMILY = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize(("depth", "expected"), FAMILY.items())
def test_cifar_family(depth, expected):
    residual, plain = getattr(resnet, f"resnet{depth}")(), getattr(resnet, f"plain{depth}")()
    for model in (residual, plain):
        assert parameters(model) == expected
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) + 1 == depth  # and the linear layer
        assert {conv.out_channels for conv in convolutions} == {16, 32, 64}
    assert residual(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_smallest_of_the_family_has_a_block_a_stage():
    assert [len(getattr(cifar_resnet(8), name)) for name in ("layer1", "layer2", "layer3")] == [
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("depth", [0, 2, 18, 21, 51, -4])
def test_wrong_depth(depth):
    with pytest.raises(ValueError, match=f"depth {depth} is not of the form 6n"):
        cifar_resnet(depth)


@pytest.mark.parametrize(
    ("size", "stride"), [((8, 8), 2), ((7, 9), 2), ((1, 5), 2), ((6, 5), 1), ((10, 11), 3)]
)
def test_zero_pad_against_numpy(size, stride):
    x = torch.randn(2, 3, *size, requires_grad=True)
    y = ZeroPad(3, 7, stride)(x)
    h, w = (-(-n // stride) for n in size)
    expected = np.zeros((2, 7, h, w), dtype=np.float32)
    for i in range(h):
        for j in range(w):
            expected[:, :3, i, j] = x.detach().numpy()[:, :, i * stride, j * stride]
    np.testing.assert_array_equal(y.detach().numpy(), expected)
    y.sum().backward()
    read = np.zeros(size, dtype=np.float32)
    read[::stride, ::stride] = 1
    np.testing.assert_array_equal(x.grad.numpy(), np.broadcast_to(read, x.shape))
    assert parameters(ZeroPad(3, 7, stride)) == 0


# --- plain twins


def plain_and_twin(name: str) -> tuple[nn.Module, nn.Module]:
    if name.startswith("plain"):
        return getattr(resnet, name)(), getattr(resnet, name.replace("plain", "resnet"))()
    return getattr(resnet, name)(residual=False), getattr(resnet, name)()


@pytest.mark.parametrize("name", [*PLAIN, *NAMES])
def test_plain_network_is_its_twin_without_shortcuts(name):
    plain, twin = plain_and_twin(name)
    blocks = [m for m in plain.modules() if isinstance(m, (BasicBlock, Bottleneck))]
    assert blocks and all(block.downsample is None and not block.residual for block in blocks)

    def layers(model):
        convolutions = [
            (n, m)
            for n, m in model.named_modules()
            if isinstance(m, nn.Conv2d) and "downsample" not in n
        ]
        return [(n, m.weight.shape, m.stride, m.padding) for n, m in convolutions]

    assert layers(plain) == layers(twin)
    assert not any(isinstance(m, ZeroPad) for m in plain.modules())


@pytest.mark.parametrize("name", [*PLAIN, *NAMES])
def test_every_convolution_of_a_plain_network_learns(name):
    torch.manual_seed(0)
    plain, _ = plain_and_twin(name)
    plain(torch.randn(4, 3, 32, 32)).square().sum().backward()
    for layer, module in plain.named_modules():
        if isinstance(module, nn.Conv2d):
            gradient = module.weight.grad
            assert gradient.isfinite().all() and (gradient != 0).any(), layer


def test_shortcuts_are_at_work():
    """A residual network and its plain twin with the same weights give different answers."""
    torch.manual_seed(0)
    residual, plain = resnet.resnet20().eval(), resnet.plain20().eval()
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(residual(x), plain(x))


# --- initialisation


@pytest.mark.parametrize(
    "make", [resnet.resnet50, resnet.resnet20, resnet.plain20, networks.ResNet9]
)
def test_kaiming_variance(make):
    torch.manual_seed(0)
    checked = 0
    for name, module in make().named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            if make is networks.ResNet9 and name in ("layer1.0", "layer2.0", "layer3.0"):
                weight = weight[module.in_channels :]  # the other filters start as the identity
            n, fan_out = weight.numel(), module.out_channels * module.kernel_size[0] ** 2
            z_mean = weight.mean() * (n * fan_out / 2) ** 0.5  # both are about standard normal
            z_variance = (weight.var() * fan_out / 2 - 1) * (n / 2) ** 0.5
            assert abs(z_mean) < 5 and abs(z_variance) < 5, name
            assert module.bias is None
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_zero_gamma_starts_as_relu_of_x(block):
    module = block(64, 64 // block.expansion)
    x = torch.randn(2, 64, 8, 8)
    initialize(module)
    assert not torch.equal(module(x), F.relu(x))  # only where asked for
    initialize(module, zero_gamma=True)
    assert torch.equal(module(x), F.relu(x))
    strided = block(64, 64, 2)
    initialize(strided, zero_gamma=True)
    assert torch.equal(strided(x), F.relu(strided.downsample(x)))


@pytest.mark.parametrize("name", [*NAMES, "resnet20", "resnet9"])
def test_zero_gamma_touches_the_last_batchnorm_of_each_block_alone(name):
    model = networks.build_model(name, zero_gamma=True)
    last = "bn3" if name == "resnet50" else "bn2"
    in_blocks = {
        f"{n}.{last}" for n, m in model.named_modules() if isinstance(m, (BasicBlock, Bottleneck))
    }
    norms = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert in_blocks and {n for n, weight in norms.items() if (weight == 0).all()} == in_blocks
    assert all((weight == 1).all() for n, weight in norms.items() if n not in in_blocks)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all((norms[n].grad != 0).any() for n in in_blocks)  # and they can leave 0


def test_zero_gamma_is_an_error_on_plain_networks():
    for make in (
        resnet.resnet18,
        resnet.resnet34,
        resnet.resnet50,
        resnet.resnet20,
        resnet.resnet110,
    ):
        with pytest.raises(ValueError, match="zero_gamma needs shortcuts"):
            make(residual=False, zero_gamma=True)


# --- every way to deploy one


@pytest.mark.long
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_network_can_be_exported(name):
    model = networks.build_model(name).eval()
    x = torch.randn(2, 3, 32, 32)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", ["resnet9", "resnet18", "resnet50", "resnet20-preact", "plain20"])
def test_networks_can_be_scripted(name):
    model = networks.build_model(name).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))
