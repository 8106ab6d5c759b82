"""Looking inside a network: what each part outputs and costs, and where its blocks are."""

import pandas as pd
import torch
from torch import Tensor, nn

from helpers.evaluation import evaluating


@torch.no_grad()
def summarize(model: nn.Module, input_size: tuple[int, int, int] = (3, 32, 32)) -> pd.DataFrame:
    """A row for each direct child: output shape (C, H, W), parameters, multiply-adds for one image.

    Counted by forward hooks while one image of `input_size` (C, H, W) passes; multiply-adds are
    those of convolutions and linear layers. Children that do not run have no row; of one that runs
    more than once, all multiply-adds count. The model's modes and statistics stay as they are.
    """
    rows: dict[str, dict] = {}
    handles = []

    def enter(name: str, part: nn.Module) -> None:
        if name not in rows:
            parameters = sum(p.numel() for p in part.parameters())
            rows[name] = {"output": (), "parameters": parameters, "multiply_adds": 0}

    def leave(name: str, output: Tensor) -> None:
        rows[name]["output"] = tuple(output.shape[1:])

    def count(name: str, layer: nn.Module, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):  # per output value: in_channels / groups · kernel area
            rows[name]["multiply_adds"] += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            rows[name]["multiply_adds"] += output.numel() * layer.in_features

    for name, part in model.named_children():
        handles += [
            part.register_forward_pre_hook(lambda part, inputs, name=name: enter(name, part)),
            part.register_forward_hook(lambda part, inputs, out, name=name: leave(name, out)),
        ]
        for layer in part.modules():
            handles.append(
                layer.register_forward_hook(
                    lambda layer, inputs, out, name=name: count(name, layer, out)
                )
            )
    image = next(model.parameters()).new_zeros(1, *input_size)  # same device and number format
    try:
        with evaluating(model):
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "part"
    return table


@torch.no_grad()
def capture(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """The outputs of the named modules ("conv1", "layer2.0.bn2", …) for images x (N, 3, H, W).

    They are copied at once, before a ReLU in place can overwrite them. `model` should be in eval
    mode.
    """
    outputs: dict[str, Tensor] = {}
    handles = []

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output.clone()

    try:
        for name in names:
            part = model.get_submodule(name)
            handles.append(
                part.register_forward_hook(lambda part, inputs, out, name=name: keep(name, out))
            )
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def block_names(model: nn.Module) -> list[str]:
    """The residual (or plain) blocks of `model` from input to output: "layer1.0", "layer1.1", …"""
    return [name for name, part in model.named_modules() if hasattr(part, "downsample")]
