"""Checks of the exercises of lesson 01, residual learning."""

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from helpers import resnet
from helpers.checks.engine import (
    CHANGED,
    CUT,
    compare,
    exercise,
    fail,
    named,
    outcome,
    pick,
    rectangle,
    same,
    stopped,
)
from helpers.checks.modules import observe, randomize

__all__ = [
    "check_residual",
    "check_input_gradient",
    "check_count_paths",
    "check_zero_gamma",
    "check_second_moment",
    "check_gradient_by_depth",
]


@exercise("1.1", "add and rectify")
def check_residual(residual):
    def variant(end):
        """The layer that ends with `end(F(x), x)`."""
        return lambda x, branch: observe(lambda x: end(branch(x), x), x)

    def answer(x, branch):
        changed = CHANGED
        if isinstance(branch, nn.Identity):
            changed = (
                "right where the branch makes a new tensor. Here it returns x itself, and then "
                "`+=`, `add_` or `relu_` on what it returns overwrites x."
            )
        return observe(lambda x: residual(x, branch), x, changed)

    cases = []
    for _ in range(3):
        channels = pick(2, 5)
        x = torch.randn(pick(2, 4), channels, *rectangle(3, 6))
        cases.append((x, resnet.conv3x3(channels, channels)))
    cases.append((torch.randn(pick(2, 4), pick(2, 5), *rectangle(3, 6)), nn.Identity()))
    mistakes = {
        "the ReLU comes before the addition, so F(x) is never negative. "
        "Add first, then ReLU.": variant(lambda f, x: F.relu(f) + x),
        "F(x) goes through a ReLU before the addition, too: leave that one out.": variant(
            lambda f, x: F.relu(F.relu(f) + x)
        ),
        "the ReLU after the addition is missing.": variant(lambda f, x: f + x),
        "nothing is added: this is a plain layer, ReLU(F(x)).": variant(lambda f, x: F.relu(f)),
        "x is subtracted from F(x). Add it.": variant(lambda f, x: F.relu(f - x)),
        "F(x) is subtracted from x. Add it.": variant(lambda f, x: F.relu(x - f)),
        f"the output is right, but no gradient flows through x. {CUT}": variant(
            lambda f, x: F.relu(f + x.detach())
        ),
        f"the output is right, but no gradient flows through the branch. {CUT}": variant(
            lambda f, x: F.relu(f.detach() + x)
        ),
        f"the output is right, but no gradient flows at all. {CUT}": variant(
            lambda f, x: F.relu(f + x).detach()
        ),
    }
    compare(
        answer,
        variant(lambda f, x: F.relu(f + x)),
        cases,
        mistakes,
        what="(output, gradient at the input)",
        same_type_as=0,
    )


@exercise("1.2", "the gradient, by hand")
def check_input_gradient(input_gradient):
    def oracle(upstream, jacobian, mask):
        x = torch.randn(len(upstream), requires_grad=True, dtype=upstream.dtype)
        y = mask * (jacobian @ x + x)
        return torch.autograd.grad(y, x, upstream)[0]

    cases = []
    for _ in range(4):
        n = pick(3, 7)
        mask = (torch.arange(n) % 2 == pick(0, 1)).float()
        cases.append((torch.randn(n), torch.randn(n, n), mask))
    mistakes = {
        "the identity is missing: x also reaches the output directly, which adds the upstream "
        "gradient itself.": lambda g, j, m: (g * m) @ j,
        "the branch is missing: only the shortcut's part is there.": lambda g, j, m: g * m,
        "the mask is missing: where the ReLU was closed no gradient passes, on either path.": (
            lambda g, j, m: g @ j + g
        ),
        "the mask acts on the branch only. The ReLU comes after the addition, so the shortcut "
        "passes through it too.": lambda g, j, m: (g * m) @ j + g,
        "the mask acts on the shortcut only; the branch passes through the same ReLU.": (
            lambda g, j, m: g @ j + g * m
        ),
        "the mask acts at the input. It belongs to the output: multiply the upstream gradient by "
        "it first.": lambda g, j, m: (g @ j + g) * m,
        "the Jacobian is applied from the wrong side. With gradients as rows it is g J, or Jᵀ g.": (
            lambda g, j, m: j @ (g * m) + g * m
        ),
    }
    compare(input_gradient, oracle, cases, mistakes, what="the gradient")


@exercise("1.3", "counting paths")
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


@exercise("1.4", "start as the identity", returns=False)
def check_zero_gamma(zero_gamma):
    def effects(change):
        """What `change(model)` does to each tensor of the state."""

        def run(model):
            parameters = dict(model.named_parameters())
            before = copy.deepcopy(model.state_dict())
            change(model)
            now = dict(model.named_parameters())
            for name, parameter in parameters.items():
                if now.get(name) is not parameter:
                    fail(
                        f"`{name}` has been replaced by a new parameter, which no optimiser knows: "
                        "set the old one to 0 in place."
                    )
                if not parameter.requires_grad:
                    fail(
                        f"`{name}` no longer asks for a gradient (`requires_grad` is False): it "
                        "could never be trained."
                    )
            found = {}
            for name, value in model.state_dict().items():
                if torch.equal(value, before[name]):
                    found[name] = "as before"
                else:
                    found[name] = "changed" if value.any() else "set to 0"
            return found

        return run

    def variant(layers, parts=("weight",)):
        """Sets these parts of the layers `layers(block)` to 0 in every block."""

        @torch.no_grad()
        def change(model):
            for block in model.modules():
                if isinstance(block, (resnet.BasicBlock, resnet.Bottleneck)):
                    for layer in layers(block):
                        for part in parts:
                            getattr(layer, part).zero_()

        return effects(change)

    def norms(block):
        """The BatchNorms of the branch."""
        return [layer for layer in block.children() if isinstance(layer, nn.BatchNorm2d)]

    def all_norms(block):
        """The BatchNorms of the branch and, after them, the projection's."""
        return [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)]

    def last(block):
        return [norms(block)[-1]]

    def last_and_convolution(block):
        convs = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
        return [norms(block)[-1], convs[-1]]

    def last_and_projection(block):
        return [norms(block)[-1], *all_norms(block)[len(norms(block)) :]]

    cases = []
    for block in (resnet.BasicBlock, resnet.Bottleneck):
        depths = (pick(1, 3), pick(1, 2), 1, 1)
        cases.append((randomize(resnet.ResNet(block, depths, 3, width=4)),))
    mistakes = {
        "the first BatchNorm of each block is set to 0; the next then divides by a variance of 0. "
        "Take the last.": variant(lambda block: norms(block)[:1]),
        "every BatchNorm of a block is set to 0; then no scale ever gets a gradient. Only the last "
        "should be.": variant(norms),
        "the projection's BatchNorm is set to 0 too: then nothing passes the shortcut.": variant(
            last_and_projection
        ),
        "the projection's BatchNorm is set to 0 instead of the branch's last. (It is the last in "
        "`modules()`.)": variant(lambda block: all_norms(block)[-1:]),
        "always `bn2` is set to 0. A bottleneck ends with `bn3`.": variant(
            lambda block: [block.bn2]
        ),
        "the shift β is set to 0; γ is the BatchNorm's `weight`.": variant(last, ("bias",)),
        "the shift β is set to 0 as well; only γ, the `weight`, should be.": variant(
            last, ("weight", "bias")
        ),
        "the last convolution of each block is set to 0 as well; only the scale γ should be.": (
            variant(last_and_convolution)
        ),
        "no scale is 0. Set it in place: `nn.init.zeros_(….weight)`.": effects(lambda model: None),
    }
    compare(
        effects(zero_gamma),
        variant(last),
        cases,
        mistakes,
        what="what happens to the model's state",
        may_change=(0,),
    )
    for block in (resnet.BasicBlock, resnet.Bottleneck):
        plain = randomize(resnet.ResNet(block, (1, 1, 1, 1), 3, width=4, shortcut=None))
        before = copy.deepcopy(plain.state_dict())
        refusal = outcome(zero_gamma, (plain,))
        if isinstance(refusal, Exception) and not isinstance(refusal, ValueError):
            stopped(refusal, f"a plain network of {block.__name__}s")
        if not isinstance(refusal, ValueError):
            fail(
                f"a plain network of {block.__name__}s is accepted, though γ = 0 kills it: raise "
                "ValueError where `block.residual` is False."
            )
        if not same(plain.state_dict(), before, 0.0):
            fail(
                "ValueError is raised for a plain network, and still its scales are 0: look at "
                "`residual` before you change anything."
            )


@exercise("1.5", "the law of growth")
def check_second_moment(second_moment):
    def simulated(blocks, scale):
        """F rotates, with a random sign for each x: it keeps the second moment."""
        x = torch.randn(1500, 200)
        for _ in range(blocks):
            rotation, _ = torch.linalg.qr(torch.randn(200, 200))
            signs = torch.randn(len(x), 1).sign()
            x = x + scale * signs * (x @ rotation)
        return x.pow(2).mean().item()

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
        second_moment,
        simulated,
        cases,
        mistakes,
        tolerance=0.05,
        what="the second moment (up to 5 %)",
        describe=named("blocks", "scale"),
    )


@exercise("1.6", "gradients by depth")
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
        "these are gradients of the weights; the gradients at the blocks' inputs are asked for.": (
            of_weights
        ),
    }
    compare(gradient_by_depth, variant(), cases, mistakes, what="the list of mean squares")
