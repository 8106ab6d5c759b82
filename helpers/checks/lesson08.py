"""Checks of the exercises of lesson 08, signal and gradient through depth."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.checks.engine import (
    Forbidden,
    as_float64,
    compare,
    exercise,
    fail,
    is_numeric,
    named,
    pick,
    rectangle,
    shown,
)

__all__ = [
    "check_count_paths",
    "check_second_moment",
    "check_gradient_by_depth",
    "check_batch_norm_backward",
]


@exercise("8.1", "counting paths")
def check_count_paths(count_paths):
    def oracle(blocks):
        counts = [0] * (blocks + 1)
        for taken in itertools.product((0, 1), repeat=blocks):  # 1: through the branch, 0: past it
            counts[sum(taken)] += 1
        return counts

    cases = [(blocks,) for blocks in sorted({pick(3, 5), pick(6, 8), pick(9, 11)})]
    mistakes = {
        "the path that takes every shortcut is missing: there is one of length 0.": (
            lambda n: oracle(n)[1:]
        ),
        "the longest path is missing: one goes through every branch.": lambda n: oracle(n)[:-1],
        "this is the number of all paths; the task asks for a list, how many there are of each "
        "length.": lambda n: 2**n,
        "2^k is the number of ways through k blocks. Of the n blocks, *which* k use their "
        "branch?": lambda n: [2**k for k in range(n + 1)],
        "the order counts here: blocks stand in a fixed order, so divide by k! (`math.comb`, not "
        "`math.perm`).": lambda n: [math.perm(n, k) for k in range(n + 1)],
        "these are fractions; numbers of paths are asked for.": (
            lambda n: [count / 2**n for count in oracle(n)]
        ),
    }
    compare(count_paths, oracle, cases, mistakes, what="the list of counts")


@exercise("8.2", "the law of growth")
def check_second_moment(second_moment):
    def simulated(blocks, scale):
        """F rotates, with a random sign for each x: it keeps the second moment."""
        x = torch.randn(1500, 200)
        for _ in range(blocks):
            rotation, _ = torch.linalg.qr(torch.randn(200, 200))
            signs = torch.randn(len(x), 1).sign()
            x = x + scale * signs * (x @ rotation)
        return x.pow(2).mean().item()

    def answer(blocks, scale):
        result = second_moment(blocks, scale)
        if is_numeric(result) and not as_float64(result).isfinite().all():
            fail(f"{shown(result)} is no second moment. (blocks={blocks}, scale={scale:.1f})")
        return result

    cases = [(6, 0.1 * pick(8, 10)), (8, 0.1 * pick(5, 7)), (11, 0.1 * pick(7, 9))]
    mistakes = {
        "this grows by (1 + s)² per block, as if F(x) pointed along x. They are uncorrelated: "
        "1 + s².": (lambda n, s: (1 + s) ** (2 * n)),
        "sizes are added where squares must be: of uncorrelated terms the second moments add, "
        "q + s² q.": (lambda n, s: (1 + s) ** n),
        "this grows linearly. Each block's F works on what all earlier ones left, so the factor is "
        "a power.": (lambda n, s: 1 + n * s**2),
        "this is one block's factor; there are `blocks` of them.": (lambda n, s: 1 + s**2),
        "the scale is not squared, or not used: s · F(x) has second moment s² q.": (
            lambda n, s: 2.0**n
        ),
        "this is the root; the second moment is asked for.": (lambda n, s: (1 + s**2) ** (n / 2)),
    }
    compare(
        answer,
        simulated,
        cases,
        mistakes,
        tolerance=0.05,
        what="the second moment (up to 5 %)",
        describe=named("blocks", "scale"),
    )


@exercise("8.3", "gradients by depth")
def check_gradient_by_depth(gradient_by_depth):
    def gradients(blocks, x, upstream):
        """The gradients at the input of every block and at the output of the last."""
        states = [x.detach().requires_grad_()]
        for block in blocks:
            states.append(block(states[-1]))
        return torch.autograd.grad(states[-1], states, upstream)

    def mean_square(gradient):
        return gradient.pow(2).mean().item()

    def variant(measure=mean_square):
        return lambda *case: [measure(gradient) for gradient in gradients(*case)[:-1]]

    def reversed_order(*case):
        return variant()(*case)[::-1]

    def at_outputs(*case):
        return [mean_square(gradient) for gradient in gradients(*case)[1:]]

    def one_too_many(*case):
        return [mean_square(gradient) for gradient in gradients(*case)]

    def signal_ignored(blocks, x, upstream):
        return variant()(blocks, x, torch.ones_like(upstream))

    def of_states(blocks, x, upstream):
        found = []
        for block in blocks:
            found.append(mean_square(x))
            x = block(x)
        return found

    def of_weights(blocks, x, upstream):
        y = x
        for block in blocks:
            y = block(y)
        weights = [block[0].weight for block in blocks]
        return [mean_square(gradient) for gradient in torch.autograd.grad(y, weights, upstream)]

    cases = []
    for _ in range(3):
        (width, n), depth = rectangle(3, 6), pick(3, 5)
        blocks = nn.ModuleList()
        for _ in range(depth):
            blocks.append(nn.Sequential(nn.Linear(width, width), nn.Tanh()))
        cases.append((blocks, torch.randn(n, width), torch.randn(n, width)))
    mistakes = {
        "the list runs from the output to the input; begin with the first block.": reversed_order,
        "these are gradients at the blocks' *outputs*; their inputs are asked for.": at_outputs,
        "the list has one entry too many: the output of the last block is no block's input.": (
            one_too_many
        ),
        "these are sums of squares; divide by the number of values (`mean`).": variant(
            lambda gradient: gradient.pow(2).sum().item()
        ),
        "these are norms; the mean of the squares is asked for.": variant(
            lambda gradient: gradient.norm().item()
        ),
        "these are roots of the mean squares.": variant(
            lambda gradient: gradient.pow(2).mean().sqrt().item()
        ),
        "these are means of the gradient itself, where signs cancel: square first.": variant(
            lambda gradient: gradient.mean().item()
        ),
        "these are squares of the mean, where signs cancel: square first, then average.": variant(
            lambda gradient: gradient.mean().square().item()
        ),
        "`upstream` is not used: these are the gradients of the sum of all outputs.": (
            signal_ignored
        ),
        "these are mean squares of the signal on its way forward, not of the gradient.": of_states,
        "these are gradients of the weights; the gradients at the blocks' inputs are asked for.": (
            of_weights
        ),
    }
    compare(gradient_by_depth, variant(), cases, mistakes, what="the list of mean squares")


@exercise("8.4", "BatchNorm's backward pass")
def check_batch_norm_backward(batch_norm_backward):
    COLUMN = (1, -1, 1, 1)
    PARTS = ("the gradient at x", "the gradient at gamma", "the gradient at beta")

    def answer(x, gamma, grad_output, eps):
        own = "Autograd, or PyTorch's own BatchNorm, is called. The task is to do without."
        used = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
        with Forbidden((*used, F.batch_norm, torch.batch_norm, torch.native_batch_norm), own):
            return batch_norm_backward(x, gamma, grad_output, eps)

    def whole(x, gamma, grad_output, eps):
        result = answer(x, gamma, grad_output, eps)
        got = f"a {type(result).__name__}"
        if isinstance(result, (tuple, list)):
            got = str(len(result))
        if got != "3":
            fail(f"three gradients expected, at x, gamma and beta, in a tuple; got {got}.")
        return result

    def oracle(x, gamma, grad_output, eps):
        leaves = [x.requires_grad_(), gamma.requires_grad_(), torch.zeros_like(gamma)]
        leaves[2].requires_grad_()
        y = F.batch_norm(x, None, None, leaves[1], leaves[2], training=True, eps=eps)
        return torch.autograd.grad(y, leaves, grad_output)

    def normalized(x, eps, axes=(0, 2, 3), unbiased=False, outside=False):
        """x̂, and the root that x was divided by."""
        var = x.var(axes, unbiased=unbiased, keepdim=True)
        root = var.sqrt() + eps if outside else (var + eps).sqrt()
        return (x - x.mean(axes, keepdim=True)) / root, root

    def at_x(
        mean=1.0,  # of the signal: the factor before what is subtracted
        along=1.0,  # of the part along x̂
        scale=True,  # γ takes part
        per_image=False,  # means of each image
        sums=False,  # where means must be
        by_x=False,  # x where x̂ must be
        power=1,  # of the root
    ):
        def run(x, gamma, grad_output, eps):
            axes = (2, 3) if per_image else (0, 2, 3)
            hat, root = normalized(x, eps)
            if by_x:
                hat = x
            g = gamma.view(COLUMN) * grad_output if scale else grad_output
            size = g[:, 0].numel() if sums else 1
            first = size * g.mean(axes, keepdim=True)
            second = size * hat * (g * hat).mean(axes, keepdim=True)
            return (g - mean * first - along * second) / root**power

        return run

    def at_gamma(x, gamma, grad_output, eps, **changed):
        return (grad_output * normalized(x, eps, **changed)[0]).sum((0, 2, 3))

    single, double = [], []
    for number in range(4):
        c, kind = pick(2, 5), torch.float64 if number % 2 else torch.float32
        x = 2 * torch.randn(pick(2, 4), c, *rectangle(2, 5), dtype=kind)
        x = x + torch.randn(c, dtype=kind).view(COLUMN)
        gamma = torch.randn(c, dtype=kind)
        gamma[pick(0, c - 1)] = 0.0  # as after zero-gamma
        case = (x, gamma, torch.randn_like(x) + 0.5, 0.1 * pick(2, 4))
        (double if number % 2 else single).append(case)
    mistakes = (
        {
            "mean and variance are treated as constants: both depend on x, and each subtracts a "
            "term.": at_x(mean=0, along=0),
            "the term of the mean is missing: every x moves μ.": at_x(mean=0),
            "the term of the variance is missing: every x moves σ², too.": at_x(along=0),
            "the two terms are added. They are subtracted.": at_x(mean=-1, along=-1),
            "the term of the mean has the wrong sign.": at_x(mean=-1),
            "the term of the variance has the wrong sign.": at_x(along=-1),
            "the factor 2 of the square is left over: dσ²/dx = 2 (x - μ) / M meets the ½ of the "
            "root.": at_x(along=2),
            "half of the term of the variance is missing: dσ²/dx = 2 (x - μ) / M.": at_x(along=0.5),
            "γ is missing: the signal passes it before anything else.": at_x(scale=False),
            "the means are those of each image by itself: average over all N·H·W values.": at_x(
                per_image=True
            ),
            "the division by √(σ² + ε) is missing.": at_x(power=0),
            "this is divided by σ² + ε. It should be its root.": at_x(power=2),
            "this is multiplied by √(σ² + ε). Divide.": at_x(power=-1),
            "sums are subtracted where means must be: divide by N·H·W.": at_x(sums=True),
            "x stands where the normalised input x̂ must be.": at_x(by_x=True),
        },
        {
            "x is not normalised: γ multiplies x̂ = (x - μ) / √(σ² + ε).": (
                lambda x, gamma, g, eps: (g * x).sum((0, 2, 3))
            ),
            "this is the mean; γ is used N·H·W times, and what comes back from there adds up.": (
                lambda *case: at_gamma(*case) / case[0][:, 0].numel()
            ),
            "ε is missing: x̂ = (x - μ) / √(σ² + ε).": (
                lambda x, gamma, g, eps: at_gamma(x, gamma, g, 0.0)
            ),
            "the unbiased variance is used. Within the batch BatchNorm divides by N·H·W.": (
                lambda *case: at_gamma(*case, unbiased=True)
            ),
            "each image is normalised by itself: the statistics are those of all N·H·W values.": (
                lambda *case: at_gamma(*case, axes=(2, 3))
            ),
            "ε stands outside the root: divide by √(σ² + ε).": (
                lambda *case: at_gamma(*case, outside=True)
            ),
            "this is the gradient at β.": lambda x, gamma, g, eps: g.sum((0, 2, 3)),
            "γ itself is a factor of it: the output is γ x̂ + β, and its derivative by γ is x̂.": (
                lambda *case: case[1] * at_gamma(*case)
            ),
            "x is divided by √(σ² + ε), but its mean is not subtracted.": (
                lambda x, gamma, g, eps: (g * x / normalized(x, eps)[1]).sum((0, 2, 3))
            ),
        },
        {
            "this is the mean; β is used N·H·W times, and what comes back from there adds up.": (
                lambda x, gamma, g, eps: g.mean((0, 2, 3))
            ),
            "this is the gradient at γ.": at_gamma,
            "γ is a factor of it: β is added after γ.": (
                lambda x, gamma, g, eps: gamma * g.sum((0, 2, 3))
            ),
        },
    )

    def compare_part(number, cases, tolerance):
        compare(
            lambda *case: whole(*case)[number],
            lambda *case: oracle(*case)[number],
            cases,
            mistakes[number],
            tolerance=tolerance,
            what=PARTS[number],
            same_type_as=0,
            describe=named("x", "gamma", "grad_output", "eps"),
        )

    for number in (2, 1, 0):  # the easy ones first
        compare_part(number, single + double, 1e-4)
    for number in (2, 1, 0):
        compare_part(number, double, 1e-10)

    class ByHand(torch.autograd.Function):
        """BatchNorm whose backward pass is the learner's."""

        @staticmethod
        def forward(ctx, x, gamma, beta, eps):
            ctx.save_for_backward(x, gamma)
            ctx.eps = eps
            return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)

        @staticmethod
        def backward(ctx, grad_output):
            x, gamma = ctx.saved_tensors
            return *batch_norm_backward(x, gamma, grad_output, ctx.eps), None

    def by_hand(x, gamma, beta):
        return ByHand.apply(x, gamma, beta, 0.1)

    x, gamma = torch.randn(2, 3, 1, 2).double(), torch.randn(3).double()
    leaves = [each.requires_grad_() for each in (x, gamma, torch.randn(3).double())]
    if not torch.autograd.gradcheck(by_hand, leaves, raise_exception=False):
        fail("`torch.autograd.gradcheck` disagrees: small changes of the inputs do something else.")
