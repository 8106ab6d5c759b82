"""What checks of modules share: observing them, and copying weights into the learner's."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from helpers.checks.engine import CHANGED, compare, fail, gradients_of, shown


def randomize(module: nn.Module) -> nn.Module:
    """Random scales, shifts and statistics in every BatchNorm, so that a missing one shows."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.3)
            nn.init.normal_(layer.bias, 0.0, 0.5)
            nn.init.normal_(layer.running_mean, 0.0, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module


def observe(module: Callable, x: Tensor, changed: str = CHANGED) -> tuple[Tensor, Tensor]:
    """The output, and the gradient at the input; fails where the input is overwritten."""
    y, leaf = run_on(module, x, changed)
    if not isinstance(y, Tensor):
        return y
    return y.detach(), input_gradient(y, leaf)


def run_on(module: Callable, x: Tensor, changed: str = CHANGED) -> tuple[Tensor, Tensor]:
    """The output, and the copy of x to differentiate by; fails where the input is overwritten."""
    leaf = x.clone().requires_grad_()
    given = leaf * 1.0  # no leaf: it may be overwritten
    y = module(given)
    if not torch.equal(given, x):
        fail(changed)
    if y is None:
        fail("None comes out. Does the function, or `forward`, end with `return`?")
    return y, leaf


def input_gradient(y: Tensor, x: Tensor) -> Tensor:
    """The gradient at x for a fixed random signal at y; zeros where none arrives."""
    return gradients_of(y, [x])[0]


def observe_block(block: nn.Module, x: Tensor):
    """`observe`, and the gradients at the block's parameters and its buffers afterwards."""
    y, leaf = run_on(block, x)
    if not isinstance(y, Tensor):
        return y
    parameters = dict(sorted(block.named_parameters()))
    at_input, *at_parameters = gradients_of(y, [leaf, *parameters.values()])
    gradients = dict(zip(parameters, at_parameters, strict=True))
    return y.detach(), at_input, gradients, dict(sorted(block.named_buffers()))


def compare_blocks(
    cases: list[tuple],
    mistakes: Mapping[str, Callable],
    describe: Callable[[tuple], str] | None = None,
) -> None:
    """Compares the learner's blocks with ours, in cases (the learner's, ours, x).

    First what goes out and the gradient that comes back, where mistakes have names; then the
    gradients at the parameters, and the buffers.
    """
    shared = {"may_change": (0, 1), "same_type_as": 2, "describe": describe or describe_block}
    compare(
        lambda mine, b, x: run_once(mine, lambda: observe(mine, x)),
        lambda mine, b, x: observe(b, x),
        cases,
        mistakes,
        what="(output, gradient at the input)",
        **shared,
    )
    compare(
        lambda mine, b, x: observe_block(mine, x),
        lambda mine, b, x: observe_block(b, x),
        cases,
        what="(output, gradient at the input, gradients at the parameters, buffers)",
        **shared,
    )


def describe_block(case: tuple) -> str:
    """Of a case that ends with (…, our block, x)."""
    *_, block, x = case
    conv = next(layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
    strides = [max(layer.stride) for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    return (
        f"{conv.in_channels} channels in, stride {max(strides)}, "
        f"{'train' if block.training else 'eval'} mode, x {shown(x)}"
    )


def run_once(module: nn.Module, call: Callable):
    """What `call()` returns; fails where a BatchNorm in train mode runs more or less than once."""
    before = {name: int(layer.num_batches_tracked) for name, layer in batch_norms(module)}
    result = call()
    for name, layer in batch_norms(module):
        runs = int(layer.num_batches_tracked) - before[name]
        if layer.training and runs != 1:
            fail(
                f"`{name}` runs {runs} times in one forward pass, and its running statistics move "
                "each time. Every layer should run once: keep its output."
            )
    return result


def batch_norms(module: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.num_batches_tracked is not None:
            found.append((name, layer))
    return found


def with_weights_of(reference: nn.Module, mine: nn.Module) -> nn.Module:
    """`mine` with the state of `reference`, by name; fails where names or shapes differ."""
    if not isinstance(mine, nn.Module):
        fail(f"expected a module, got {shown(mine)}.")
    here, there = mine.state_dict(), reference.state_dict()
    missing = [key for key in there if key not in here]
    extra = [key for key in here if key not in there]
    check_shapes(here, there)
    for key in extra:
        if key.endswith("bias") and key.replace("bias", "running_mean") not in here:
            fail(
                f"`{key}` should not exist: a convolution before BatchNorm needs no bias "
                "(`bias=False`)."
            )
    check_projection_names(missing, extra)
    lists = []
    if missing:
        lists.append(f"missing: {', '.join(missing[:3])}")
    if extra:
        lists.append(f"not expected: {', '.join(extra[:3])}")
    if lists:
        fail(f"the names of the layers differ from the task's; {'; '.join(lists)}.")
    mine.load_state_dict(there)
    return mine.train(reference.training)


def check_shapes(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> None:
    """Fails where a tensor has another shape than the right one, `there`; kernels come first."""
    differing = []
    for key in there:
        if key in here and here[key].shape != there[key].shape:
            differing.append((key, tuple(here[key].shape), tuple(there[key].shape)))
    for key, wrong, right in differing:
        if len(wrong) == 4 and len(right) == 4 and wrong[2:] != right[2:]:
            fail(
                f"`{key}` has a {wrong[2]}×{wrong[3]} kernel, and the task asks for "
                f"{right[2]}×{right[3]} there. Kernel sizes, and the order of the layers?"
            )
    for key, wrong, right in differing:
        hint = "count its channels."
        if len(wrong) != len(right):
            hint = "another kind of layer is asked for."
        elif len(wrong) > 1 and wrong[:2] == right[1::-1]:
            hint = "channels in and channels out are swapped."
        fail(f"`{key}` should have shape {right}, and has {wrong}: {hint}")


def check_projection_names(missing: list[str], extra: list[str]) -> None:
    """Fails where keys of the projection `downsample` are missing, or too many."""
    lacks = [key for key in missing if "downsample" in key]
    has = [key for key in extra if "downsample" in key]
    others = sorted({key.partition(".")[0] for key in extra if "downsample" not in key})
    if lacks and any(key.endswith("downsample.weight") for key in has):
        fail(
            "the projection is a single layer. Here it is nn.Sequential(1×1 convolution, "
            "BatchNorm)."
        )
    if lacks and has:
        inner = sorted({key.split("downsample.")[-1].partition(".")[0] for key in has})
        fail(
            "the projection is there, but its layers are called "
            f"{' and '.join(f'`{name}`' for name in inner)}. In an nn.Sequential the convolution "
            "is `0` and its BatchNorm `1`."
        )
    if lacks and others:
        fail(
            "no projection is called `downsample`, as the task asks; not expected: "
            f"{', '.join(f'`{name}`' for name in others)}."
        )
    if lacks:
        text = "the projection `downsample` is missing"
        if all("downsample.1" in key for key in lacks):
            text = "the projection has no BatchNorm after its 1×1 convolution"
        fail(
            f"{text}: where stride or channels change, the shortcut is nn.Sequential(1×1 "
            "convolution, BatchNorm)."
        )
    if has:
        fail(
            "there is a projection `downsample` where the shapes already agree: x should be added "
            "as it is."
        )
