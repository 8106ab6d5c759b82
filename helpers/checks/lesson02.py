"""Checks of the exercises of lesson 02, building ResNet-50."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import resnet
from helpers.checks.engine import (
    CUT,
    Forbidden,
    attempt,
    compare,
    exercise,
    fail,
    named,
    outcome,
    pick,
    rectangle,
    shown,
    stopped,
)
from helpers.checks.modules import (
    compare_blocks,
    observe,
    randomize,
    with_weights_of,
)

__all__ = [
    "check_conv_cost",
    "check_batch_norm",
    "check_basic_block",
    "check_bottleneck",
    "check_make_stage",
    "check_option_a",
    "check_kaiming",
    "check_count",
    "check_squeeze_excite",
]


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
        with Forbidden(
            (F.batch_norm, torch.batch_norm),
            "PyTorch's own BatchNorm is called. The task is to write it from its formula.",
        ):
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


def block_cases(block: type[nn.Module], mine: Callable, count: int = 6) -> list[tuple]:
    """(the learner's block, ours with the same weights, x): both strides, equal and unequal
    channels, train and eval mode.
    """
    cases = []
    for number in range(count):
        width, stride = pick(2, 5), 1 + number % 2
        in_channels = width * block.expansion
        while number > 1 and in_channels == width * block.expansion:
            in_channels = pick(2, 9)
        theirs = randomize(block(in_channels, width, stride)).train(number % 3 == 0)
        x = torch.randn(pick(2, 4), in_channels, *rectangle(4, 9), dtype=torch.float64)
        made = attempt(mine, in_channels, width, stride)
        cases.append((with_weights_of(theirs, made).double(), theirs.double(), x))
    return cases


def shortcut(b: nn.Module, x: Tensor) -> Tensor:
    return x if b.downsample is None else b.downsample(x)


def right_end(f: Tensor, x: Tensor, b: nn.Module) -> Tensor:
    """How a residual block ends; `f` is F(x)."""
    return F.relu(f + shortcut(b, x))


def wrong_ends(variant: Callable) -> dict[str, Callable]:
    """The mistakes at the end of a residual block; `variant(end=…)` makes the block with one."""
    return {
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
    }


def restride(conv: nn.Conv2d, stride: int, x: Tensor) -> Tensor:
    """The same convolution with another stride."""
    return F.conv2d(x, conv.weight, conv.bias, stride, conv.padding)


@exercise("2.3", "the basic block")
def check_basic_block(BasicBlock):
    def forward(b, x, strides, relu_inside, end):
        """The block with other strides of its two convolutions, as functions of the right one."""
        first, second = strides(b.conv1.stride[0])
        out = b.bn1(restride(b.conv1, first, x))
        if relu_inside:
            out = F.relu(out)
        out = b.bn2(restride(b.conv2, second, out))
        return end(out, x, b)

    def variant(strides=lambda s: (s, 1), relu_inside=True, end=right_end):
        def run(mine, b, x):
            return observe(lambda x: forward(b, x, strides, relu_inside, end), x)

        return run

    mistakes = {
        **wrong_ends(variant),
        "both 3×3 convolutions have the stride, so H and W shrink twice. The second keeps the "
        "size: stride 1.": variant(strides=lambda s: (s, s)),
        "the stride sits in the second convolution; it belongs to the first.": variant(
            strides=lambda s: (1, s)
        ),
        "no convolution has the stride: F(x) keeps the size, and the shortcut does not.": variant(
            strides=lambda s: (1, 1)
        ),
        "the ReLU between the two convolutions is missing.": variant(relu_inside=False),
    }
    compare_blocks(block_cases(resnet.BasicBlock, BasicBlock), mistakes)


@exercise("2.4", "the bottleneck")
def check_bottleneck(Bottleneck):
    def forward(b, x, strides, relus, end):
        """The block with other strides of its first two convolutions, or without their ReLUs."""
        first, second = strides(b.conv2.stride[0])
        out = b.bn1(restride(b.conv1, first, x))
        if relus[0]:
            out = F.relu(out)
        out = b.bn2(restride(b.conv2, second, out))
        if relus[1]:
            out = F.relu(out)
        return end(b.bn3(b.conv3(out)), x, b)

    def variant(strides=lambda s: (1, s), relus=(True, True), end=right_end):
        def run(mine, b, x):
            return observe(lambda x: forward(b, x, strides, relus, end), x)

        return run

    if getattr(Bottleneck, "expansion", None) != 4:
        fail(
            "`Bottleneck.expansion` should be 4, as an attribute of the class: `make_stage` reads "
            "it there."
        )
    mistakes = {
        "the stride sits in the first 1×1 convolution. That is the paper's v1; the task asks for "
        "the 3×3 (v1.5).": variant(strides=lambda s: (s, 1)),
        **wrong_ends(variant),
        "the ReLU after the first BatchNorm is missing.": variant(relus=(False, True)),
        "the ReLU after the second BatchNorm is missing.": variant(relus=(True, False)),
        "no convolution has the stride: F(x) keeps the size, and the shortcut does not.": variant(
            strides=lambda s: (1, 1)
        ),
    }
    compare_blocks(block_cases(resnet.Bottleneck, Bottleneck), mistakes)


@exercise("2.5", "a stage")
def check_make_stage(make_stage):
    class Block(nn.Module):
        """Records how it was made; computes nothing."""

        def __init__(self, in_channels, width, stride=1):
            super().__init__()
            self.made_with = (in_channels, width, stride)

    def answer(expansion, *arguments):
        block = type("Block", (Block,), {"expansion": expansion})
        stage = make_stage(block, *arguments)
        if not isinstance(stage, nn.Sequential):
            fail(f"expected an nn.Sequential of blocks, got {type(stage).__name__}.")
        if len({id(part) for part in stage}) < len(stage):
            fail(
                "one block stands there several times and so shares its weights; make a new one "
                "for each place."
            )
        return [part.made_with for part in stage]

    def variant(
        stride_of=lambda i, depth, stride: stride if i == 0 else 1,
        later_channels=lambda in_channels, out_channels, width: out_channels,
        extra=0,
        width_of=lambda width, expansion: width,
    ):
        """The settings of the blocks by other rules for strides, channels, depth and width."""

        def run(expansion, in_channels, width, depth, stride):
            settings = []
            for i in range(depth + extra):
                channels = in_channels
                if i > 0:
                    channels = later_channels(in_channels, width * expansion, width)
                own_stride = stride_of(i, depth, stride)
                settings.append((channels, width_of(width, expansion), own_stride))
            return settings

        return run

    cases = []
    for expansion, stride in ((1, 2), (4, 1), (2, 3)):
        cases.append((expansion, pick(9, 20), pick(3, 8), pick(3, 5), stride))
    mistakes = {
        "the first block has a stride of 2, whatever `stride` is.": variant(
            stride_of=lambda i, depth, stride: 2 if i == 0 else 1
        ),
        "every block has the stride: H and W are halved again and again. Only the first changes "
        "the size.": variant(stride_of=lambda i, depth, stride: stride),
        "the stride sits in the last block; it belongs to the first.": variant(
            stride_of=lambda i, depth, stride: stride if i == depth - 1 else 1
        ),
        "no block has the stride.": variant(stride_of=lambda i, depth, stride: 1),
        "the later blocks expect `width` channels. A block outputs width · expansion; the next "
        "receives that.": variant(later_channels=lambda in_channels, out_channels, width: width),
        "all blocks expect `in_channels`. From the second on they receive what the first "
        "outputs.": variant(later_channels=lambda in_channels, out_channels, width: in_channels),
        "there is one block too many: `depth` counts the first one too.": variant(extra=1),
        "there is one block too few: `depth` blocks in all.": variant(extra=-1),
        "the block gets width · expansion as its width. It multiplies by its expansion itself.": (
            variant(width_of=lambda width, expansion: width * expansion)
        ),
    }
    compare(
        answer,
        variant(),
        cases,
        mistakes,
        what="the list of (in_channels, width, stride) of the blocks",
        describe=named("expansion", "in_channels", "width", "depth", "stride"),
    )


@exercise("2.6", "the shortcut without parameters")
def check_option_a(option_a):
    def oracle(x, out_channels, stride):
        return resnet.ZeroPad(x.shape[1], out_channels, stride)(x)

    def every(x, stride, start=0):
        return x[:, :, start::stride, start::stride]

    def padded(take, before=lambda extra: 0):
        """Pixels by `take(x, stride)`; `before(extra)` of the extra channels come first."""

        def mistake(x, out_channels, stride):
            extra = out_channels - x.shape[1]
            first = before(extra)
            return F.pad(take(x, stride), (0, 0, 0, 0, first, extra - first))

        return mistake

    def repeated(x, out_channels, stride):
        copies = math.ceil(out_channels / x.shape[1])
        return every(x, stride).repeat(1, copies, 1, 1)[:, :out_channels]

    def detached(x, out_channels, stride):
        return oracle(x.detach(), out_channels, stride)

    def observed(function):
        def run(x, out_channels, stride):
            return observe(lambda x: function(x, out_channels, stride), x)

        return run

    cases = []
    for number, stride in enumerate((2, 1, 3)):
        c = pick(2, 5)
        sides = 2 * pick(2, 5), 2 * pick(2, 5) + 1
        kind = torch.bfloat16 if number == 2 else torch.float32
        x = torch.randn(pick(1, 3), c, *sides, dtype=kind)
        cases.append((x, c + 2 * pick(1, 3), stride))
    mistakes = {
        "the zeros stand before the old channels; here they belong after them.": padded(
            every, before=lambda extra: extra
        ),
        "the zeros are split, half before and half after the old channels; the task asks for all "
        "after them.": padded(every, before=lambda extra: extra // 2),
        "you average the pixels. Option A keeps every `stride`-th one and throws the others "
        "away.": padded(F.avg_pool2d),
        "you keep the maximum of neighbouring pixels. Option A keeps every `stride`-th one as it "
        "is.": padded(F.max_pool2d),
        "the kept pixels start at the second; start at the first, as a strided 1×1 convolution "
        "does.": padded(lambda x, stride: every(x, stride, start=stride - 1)),
        "the new channels are copies of the old; they should be zero.": repeated,
        "the resolution stays. Keep every `stride`-th row and column.": padded(lambda x, stride: x),
        "the channels stay: fill up to `out_channels` with zeros.": (
            lambda x, out_channels, stride: every(x, stride)
        ),
        f"the values are right, but no gradient flows through x. {CUT}": detached,
    }
    compare(
        observed(option_a),
        observed(oracle),
        cases,
        {message: observed(mistake) for message, mistake in mistakes.items()},
        what="(output, gradient at the input)",
        same_type_as=0,
        describe=named("x", "out_channels", "stride"),
    )


@exercise("2.7", "Kaiming initialisation", returns=False)
def check_kaiming(kaiming):
    def filled(out_channels, in_channels, kernel):
        weight = torch.zeros(out_channels, in_channels, kernel, kernel)
        attempt(kaiming, weight)
        return weight

    sizes = [
        (pick(50, 90), pick(150, 190), 3),
        (pick(150, 190), pick(50, 90), 3),
        (pick(300, 350), pick(200, 250), 1),
    ]
    weights = [filled(*size) for size in sizes]
    if any(weight.abs().max() == 0 for weight in weights):
        fail(
            "the weights are still zero: fill the tensor you are given, in place (`normal_`), "
            "instead of making a new one."
        )

    def right(o, i, k):
        return 2 / (o * k * k)

    def agrees(variance):
        """Whether the weights have the variance `variance(out, in, kernel)`, to 5 %.

        The smallest tensor has 60,000 values: it scatters by 0.6 %.
        """
        for weight, size in zip(weights, sizes, strict=True):
            if not abs(weight.var().item() / variance(*size) - 1) < 0.05:  # nan, too
                return False
        return True

    mistakes = {
        "the fan is fan_in (channels in · k²). The task asks for fan_out: channels *out* · k².": (
            lambda o, i, k: 2 / (i * k * k)
        ),
        "the variance is 1 / fan. ReLU halves the second moment; the factor 2 makes up for it.": (
            lambda o, i, k: 1 / (o * k * k)
        ),
        "2 / fan is used as the standard deviation. It is the variance: take the root.": (
            lambda o, i, k: (2 / (o * k * k)) ** 2
        ),
        "the kernel's area k² is missing in the fan.": lambda o, i, k: 2 / o,
        "the fan counts k once, not k².": lambda o, i, k: 2 / (o * k),
        "this is Glorot's variance, 2 / (fan_in + fan_out). Kaiming's counts one of the two.": (
            lambda o, i, k: 2 / ((o + i) * k * k)
        ),
    }
    if not agrees(right):
        for message, variance in mistakes.items():
            if agrees(variance):
                fail(message)
        for weight, (o, i, k) in zip(weights, sizes, strict=True):
            if not abs(weight.var().item() / right(o, i, k) - 1) < 0.05:
                fail(
                    f"for a weight of shape {(o, i, k, k)} the variance should be near "
                    f"{right(o, i, k):.3g}, and is {weight.var().item():.3g}."
                )
    if any(weight.mean().abs() > 0.05 * weight.std() for weight in weights):
        fail("the mean of the weights should be 0.")
    for weight in weights:
        tail = (weight / weight.std()).pow(4).mean()  # 3 for a normal distribution, 1.8 for uniform
        if abs(tail - 3) > 0.3:
            fail(
                "mean and variance are right, but the distribution is not normal (uniform, "
                "perhaps?)."
            )
    if torch.equal(filled(*sizes[0]), filled(*sizes[0])):
        fail("every call draws the same numbers. Is a seed set inside the function?")
    parameter = nn.Parameter(torch.zeros(pick(2, 9), pick(2, 9), 3, 3))
    result = outcome(kaiming, (parameter,))
    if isinstance(result, RuntimeError) and "leaf" in str(result):
        fail(
            "right for a plain tensor. A parameter asks for gradients, and refuses to be "
            "overwritten outside of `torch.no_grad()`."
        )
    if isinstance(result, Exception):
        stopped(result, "a parameter")
    if not parameter.requires_grad or not parameter.is_leaf:
        fail("a parameter should ask for gradients afterwards, too: it is to be trained.")
    if not parameter.any():
        fail("a plain tensor is filled, and a parameter is still zero. Fill it in place.")


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
        with Forbidden(
            (torch.empty, torch.randn, torch.rand),
            "a network is built here. The task is to count without building it, by formula.",
        ):
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
