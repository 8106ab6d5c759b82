"""Checks of the exercises of lesson 02, building ResNet-50."""

import copy
import itertools
import math
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
import torch.nn.utils.fusion
from torch import Tensor, nn

from helpers import resnet
from helpers.checks.engine import (
    CUT,
    Forbidden,
    attempt,
    compare,
    difference,
    exercise,
    fail,
    gradients_of,
    named,
    outcome,
    pick,
    rectangle,
    same,
    shown,
    stopped,
)
from helpers.checks.modules import (
    compare_blocks,
    describe_block,
    observe,
    randomize,
    run_on,
    run_once,
    with_weights_of,
)

__all__ = [
    "check_conv_cost",
    "check_batch_norm",
    "check_preactivation_bottleneck",
    "check_resnext",
    "check_stochastic_stage",
    "check_average_projection",
    "check_deep_stem",
    "check_count",
    "check_squeeze_excite",
    "check_fold_batch_norm",
]


class ForbiddenNorms(Forbidden):
    """Inside, every normalisation of PyTorch fails, by whichever of its names it is called."""

    def __init__(self):
        super().__init__((), "PyTorch's own {} is called. Write it from its formula.")

    def __torch_function__(self, function, types, arguments=(), named=None):
        name = getattr(function, "__name__", "")
        kinds = {"batch_norm": "BatchNorm", "instance_norm": "instance normalisation"}
        kinds |= {"group_norm": "group normalisation", "layer_norm": "layer normalisation"}
        for part, kind in kinds.items():
            if part in name:
                fail(self.message.format(kind))
        return function(*arguments, **(named or {}))


@exercise("2.1", "a convolution's size and cost")
def check_conv_cost(conv_cost):
    def oracle(n, in_channels, out_channels, kernel, stride, padding):
        layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        y = layer(torch.zeros(1, in_channels, n, n))
        return y.shape[-1], layer.weight.numel(), y.numel() * layer.weight[0].numel()

    def wrong_side(side):
        def mistake(n, in_channels, out_channels, kernel, stride, padding):
            size = side(n, kernel, stride, padding)
            weights = in_channels * out_channels * kernel**2
            return size, weights, weights * size**2

        return mistake

    def wrong_parameters(parameters):
        def mistake(n, in_channels, out_channels, kernel, stride, padding):
            size, _, _ = oracle(n, in_channels, out_channels, kernel, stride, padding)
            weights = parameters(in_channels, out_channels, kernel)
            return size, weights, weights * size**2

        return mistake

    def wrong_multiply_adds(multiply_adds):
        def mistake(n, *rest):
            size, weights, _ = oracle(n, *rest)
            return size, weights, multiply_adds(weights, n, size)

        return mistake

    cases = []
    for number in range(12):
        n, in_channels, out_channels = pick(9, 40), pick(1, 9), pick(1, 9)
        kernel, stride, padding = pick(2, 5), 1 + number % 3, (number + 1) % 3
        if stride == 2 and (n + 2 * padding - kernel) % 2 == 0:
            n += 1  # the last kernel sticks out
        cases.append((n, in_channels, out_channels, kernel, stride, padding))
    cases.append((pick(9, 40), pick(1, 9), pick(1, 9), 1, 2, 0))
    mistakes = {
        "the side is rounded up. A kernel that sticks out at the end is not applied: divide with "
        "`//`.": wrong_side(lambda n, k, s, p: math.ceil((n + 2 * p - k) / s) + 1),
        "the side lacks the + 1: a kernel that just fits (n + 2p = k) still gives one output.": (
            wrong_side(lambda n, k, s, p: (n + 2 * p - k) // s)
        ),
        "the padding is counted once; it is added on both sides.": wrong_side(
            lambda n, k, s, p: (n + p - k) // s + 1
        ),
        "the multiply-adds are counted at the input's pixels. The work is done once for each "
        "*output* value.": wrong_multiply_adds(lambda weights, n, size: weights * n**2),
        "these are twice the multiply-adds. A multiplication and its addition count as one.": (
            wrong_multiply_adds(lambda weights, n, size: 2 * weights * size**2)
        ),
        "the kernel's area is k², not k.": wrong_parameters(lambda i, o, k: i * o * k),
        "a bias is counted; this convolution has none.": wrong_parameters(
            lambda i, o, k: i * o * k * k + o
        ),
    }
    compare(
        conv_cost,
        oracle,
        cases,
        mistakes,
        what="(the side, the number of parameters, the multiply-adds)",
        describe=named("n", "in_channels", "out_channels", "kernel", "stride", "padding"),
    )


@exercise("2.2", "BatchNorm's forward pass")
def check_batch_norm(batch_norm):
    def variant(
        axes=(0, 2, 3),  # of the means and variances that normalise
        unbiased=False,  # the variance that normalises
        running_unbiased=True,  # the variance that the running one receives
        outside=False,  # ε outside of the root
        swapped=False,  # momentum and 1 - momentum exchanged
        always=False,  # the batch's statistics in eval mode, too
        keep=True,  # the running statistics move
    ):
        def run(x, gamma, beta, mean, var, training, momentum, eps):
            column = (1, -1, 1, 1)
            m, v = mean.view(column), var.view(column)
            if training or always:
                m = x.mean(axes, keepdim=True)
                v = x.var(axes, unbiased=unbiased, keepdim=True)
            if training and keep:
                weight = 1 - momentum if swapped else momentum
                mean.lerp_(x.mean((0, 2, 3)), weight)
                var.lerp_(x.var((0, 2, 3), unbiased=running_unbiased), weight)
            scale = v.sqrt() + eps if outside else (v + eps).sqrt()
            return gamma.view(column) * (x - m) / scale + beta.view(column), mean, var

        return run

    def answer(x, gamma, beta, mean, var, training, momentum, eps):
        with ForbiddenNorms():
            y = batch_norm(x, gamma, beta, mean, var, training, momentum, eps)
        if mean.requires_grad or var.requires_grad:
            fail(
                "the running statistics have become part of the graph, and would keep that of "
                "every batch in memory: move them under `torch.no_grad()`."
            )
        return y, mean, var

    def oracle(x, gamma, beta, mean, var, training, momentum, eps):
        return F.batch_norm(x, mean, var, gamma, beta, training, momentum, eps), mean, var

    cases = []
    for number in range(4):
        c = pick(2, 5)
        kind = torch.float64 if number == 2 else torch.float32
        x = 2 * torch.randn(pick(2, 4), c, *rectangle(2, 5), dtype=kind) + 1
        gamma, beta, mean = torch.randn(3, c, dtype=kind).unbind()
        var = torch.rand(c, dtype=kind) + 0.5
        momentum, eps = 0.1 * pick(1, 4), 0.1 * pick(2, 4)
        cases.append((x, gamma, beta, mean, var, number % 2 == 0, momentum, eps))
    mistakes = {
        "you divide by the unbiased variance. Within the batch BatchNorm divides the sum of "
        "squares by N·H·W.": variant(unbiased=True),
        "the running variance gets the biased variance of the batch. PyTorch keeps the unbiased "
        "one there.": variant(running_unbiased=False),
        "each image is normalised by itself (instance normalisation): average over N, H and W.": (
            variant(axes=(2, 3))
        ),
        "mean and variance are taken over the batch alone: each channel has one mean, over N, H "
        "and W.": variant(axes=(0,)),
        "ε stands outside the root: divide by √(variance + ε).": variant(outside=True),
        "momentum is the wrong way round: running ← (1 - momentum) · running + momentum · batch.": (
            variant(swapped=True)
        ),
        "the batch's statistics are used in eval mode too; there the running ones count.": variant(
            always=True
        ),
        "the running mean and variance do not change in train mode. Update them in place "
        "(`copy_`, `lerp_`).": variant(keep=False),
    }
    compare(
        answer,
        oracle,
        cases,
        mistakes,
        what="(output, running mean, running variance)",
        may_change=(3, 4),
        gradients={0: "x", 1: "gamma", 2: "beta"},
        same_type_as=0,
        describe=named(
            "x", "gamma", "beta", "running_mean", "running_var", "training", "momentum", "eps"
        ),
    )


# --- blocks


def shortcut(b: nn.Module, x: Tensor) -> Tensor:
    return x if b.downsample is None else b.downsample(x)


def right_end(f: Tensor, x: Tensor, b: nn.Module) -> Tensor:
    """How a residual block ends; `f` is F(x)."""
    return F.relu(f + shortcut(b, x))


def restride(conv: nn.Conv2d, stride: int, x: Tensor) -> Tensor:
    """The same convolution with another stride."""
    return F.conv2d(x, conv.weight, conv.bias, stride, conv.padding, groups=conv.groups)


def state_of(module) -> dict[str, Tensor]:
    """The learner's tensors by name; fails where there is no module."""
    if not isinstance(module, nn.Module):
        fail(f"expected a module, got {shown(module)}.")
    return module.state_dict()


def block_channels(number: int, width: int) -> tuple[int, int]:
    """(channels in, stride) of case `number`: both strides, equal and unequal channels."""
    stride = 1 + number % 2
    in_channels = 4 * width
    while number > 1 and in_channels in (width, 4 * width):
        in_channels = pick(2, 4 * width + 4)
    return in_channels, stride


class PreActivation(nn.Module):
    """The block of exercise 2.3 as it should be."""

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels), resnet.conv1x1(in_channels, width)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), resnet.conv3x3(width, width, stride)
        self.bn3, self.conv3 = nn.BatchNorm2d(width), resnet.conv1x1(width, 4 * width)
        self.downsample = None
        if stride != 1 or in_channels != 4 * width:
            self.downsample = resnet.conv1x1(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(first))))
        out = self.conv3(F.relu(self.bn3(out)))
        return out + (x if self.downsample is None else self.downsample(first))


@exercise("2.3", "a pre-activation bottleneck")
def check_preactivation_bottleneck(PreActivationBottleneck):
    def with_weights(theirs, mine, in_channels, width):
        """`mine` with the weights of `theirs`; fails where layers are other ones."""
        here = state_of(mine)
        for key in here:
            if key.startswith("downsample") and len(here[key].shape) == 1:
                fail(
                    "the projection has a BatchNorm (or a bias). Here it is a 1×1 convolution "
                    "alone: its input has just been normalised, and nothing follows the addition."
                )
        for name, right, wrong in (("bn1", in_channels, width), ("bn3", width, 4 * width)):
            weight = here.get(f"{name}.weight")
            if weight is not None and right != wrong and weight.shape == (wrong,):
                fail(
                    f"`{name}` has {wrong} channels: those of its convolution's *output*. In a "
                    "pre-activation block BatchNorm comes first, and has the channels of the "
                    f"convolution's input, here {right}."
                )
        if theirs.downsample is not None and "downsample.0.weight" in here:
            theirs.downsample = nn.Sequential(theirs.downsample)  # the same in a list of one
        others = [key for key in here if key not in theirs.state_dict()]
        if theirs.downsample is not None and "downsample" not in str(list(here)) and not others:
            fail(
                "there is no projection `downsample`: where stride or channels change, a 1×1 "
                f"convolution adapts the shortcut. (In this case {in_channels} channels come in, "
                f"{4 * width} go out, and the stride is {theirs.conv2.stride[0]}.)"
            )
        return with_weights_of(theirs, mine)

    def forward(
        b,
        x,
        strides=lambda s: (1, s),
        relus=(True, True, True),
        skip=None,
        last=None,
        relu_first=False,
    ):
        """The block with other strides of its first two convolutions, without some ReLUs, with
        another shortcut `skip(b, x, first)` or another end `last(f, s)`.
        """
        on, in_second = strides(b.conv2.stride[0])
        if relu_first:
            first = b.bn1(F.relu(x))
            out = b.bn2(F.relu(b.conv1(first)))
            out = b.bn3(F.relu(b.conv2(out)))
            return b.conv3(out) + right_skip(b, x, first)
        first = F.relu(b.bn1(x)) if relus[0] else b.bn1(x)
        out = b.bn2(restride(b.conv1, on, first))
        out = b.bn3(restride(b.conv2, in_second, F.relu(out) if relus[1] else out))
        f = b.conv3(F.relu(out) if relus[2] else out)
        carried = (skip or right_skip)(b, x, first)
        return last(f, carried) if last else f + carried

    def right_skip(b, x, first):
        return x if b.downsample is None else b.downsample(first)

    def variant(**changes):
        return lambda mine, b, x: observe(lambda x: forward(b, x, **changes), x)

    cases = []
    for number in range(6):
        width = pick(2, 5)
        in_channels, stride = block_channels(number, width)
        theirs = randomize(PreActivation(in_channels, width, stride)).train(number % 3 == 0)
        made = attempt(PreActivationBottleneck, in_channels, width, stride)
        mine = with_weights(theirs, made, in_channels, width)
        x = 2 * torch.randn(pick(2, 4), in_channels, *rectangle(4, 9), dtype=torch.float64)
        cases.append((mine.double(), theirs.double(), x))
    mistakes = {
        "the projection reads x. In this block it reads the pre-activated input, "
        "ReLU(BN(x)).": variant(
            skip=lambda b, x, first: x if b.downsample is None else b.downsample(x)
        ),
        "the projection reads BN(x); the ReLU comes before it, too.": variant(
            skip=lambda b, x, first: x if b.downsample is None else b.downsample(b.bn1(x))
        ),
        "the projection reads ReLU(x); BatchNorm comes before it, too.": variant(
            skip=lambda b, x, first: x if b.downsample is None else b.downsample(F.relu(x))
        ),
        "where the shapes agree, the shortcut carries ReLU(BN(x)). It should be x itself: only the "
        "projection reads the pre-activated input.": variant(
            skip=lambda b, x, first: first if b.downsample is None else b.downsample(first)
        ),
        "a ReLU follows the addition. Here nothing does: that is the point of the block.": variant(
            last=lambda f, s: F.relu(f + s)
        ),
        "F(x) goes through a ReLU at its end, so it is never negative. The last layer of F is a "
        "convolution.": variant(last=lambda f, s: F.relu(f) + s),
        "nothing is added: where is the shortcut?": variant(last=lambda f, s: f),
        "the ReLUs come before the BatchNorms. The order is BatchNorm, ReLU, convolution.": variant(
            relu_first=True
        ),
        "the first ReLU, between bn1 and conv1, is missing.": variant(relus=(False, True, True)),
        "the second ReLU, between bn2 and conv2, is missing.": variant(relus=(True, False, True)),
        "the third ReLU, between bn3 and conv3, is missing.": variant(relus=(True, True, False)),
        "the stride sits in the first 1×1 convolution; the task asks for the 3×3.": variant(
            strides=lambda s: (s, 1)
        ),
        "no convolution of F has the stride: F(x) keeps the size, and the shortcut does not.": (
            variant(strides=lambda s: (1, 1))
        ),
        f"the output is right, but no gradient flows through the shortcut. {CUT}": variant(
            last=lambda f, s: f + s.detach()
        ),
        f"the output is right, but no gradient flows through F. {CUT}": variant(
            last=lambda f, s: f.detach() + s
        ),
        f"the output is right, but no gradient flows at all. {CUT}": variant(
            last=lambda f, s: (f + s).detach()
        ),
    }
    compare_blocks(cases, mistakes)


@exercise("2.4", "a ResNeXt block")
def check_resnext(ResNeXtBlock):
    from torchvision.models.resnet import Bottleneck  # here: not every lesson needs torchvision

    def check_layers(mine, in_channels, width, groups, per_group):
        """Names the usual mistakes that show in the shapes of the kernels."""
        here = state_of(mine)
        inner = groups * width * per_group // 64
        kernels = [here.get(f"conv{i}.weight") for i in (1, 2, 3)]
        if any(kernel is None or kernel.ndim != 4 for kernel in kernels):
            return
        first, second, third = (tuple(kernel.shape) for kernel in kernels)
        case = f"In the case width={width}, groups={groups}, width_per_group={per_group}"
        if groups > 1 and second[:2] == (inner, inner):
            fail(f"`conv2` is not split into groups: `nn.Conv2d(…, groups=groups)`.\n{case}")
        if second[0] == inner and inner % second[1] == 0 and second[1] * groups != inner:
            fail(f"`conv2` has {inner // second[1]} groups, and should have {groups}.\n{case}")
        if second[0] == groups * per_group != inner:
            fail(
                "the 3×3 has groups · width_per_group channels. That holds for width 64 alone: a "
                f"group has width · width_per_group / 64 channels.\n{case}"
            )
        if second[0] == width * per_group // 64 != inner:
            fail(
                "the 3×3 has as many channels as one group should have. In all there are groups "
                f"times as many.\n{case}"
            )
        if second[0] == width != inner:
            fail(
                "the 3×3 has `width` channels, as in the plain bottleneck. Here it has groups · "
                f"(width · width_per_group / 64).\n{case}"
            )
        if third[0] == 4 * inner != 4 * width:
            fail(
                "the block outputs four times the channels of its 3×3. It should output 4 · width, "
                f"whatever the groups are.\n{case}"
            )
        for name, kernel, channels in (("conv1", first, in_channels), ("conv3", third, inner)):
            if groups > 1 and kernel[1] * groups == channels:
                fail(f"`{name}` is split into groups, too. Only the 3×3 is.\n{case}")

    def forward(b, x, strides=lambda s: (1, s), relus=(True, True), end=right_end):
        first, second = strides(b.conv2.stride[0])
        out = b.bn1(restride(b.conv1, first, x))
        out = b.bn2(restride(b.conv2, second, F.relu(out) if relus[0] else out))
        return end(b.bn3(b.conv3(F.relu(out) if relus[1] else out)), x, b)

    def variant(**changes):
        return lambda mine, b, x: observe(lambda x: forward(b, x, **changes), x)

    def describe(case):
        conv = case[1].conv2
        return f"{describe_block(case)}, {conv.groups} groups, {conv.out_channels} channels in them"

    cases = []
    for number in range(6):
        width = 16 * pick(1, 2)
        groups, per_group = 2 * pick(1, 2), 4 * pick(1, 3)
        if number == 4:
            groups, per_group = 1, 64  # the plain bottleneck
        in_channels, stride = block_channels(number, width)
        made = attempt(ResNeXtBlock, in_channels, width, stride, groups, per_group)
        check_layers(made, in_channels, width, groups, per_group)
        projection = None
        if stride != 1 or in_channels != 4 * width:
            projection = resnet.projection(in_channels, 4 * width, stride)
        theirs = Bottleneck(in_channels, width, stride, projection, groups, per_group)
        theirs = randomize(theirs).train(number % 3 == 0)
        x = torch.randn(2, in_channels, *rectangle(3, 6), dtype=torch.float64)
        cases.append((with_weights_of(theirs, made).double(), theirs.double(), x))
    mistakes = {
        "the stride sits in the first 1×1 convolution; the task asks for the 3×3.": variant(
            strides=lambda s: (s, 1)
        ),
        "the ReLU comes before the addition, so F(x) is never negative. "
        "Add first, then ReLU.": variant(end=lambda f, x, b: F.relu(f) + shortcut(b, x)),
        "F(x) goes through a ReLU before the addition (and the sum again): leave the first one "
        "out.": variant(end=lambda f, x, b: F.relu(F.relu(f) + shortcut(b, x))),
        "the last ReLU, after the addition, is missing.": variant(
            end=lambda f, x, b: f + shortcut(b, x)
        ),
        "nothing is added: this is a plain block. Where is the shortcut?": variant(
            end=lambda f, x, b: F.relu(f)
        ),
        f"the output is right, but no gradient flows through the shortcut. {CUT}": variant(
            end=lambda f, x, b: F.relu(f + shortcut(b, x).detach())
        ),
        f"the output is right, but no gradient flows through F. {CUT}": variant(
            end=lambda f, x, b: F.relu(f.detach() + shortcut(b, x))
        ),
        f"the output is right, but no gradient flows at all. {CUT}": variant(
            end=lambda f, x, b: F.relu(f + shortcut(b, x)).detach()
        ),
        "the ReLU after the first BatchNorm is missing.": variant(relus=(False, True)),
        "the ReLU after the second BatchNorm is missing.": variant(relus=(True, False)),
        "no convolution has the stride: F(x) keeps the size, and the shortcut does not.": variant(
            strides=lambda s: (1, 1)
        ),
    }
    compare_blocks(cases, mistakes, describe)


# --- stochastic depth


class Recorded(resnet.BasicBlock):
    """A block with F and shortcut apart, that counts how often F is computed."""

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__(in_channels, width, stride)
        self.runs = 0

    def branch(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def skip(self, x: Tensor) -> Tensor:
        return shortcut(self, x)

    def forward(self, x: Tensor) -> Tensor:
        fail(
            "the whole block is called, and it always adds F(x). Put F together with the shortcut "
            "yourself: `block.branch(x)`, `block.skip(x)`."
        )


class Counter(nn.Module):
    """A block that only counts how often F is computed."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    def branch(self, x: Tensor) -> Tensor:
        self.runs += 1
        return torch.zeros_like(x)

    def skip(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return Recorded.forward(self, x)


def survival_of(number: int, depth: int, last: float) -> float:
    """The probability that block `number` (from 1) is kept: the paper's equation 4."""
    return 1 - number / depth * (1 - last)


@exercise("2.5", "stochastic depth")
def check_stochastic_stage(StochasticStage):
    probabilities = {  # of block l of L, from 1, where the last survives with probability p
        "the probabilities are those of blocks counted from 0: the first block would never be "
        "dropped. Block l of L (from 1) survives with 1 - l/L · (1 - p).": (
            lambda number, depth, p: 1 - (number - 1) / depth * (1 - p)
        ),
        "the probability falls from 1 at the first block to p at the last. In the paper the line "
        "starts at the stage's *input*: block l of L has 1 - l/L · (1 - p).": (
            lambda number, depth, p: 1 - (number - 1) / max(depth - 1, 1) * (1 - p)
        ),
        "all blocks survive with the same probability. It should fall linearly with depth.": (
            lambda number, depth, p: p
        ),
        "these are the probabilities of being *dropped*; survival is 1 minus that.": (
            lambda number, depth, p: number / depth * (1 - p)
        ),
        "the slope is p, not 1 - p: with p = 1 nothing may be dropped.": (
            lambda number, depth, p: 1 - number / depth * p
        ),
        "the probability rises with depth. The early blocks survive more often.": (
            lambda number, depth, p: 1 - (depth + 1 - number) / depth * (1 - p)
        ),
    }

    def stage_of(blocks, p):
        stage = attempt(StochasticStage, blocks, p)
        here = state_of(stage)
        wanted = sum(len(block.state_dict()) for block in blocks)
        if wanted and len(here) < wanted:
            fail(
                "the stage does not know its blocks: an optimizer would not find their parameters, "
                "nor `eval()` the blocks. Keep them in an `nn.ModuleList`."
            )
        parts = {id(part) for part in stage.modules()}
        if any(id(block) not in parts for block in blocks):
            fail("the stage works with copies of the blocks, or without some. Keep those given.")
        return stage

    def blocks_of(depth):
        width, first = pick(3, 4), pick(2, 5)
        blocks = [Recorded(first, width, 2)]
        while len(blocks) < depth:
            blocks.append(Recorded(width, width))
        x = torch.randn(pick(2, 4), first, *rectangle(4, 7), dtype=torch.float64)
        return [randomize(block).double() for block in blocks], x

    # eval mode: a closed form

    def evaluated(
        chance=survival_of,
        factor=lambda p: p,
        end=lambda p, f, s: F.relu(f + s),
    ):
        def run(stage, blocks, p, x):
            def forward(x):
                for i in range(len(blocks)):
                    own = chance(i + 1, len(blocks), p)
                    x = end(own, factor(own) * blocks[i].branch(x), blocks[i].skip(x))
                return x

            return observe(forward, x)

        return run

    def answer(stage, blocks, p, x):
        return observe(stage, x)

    cases = []
    for _ in range(3):
        blocks, x = blocks_of(pick(3, 4))
        p = pick(3, 7) / 10
        stage = stage_of(blocks, p).eval()
        if any(block.training for block in blocks):
            fail("`eval()` does not reach the blocks. Keep them in an `nn.ModuleList`.")
        cases.append((stage, blocks, p, x))
    stage, _, _, x = cases[0]
    once = [attempt(stage, x.clone()) for _ in range(12)]
    if any(not same(each, once[0], 1e-12) for each in once):
        fail("in eval mode the output changes from call to call. Only training is random.")
    mistakes = {
        "in eval mode F(x) is added at full size. A branch that is present in a fraction p of all "
        "steps counts p times: p · F(x).": evaluated(factor=lambda p: 1),
        "in eval mode F(x) is divided by p; it is to be multiplied.": evaluated(
            factor=lambda p: 1 / p
        ),
        "in eval mode F(x) is multiplied by the probability of being dropped, 1 - p.": evaluated(
            factor=lambda p: 1 - p
        ),
        "in eval mode the shortcut is multiplied by p, too. Only F(x) is.": evaluated(
            end=lambda p, f, s: F.relu(f + p * s)
        ),
        "in eval mode the ReLU after the addition is missing.": evaluated(
            end=lambda p, f, s: f + s
        ),
        "in eval mode nothing is added: where is the shortcut?": evaluated(
            end=lambda p, f, s: F.relu(f)
        ),
        **{f"in eval mode {name}": evaluated(chance=c) for name, c in probabilities.items()},
        f"in eval mode the output is right, but no gradient flows at all. {CUT}": evaluated(
            end=lambda p, f, s: F.relu(f + s).detach()
        ),
    }
    compare(
        answer,
        evaluated(),
        cases,
        mistakes,
        what="in eval mode (output, gradient at the input)",
        may_change=(0, 1),
        same_type_as=3,
        describe=lambda case: f"{len(case[1])} blocks, p={case[2]}, x {shown(case[3])}",
    )

    # train mode: the blocks that ran say what should come out

    def trained(blocks, kept, x, scale=lambda p: 1, dropped=F.relu):
        """The output where the branches of the blocks in `kept` are added."""
        for i in range(len(blocks)):
            skip = blocks[i].skip(x)
            if i in kept:
                own = survival_of(i + 1, len(blocks), p)
                x = F.relu(scale(own) * blocks[i].branch(x) + skip)
            else:
                x = dropped(skip)
        return x

    def gradients(y, leaf, blocks):
        parameters = [each for block in blocks for each in block.parameters()]
        return gradients_of(y, [leaf, *parameters])

    check_whole_batches(stage_of)
    depth, p = 3, pick(4, 6) / 10
    sets = [set(c) for size in range(4) for c in itertools.combinations(range(depth), size)]
    seen = set()
    for _ in range(16):
        blocks, x = blocks_of(depth)
        stage = stage_of(blocks, p).train()
        before = copy.deepcopy(blocks)
        result = outcome(run_on, (stage, x))
        place = f"In the case {depth} blocks, p={p}, train mode, x {shown(x)}"
        shape = x.shape[0], blocks[0].conv1.out_channels, *[-(-side // 2) for side in x.shape[2:]]
        is_tensor = isinstance(result, tuple) and isinstance(result[0], Tensor)
        other_shape = is_tensor and result[0].shape != shape
        if blocks[0].runs == 0 and (isinstance(result, RuntimeError) or other_shape):
            fail(
                "where the first block is dropped, the shapes do not fit any more. A dropped block "
                "still has its shortcut, here a projection: ReLU(skip(x)) remains."
            )
        if isinstance(result, Exception):
            stopped(result, place.removeprefix("In the case "))
        y, leaf = result
        if not isinstance(y, Tensor):
            fail(f"expected a tensor, got {shown(y)}.")
        kept = {i for i in range(depth) if blocks[i].runs}
        seen.add(frozenset(kept))
        again = [i + 1 for i in kept if blocks[i].runs > 1]
        if again:
            fail(f"F of block {again[0]} is computed {blocks[again[0] - 1].runs} times.\n{place}")
        reference = copy.deepcopy(before)
        given = x.clone().requires_grad_()
        right = trained(reference, kept, given)
        if not same(y, right, 1e-9):
            explain(y, x, before, kept, sets, trained)
            what = f"the output with the branches of blocks {sorted(i + 1 for i in kept)}"
            fail(f"{difference(y, right, what, 1e-9)}\n{place}")
        if not same(gradients(y, leaf, blocks), gradients(right, given, reference), 1e-6):
            if not getattr(y, "requires_grad", False):
                fail(f"the output is right, but no gradient flows at all. {CUT}")
            fail(f"the output is right, but a gradient is wrong. {CUT}\n{place}")
        for mine, theirs in zip(blocks, reference, strict=True):
            if not same(mine.state_dict(), theirs.state_dict(), 1e-9):
                fail(f"a block's BatchNorm has other running statistics than it should.\n{place}")
    if len(seen) == 1:
        fail(
            "the same blocks run in 16 of 16 calls in train mode: "
            + ("no block is ever dropped." if len(kept) == depth else "nothing is drawn.")
        )
    check_frequencies(stage_of, probabilities)


def explain(y, x, before, kept, sets, trained) -> None:
    """Fails with the mistake in train mode that gives the output y, if it has a name."""

    def gives(chosen, **changes):
        result = outcome(lambda x: trained(copy.deepcopy(before), chosen, x, **changes), (x,))
        return same(y, result, 1e-9)

    for chosen in sets:
        if gives(chosen):
            fail(
                "a dropped block's branch is computed and then thrown away: that costs its time, "
                "and its BatchNorm's statistics move. Draw first, and leave the branch out."
            )
        if gives(chosen, scale=lambda p: 1 / p):
            fail(
                "in train mode a kept F(x) is divided by p. That is what torchvision's "
                "`stochastic_depth` does, *instead of* a factor in eval mode. The paper's variant, "
                "asked for here, has its factor in eval mode."
            )
        if gives(chosen, scale=lambda p: p):
            fail("in train mode a kept F(x) is multiplied by p. The factor belongs to eval mode.")
        if gives(chosen, dropped=lambda skip: skip):
            fail(
                "a dropped block returns its shortcut without the ReLU. The block is "
                "ReLU(b · F(x) + skip(x)), with b = 0 or 1."
            )


def check_whole_batches(stage_of: Callable) -> None:
    """Fails where some images of a batch lose the branch and others keep it."""
    block = randomize(Recorded(3, 3)).double()
    x = torch.randn(6, 3, *rectangle(4, 6), dtype=torch.float64)
    stage = stage_of([block], 0.5).train()
    for _ in range(8):
        y = outcome(run_on, (stage, x))
        y = y[0] if isinstance(y, tuple) else y
        if not isinstance(y, Tensor) or y.shape != x.shape:
            return  # said elsewhere
        lost = (y - F.relu(x)).flatten(1).abs().amax(1) < 1e-9
        if 0 < lost.sum() < len(x):
            fail(
                "the images of one batch are treated differently. Draw one number for each block "
                "and batch, not for each image: only then can the branch be left out."
            )


def check_frequencies(stage_of: Callable, mistakes: dict[str, Callable]) -> None:
    """Fails where blocks survive more or less often than they should, or not independently."""
    depth, p, runs = 4, pick(3, 6) / 10, 600
    stage_blocks = [Counter() for _ in range(depth)]
    stage = stage_of(stage_blocks, p).train()
    x = torch.ones(1, 1, 1, 1)
    kept = torch.zeros(runs, depth)
    for i in range(runs):
        before = [block.runs for block in stage_blocks]
        attempt(stage, x)
        for j in range(depth):
            kept[i, j] = stage_blocks[j].runs > before[j]
    found = kept.mean(0)

    def agrees(chance):
        """Whether the frequencies fit, to five standard deviations."""
        for j in range(depth):
            right = min(max(chance(j + 1, depth, p), 0.0), 1.0)
            if abs(found[j].item() - right) > 5 * math.sqrt(right * (1 - right) / runs) + 1e-6:
                return False
        return True

    if not agrees(survival_of):
        for message, chance in mistakes.items():
            if agrees(chance):
                fail(f"in train mode {message}")
        expected = ", ".join(f"{survival_of(j + 1, depth, p):.2f}" for j in range(depth))
        fail(
            f"with {depth} blocks and p={p} the blocks should survive with the probabilities "
            f"{expected}. In {runs} calls they did in {', '.join(f'{f:.2f}' for f in found)}."
        )
    for first in range(depth):
        for second in range(first + 1, depth):
            both = (kept[:, first] * kept[:, second]).mean().item()
            apart = found[first].item() * found[second].item()
            spread = math.sqrt(found[first] * (1 - found[first]) * found[second])
            spread *= math.sqrt(1 - found[second]) / math.sqrt(runs)
            if abs(both - apart) > 5.5 * spread:
                fail(
                    "each block survives as often as it should, but not independently of the "
                    "others: is one number drawn for all blocks? Draw one for each."
                )


# --- shortcuts and stems


def layers_of(module, kind: type) -> list:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


@exercise("2.6", "ResNet-D's shortcut")
def check_average_projection(average_projection):
    def check_layers(module, in_channels, out_channels):
        """Fails where these are not a 1×1 convolution and a BatchNorm."""
        state_of(module)
        convs, norms = layers_of(module, nn.Conv2d), layers_of(module, nn.BatchNorm2d)
        if len(convs) != 1 or convs[0].kernel_size != (1, 1):
            kernels = [f"{conv.kernel_size[0]}×{conv.kernel_size[1]}" for conv in convs]
            fail(
                "expected one convolution, with a 1×1 kernel, and found "
                f"{', '.join(kernels) or 'none'}."
            )
        shape = convs[0].in_channels, convs[0].out_channels
        if shape != (in_channels, out_channels):
            fail(
                f"the convolution leads from {shape[0]} channels to {shape[1]}, and should from "
                f"{in_channels} to {out_channels}."
            )
        if convs[0].bias is not None:
            fail("a convolution before BatchNorm needs no bias (`bias=False`).")
        if convs[0].stride != (1, 1):
            fail(
                "the 1×1 convolution still has the stride, and leaves out what lies between its "
                "steps. The pooling shrinks the map; the convolution has stride 1."
            )
        if len(norms) != 1:
            fail(f"expected one BatchNorm, after the convolution, and found {len(norms)}.")
        if norms[0].num_features != out_channels:
            fail(
                f"the BatchNorm has {norms[0].num_features} channels. It comes after the "
                f"convolution, which outputs {out_channels}."
            )

    def averages(x, stride):
        """The mean of each stride × stride window; at the lower and right edge of what is there."""
        extra = [-side % stride for side in x.shape[2:]]
        padding = (0, extra[1], 0, extra[0])
        sums = F.pad(x, padding).unfold(2, stride, stride).unfold(3, stride, stride).sum((4, 5))
        count = F.pad(torch.ones_like(x), padding).unfold(2, stride, stride)
        return sums / count.unfold(3, stride, stride).sum((4, 5))

    def forward(pool=averages, end=lambda y, stride: y):
        def run(module, weight, norm, stride, x):
            return observe(lambda x: end(norm(F.conv2d(pool(x, stride), weight)), stride), x)

        return run

    def answer(module, weight, norm, stride, x):
        seen = []
        conv = layers_of(module, nn.Conv2d)[0]
        handle = conv.register_forward_pre_hook(lambda conv, given: seen.append(given[0].shape[2:]))
        result = run_once(module, lambda: observe(module, x))
        handle.remove()
        if stride > 1 and seen == [x.shape[2:]]:
            sides.append(stride)
        return result

    def zeros_counted(x, stride):
        padding = (0, -x.shape[3] % stride, 0, -x.shape[2] % stride)
        return F.avg_pool2d(F.pad(x, padding), stride)

    def adaptive(x, stride):
        return F.adaptive_avg_pool2d(x, [math.ceil(side / stride) for side in x.shape[2:]])

    def cut(x, stride):
        return F.avg_pool2d(x, stride)

    def padded_3x3(x, stride):
        return F.avg_pool2d(x, 3, stride, 1) if stride > 1 else x

    def real_3x3(x, stride):
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False) if stride > 1 else x

    cases, sides = [], []
    for number, stride in enumerate((2, 1, 2, 3)):
        in_channels, out_channels = pick(2, 4), pick(5, 8)
        module = attempt(average_projection, in_channels, out_channels, stride)
        check_layers(module, in_channels, out_channels)
        module = randomize(module).double().train(number % 2 == 0)
        h, w = 2 * pick(2, 4), 2 * pick(2, 4) + 1
        if stride == 3:
            h, w = 3 * pick(2, 3) + 1, 3 * pick(2, 3) + 2
        x = torch.randn(pick(2, 4), in_channels, h, w, dtype=torch.float64)
        conv, norm = layers_of(module, nn.Conv2d)[0], layers_of(module, nn.BatchNorm2d)[0]
        cases.append((module, conv.weight.detach().clone(), copy.deepcopy(norm), stride, x))
    mistakes = {
        "odd sides are rounded down, and the last row or column is not read. F(x) rounds up: "
        "`ceil_mode=True`.": forward(pool=cut),
        "windows that stick out are averaged with zeros. Divide by the number of pixels that are "
        "there.": forward(pool=zeros_counted),
        "the windows are 3×3 and overlap, with zeros around the map. They should be stride × "
        "stride.": forward(pool=padded_3x3),
        "the windows are 3×3 and overlap. They should be stride × stride.": forward(pool=real_3x3),
        "the maximum of each window is taken; take the mean.": forward(
            pool=lambda x, stride: F.max_pool2d(x, stride, ceil_mode=True)
        ),
        "every `stride`-th pixel is kept and the others are thrown away. Take the mean of each "
        "window.": forward(pool=lambda x, stride: x[:, :, ::stride, ::stride]),
        "the size stays. Pool with the stride first.": forward(pool=lambda x, stride: x),
        "the windows are 2×2, whatever the stride is.": forward(
            pool=lambda x, stride: F.avg_pool2d(x, 2, stride, ceil_mode=True) if stride > 1 else x
        ),
        "a window of 2×2 moves by 2, whatever the stride is. With stride 1 the size stays.": (
            forward(pool=lambda x, stride: F.avg_pool2d(x, 2, 2, ceil_mode=True))
        ),
        "a ReLU follows. The shortcut is added as it is; the ReLU comes after the addition.": (
            forward(end=lambda y, stride: F.relu(y))
        ),
        f"the output is right, but no gradient flows through. {CUT}": forward(
            end=lambda y, stride: y.detach()
        ),
        "the average is taken after BatchNorm, whose statistics then are those of the large map. "
        "Pool first.": forward(pool=lambda x, stride: x, end=averages),
        "the windows overlap on odd sides (adaptive pooling). They should lie side by side.": (
            forward(pool=adaptive)
        ),
    }
    compare(
        answer,
        forward(),
        cases,
        mistakes,
        what="(output, gradient at the input)",
        may_change=(0, 2),
        same_type_as=4,
        describe=lambda case: f"stride={case[3]}, x {shown(case[4])}",
    )
    if sides:
        fail(
            f"right, but the convolution works on the full map, for {sides[0]}² times the "
            "multiply-adds. Pool first: both orders give the same values."
        )


@exercise("2.7", "a deep stem")
def check_deep_stem(deep_stem):
    def shapes(width):
        half = width // 2
        return [(half, 3, 3, 3), (half, half, 3, 3), (width, half, 3, 3)]

    def made(width):
        with mock.patch.object(nn.init, "kaiming_normal_", drawn_for_you):
            stem = attempt(deep_stem, width)
        state_of(stem)
        return stem

    def drawn_for_you(*_, **__):
        fail(
            "`kaiming_normal_` (or `initialize`, which calls it) draws the weights. The task is to "
            "draw them yourself, by `normal_`."
        )

    def check_layers(stem, width):
        convs = layers_of(stem, nn.Conv2d)
        if len(convs) != 3:
            fail(f"expected three convolutions, found {len(convs)}.")
        for i, (conv, shape) in enumerate(zip(convs, shapes(width), strict=True)):
            found = tuple(conv.weight.shape)
            if found != shape:
                hint = "Only the last has `width` channels, the others half." if i < 3 else ""
                if found[2:] != (3, 3):
                    hint = "All three kernels are 3×3."
                fail(
                    f"with width={width} the weight of convolution {i + 1} should have shape "
                    f"{shape}, and has {found}. {hint}"
                )
            if conv.bias is not None:
                fail(
                    f"convolution {i + 1} has a bias: before BatchNorm it needs none "
                    "(`bias=False`)."
                )
        strides = [conv.stride[0] for conv in convs]
        if strides != [2, 1, 1]:
            fail(
                f"the strides of the convolutions are {strides[0]}, {strides[1]}, {strides[2]}. The"
                " first has stride 2, as the 7×7 has; the others keep the size."
            )
        norms = layers_of(stem, nn.BatchNorm2d)
        if len(norms) != 3:
            fail(f"expected a BatchNorm after each convolution: three. Found {len(norms)}.")

    def order(stem, x):
        """The convolutions and BatchNorms in the order in which they run."""
        ran, handles = [], []
        for layer in layers_of(stem, (nn.Conv2d, nn.BatchNorm2d)):
            handles.append(layer.register_forward_hook(lambda layer, given, y: ran.append(layer)))
        result = outcome(stem.eval(), (x,))
        for handle in handles:
            handle.remove()
        if isinstance(result, Exception):
            stopped(result, f"x {shown(x)}")
        kinds = ["BatchNorm" if isinstance(e, nn.BatchNorm2d) else "convolution" for e in ran]
        if kinds != 3 * ["convolution", "BatchNorm"]:
            fail(
                f"the layers run in the order {', '.join(kinds)}: each convolution is followed by "
                "its BatchNorm."
            )
        return nn.ModuleList(copy.deepcopy(ran))

    def forward(
        relus=(True, True, True), pool=lambda y: F.max_pool2d(y, 3, 2, 1), relu_first=False
    ):
        def run(stem, layers, x):
            def through(x):
                for i in range(3):
                    x = layers[2 * i](x)
                    x = layers[2 * i + 1](F.relu(x) if relu_first else x)
                    x = F.relu(x) if relus[i] and not relu_first else x
                return pool(x)

            return observe(through, x)

        return run

    cases = []
    for number in range(3):
        width = 2 * pick(2, 5)
        stem = made(width)
        check_layers(stem, width)
        x = torch.randn(pick(2, 3), 3, *rectangle(17, 30), dtype=torch.float64)
        stem = randomize(stem).double()
        layers = order(stem, x)
        cases.append((stem.train(number == 0), layers.train(number == 0), x))
    mistakes = {
        "the ReLU after the first BatchNorm is missing.": forward(relus=(False, True, True)),
        "the ReLU after the second BatchNorm is missing.": forward(relus=(True, False, True)),
        "the ReLU after the third BatchNorm is missing.": forward(relus=(True, True, False)),
        "the ReLUs are missing: without them three convolutions are one linear map (in eval "
        "mode).": forward(relus=(False, False, False)),
        "the ReLUs come before the BatchNorms. The order is convolution, BatchNorm, ReLU.": forward(
            relu_first=True
        ),
        "the max-pool is missing: the stem should make sides of a quarter.": forward(
            pool=lambda y: y
        ),
        "the max-pool has 2×2 windows; ResNet's has 3×3 ones, with padding 1.": forward(
            pool=lambda y: F.max_pool2d(y, 2)
        ),
        "the max-pool has no padding (1 in ResNet).": forward(pool=lambda y: F.max_pool2d(y, 3, 2)),
        "the pooling averages; ResNet's stem takes the maximum.": forward(
            pool=lambda y: F.avg_pool2d(y, 3, 2, 1)
        ),
        f"the output is right, but no gradient flows through. {CUT}": forward(
            pool=lambda y: F.max_pool2d(y, 3, 2, 1).detach()
        ),
    }
    compare(
        lambda stem, layers, x: run_once(stem, lambda: observe(stem, x)),
        forward(),
        cases,
        mistakes,
        what="(output, gradient at the input)",
        may_change=(0, 1),
        same_type_as=2,
        describe=lambda case: f"{'train' if case[0].training else 'eval'} mode, x {shown(case[2])}",
    )
    check_first_weights(made, shapes)


def check_first_weights(made: Callable, shapes: Callable) -> None:
    """Fails where the convolutions do not start by Kaiming's rule with fan-out."""
    width, repeats = 2 * pick(60, 90), 12
    drawn: list[list[Tensor]] = [[], [], []]
    for _ in range(repeats):
        stem = made(width)
        for i, conv in enumerate(layers_of(stem, nn.Conv2d)):
            drawn[i].append(conv.weight.detach().flatten())
        for norm in layers_of(stem, nn.BatchNorm2d):
            if not norm.weight.eq(1).all() or not norm.bias.eq(0).all():
                fail("a BatchNorm should start with scale 1 and shift 0.")
        if not all(conv.weight.requires_grad for conv in layers_of(stem, nn.Conv2d)):
            fail("the weights do not ask for gradients any more: they are to be trained.")
    if torch.equal(drawn[2][0], drawn[2][1]):
        fail("every call draws the same numbers. Is a seed set inside the function?")
    weights = [torch.cat(each) for each in drawn]
    sizes = shapes(width)

    def agrees(variance):
        """Whether all weights have the variance, to 5 %: the first ones scatter by about 1 %."""
        return all(
            abs(weight.var().item() / variance(o, i, 9) - 1) < 0.05
            for weight, (o, i, _, _) in zip(weights, sizes, strict=True)
        )

    mistakes = {
        "the weights still are those that PyTorch starts with. Draw them by Kaiming's rule.": (
            lambda o, i, k2: 1 / (3 * i * k2)
        ),
        "the fan is fan_in (channels in · k²). The task asks for fan_out: channels *out* · k².": (
            lambda o, i, k2: 2 / (i * k2)
        ),
        "the variance is 1 / fan_out. ReLU halves the second moment; the factor 2 makes up for "
        "it.": lambda o, i, k2: 1 / (o * k2),
        "2 / fan_out is used as the standard deviation. It is the variance: take the root.": (
            lambda o, i, k2: (2 / (o * k2)) ** 2
        ),
        "the kernel's area, 9, is missing in the fan.": lambda o, i, k2: 2 / o,
        "the fan counts the kernel's side, 3, not its area, 9.": lambda o, i, k2: 2 / (3 * o),
        "this is Glorot's variance, 2 / (fan_in + fan_out). Kaiming's counts one of the two.": (
            lambda o, i, k2: 2 / ((o + i) * k2)
        ),
    }
    if not agrees(lambda o, i, k2: 2 / (o * k2)):
        for message, variance in mistakes.items():
            if agrees(variance):
                fail(message)
        for number, (weight, (o, _, _, _)) in enumerate(zip(weights, sizes, strict=True), 1):
            right = 2 / (9 * o)
            if not abs(weight.var().item() / right - 1) < 0.05:
                fail(
                    f"with width={width} the weights of convolution {number} should have variance "
                    f"{right:.3g}, and have {weight.var().item():.3g}."
                )
    for weight in weights:
        if weight.mean().abs() > 5 * weight.std() / math.sqrt(len(weight)):
            fail("the mean of the weights should be 0.")
        tail = (weight / weight.std()).pow(4).mean()  # 3 for a normal distribution, 1.8 for uniform
        if abs(tail - 3) > 0.3:
            fail("mean and variance are right, but the distribution is not normal (uniform?).")


# --- counting, weighing, folding


@exercise("2.8", "every parameter of a ResNet")
def check_count(count_parameters):
    def build(depths, width, num_classes):
        """The network of the task, with any number of stages (their strides do not count)."""
        model = nn.Module()
        model.conv1 = resnet.conv3x3(3, width)
        model.bn1 = nn.BatchNorm2d(width)
        channels = width
        for i, depth in enumerate(depths):
            w = width * 2**i
            stage = resnet.make_stage(resnet.Bottleneck, channels, w, depth, stride=1)
            setattr(model, f"layer{i + 1}", stage)
            channels = 4 * w
        model.fc = nn.Linear(channels, num_classes)
        return model

    def oracle(depths, width, num_classes):
        model = build(depths, width, num_classes)
        return sum(p.numel() for p in model.parameters())

    def answer(depths, width, num_classes):
        message = "a network is built here. The task is to count without building it, by formula."
        shapes = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand)
        refuse = mock.patch.object(nn.Module, "__init__", lambda *_, **__: fail(message))
        with Forbidden(shapes, message), refuse:
            return count_parameters(depths, width, num_classes)

    def without(count):
        """The number without the `count(model, width)` parameters that are forgotten."""

        def mistake(depths, width, num_classes):
            model = build(depths, width, num_classes)
            return oracle(depths, width, num_classes) - count(model, width)

        return mistake

    def of(model, kind=nn.Module, inside=""):
        """The parameters of all layers of a kind; `inside` is part of their names."""
        total = 0
        for name, module in model.named_modules():
            is_layer = not list(module.children())
            if is_layer and isinstance(module, kind) and inside in name:
                total += sum(p.numel() for p in module.parameters())
        return total

    cases = []
    for _ in range(6):
        depths = (pick(2, 3), *[pick(1, 3) for _ in range(pick(1, 3))])
        cases.append((depths, 4 * pick(1, 3), pick(2, 12)))
    mistakes = {
        "BatchNorm's parameters are missing: each has a scale and a shift for every channel.": (
            without(lambda model, w: of(model, nn.BatchNorm2d))
        ),
        "BatchNorm is counted with one parameter per channel; it has two, scale and shift.": (
            without(lambda model, w: of(model, nn.BatchNorm2d) // 2)
        ),
        "BatchNorm is counted with four numbers per channel. Two of them are buffers, not "
        "parameters.": without(lambda model, w: -of(model, nn.BatchNorm2d)),
        "the projections are missing: the first block of each stage has one.": without(
            lambda model, w: of(model, inside="downsample")
        ),
        "the projections' BatchNorm is missing.": without(
            lambda model, w: of(model, nn.BatchNorm2d, inside="downsample")
        ),
        "the first stage's projection is missing. Its stride is 1, but its channels change from w "
        "to 4w.": without(lambda model, w: of(model.layer1, inside="downsample")),
        "the linear layer's bias is missing.": without(lambda model, w: model.fc.bias.numel()),
        "the linear layer is missing.": without(lambda model, w: of(model.fc)),
        "the stem is missing (its convolution, and its BatchNorm).": without(
            lambda model, w: 27 * w + 2 * w
        ),
    }
    compare(
        answer,
        oracle,
        cases,
        mistakes,
        tolerance=0.0,  # of millions, ten are forgotten, too
        what="the number of parameters",
        describe=named("depths", "width", "num_classes"),
    )


@exercise("2.9", "squeeze and excitation")
def check_squeeze_excite(SqueezeExcite):
    class Reference(nn.Module):
        """The module as it should be."""

        def __init__(self, channels, reduction):
            super().__init__()
            self.fc1 = nn.Linear(channels, channels // reduction)
            self.fc2 = nn.Linear(channels // reduction, channels)

        def forward(self, f):
            return f * weights_of(self, f)[:, :, None, None]

    def weights_of(b, f, squeeze=lambda f: f.mean((2, 3)), between=F.relu, last=torch.sigmoid):
        """(N, C): the factors of the channels."""
        return last(b.fc2(between(b.fc1(squeeze(f)))))

    def variant(use=lambda f, w: f * w, **changes):
        def forward(b, f):
            return use(f, weights_of(b, f, **changes)[:, :, None, None])

        return lambda mine, b, f: observe(lambda f: forward(b, f), f)

    cases = []
    for _ in range(4):
        reduction = pick(2, 5)
        channels = reduction * pick(2, 4)
        theirs = Reference(channels, reduction)
        mine = with_weights_of(theirs, attempt(SqueezeExcite, channels, reduction))
        f = 2 * torch.randn(pick(2, 4), channels, *rectangle(3, 7), dtype=torch.float64) + 0.5
        cases.append((mine.double(), theirs.double(), f))
    mistakes = {
        "the sigmoid is missing: the factors should lie between 0 and 1.": variant(
            last=lambda z: z
        ),
        "this is a softmax: the channels would compete for a sum of 1. Each has a sigmoid of its "
        "own.": variant(last=lambda z: z.softmax(1)),
        "a ReLU stands where the sigmoid belongs.": variant(last=F.relu),
        "the ReLU between the two linear layers is missing.": variant(between=lambda z: z),
        "a sigmoid stands between the linear layers; there it is a ReLU.": variant(
            between=torch.sigmoid
        ),
        "the channels are summed over H and W; take the mean.": variant(
            squeeze=lambda f: f.sum((2, 3))
        ),
        "the maximum over H and W is taken; take the mean.": variant(
            squeeze=lambda f: f.amax((2, 3))
        ),
        "the average also goes over the batch: each image has its own factors.": variant(
            squeeze=lambda f: f.mean((0, 2, 3), keepdim=True)[:, :, 0, 0].expand(len(f), -1)
        ),
        "the factors are added; multiply the channels by them.": variant(use=lambda f, w: f + w),
        "f is added to the result. The block adds x; this module only scales.": variant(
            use=lambda f, w: f + f * w
        ),
        "the factors come out; multiply the channels of f by them.": variant(use=lambda f, w: w),
        "f comes out as it came in: multiply its channels by the factors.": variant(
            use=lambda f, w: f
        ),
        f"the output is right, but no gradient flows through the factors. {CUT}": variant(
            use=lambda f, w: f * w.detach()
        ),
        f"the output is right, but no gradient flows at all. {CUT}": variant(
            use=lambda f, w: (f * w).detach()
        ),
    }
    compare_blocks(
        cases, mistakes, lambda case: f"{shown(case[1])}, f {shown(case[2])}, {case[1].fc1}"
    )


class Affine(nn.Module):
    """y = scale · x + shift, per channel: what a BatchNorm is in eval mode."""

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.scale, self.shift = scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


@exercise("2.10", "folding BatchNorm")
def check_fold_batch_norm(fold_batch_norm):
    def scale_and_shift(
        root=lambda n: (n.running_var + n.eps).sqrt(),
        gamma=lambda n: n.weight,
        shift=lambda n, scale: n.bias - n.running_mean * scale,
    ):
        """What BatchNorm does in eval mode, with parts of it changed."""

        def affine(norm):
            scale = gamma(norm) / root(norm)
            return Affine(scale.detach(), shift(norm, scale).detach())

        return affine

    def variant(affine=None, only=lambda name: True):
        """The output with every BatchNorm replaced; those not in `only` are taken out."""
        affine = affine or scale_and_shift()

        def run(model, x):
            model = copy.deepcopy(model).eval()
            for parent_name, parent in list(model.named_modules()):
                for name, layer in list(parent.named_children()):
                    if isinstance(layer, nn.BatchNorm2d):
                        chosen = only(f"{parent_name}.{name}")
                        parent.add_module(name, affine(layer) if chosen else nn.Identity())
            return model(x)

        return run

    def answer(model, x):
        before = copy.deepcopy(model)
        with refusing_fusion():
            folded = attempt(fold_batch_norm, model)
        if folded is model:
            fail("the network that was given comes back. Make a new one: `copy.deepcopy`.")
        if not isinstance(folded, nn.Module):
            fail(f"expected a network, got {shown(folded)}.")
        if not same(model, before, 0.0):
            fail(
                "the network that was given has changed (its layers, its numbers or its mode). "
                "Work on a copy: `copy.deepcopy`."
            )
        check_folded(folded, model)
        y = outcome(folded, (x,))
        if isinstance(y, Exception):
            stopped(y, describe((model, x)) + "; when the new network runs")
        right = oracle(model, x)
        if same(y, right, 1e-5) and not same(y, right, 1e-9):
            fail(
                "the outputs agree to about seven digits only, and the network is in float64: "
                "somewhere float32 has come in between."
            )
        return y

    def oracle(model, x):
        return copy.deepcopy(model).eval()(x)

    def describe(case):
        model = case[0]
        block = model.layer1[0]
        kind = "a plain network" if not block.residual else f"a {type(model).__name__}"
        shortcuts = {type(b.downsample).__name__ for b in model.layer2 if b.residual}
        carried = {"Sequential": ", projections", "ZeroPad": ", option A"}
        names = "".join(carried.get(name, "") for name in sorted(shortcuts))
        return f"{kind} of {type(block).__name__}s{names}, x {shown(case[1])}"

    cases = []
    for model in networks_to_fold():
        model = randomize(model).double()
        for norm in layers_of(model, nn.BatchNorm2d):
            norm.eps = pick(5, 20) / 100
        x = torch.randn(pick(2, 3), 3, *rectangle(12, 20), dtype=torch.float64)
        cases.append((model.train(len(cases) % 2 == 0), x))
    mistakes = {
        "BatchNorm's ε is missing, or is not the layer's own (`norm.eps`).": variant(
            scale_and_shift(root=lambda n: n.running_var.sqrt())
        ),
        "ε is 1e-5 here, whatever the layer has. Read `norm.eps`.": variant(
            scale_and_shift(root=lambda n: (n.running_var + 1e-5).sqrt())
        ),
        "ε stands outside the root: divide by √(variance + ε).": variant(
            scale_and_shift(root=lambda n: n.running_var.sqrt() + n.eps)
        ),
        "the weights are divided by the variance; divide by its root.": variant(
            scale_and_shift(root=lambda n: n.running_var + n.eps)
        ),
        "γ is missing in the scale.": variant(
            scale_and_shift(gamma=lambda n: torch.ones_like(n.weight))
        ),
        "the bias is β alone. The running mean, times the scale, has to be subtracted.": variant(
            scale_and_shift(shift=lambda n, scale: n.bias)
        ),
        "β is missing in the bias.": variant(
            scale_and_shift(shift=lambda n, scale: -n.running_mean * scale)
        ),
        "there is no bias: BatchNorm also shifts.": variant(
            scale_and_shift(shift=lambda n, scale: 0 * scale)
        ),
        "the running mean is subtracted unscaled. BatchNorm subtracts it *before* it scales.": (
            variant(scale_and_shift(shift=lambda n, scale: n.bias - n.running_mean))
        ),
        "the running mean is subtracted times γ; it is divided by the root, too.": variant(
            scale_and_shift(shift=lambda n, scale: n.bias - n.running_mean * n.weight)
        ),
        "the running mean is added; BatchNorm subtracts it.": variant(
            scale_and_shift(shift=lambda n, scale: n.bias + n.running_mean * scale)
        ),
        "the BatchNorms are taken out, but not folded into the convolutions.": variant(
            only=lambda name: False
        ),
        "the BatchNorms of the projections are taken out, but not folded.": variant(
            only=lambda name: "downsample" not in name
        ),
        "the stem's BatchNorm is taken out, but not folded.": variant(
            only=lambda name: name != ".bn1"
        ),
        "all BatchNorms are folded but those of the stages, or of some of them.": variant(
            only=lambda name: "layer" not in name
        ),
    }
    compare(
        answer,
        oracle,
        cases,
        mistakes,
        tolerance=1e-9,
        what="the output",
        may_change=(0,),
        same_type_as=1,
        describe=describe,
    )


def networks_to_fold() -> list[nn.Module]:
    """One network of each kind that helpers.resnet can make, small."""
    basic, bottleneck = resnet.BasicBlock, resnet.Bottleneck
    n, width = pick(2, 9), pick(3, 5)
    depths = (1, pick(1, 2), 1)
    return [
        resnet.ResNet(basic, (*depths, 1), n, "cifar", width),
        resnet.ResNet(bottleneck, (*depths, 1), n + 1, "imagenet", width),
        resnet.CifarResNet(basic, depths, n + 2, width=width + 1),
        resnet.CifarResNet(basic, depths, n, width=width, shortcut=None),
        resnet.CifarResNet(bottleneck, depths, n, width=width, shortcut=resnet.projection),
    ]


def refusing_fusion():
    def refuse(*_, **__):
        fail("PyTorch's own folding is called. The task is to write it.")

    return mock.patch.object(torch.nn.utils.fusion, "fuse_conv_bn_weights", refuse)


def check_folded(folded: nn.Module, model: nn.Module) -> None:
    """Fails where the new network is not one of convolutions alone, or not a new one."""
    left = []
    for name, layer in folded.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            left.append(name)
    if left and all("downsample" in name for name in left):
        fail(f"the projections still have their BatchNorm, for example `{left[0]}`.")
    if left:
        fail(
            f"the new network still has {len(left)} BatchNorm layers of "
            f"{len(layers_of(model, nn.BatchNorm2d))}, for example `{left[0]}`."
        )
    for name, layer in folded.named_modules():
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if own and not isinstance(layer, (nn.Conv2d, nn.Linear)):
            fail(
                f"`{name}`, a {type(layer).__name__}, has numbers of its own. They should be part "
                "of the convolution before it: the new network has no layer more."
            )
    kinds = (nn.Conv2d, nn.Linear)
    if len(layers_of(folded, kinds)) != len(layers_of(model, kinds)):
        fail(
            f"the new network has {len(layers_of(folded, kinds))} convolutions and linear layers, "
            f"the given one {len(layers_of(model, kinds))}."
        )
    given = {each.data_ptr() for each in model.state_dict().values()}
    for name, tensor in folded.state_dict().items():
        if tensor.data_ptr() in given:
            fail(
                f"`{name}` is the given network's own tensor: who trains or changes one network, "
                "changes both. Work on a copy: `copy.deepcopy`."
            )
