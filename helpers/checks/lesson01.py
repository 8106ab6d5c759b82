"""Checks of the exercises of lesson 01, residual learning."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from helpers import resnet
from helpers.checks.engine import (
    CHANGED,
    CUT,
    attempt,
    compare,
    exercise,
    fail,
    gradients_of,
    named,
    outcome,
    pick,
    rectangle,
    shown,
    stopped,
)
from helpers.checks.modules import compare_blocks, observe, randomize, with_weights_of

__all__ = ["check_residual", "check_input_gradient", "check_rezero"]


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
    compare(
        input_gradient,
        oracle,
        cases,
        mistakes,
        what="the gradient",
        describe=named("upstream", "jacobian", "mask"),
    )


@exercise("1.3", "a branch that starts at zero")
def check_rezero(ReZeroBlock):
    class Scaled(nn.Module):
        """ReLU(x + α F(x)) as a basic block whose last BatchNorm has the scale αγ, the shift αβ."""

        def __init__(self, channels, alpha):
            super().__init__()
            block = resnet.BasicBlock(channels, channels)
            self.conv1, self.bn1 = block.conv1, block.bn1
            self.conv2, self.bn2 = block.conv2, block.bn2
            self.alpha = nn.Parameter(alpha)
            self.block = (block,)  # in a tuple: its layers have the names above only

        def forward(self, x):
            alpha = self.alpha.reshape(())
            last = {"bn2.weight": alpha * self.bn2.weight, "bn2.bias": alpha * self.bn2.bias}
            return functional_call(self.block[0], last, (x,))

    def variant(end, inner=F.relu):
        """The block that ends with `end(F(x), x, α)`."""

        def forward(b, x):
            return end(b.bn2(b.conv2(inner(b.bn1(b.conv1(x))))), x, b.alpha.reshape(()))

        return lambda mine, b, x: observe(lambda x: forward(b, x), x)

    def before_bn2(b, x):
        return F.relu(b.bn2(b.alpha.reshape(()) * b.conv2(F.relu(b.bn1(b.conv1(x))))) + x)

    def before_branch(b, x):
        return F.relu(b.bn2(b.conv2(F.relu(b.bn1(b.conv1(b.alpha.reshape(()) * x))))) + x)

    def fresh():
        block = attempt(ReZeroBlock, pick(2, 12))
        if not isinstance(block, nn.Module):
            fail(f"`ReZeroBlock(…)` should be a module, got {shown(block)}.")
        check_alpha(block)
        return block

    cases = []
    for number in range(4):
        made = fresh()
        channels = getattr(getattr(made, "conv1", None), "in_channels", 2)
        alpha = torch.full_like(made.alpha, 0.1 * pick(3, 9) * (-1) ** (number // 2))
        ours = randomize(Scaled(channels, alpha)).train(number % 2 == 0)
        x = torch.randn(pick(2, 4), channels, *rectangle(3, 7), dtype=torch.float64)
        cases.append((with_weights_of(ours, made).double(), ours.double(), x))
    mistakes = {
        "α stands before the last BatchNorm, which divides it out again: the smallest α that is "
        "not 0 switches the whole branch on.": lambda mine, b, x: observe(
            lambda x: before_bn2(b, x), x
        ),
        "α multiplies what the branch receives; the first BatchNorm divides it out again. The "
        "correction itself should be proportional to α.": lambda mine, b, x: observe(
            lambda x: before_branch(b, x), x
        ),
        "α is not used: this is ReLU(x + F(x)).": variant(lambda f, x, a: F.relu(x + f)),
        "α multiplies the shortcut as well: α = 0 would stop everything.": variant(
            lambda f, x, a: F.relu(a * (x + f))
        ),
        "α multiplies the shortcut, not the branch.": variant(lambda f, x, a: F.relu(a * x + f)),
        "this is a gate, (1 - α) x + α F(x): the shortcut closes while the branch opens. With "
        "α = 1 nothing is left of x.": variant(lambda f, x, a: F.relu((1 - a) * x + a * f)),
        "nothing is added: x is missing.": variant(lambda f, x, a: F.relu(a * f)),
        "the ReLU comes before the addition. Add first, then ReLU.": variant(
            lambda f, x, a: F.relu(a * f) + x
        ),
        "F(x) goes through a ReLU before the addition, too: leave that one out.": variant(
            lambda f, x, a: F.relu(a * F.relu(f) + x)
        ),
        "the ReLU after the addition is missing.": variant(lambda f, x, a: a * f + x),
        "the ReLU between the two convolutions is missing.": variant(
            lambda f, x, a: F.relu(a * f + x), inner=lambda x: x
        ),
        "α is squared.": variant(lambda f, x, a: F.relu(a * a * f + x)),
        f"the output is right, but no gradient flows through the branch. {CUT}": variant(
            lambda f, x, a: F.relu(a * f.detach() + x)
        ),
        f"the output is right, but no gradient flows through x. {CUT}": variant(
            lambda f, x, a: F.relu(a * f + x.detach())
        ),
        f"the output is right, but no gradient flows at all. {CUT}": variant(
            lambda f, x, a: F.relu(a * f + x).detach()
        ),
        "the sign of α is lost.": variant(lambda f, x, a: F.relu(a.abs() * f + x)),
    }
    compare_blocks(cases, mistakes, describe=describe_rezero)
    check_first_step(fresh())
    check_refusal(ReZeroBlock)


def describe_rezero(case: tuple) -> str:
    _, ours, x = case
    mode = "train" if ours.training else "eval"
    return f"α = {ours.alpha.item():.1f}, {mode} mode, x {shown(x)}"


def check_alpha(block: nn.Module) -> None:
    """Fails where `alpha` is not one number that starts at 0 and can be trained."""
    alpha = getattr(block, "alpha", None)
    if not isinstance(alpha, Tensor):
        fail(f"`alpha` should be a parameter of the block, and is {shown(alpha)}.")
    if not isinstance(alpha, nn.Parameter):
        fail("`alpha` is a tensor, but not an `nn.Parameter`: no optimiser would find it.")
    if alpha.numel() != 1:
        fail(f"`alpha` should be one number for the whole block, and has {alpha.numel()}.")
    if alpha.item() != 0:
        fail(f"`alpha` should start at 0, and starts at {alpha.item():.4g}.")
    for name, parameter in block.named_parameters():
        if not parameter.requires_grad:
            fail(
                f"`{name}` asks for no gradient (`requires_grad` is False): it could never be "
                "trained."
            )


def check_first_step(block: nn.Module) -> None:
    """Fails where a fresh block does not copy, or its α receives no gradient."""
    x = torch.rand(4, block.conv1.in_channels, *rectangle(3, 7))
    y = attempt(block, x)
    if not torch.equal(y, x):
        fail("a fresh block, in train mode, changes an x ≥ 0; with α = 0 it should return it.")
    (gradient,) = gradients_of(y, [block.alpha])
    if gradient.any():
        return
    if not block.bn2.weight.any():
        fail(
            "α = 0 *and* the last γ = 0: each gets the other as a factor of its gradient, so both "
            "stay 0 for ever. Leave γ at 1."
        )
    fail(
        "a fresh block returns its input, and α receives no gradient: it stays 0 for ever. Is the "
        "branch left out while α is 0?"
    )


def check_refusal(ReZeroBlock: Callable) -> None:
    """Fails where a plain block is not refused with a reason."""
    refusal = outcome(ReZeroBlock, (pick(2, 12), False))
    if isinstance(refusal, Exception) and not isinstance(refusal, ValueError):
        stopped(refusal, "residual=False")
    if not isinstance(refusal, ValueError):
        fail(
            "`residual=False` is accepted, though a plain block with α = 0 lets nothing through, "
            "forward or back: raise ValueError."
        )
    if len(str(refusal).split()) < 4:
        fail(
            "ValueError is raised for `residual=False`, but it does not say why: give it a "
            f"sentence. (It says {str(refusal)!r}.)"
        )
