"""Looking inside a network: what each part puts out, how many parameters it has, how much it computes."""

import pandas as pd
import torch
from torch import Tensor, nn


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
    was_training = model.training
    model.eval()
    try:
        model(torch.zeros(1, *input_size, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    table = pd.DataFrame.from_dict(rows, orient="index")[["output", "parameters", "multiply_adds"]]
    table.index.name = "part"
    return table
