"""What the machine is asked for, and what is said of it."""

import copy
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import system
from helpers.resnet import resnet50


def test_devices():
    assert system.resolve_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:99", "nonsense"):
        with pytest.raises(ValueError, match=name):
            system.resolve_device(name)


@pytest.mark.parametrize(
    "capability, expected", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_precision_follows_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert system.resolve_precision("auto", torch.device("cuda")) == expected
    assert system.resolve_precision("float32", torch.device("cuda")) == "float32"


@pytest.mark.parametrize(
    "device, pays, expected",
    [("cpu", True, "bfloat16"), ("cpu", False, "float32"), ("mps", True, "float32")],
)
def test_auto_on_a_cpu_follows_the_probe(monkeypatch, device, pays, expected):
    monkeypatch.setattr(system, "bfloat16_pays", lambda: pays)
    assert system.resolve_precision("auto", torch.device(device)) == expected


def test_what_is_slow_is_said():
    with pytest.warns(UserWarning, match="float16 is very slow on a CPU"):
        assert system.resolve_precision("float16", torch.device("cpu")) == "float16"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        system.resolve_precision("float16", torch.device("cuda"))
        system.resolve_precision("bfloat16", torch.device("cpu"))


def test_the_probe_is_timed_and_leaves_the_generator_alone(monkeypatch):
    """A clock that charges bfloat16 (every second measurement) half as much, then as much."""
    before = torch.get_rng_state()
    for cost, expected in ((0.5, True), (1.0, False)):
        system.bfloat16_pays.cache_clear()
        ticks = iter([0.0, 1.0, 0.0, cost] * 6)
        monkeypatch.setattr(system.time, "perf_counter", ticks.__next__)
        assert system.bfloat16_pays() is expected
    system.bfloat16_pays.cache_clear()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_processor_is_named_as_the_system_names_it(monkeypatch):
    lines = ["processor\t: 0", "model name\t: Maker: Model 7", "flags\t\t: avx512_bf16 amx_bf16"]
    monkeypatch.setattr(Path, "read_text", lambda path: "\n".join(2 * lines))
    assert system.processor_name() == "Maker: Model 7, 2 cores, AMX-BF16"
    lines[2] = "flags\t\t: avx512_bf16"
    assert system.processor_name() == "Maker: Model 7, 2 cores, AVX512-BF16"
    monkeypatch.setattr(Path, "read_text", lambda path: "\n".join(lines[:2]))
    assert system.processor_name() == "Maker: Model 7, 1 cores"
    monkeypatch.setattr(Path, "read_text", lambda path: "no such lines")
    assert system.processor_name()


# --- convolutions as matrix products


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel, size", [(1, (6, 6)), (1, (5, 7)), (3, (6, 6)), (3, (5, 7))])
def test_products_are_the_convolution(kernel, size, stride):
    torch.manual_seed(0)
    channels = (256, 1024) if kernel == 1 else (256, 8)
    options = {"stride": stride, "padding": kernel // 2, "bias": False, "dtype": torch.float64}
    ours = nn.Conv2d(*channels, kernel, **options).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(ours)
    system.use_products(ours)
    assert type(ours) is system.ProductConv2d and type(theirs) is nn.Conv2d
    x = torch.randn(3, 256, *size, dtype=torch.float64).to(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [conv(image) for conv, image in zip((ours, theirs), inputs)]
    assert torch.allclose(*outputs)
    assert outputs[0].is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad)
    assert torch.allclose(ours.weight.grad, theirs.weight.grad)


def test_without_gradients_a_strided_convolution_is_still_one_product():
    conv = nn.Conv2d(256, 1024, 1, stride=2, bias=False)
    system.use_products(conv)
    x = torch.randn(8, 256, 8, 8).bfloat16().to(memory_format=torch.channels_last)
    autocast = system.make_autocast("bfloat16", x.device)
    with torch.no_grad(), autocast, torch.profiler.profile() as profile:
        conv(x)
    operations = {event.key for event in profile.key_averages()}
    assert "aten::mm" in operations
    assert "aten::bmm" not in operations, "many small products: seven to ten times as slow"


def test_products_work_under_autocast_and_without_a_gradient_of_the_input():
    conv = nn.Conv2d(256, 4, 3, padding=1, bias=False)
    system.use_products(conv)
    with system.make_autocast("bfloat16", torch.device("cpu")):
        output = conv(torch.ones(2, 256, 4, 4))
    output.sum().backward()
    assert output.dtype == torch.bfloat16 and conv.weight.grad.dtype == torch.float32
    taps = torch.tensor([[9.0, 12.0, 9.0], [12.0, 16.0, 12.0], [9.0, 12.0, 9.0]])
    assert torch.equal(conv.weight.grad[0, 0], 2 * taps)  # a tap at a corner sees 9 of 16 pixels


def test_only_deep_convolutions_become_products():
    model = resnet50()
    names = set(model.state_dict())
    system.use_products(model)
    found = [n for n, part in model.named_modules() if type(part) is system.ProductConv2d]
    assert set(model.state_dict()) == names
    assert "layer4.0.conv2" in found and "layer3.1.conv3" in found
    assert not any(name.startswith(("conv1", "layer1", "layer2")) for name in found)


def test_products_are_chosen_on_a_cpu_in_bfloat16_by_a_clock(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert system.resolve_products("on", gpu, "float32") == "on"
    assert system.resolve_products("auto", cpu, "float32") == "off"
    assert system.resolve_products("auto", gpu, "bfloat16") == "off"
    monkeypatch.setattr(system, "make_autocast", lambda *_: nullcontext())  # some emulate bfloat16
    for cost, expected in ((0.5, "on"), (1.0, "off")):
        system.products_pay.cache_clear()
        ticks = iter([0.0, 1.0, 0.0, cost] * 6)
        monkeypatch.setattr(system.time, "perf_counter", ticks.__next__)
        assert system.resolve_products("auto", cpu, "bfloat16") == expected
    system.products_pay.cache_clear()
