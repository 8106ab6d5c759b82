"""Looking inside a network: what each part puts out and costs, what it sees, what it looks at, which blocks it needs."""

import copy
import warnings
from pathlib import Path
from textwrap import shorten
from typing import BinaryIO

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from helpers.evaluation import evaluating
from helpers.resnet import ZeroPad  # a plain block that is dropped needs the shortcut that it never had


@torch.no_grad()
def summarize(model: nn.Module, input_size: tuple[int, int, int] = (3, 32, 32)) -> pd.DataFrame:
    """A row for each direct child of `model`: output shape (C, H, W), parameters, multiply-adds for one picture.

    Counted by forward hooks while one picture of `input_size` (C, H, W) passes; multiply-adds are those of convolutions and
    linear layers. Children that do not run have no row. The model's mode and statistics stay as they are.
    """
    rows: dict[str, dict] = {}
    handles = []

    def count(name: str, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):  # one output value: in_channels / groups · kernel area multiply-adds
            rows[name]["multiply_adds"] += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            rows[name]["multiply_adds"] += output.numel() * layer.in_features

    def enter(name: str, part: nn.Module) -> None:
        rows[name] = {"parameters": sum(p.numel() for p in part.parameters()), "multiply_adds": 0}

    def leave(name: str, output: Tensor) -> None:
        rows[name]["output"] = tuple(output.shape[1:])

    for name, part in model.named_children():
        handles.append(part.register_forward_pre_hook(lambda part, inputs, name=name: enter(name, part)))
        handles.append(part.register_forward_hook(lambda part, inputs, output, name=name: leave(name, output)))
        for layer in part.modules():
            handles.append(layer.register_forward_hook(lambda *call, name=name: count(name, *call)))
    try:
        with evaluating(model):
            model(torch.zeros(1, *input_size, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    table = pd.DataFrame.from_dict(rows, orient="index")[["output", "parameters", "multiply_adds"]]
    table.index.name = "part"
    return table


@torch.no_grad()
def capture(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """What the named parts of `model` ("conv1", "layer2", "layer2.0.bn2", …) put out for pictures x (N, 3, H, W).

    The copies are taken at once, before a ReLU in place can overwrite them. `model` should be in eval mode.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output.clone()

    handles = [
        model.get_submodule(name).register_forward_hook(lambda part, inputs, output, name=name: keep(name, output))
        for name in names
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def receptive_field(model: nn.Module) -> pd.DataFrame:
    """A row for each direct child of `model` with convolutions or max-pools: what one value of its output sees.

    `size` is the side in pixels of the square of the input on which the value can depend, `step` the distance in pixels
    between the squares of neighbours. Followed along the longest path: what a shortcut sees lies inside.
    """
    rows, size, step = {}, 1, 1
    for name, part in model.named_children():
        for path, layer in part.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)) and "downsample" not in path:
                kernel, stride, dilation = (
                    value if isinstance(value, int) else value[0] for value in (layer.kernel_size, layer.stride, layer.dilation)
                )
                size += dilation * (kernel - 1) * step
                step *= stride
                rows[name] = {"size": size, "step": step}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "part"
    return table


def grad_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Where `layer` finds evidence for `classes` (N,) in pictures x (N, 3, H, W): maps (N, H, W), 0 or more, in logits.

    Grad-CAM (Selvaraju et al. 2017, equations 1 and 2), for a model in eval mode and a layer whose output is not
    overwritten in place: a stage or a block.
    """
    kept = []
    handle = layer.register_forward_hook(lambda layer, inputs, output: kept.append(output))
    try:
        logits = model(x.detach().requires_grad_())
    finally:
        handle.remove()
    if not kept:
        raise ValueError("`layer` did not run: it must be a part of `model` itself")
    activation = kept[0]  # (N, C, h, w)
    scores = logits.gather(1, classes[:, None])  # (N, 1): the logit of each picture's class
    (gradient,) = torch.autograd.grad(scores.sum(), activation)
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1): how much each channel speaks for the class
    maps = F.relu((weights * activation).sum(dim=1, keepdim=True))  # (N, 1, h, w)
    return F.interpolate(maps, size=x.shape[2:], mode="bilinear").squeeze(1).detach()


def block_names(model: nn.Module) -> list[str]:
    """The residual (or plain) blocks of `model` from input to output: "layer1.0", "layer1.1", …"""
    return [name for name, part in model.named_modules() if hasattr(part, "downsample")]


def drop_blocks(model: nn.Module, names: list[str]) -> nn.Module:
    """A copy of `model` in which the named blocks compute nothing: y = ReLU(shortcut(x)) (Veit et al. 2016).

    For blocks that end with a ReLU. Where a block keeps the shape, its input comes from a ReLU, too, and y = x. A block that
    changes the shape keeps its shortcut; a plain one has none and gets the one without parameters (`ZeroPad`).
    Raises ValueError for a name that is no such block's.
    """
    model = copy.deepcopy(model)
    starts = {name: next(model.get_submodule(name).children()) for name in block_names(model)}
    droppable = [name for name, layer in starts.items() if isinstance(layer, nn.Conv2d)]  # of a pre-activation block: BatchNorm
    for name in names:
        if name not in droppable:
            raise ValueError(f"{name!r} is no block that ends with a ReLU: choose from {droppable or 'another network'}")
        block = model.get_submodule(name)
        convolutions = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
        in_channels, out_channels = convolutions[0].in_channels, convolutions[-1].out_channels
        stride = max(convolution.stride[0] for convolution in convolutions)
        if block.downsample is None and (stride, in_channels) != (1, out_channels):
            block.downsample = ZeroPad(in_channels, out_channels, stride)
        model.set_submodule(name, nn.Sequential(block.downsample or nn.Identity(), nn.ReLU()))
    return model


def read_picture(file: str | Path | BinaryIO, size: int = 32) -> Tensor:
    """Any JPEG or PNG as the networks want it: (1, 3, size, size) uint8, the central square, scaled.

    Turned upright as its EXIF data say; transparency becomes white. Raises ValueError, in one line, for what is no
    readable JPEG or PNG, and FileNotFoundError where there is nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("JPEG", "PNG")) as image:  # closed also where it is damaged
                image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise
    except Exception as reason:  # Pillow raises many kinds for a damaged file
        reason = shorten(f"{type(reason).__name__}: {reason}", 200)
        raise ValueError(f"{getattr(file, 'name', file)} is no readable JPEG or PNG picture ({reason})") from None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
