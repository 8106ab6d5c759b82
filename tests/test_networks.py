"""ResNet-9, whitening, and the registry of networks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import variants
from helpers.networks import (
    NETWORKS,
    ResNet9,
    build_model,
    first_blocks,
    grow,
    whiten,
)
from helpers.resnet import BasicBlock
from helpers.training import set_seed


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_resnet9():
    torch.manual_seed(0)
    model = ResNet9(num_classes=7)
    x = torch.randn(4, 3, 32, 32)
    y = model(x)
    assert y.shape == (4, 7) and y.isfinite().all()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 8
    # 3 → w → 2w (+ block 2w) → 4w → 8w (+ block 8w), all 3×3, a BatchNorm after each; then linear
    w = 32
    pairs = [
        (3, w),
        (w, 2 * w),
        *2 * [(2 * w, 2 * w)],
        (2 * w, 4 * w),
        (4 * w, 8 * w),
        *2 * [(8 * w, 8 * w)],
    ]
    assert parameters(model) == sum(9 * i * o + 2 * o for i, o in pairs) + 8 * w * 7
    blocks = [m for m in model.modules() if isinstance(m, BasicBlock)]
    assert len(blocks) == 2 and all(block.residual and block.downsample is None for block in blocks)
    y.square().sum().backward()
    assert all((p.grad != 0).any() for p in model.parameters())


def test_resnet9_scales_its_logits():
    torch.manual_seed(0)
    model = ResNet9(width=8).eval()
    features = []
    model.layer3.register_forward_hook(lambda *call: features.append(call[-1]))
    y = model(torch.randn(2, 3, 32, 32))
    strongest = torch.from_numpy(features[0].detach().numpy().max(axis=(2, 3)))
    torch.testing.assert_close(y, strongest @ model.fc.weight.T / 8)


# --- the registry


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_the_outputs_it_is_asked_for(name):
    model = build_model(name, num_classes=3)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert model.fc.out_features == 3


def test_no_name_hides_another():
    named = [name for name in NETWORKS if name not in variants.VARIANTS]
    assert len(named) + len(variants.VARIANTS) == len(NETWORKS)
    for depth in (20, 32, 44, 56, 110):
        assert {f"resnet{depth}", f"plain{depth}"} <= set(named)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown network 'lenet': choose one of resnet9"):
        build_model("lenet")
    with pytest.raises(ValueError, match="resnet9 does not take stem"):
        build_model("resnet9", stem="cifar")
    with pytest.raises(ValueError, match="does not take zero_gamma"):
        build_model("resnet20-preact", zero_gamma=True)


# --- whitening


def test_whitened_filters_answer_uncorrelated_with_variance_one():
    """Independent of the implementation: the answers of the filters to the images they were
    computed from.
    """
    generator = torch.Generator().manual_seed(0)
    images = (
        F.avg_pool2d(torch.randn(200, 3, 24, 24, generator=generator), 3, stride=1) * 2
    )  # correlated
    conv = nn.Conv2d(3, 32, 3, bias=False)
    whiten(conv, images)
    answers = conv(images).transpose(0, 1).flatten(1)  # (32, samples)
    moments = answers @ answers.T / answers.shape[1]
    torch.testing.assert_close(moments[:16, :16], torch.eye(16), rtol=0, atol=0.1)
    torch.testing.assert_close(answers[16:], -answers[:16])
    assert not conv.weight.requires_grad
    largest = torch.linalg.svd(
        F.unfold(images, 3).transpose(1, 2).reshape(-1, 27), full_matrices=False
    ).Vh[0]
    direction = conv.weight[0].flatten() / conv.weight[0].norm()
    assert abs(direction @ largest) > 0.999  # the first filter is the first principal component


@pytest.mark.parametrize(
    "shape", [(0, 3, 8, 8), (4, 1, 8, 8), (4, 8, 8, 3)], ids=["none", "grey", "channels last"]
)
def test_images_that_cannot_be_whitened_for_are_refused(shape):
    conv = nn.Conv2d(3, 54, 3)
    before = conv.weight.clone()
    with pytest.raises(ValueError, match=r"expected normalised images \(N, 3, H, W\)"):
        whiten(conv, torch.randn(shape))
    assert torch.equal(conv.weight, before) and conv.weight.requires_grad


@pytest.mark.parametrize("filters", [31, 56])
def test_what_cannot_be_whitened_is_refused(filters):
    conv = nn.Conv2d(3, filters, 3)
    with pytest.raises(ValueError, match=f"{filters} filters: an even number up to 54"):
        whiten(conv, torch.randn(4, 3, 8, 8))
    whiten(nn.Conv2d(3, 54, 3), torch.randn(4, 3, 8, 8))


def test_resnet9_passes_half_of_its_channels_on():
    model = ResNet9()
    for stage, channels in ((model.layer1, 32), (model.layer2, 64), (model.layer3, 128)):
        x = torch.randn(2, channels, 8, 8)
        torch.testing.assert_close(stage[0](x)[:, :channels], x)
        assert stage[0](x)[:, channels:].std() > 0.1


# --- the shallow network within a deep one


def test_the_first_blocks_of_resnet50_are_a_resnet14_that_shares_its_parameters():
    model = build_model("resnet50")
    part = first_blocks(model)
    assert list(part.state_dict()) == list(build_model("resnet14").state_dict())
    assert all(parameter is model.get_parameter(n) for n, parameter in part.named_parameters())
    assert len(model.layer1) == 3  # the whole network is still whole


@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
def test_blocks_that_join_with_gamma_0_change_nothing(name):
    set_seed(0)
    model = build_model(name).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = first_blocks(model)(images)
        grow(model, gamma=0.0)
        assert torch.equal(model(images), before)
        grow(model, gamma=1.0)
        assert not torch.allclose(model(images), before)


@pytest.mark.parametrize("name", ["plain20", "plain50", "resnet9", "resnet14"])
def test_a_network_without_blocks_to_leave_out_says_so(name):
    with pytest.raises(ValueError, match="no residual blocks to be left out"):
        first_blocks(build_model(name))
