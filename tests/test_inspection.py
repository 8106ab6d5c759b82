"""helpers.inspection against PyTorch's own counter, brute force, finite differences and networks taken apart by hand."""

import copy
import gc
import io
import struct
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import inspection, resnet, variants
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


# --- capture


def test_capture_gives_what_the_parts_put_out(shapes):
    torch.manual_seed(0)
    model = resnet.resnet20().eval()
    x = shapes.normalize(shapes.test.images[:4])
    with torch.no_grad():
        stem = model.bn1(model.conv1(x))  # before the ReLU, which works in place
        first = model.layer1[0](model.relu(stem.clone()))
        expected = {"bn1": stem, "layer1.0": first, "fc": model(x)}
    seen = inspection.capture(model, list(expected), x)
    assert hooks(model) == 0 and list(seen) == list(expected)
    for name, output in expected.items():
        assert not seen[name].requires_grad
        torch.testing.assert_close(seen[name], output)


def test_capture_removes_its_hooks_when_the_forward_pass_fails():
    model = resnet.resnet20().eval()
    with pytest.raises(RuntimeError):
        inspection.capture(model, ["layer1", "fc"], torch.zeros(1, 5, 32, 32))
    assert hooks(model) == 0


# --- receptive field


def measured_fields(model: nn.Module, parts: list[str], pixels: int = 129) -> list[int]:
    """Brute force: the side of the region of the input on which the central value of each part's output depends.

    With positive weights and inputs no ReLU closes and nothing cancels, so every pixel that can matter does.
    """
    model = copy.deepcopy(model).eval().double()
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    x = torch.ones(1, 3, pixels, pixels, dtype=torch.float64, requires_grad=True)
    kept, fields = {}, []
    for part in parts:
        model.get_submodule(part).register_forward_hook(lambda module, inputs, out, part=part: kept.update({part: out}))
    model(x)
    for part in parts:
        middle = kept[part].shape[-1] // 2
        (gradient,) = torch.autograd.grad(kept[part][0, 0, middle, middle], x, retain_graph=True)
        rows, columns = (gradient[0].sum(dim=(0, d)).nonzero().flatten() for d in (2, 1))
        assert rows[0] > 0 and rows[-1] < pixels - 1  # the picture is large enough
        assert rows[-1] - rows[0] == columns[-1] - columns[0]
        fields.append(int(rows[-1] - rows[0]) + 1)
    return fields


@pytest.mark.parametrize("name", ["resnet20", "plain20"])
def test_receptive_field_by_brute_force(name):
    model = resnet.MODELS[name]()
    table = inspection.receptive_field(model)
    assert list(table.index) == ["conv1", "layer1", "layer2", "layer3"] and table.step.tolist() == [1, 1, 2, 4]
    assert table["size"].tolist() == measured_fields(model, list(table.index))


class Pooled(nn.Module):
    """A stem with a max-pool, as for ImageNet, a dilated convolution and a bottleneck with a projection."""

    def __init__(self):
        super().__init__()
        self.conv1, self.maxpool = nn.Conv2d(3, 4, 7, stride=2, padding=3), nn.AvgPool2d(3, 2, 1)
        self.wide = nn.Conv2d(4, 4, 3, dilation=3, padding=3)
        self.layer1 = resnet.make_stage(resnet.Bottleneck, 4, 2, 2, 2)

    def forward(self, x):
        return self.layer1(self.wide(self.maxpool(self.conv1(x))))


def test_receptive_field_with_pooling_dilation_and_bottlenecks():
    model = Pooled()
    by_maximum = copy.deepcopy(model)
    by_maximum.maxpool = nn.MaxPool2d(3, 2, 1)
    table = inspection.receptive_field(by_maximum)
    sizes = measured_fields(model, list(table.index))  # through the average: a maximum passes a single gradient
    assert table["size"].tolist() == sizes
    assert table.step.tolist() == [2, 4, 4, 8]


def test_receptive_field_of_resnet50_by_hand():
    table = inspection.receptive_field(resnet.resnet50(1000, stem="imagenet"))
    assert table["size"].to_dict() == {"conv1": 7, "maxpool": 11, "layer1": 35, "layer2": 91, "layer3": 267, "layer4": 427}
    # e.g. layer1: 11 + three 3×3 convolutions at steps of 4 pixels, 2 · 4 each


# --- Grad-CAM


@pytest.fixture(scope="module")
def tried(shapes):
    """A ResNet-20 with random weights, a few pictures and classes. Its statistics are of these pictures."""
    torch.manual_seed(1)
    model = resnet.resnet20()
    x = shapes.normalize(shapes.test.images[:64])
    model.train()
    for _ in range(20):
        model(x)
    return model.eval(), x[:6], torch.tensor([3, 1, 4, 1, 5, 9])


def test_grad_cam_on_the_last_stage_is_class_activation_mapping(tried):
    model, x, classes = tried
    features = inspection.capture(model, ["layer3"], x)["layer3"]
    cam = torch.einsum("nc,nchw->nhw", model.fc.weight[classes], features) / 64  # the gradient of a mean of 8×8 values
    expected = F.interpolate(cam.relu()[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    maps = inspection.grad_cam(model, model.layer3, x, classes)
    assert maps.shape == (6, 32, 32) and not maps.requires_grad and hooks(model) == 0
    assert maps.max() > 0
    torch.testing.assert_close(maps, expected.detach())


def test_grad_cam_inside_by_finite_differences(tried):
    """Channel weights by moving each channel of layer2 up and down, in float64: nothing of autograd."""
    model, x, classes = copy.deepcopy(tried[0]).double(), tried[1][:2].double(), tried[2][:2]

    def rest(features):
        return model.fc(model.avgpool(model.layer3(features)).flatten(1)).gather(1, classes[:, None])[:, 0]

    with torch.no_grad():
        features = inspection.capture(model, ["layer2"], x)["layer2"]
        step, weights = 1e-6, torch.zeros(2, 32, dtype=torch.float64)
        for channel in range(32):
            moved = torch.zeros_like(features)
            moved[:, channel] = step
            weights[:, channel] = (rest(features + moved) - rest(features - moved)) / (2 * step) / 16**2
        cam = (weights[:, :, None, None] * features).sum(dim=1).relu()
    maps = inspection.grad_cam(model, model.layer2, x, classes)
    expected = F.interpolate(cam[:, None], (32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6 * float(cam.max()))


def test_grad_cam_treats_each_picture_alone_and_works_on_frozen_networks(tried):
    model, x, classes = copy.deepcopy(tried[0]).requires_grad_(False), tried[1], tried[2]
    together = inspection.grad_cam(model, model.layer3, x, classes)
    alone = torch.cat([inspection.grad_cam(model, model.layer3, x[i : i + 1], classes[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone)
    other = inspection.grad_cam(model, model.layer3, x, (classes + 1) % 10)
    assert not torch.allclose(together, other)  # the class matters
    assert all(p.grad is None for p in model.parameters())


def test_grad_cam_wants_a_part_of_the_model_and_leaves_no_hook(tried):
    model, x, classes = tried
    other = copy.deepcopy(model)
    with pytest.raises(ValueError, match="must be a part of `model`"):
        inspection.grad_cam(model, other.layer3, x, classes)
    with pytest.raises(RuntimeError):
        inspection.grad_cam(model, model.layer3, x[:, :1], classes)
    assert hooks(model) == hooks(other) == 0


# --- dropped blocks


def test_block_names():
    assert inspection.block_names(resnet.resnet20()) == [f"layer{s}.{b}" for s in (1, 2, 3) for b in (0, 1, 2)]
    assert len(inspection.block_names(resnet.resnet50())) == 16 and len(inspection.block_names(resnet.plain32())) == 15
    assert inspection.block_names(resnet.resnet9()) == ["layer1.4", "layer3.4"]


@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet9"])
def test_dropping_a_block_is_removing_the_module(tried, name):
    """A block that keeps its shape can be deleted from the Sequential it stands in."""
    torch.manual_seed(2)
    model = resnet.MODELS[name]().eval()
    before = copy.deepcopy(model.state_dict())
    for block in (n for n in inspection.block_names(model) if not n.endswith(".0")):
        stage, number = block.split(".")
        removed = copy.deepcopy(model)
        children = list(removed.get_submodule(stage))
        setattr(removed, stage, nn.Sequential(*children[: int(number)], *children[int(number) + 1 :]))
        dropped = inspection.drop_blocks(model, [block])
        assert torch.equal(dropped(tried[1]), removed(tried[1])), block
        assert not torch.equal(dropped(tried[1]), model(tried[1]))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["layer1", "l", "layer1.7", "conv1", ""])
def test_what_is_no_block_is_not_dropped(name):
    with pytest.raises(ValueError, match=f"'{name}' is no block that ends with a ReLU: choose from .'layer1.0'"):
        inspection.drop_blocks(resnet.resnet20(), [name])


def test_a_preactivation_block_is_not_dropped():
    """It ends with the addition: with a ReLU in its place the network would be another one."""
    with pytest.raises(ValueError, match="no block that ends with a ReLU: choose from another network"):
        inspection.drop_blocks(variants.VARIANTS["resnet20-preact"](), ["layer1.1"])


def test_a_dropped_block_that_changes_the_shape_keeps_its_shortcut(tried):
    torch.manual_seed(3)
    x = torch.rand(2, 16, 32, 32)
    for make, expected in (
        (resnet.resnet20, lambda block: block.downsample(x)),
        (resnet.plain20, lambda block: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 16))),
    ):
        model = make().eval()
        dropped = inspection.drop_blocks(model, ["layer2.0"])
        torch.testing.assert_close(dropped.layer2[0](x), expected(model.layer2[0]).relu())
        assert dropped(tried[1]).shape == (6, 10)
    model = resnet.resnet50().eval()  # a bottleneck: four times the channels, projected
    for name, width, pixels in (("layer1.0", 64, 8), ("layer2.0", 256, 8)):
        x, block = torch.rand(1, width, pixels, pixels), model.get_submodule(name)
        dropped = inspection.drop_blocks(model, [name]).get_submodule(name)
        torch.testing.assert_close(dropped(x), block.downsample(x).relu())


def test_dropping_bottlenecks():
    torch.manual_seed(4)
    x = torch.rand(1, 256, 8, 8)
    for residual in (True, False):
        dropped = inspection.drop_blocks(resnet.resnet50(residual=residual).eval(), ["layer1.1"]).layer1[1]
        assert torch.equal(dropped(x), x)
    plain = inspection.drop_blocks(resnet.resnet50(residual=False).eval(), ["layer2.0"]).layer2[0]
    assert torch.equal(plain(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 256)))


def test_a_residual_block_is_dropped_by_zero_gamma(tried):
    """Another way to the same network: with scale and offset of its last BatchNorm at 0, F(x) is 0."""
    model = tried[0]
    names = ["layer1.1", "layer2.0", "layer3.2"]
    silent = copy.deepcopy(model)
    for name in names:
        nn.init.zeros_(silent.get_submodule(name).bn2.weight)
        nn.init.zeros_(silent.get_submodule(name).bn2.bias)
    torch.testing.assert_close(inspection.drop_blocks(model, names)(tried[1]), silent(tried[1]))


# --- a picture of one's own


def encode(image: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def test_a_picture_of_the_right_size_is_read_as_it_is():
    pixels = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    picture = inspection.read_picture(encode(Image.fromarray(pixels)))
    assert picture.shape == (1, 3, 32, 32) and picture.dtype == torch.uint8
    assert np.array_equal(picture[0].permute(1, 2, 0).numpy(), pixels)


def test_the_central_square_is_taken_and_scaled():
    pixels = np.zeros((60, 100, 3), dtype=np.uint8)
    pixels[:, 20:80] = (10, 200, 90)  # the central square
    picture = inspection.read_picture(encode(Image.fromarray(pixels)))
    assert (picture[0, :, :, 3:-3] == torch.tensor([10, 200, 90])[:, None, None]).all()  # the filter blurs the edges
    assert picture[0, 1, :, [0, -1]].min() > 100


COLOUR = {"L": 77, "LA": (77, 255), "RGB": (200, 30, 60), "RGBA": (200, 30, 60, 255), "1": 1, "I;16": 200 * 256 + 17}
EXPECTED = {"L": (77,) * 3, "LA": (77,) * 3, "RGB": (200, 30, 60), "RGBA": (200, 30, 60), "1": (255,) * 3, "I;16": (200,) * 3}


@pytest.mark.parametrize("mode", COLOUR)
def test_every_kind_of_png(mode):
    picture = inspection.read_picture(encode(Image.new(mode, (50, 40), COLOUR[mode])))
    assert picture[0, :, 5, 5].tolist() == list(EXPECTED[mode]) and picture[0].flatten(1).float().std(dim=1).max() == 0


def test_sixteen_bits_of_colour():
    rows = b"".join(b"\0" + struct.pack(">3H", 200 * 256, 30 * 256 + 255, 60 * 256) * 4 for _ in range(4))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)  # 4×4 pixels, 16 bits, RGB
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert inspection.read_picture(io.BytesIO(png))[0, :, 0, 0].tolist() == [200, 30, 60]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode):
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    options = {}
    if mode == "P":
        image, options = Image.new("P", (40, 40), 1), {"transparency": 1}
        image.putpalette([0, 0, 0, 255, 0, 0])
    elif mode == "LA":
        image = Image.new("LA", (40, 40), (0, 0))
    assert (inspection.read_picture(encode(image, **options)) == 255).all()


def test_cmyk_jpeg():
    red = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    r, g, b = inspection.read_picture(encode(red, "JPEG"))[0, :, 16, 16].tolist()
    assert r > 240 and g < 15 and b < 15


def test_exif_orientation_is_followed():
    upright = Image.new("RGB", (64, 64), "black")
    upright.paste((255, 255, 255), (0, 0, 64, 32))  # white above
    turned = upright.transpose(Image.Transpose.ROTATE_90)  # stored lying on its side …
    exif = Image.Exif()
    exif[0x0112] = 6  # … with the note: turn it by 90° clockwise
    for kind in ("JPEG", "PNG"):
        picture = inspection.read_picture(encode(turned, kind, exif=exif))[0].float().mean(dim=0)
        assert picture[:14].min() > 240 and picture[18:].max() < 15


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (5000, 4000)])
def test_sizes_from_one_pixel_to_twenty_million(size):
    picture = inspection.read_picture(encode(Image.new("RGB", size, (9, 8, 7)), "PNG", compress_level=1))
    assert (picture[0] == torch.tensor([9, 8, 7])[:, None, None]).all()


def damaged() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.RandomState(1).randint(0, 256, (80, 80, 3), dtype=np.uint8))
    jpeg, png = encode(noise, "JPEG").getvalue(), encode(noise).getvalue()
    wrong = bytearray(png)
    wrong[len(png) // 2] ^= 0xFF
    huge = bytearray(encode(Image.new("1", (8, 8))).getvalue())
    huge[16:24] = struct.pack(">II", 20_000, 20_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
    return {
        "empty": b"", "text": b"not an image\n" * 50, "half a JPEG": jpeg[: len(jpeg) // 2], "half a PNG": png[: len(png) // 2],
        "a flipped byte": bytes(wrong), "a GIF": encode(noise, "GIF").getvalue(), "400 megapixels": bytes(huge),
        "a header alone": png[:30],
    }  # fmt: skip


@pytest.mark.parametrize("name", damaged())
def test_what_is_no_picture_is_refused_in_one_line(tmp_path, name, recwarn):
    file = tmp_path / "mine.png"
    file.write_bytes(damaged()[name])
    with pytest.raises(ValueError, match="mine.png is no readable JPEG or PNG picture") as caught:
        inspection.read_picture(file)
    assert "\n" not in str(caught.value) and not recwarn.list
    del caught
    gc.collect()
    assert not recwarn.list  # the file is closed, too


def test_a_picture_of_a_hundred_megapixels_is_refused(recwarn):
    """Pillow warns from 89 megapixels and refuses from twice as many: here both are one line, before anything is decoded."""
    with pytest.raises(ValueError, match="no readable .*Bomb"):
        inspection.read_picture(encode(Image.new("1", (10_000, 10_000))))
    assert not [warning for warning in recwarn if warning.category is Image.DecompressionBombWarning]


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError):
        inspection.read_picture(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="no readable"):
        inspection.read_picture(tmp_path)
