"""What the exercises call: one check per exercise. A wrong answer is told what it did, as far as that can be recognised.

Each check states three things: an oracle, cases with random shapes and values, and the usual mistakes, each as a function
that makes it. `compare` runs them all. An answer that does in every case exactly what a mistake does has made that mistake.
Nothing is compared with a stored number.
"""

import copy
import functools
import itertools
import linecache
import math
import numbers
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import resnet


class CheckFailed(AssertionError):
    """What a check says while an answer is not right yet: a few lines, and no traceback in a notebook."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for this
        return [f"✗ {self}"]


def fail(message: str) -> None:
    raise CheckFailed(message)


def exercise(number: str, title: str) -> Callable:
    """Makes a function of the learner's answers a check: seeded, kind to stubs, with a line of praise when it passes."""

    def decorate(check: Callable) -> Callable:
        @functools.wraps(check)
        def run(*answers, seed: int = 0) -> None:
            label = f"{number} {title}"
            try:
                if any(answer is None or answer is ... for answer in answers):
                    raise NotImplementedError
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    check(*answers)
            except NotImplementedError as error:
                if error.args:  # not a stub's: torch raises it too
                    raise
                message = (
                    "nothing here yet. Write your answer in the cell above, delete `raise NotImplementedError()`, run both."
                )
                raise CheckFailed(f"{label}: {message}") from None
            except CheckFailed as failure:
                raise CheckFailed(f"{label}: {failure}") from failure.__cause__
            print(f"✓ {label}: right")

        return run

    return decorate


CHANGED = "your code changes what it was given. Look for `+=`, `inplace=True`, or methods that end in `_`, on an input."

# --- comparing ----------------------------------------------------------------------------------------------------------


def compare(
    answer: Callable,
    oracle: Callable,
    cases: Iterable[tuple],
    mistakes: Mapping[str, Callable] | None = None,
    tolerance: float = 1e-4,
    what: str = "the result",
    keeps_inputs: bool = True,
) -> None:
    """Calls `answer` and `oracle` with copies of the arguments in each case. Raises CheckFailed with a diagnosis.

    A mistake's message is used where its function gives what the answer gives (a value or an exception) in every case.
    """
    cases = list(cases)
    given, changed = [], []
    for case in cases:
        arguments = copy.deepcopy(case)
        given.append(outcome(answer, arguments))
        changed.append(not all(same(*pair, 0.0) for pair in zip(arguments, case) if not isinstance(pair[0], nn.Module)))
    expected = [outcome(oracle, copy.deepcopy(case)) for case in cases]
    for each in expected:
        if isinstance(each, Exception):
            raise RuntimeError("the oracle of this check fails") from each
    wrong = [not same(*pair, tolerance) for pair in zip(given, expected, strict=True)]
    if keeps_inputs and any(changed):
        fail(CHANGED)
    if not any(wrong):
        return
    for message, mistake in (mistakes or {}).items():
        made = (outcome(mistake, copy.deepcopy(case)) for case in cases)
        if all(same(*pair, tolerance) for pair in zip(given, made, strict=True)):
            fail(message)
    first = wrong.index(True)
    if isinstance(given[first], Exception):
        stopped(given[first])
    fail(difference(given[first], expected[first], what))


def outcome(function: Callable, arguments: tuple):
    """What the function returns, or the exception it ends with. A stub's NotImplementedError goes through."""
    try:
        return function(*arguments)
    except CheckFailed:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) and not error.args:
            raise
        return error


def attempt(function: Callable, *arguments):
    """What the learner's function returns; an error in it becomes a CheckFailed that shows the line."""
    result = outcome(function, arguments)
    return stopped(result) if isinstance(result, Exception) else result


def stopped(error: Exception) -> None:
    """Says where in the learner's code an exception arose."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if written_here(frame.filename)]
    where = (
        f"\nat line {own[-1].lineno} of its cell: {linecache.getline(own[-1].filename, own[-1].lineno).strip()}" if own else ""
    )
    message = str(error).strip().splitlines() or [""]
    raise CheckFailed(f"your code stopped with {type(error).__name__}: {message[0]}{where}") from error


def written_here(filename: str) -> bool:
    """Is this a notebook's cell, and not a library or this file?"""
    libraries = (str(Path(__file__).parent), "site-packages", "dist-packages", "lib/python")
    return not any(part in filename for part in libraries)


def same(a, b, tolerance: float) -> bool:
    """Equal in shape and, within a relative tolerance, in value; containers part by part; exceptions by type and message."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b) and str(a) == str(b)
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        return a.training == b.training and same(dict(a.state_dict()), dict(b.state_dict()), tolerance)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key], tolerance) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(*pair, tolerance) for pair in zip(a, b, strict=True))
    if is_numeric(a) and is_numeric(b):
        a, b = (torch.as_tensor(value).detach().to(torch.float64) for value in (a, b))
        if a.shape != b.shape:
            return False
        scale = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 0.0
        return torch.allclose(a, b, rtol=0.0, atol=tolerance * max(scale, 1e-12), equal_nan=True)
    try:
        return bool(a == b)
    except Exception:  # values that cannot be compared are not the same
        return False


def is_numeric(value) -> bool:
    return isinstance(value, (Tensor, numbers.Number)) or type(value).__module__ == "numpy"


def difference(given, expected, what: str) -> str:
    """In what two outcomes differ, for a mistake that has no name."""
    if given is None:
        return f"{what} is None. Does your function end with `return`?"
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        if list(given) != list(expected):
            return f"{what} should have the keys {shown(list(expected))}, and has {shown(list(given))}."
        for key in expected:
            if not same(given[key], expected[key], 1e-4):
                return difference(given[key], expected[key], f"{what}, its `{key}`,")
    if isinstance(expected, (list, tuple)) and isinstance(given, (list, tuple)):
        if len(given) != len(expected):
            return f"{what} should have {len(expected)} parts, and has {len(given)}."
        for number, pair in enumerate(zip(given, expected, strict=True), start=1):
            if not same(*pair, 1e-4):
                return difference(*pair, what if len(expected) == 1 else f"part {number} of {what}")
    if not (is_numeric(given) and is_numeric(expected)):
        return f"{what} should be {shown(expected)}, and is {shown(given)}."
    a, b = (torch.as_tensor(value).detach().to(torch.float64) for value in (given, expected))
    if a.shape != b.shape:
        return f"{what} should have shape {tuple(b.shape)}, and has {tuple(a.shape)}."
    if not a.isfinite().all() and b.isfinite().all():
        return f"{what} has values that are infinite or not a number: a division by 0, a log of 0, an exp of much?"
    if b.numel() == 1:
        return f"{what} should be {b.item():.5g}, and is {a.item():.5g}."
    ratio = a[b != 0] / b[b != 0]
    if len(ratio) > 1 and ratio[0] and not a[b == 0].any() and torch.allclose(ratio, ratio[0], rtol=1e-3):
        return f"{what} is {ratio[0].item():.4g} times what it should be, everywhere. Which factor is missing, or one too many?"
    off = ~torch.isclose(a, b, rtol=1e-3, atol=1e-4)
    return (
        f"{what} is wrong in {off.float().mean().item():.0%} of its values, by up to {(a - b).abs().max().item():.3g} "
        f"(the right ones are up to {b.abs().max().item():.3g} in size)."
    )


def shown(value) -> str:
    text = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) < 120 else text[:117] + "…"


def pick(low: int, high: int) -> int:
    """A random whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


# --- networks -----------------------------------------------------------------------------------------------------------


def randomize(module: nn.Module) -> nn.Module:
    """Random scales, shifts and statistics in every BatchNorm, so that a missing or misplaced one shows."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.3)
            nn.init.normal_(layer.bias, 0.0, 0.5)
            nn.init.normal_(layer.running_mean, 0.0, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module


def observe(module: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient that a fixed random signal at the output sends to the input."""
    x = x.clone().requires_grad_()
    given = x * 1.0
    y = module(given)
    if given._version:
        fail(CHANGED)
    if not isinstance(y, Tensor):
        return y
    signal = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((y * signal).sum(), x, allow_unused=True)
    return y.detach(), torch.zeros_like(x) if gradient is None else gradient


def with_weights_of(reference: nn.Module, mine: nn.Module) -> nn.Module:
    """`mine` with the state of `reference`, matched by name. Raises CheckFailed where names or shapes differ."""
    if not isinstance(mine, nn.Module):
        fail(f"expected a module, got {shown(mine)}.")
    here, there = mine.state_dict(), reference.state_dict()
    missing, extra = [k for k in there if k not in here], [k for k in here if k not in there]
    for key in (k for k in there if k in here and here[k].shape != there[k].shape):
        fail(f"`{key}` should have shape {tuple(there[key].shape)}, and has {tuple(here[key].shape)}: count its channels.")
    biases = [k for k in extra if k.endswith("bias") and k.replace("bias", "running_mean") not in here]
    if biases:
        fail(f"`{biases[0]}` should not exist: a convolution before BatchNorm needs no bias (`bias=False`).")
    if any("downsample" in k for k in missing):
        norm = all(k.startswith("downsample.1") for k in missing)
        lacks = (
            "the projection has no BatchNorm behind its 1×1 convolution" if norm else "the projection `downsample` is missing"
        )
        fail(f"{lacks}: where stride or channels change, the shortcut is nn.Sequential(1×1 convolution, BatchNorm).")
    if any("downsample" in k for k in extra):
        fail("there is a projection `downsample` where the shapes already agree: x should be added as it is.")
    if missing or extra:
        lists = [f"{word} {', '.join(names[:3])}" for word, names in (("missing:", missing), ("not expected:", extra)) if names]
        fail(f"the names of the layers differ from the task's; {'; '.join(lists)}.")
    mine.load_state_dict(there)
    return mine.train(reference.training)


def block_cases(block: type[nn.Module], mine: Callable, count: int = 6) -> list[tuple]:
    """(the learner's block, ours with the same weights, x): both strides, equal and unequal channels, train and eval mode."""
    cases = []
    for number in range(count):
        width, stride = pick(2, 5), 1 + number % 2
        in_channels = width * block.expansion if number < 2 else pick(2, 9)
        theirs = randomize(block(in_channels, width, stride)).train(number % 3 == 0)
        x = torch.randn(pick(2, 4), in_channels, pick(4, 9), pick(4, 9))
        cases.append((with_weights_of(theirs, attempt(mine, in_channels, width, stride)), theirs, x))
    return cases


def shortcut(b: nn.Module, x: Tensor) -> Tensor:
    return x if b.downsample is None else b.downsample(x)


def restride(conv: nn.Conv2d, stride: int, x: Tensor) -> Tensor:
    """The same convolution with another stride."""
    return F.conv2d(x, conv.weight, conv.bias, stride, conv.padding)


# --- 01 Residual learning -----------------------------------------------------------------------------------------------


@exercise("1.1", "add and rectify")
def check_residual(residual):
    def variant(end):
        return lambda x, branch: observe(lambda x: end(branch(x), x), x)

    cases = []
    for _ in range(3):
        c = pick(2, 5)
        cases.append((torch.randn(pick(2, 4), c, pick(3, 6), pick(3, 6)), resnet.conv3x3(c, c)))
    compare(
        lambda x, branch: observe(lambda x: residual(x, branch), x),
        variant(lambda f, x: F.relu(f + x)),
        cases,
        {
            "the ReLU comes before the addition, so F(x) is never negative. Add first, then ReLU.": variant(
                lambda f, x: F.relu(f) + x
            ),
            "F(x) goes through a ReLU before the addition, too: leave that one out.": variant(
                lambda f, x: F.relu(F.relu(f) + x)
            ),
            "the ReLU after the addition is missing.": variant(lambda f, x: f + x),
            "nothing is added: this is a plain layer, ReLU(F(x)).": variant(lambda f, x: F.relu(f)),
            "x is subtracted from F(x). Add it.": variant(lambda f, x: F.relu(f - x)),
            "F(x) is subtracted from x. Add it.": variant(lambda f, x: F.relu(x - f)),
            "the output is right, but no gradient flows through x. A `detach`, `no_grad` or `.data`?": variant(
                lambda f, x: F.relu(f + x.detach())
            ),
            "the output is right, but no gradient flows through the branch. A `detach`, `no_grad` or `.data`?": variant(
                lambda f, x: F.relu(f.detach() + x)
            ),
        },
        what="(output, gradient at the input)",
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
        mask = (torch.arange(n) % 2 == pick(0, 1)).double()
        cases.append((torch.randn(n).double(), torch.randn(n, n).double(), mask))
    compare(
        input_gradient,
        oracle,
        cases,
        {
            "the identity is missing: x also reaches the output directly, which adds the upstream gradient itself.": (
                lambda g, j, m: (g * m) @ j
            ),
            "the branch is missing: only the shortcut's part is there.": lambda g, j, m: g * m,
            "the mask is missing: where the ReLU was closed no gradient passes, on either path.": lambda g, j, m: g @ j + g,
            "the mask acts on the branch only. The ReLU stands behind the addition, so the shortcut passes through it too.": (
                lambda g, j, m: (g * m) @ j + g
            ),
            "the mask acts on the shortcut only; the branch passes through the same ReLU.": lambda g, j, m: g @ j + g * m,
            "the mask acts at the input. It belongs to the output: multiply the upstream gradient by it first.": (
                lambda g, j, m: (g @ j + g) * m
            ),
            "the Jacobian is applied from the wrong side. With gradients as rows it is g J, or Jᵀ g.": lambda g, j, m: (
                j @ (g * m) + g * m
            ),
        },
        what="the gradient",
    )


@exercise("1.3", "counting paths")
def check_count_paths(count_paths):
    def oracle(blocks):
        lengths = [sum(taken) for taken in itertools.product((0, 1), repeat=blocks)]  # 1: through the branch, 0: past it
        return [lengths.count(length) for length in range(blocks + 1)]

    compare(
        count_paths,
        oracle,
        [(blocks,) for blocks in sorted({pick(3, 5), pick(6, 8), pick(9, 11)})],
        {
            "the path that takes every shortcut is missing: there is one of length 0.": lambda n: oracle(n)[1:],
            "the longest path is missing: one goes through every branch.": lambda n: oracle(n)[:-1],
            "this is the number of all paths; the task asks for a list, how many there are of each length.": lambda n: 2**n,
            "2^k is the number of ways through k blocks. Of the n blocks, *which* k use their branch?": (
                lambda n: [2**k for k in range(n + 1)]
            ),
            "the order counts here: blocks stand in a fixed order, so divide by k! (`math.comb`, not `math.perm`).": (
                lambda n: [math.perm(n, k) for k in range(n + 1)]
            ),
            "these are shares; numbers of paths are asked for.": lambda n: [count / 2**n for count in oracle(n)],
        },
        what="the list of counts",
    )


@exercise("1.4", "start as the identity")
def check_zero_gamma(zero_gamma):
    def scales(choose):
        def run(model):
            before = dict(model.named_parameters())
            choose(model)
            now = dict(model.named_parameters())
            if any(now.get(name) is not p for name, p in before.items()):
                fail("a parameter has been replaced by a new one, which no optimiser knows: set the old one to 0 in place.")
            return {name: "0" if (p == 0).all() else "not 0" for name, p in now.items() if p.ndim == 1}

        return run

    def variant(layers, parts=("weight",)):
        @torch.no_grad()
        def choose(model):
            for block in model.modules():
                if isinstance(block, (resnet.BasicBlock, resnet.Bottleneck)):
                    for layer in layers(block):
                        for part in parts:
                            getattr(layer, part).zero_()

        return scales(choose)

    def norms(block, everything=False):
        inside = block.modules() if everything else block.children()
        return [layer for layer in inside if isinstance(layer, nn.BatchNorm2d)]

    cases = []
    for block in (resnet.BasicBlock, resnet.Bottleneck):
        cases.append((randomize(resnet.ResNet(block, (pick(1, 3), pick(1, 2)), 3, width=4)),))
    compare(
        scales(zero_gamma),
        variant(lambda block: norms(block)[-1:]),
        cases,
        {
            "the first BatchNorm of each block is set to 0; the next then divides by a variance of 0. Take the last.": variant(
                lambda block: norms(block)[:1]
            ),
            "every BatchNorm of a block is set to 0; then no scale ever gets a gradient. Only the last should be.": variant(
                norms
            ),
            "the projection's BatchNorm is set to 0 too: then nothing passes the shortcut.": variant(
                lambda block: [norms(block)[-1], *norms(block, True)[len(norms(block)) :]]
            ),
            "the projection's BatchNorm is set to 0 instead of the branch's last. (It is the last in `modules()`.)": variant(
                lambda block: norms(block, True)[-1:]
            ),
            "always `bn2` is set to 0. A bottleneck ends with `bn3`.": variant(lambda block: [block.bn2]),
            "the shift β is set to 0; γ is the BatchNorm's `weight`.": variant(lambda block: norms(block)[-1:], ("bias",)),
            "the shift β is set to 0 as well; only γ, the `weight`, should be.": variant(
                lambda block: norms(block)[-1:], ("weight", "bias")
            ),
            "no scale is 0. Set it in place: `nn.init.zeros_(….weight)`.": scales(lambda model: None),
        },
        what="which scales and shifts are 0",
        keeps_inputs=False,
    )
    refusal = outcome(zero_gamma, (resnet.ResNet(resnet.BasicBlock, (1, 1), 3, width=4, shortcut=None),))
    if isinstance(refusal, ValueError):
        return
    if isinstance(refusal, Exception):
        stopped(refusal)
    fail("a plain network is accepted, though γ = 0 kills it: raise ValueError where `block.residual` is False.")


@exercise("1.5", "the law of growth")
def check_second_moment(second_moment):
    def simulate(blocks, scale):
        x = torch.randn(1500, 300)
        for _ in range(blocks):
            x = x + scale * (x @ torch.randn(300, 300)) / math.sqrt(300)
        return x.pow(2).mean().item()

    compare(
        lambda blocks, scale: (q := second_moment(blocks, scale)) and math.log(q),
        lambda blocks, scale: math.log(simulate(blocks, scale)),
        [(blocks, 0.1 * pick(5, 10)) for blocks in (6, 8, 11)],
        {
            message: lambda blocks, scale, law=law: math.log(law(blocks, scale))
            for message, law in {
                "this grows by (1 + s)² per block, as if F(x) pointed along x. They are uncorrelated: 1 + s².": (
                    lambda n, s: (1 + s) ** (2 * n)
                ),
                "sizes are added where squares must be: of uncorrelated terms the second moments add, q + s² q.": (
                    lambda n, s: (1 + s) ** n
                ),
                "this grows linearly. Each block's F works on what all earlier ones left, so the factor is a power.": (
                    lambda n, s: 1 + n * s**2
                ),
                "this is one block's factor; there are `blocks` of them.": lambda n, s: 1 + s**2,
                "the scale is not squared, or not used: s · F(x) has second moment s² q.": lambda n, s: 2.0**n,
                "this is the root; the second moment is asked for.": lambda n, s: (1 + s**2) ** (n / 2),
            }.items()
        },
        tolerance=0.05,
        what="the logarithm of the second moment",
    )


@exercise("1.6", "gradients by depth")
def check_gradient_by_depth(gradient_by_depth):
    def gradients(blocks, x, upstream):
        states = [x.detach().requires_grad_()]
        for block in blocks:
            states.append(block(states[-1]))
        return torch.autograd.grad(states[-1], states, upstream)

    def variant(of=lambda g: g.pow(2).mean().item(), part=slice(None, -1), order=1):
        return lambda *case: [of(g) for g in gradients(*case)[part]][::order]

    def of_weights(blocks, x, upstream):
        y = x
        for block in blocks:
            y = block(y)
        return [g.pow(2).mean().item() for g in torch.autograd.grad(y, [block[0].weight for block in blocks], upstream)]

    cases = []
    for _ in range(3):
        width, n = pick(3, 6), pick(3, 5)
        blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(pick(3, 5)))
        cases.append((blocks, torch.randn(n, width), torch.randn(n, width)))
    compare(
        gradient_by_depth,
        variant(),
        cases,
        {
            "the list runs from the output to the input; begin with the first block.": variant(order=-1),
            "these are gradients at the blocks' *outputs*; their inputs are asked for.": variant(part=slice(1, None)),
            "the list has one entry too many: the output of the last block is no block's input.": variant(part=slice(None)),
            "these are sums of squares; divide by the number of values (`mean`).": variant(lambda g: g.pow(2).sum().item()),
            "these are norms; the mean of the squares is asked for.": variant(lambda g: g.norm().item()),
            "these are roots of the mean squares.": variant(lambda g: g.pow(2).mean().sqrt().item()),
            "these are means of the gradient itself, where signs cancel: square first.": variant(lambda g: g.mean().item()),
            "these are gradients of the weights; the gradients at the blocks' inputs are asked for.": of_weights,
        },
        what="the list of mean squares",
    )


# --- 02 Building ResNet-50 ----------------------------------------------------------------------------------------------


@exercise("2.1", "a convolution's size and cost")
def check_conv_cost(conv_cost):
    def oracle(n, in_channels, out_channels, kernel, stride, padding):
        layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        y = layer(torch.zeros(1, in_channels, n, n))
        return y.shape[-1], layer.weight.numel(), y.numel() * layer.weight[0].numel()

    def variant(side=None, multiply_adds=None, parameters=None):
        def mistake(n, in_channels, out_channels, kernel, stride, padding):
            right = oracle(n, in_channels, out_channels, kernel, stride, padding)
            size = side(n, kernel, stride, padding) if side else right[0]
            weights = right[1] if parameters is None else parameters(in_channels, out_channels, kernel)
            return size, weights, multiply_adds(weights, n, size) if multiply_adds else weights * size**2

        return mistake

    cases = [(pick(9, 40), pick(1, 9), pick(1, 9), pick(2, 5), pick(2, 3), pick(0, 2)) for _ in range(12)]
    compare(
        conv_cost,
        oracle,
        cases,
        {
            "the side is rounded up. A kernel that sticks out at the end is not applied: divide with `//`.": variant(
                lambda n, k, s, p: math.ceil((n + 2 * p - k) / s) + 1
            ),
            "the side lacks the + 1: a kernel that just fits (n + 2p = k) still gives one output.": variant(
                lambda n, k, s, p: (n + 2 * p - k) // s
            ),
            "the padding is counted once; it is added on both sides.": variant(lambda n, k, s, p: (n + p - k) // s + 1),
            "the multiply-adds are counted at the input's pixels. The work is done once for each *output* value.": variant(
                multiply_adds=lambda weights, n, size: weights * n**2
            ),
            "these are twice the multiply-adds. A multiplication and its addition count as one.": variant(
                multiply_adds=lambda weights, n, size: 2 * weights * size**2
            ),
            "the kernel's area is k², not k.": variant(parameters=lambda i, o, k: i * o * k),
            "a bias is counted; this convolution has none.": variant(parameters=lambda i, o, k: i * o * k * k + o),
        },
    )


@exercise("2.2", "BatchNorm's forward pass")
def check_batch_norm(batch_norm):
    def forward(dims=(0, 2, 3), unbiased=False, running_unbiased=True, outside=False, swapped=False, always=False, keep=True):
        def run(x, gamma, beta, mean, var, training, momentum, eps):
            column = (1, -1, 1, 1)
            m, v = mean.view(column), var.view(column)
            if training or always:
                m, v = x.mean(dims, keepdim=True), x.var(dims, unbiased=unbiased, keepdim=True)
            if training and keep:
                new = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=running_unbiased)
                for buffer, value in zip((mean, var), new, strict=True):
                    buffer.lerp_(value, 1 - momentum if swapped else momentum)
            scale = v.sqrt() + eps if outside else (v + eps).sqrt()
            return gamma.view(column) * (x - m) / scale + beta.view(column), mean, var

        return run

    def answer(x, gamma, beta, mean, var, training, momentum, eps):
        given = x.clone()
        y = batch_norm(x, gamma, beta, mean, var, training, momentum, eps)
        if not torch.equal(x, given):
            fail(CHANGED)
        return y, mean, var

    def oracle(x, gamma, beta, mean, var, training, momentum, eps):
        return F.batch_norm(x, mean, var, gamma, beta, training, momentum, eps), mean, var

    cases = []
    for number in range(4):
        c = pick(2, 5)
        x = 2 * torch.randn(pick(2, 4), c, pick(2, 4), pick(2, 4)) + 1
        cases.append((x, torch.randn(c), torch.randn(c), torch.randn(c), torch.rand(c) + 0.5, number % 2 == 0, 0.2, 0.3))
    compare(
        answer,
        oracle,
        cases,
        {
            "you divide by the unbiased variance. Within the batch BatchNorm divides the sum of squares by N·H·W.": forward(
                unbiased=True
            ),
            "the running variance gets the biased variance of the batch. PyTorch keeps the unbiased one there.": forward(
                running_unbiased=False
            ),
            "each picture is normalised by itself (instance normalisation): average over N, H and W.": forward(dims=(2, 3)),
            "mean and variance are taken over the batch alone: each channel has one mean, over N, H and W.": forward(dims=(0,)),
            "ε stands outside the root: divide by √(variance + ε).": forward(outside=True),
            "momentum is the wrong way round: running ← (1 - momentum) · running + momentum · batch.": forward(swapped=True),
            "the batch's statistics are used in eval mode too; there the running ones count.": forward(always=True),
            "the running mean and variance do not change in train mode. Update them in place (`copy_`, `lerp_`).": forward(
                keep=False
            ),
        },
        what="(output, running mean, running variance)",
        keeps_inputs=False,
    )


def wrong_ends(variant: Callable) -> dict[str, Callable]:
    """The mistakes at the end of a residual block, F(x) + shortcut(x) and the ReLU; `variant(end=…)` makes a block of each."""
    return {
        "the ReLU comes before the addition, so F(x) is never negative. Add first, then ReLU.": variant(
            end=lambda f, x, b: F.relu(f) + shortcut(b, x)
        ),
        "F(x) goes through a ReLU before the addition (and the sum again): leave the first one out.": variant(
            end=lambda f, x, b: F.relu(F.relu(f) + shortcut(b, x))
        ),
        "the last ReLU, after the addition, is missing.": variant(end=lambda f, x, b: f + shortcut(b, x)),
        "nothing is added: this is a plain block. Where is the shortcut?": variant(end=lambda f, x, b: F.relu(f)),
    }


@exercise("2.3", "the basic block")
def check_basic_block(BasicBlock):
    def variant(first=None, second=None, end=None):
        def forward(b, x):
            stride = b.conv1.stride[0]
            out = F.relu(b.bn1((first or (lambda c, s, x: c(x)))(b.conv1, stride, x)))
            out = b.bn2((second or (lambda c, s, x: c(x)))(b.conv2, stride, out))
            return (end or (lambda f, x, b: F.relu(f + shortcut(b, x))))(out, x, b)

        return lambda mine, b, x: observe(lambda x: forward(b, x), x)

    def no_relu_inside(b, x):
        return F.relu(b.bn2(b.conv2(b.bn1(b.conv1(x)))) + shortcut(b, x))

    compare(
        lambda mine, b, x: observe(mine, x),
        lambda mine, b, x: observe(b, x),
        block_cases(resnet.BasicBlock, BasicBlock),
        {
            **wrong_ends(variant),
            "the output is right, but no gradient flows through the shortcut. A `detach`, `no_grad` or `.data`?": variant(
                end=lambda f, x, b: F.relu(f + shortcut(b, x).detach())
            ),
            "both 3×3 convolutions have the stride, so H and W shrink twice. The second keeps the size: stride 1.": variant(
                second=restride
            ),
            "the stride sits in the second convolution; it belongs to the first.": variant(
                lambda c, s, x: restride(c, 1, x), restride
            ),
            "no convolution has the stride: F(x) keeps the size, and the shortcut does not.": variant(
                lambda c, s, x: restride(c, 1, x)
            ),
            "the ReLU between the two convolutions is missing.": lambda mine, b, x: observe(lambda x: no_relu_inside(b, x), x),
        },
        what="(output, gradient at the input)",
    )


@exercise("2.4", "the bottleneck")
def check_bottleneck(Bottleneck):
    def forward(b, x, strides=lambda s: (1, s), relus=(True, True), end=lambda f, x, b: F.relu(f + shortcut(b, x))):
        out = x
        for conv, norm, stride, relu in zip((b.conv1, b.conv2), (b.bn1, b.bn2), strides(b.conv2.stride[0]), relus, strict=True):
            out = norm(restride(conv, stride, out))
            out = F.relu(out) if relu else out
        return end(b.bn3(b.conv3(out)), x, b)

    def variant(**changes):
        return lambda mine, b, x: observe(lambda x: forward(b, x, **changes), x)

    if getattr(Bottleneck, "expansion", None) != 4:
        fail("`Bottleneck.expansion` should be 4, as an attribute of the class: `make_stage` reads it there.")
    compare(
        lambda mine, b, x: observe(mine, x),
        lambda mine, b, x: observe(b, x),
        block_cases(resnet.Bottleneck, Bottleneck),
        {
            "the stride sits in the first 1×1 convolution. That is the paper's v1; the task asks for the 3×3 (v1.5).": variant(
                strides=lambda s: (s, 1)
            ),
            **wrong_ends(variant),
            "the ReLU after the first BatchNorm is missing.": variant(relus=(False, True)),
            "the ReLU after the second BatchNorm is missing.": variant(relus=(True, False)),
            "no convolution has the stride: F(x) keeps the size, and the shortcut does not.": variant(strides=lambda s: (1, 1)),
        },
        what="(output, gradient at the input)",
    )


@exercise("2.5", "a stage")
def check_make_stage(make_stage):
    class Block(nn.Module):
        """Records how it was made; computes nothing."""

        def __init__(self, in_channels, width, stride=1):
            super().__init__()
            self.made_with = (in_channels, width, stride)

    def settings(build):
        def run(expansion, *arguments):
            block = type("Block", (Block,), {"expansion": expansion})
            stage = build(block, *arguments)
            if not isinstance(stage, nn.Sequential):
                fail(f"expected an nn.Sequential of blocks, got {type(stage).__name__}.")
            if len({id(part) for part in stage}) < len(stage):
                fail("one block stands there several times and so shares its weights; make a new one for each place.")
            return [part.made_with for part in stage]

        return run

    def variant(first=True, stride_of=None, later=None, count=0, width_of=None):
        def build(block, in_channels, width, depth, stride):
            blocks = []
            for i in range(depth + count):
                channels = in_channels if i == 0 else (later or (lambda b, i, w: w * b.expansion))(block, in_channels, width)
                own = stride_of(i, depth, stride) if stride_of else (stride if i == 0 else 1)
                blocks.append(block(channels, width_of(block, width) if width_of else width, own))
            return nn.Sequential(*blocks)

        return settings(build)

    cases = [(expansion, pick(9, 20), pick(3, 8), pick(2, 5), 2) for expansion in (1, 4, 2)]
    compare(
        settings(make_stage),
        variant(),
        cases,
        {
            "every block has the stride: H and W are halved again and again. Only the first changes the size.": variant(
                stride_of=lambda i, depth, stride: stride
            ),
            "the stride sits in the last block; it belongs to the first.": variant(
                stride_of=lambda i, depth, stride: stride if i == depth - 1 else 1
            ),
            "no block has the stride.": variant(stride_of=lambda i, depth, stride: 1),
            "the later blocks expect `width` channels. A block puts out width · expansion; the next receives that.": variant(
                later=lambda b, i, w: w
            ),
            "all blocks expect `in_channels`. From the second on they receive what the first puts out.": variant(
                later=lambda b, i, w: i
            ),
            "there is one block too many: `depth` counts the first one too.": variant(count=1),
            "there is one block too few: `depth` blocks in all.": variant(count=-1),
            "the block gets width · expansion as its width. It multiplies by its expansion itself.": variant(
                width_of=lambda b, w: w * b.expansion
            ),
        },
        what="the list of (in_channels, width, stride) of the blocks",
    )


@exercise("2.6", "the shortcut without parameters")
def check_option_a(option_a):
    def oracle(x, out_channels, stride):
        return resnet.ZeroPad(x.shape[1], out_channels, stride)(x)

    def padded(front, take):
        def mistake(x, out_channels, stride):
            extra = out_channels - x.shape[1]
            ahead = front(extra)
            return F.pad(take(x, stride), (0, 0, 0, 0, ahead, extra - ahead))

        return mistake

    def every(x, stride, start=0):
        return x[:, :, start::stride, start::stride]

    def repeated(x, out_channels, stride):
        copies = -(-out_channels // x.shape[1])
        return every(x, stride).repeat(1, copies, 1, 1)[:, :out_channels]

    cases = []
    for stride in (2, 1, 2):
        c = pick(2, 5)
        cases.append((torch.randn(pick(1, 3), c, 2 * pick(2, 5), 2 * pick(2, 5) + 1), c + 2 * pick(1, 3), stride))

    def observed(function):
        return lambda x, out_channels, stride: observe(lambda x: function(x, out_channels, stride), x)

    mistakes = {
        "the zeros stand before the old channels; here they belong behind them.": padded(lambda extra: extra, every),
        "the zeros are split, half before and half behind the old channels; the task asks for all behind.": (
            padded(lambda extra: extra // 2, every)
        ),
        "you average the pixels. Option A keeps every `stride`-th one and throws the others away.": padded(
            lambda extra: 0, F.avg_pool2d
        ),
        "you keep the maximum of neighbouring pixels. Option A keeps every `stride`-th one as it is.": padded(
            lambda extra: 0, F.max_pool2d
        ),
        "the kept pixels start at the second; start at the first, as a strided 1×1 convolution does.": padded(
            lambda extra: 0, lambda x, stride: every(x, stride, stride - 1)
        ),
        "the new channels are copies of the old; they should be zero.": repeated,
        "the resolution stays. Keep every `stride`-th row and column.": padded(lambda extra: 0, lambda x, stride: x),
        "the channels stay: fill up to `out_channels` with zeros.": lambda x, out_channels, stride: every(x, stride),
        "the values are right, but no gradient flows through x. A `detach`, `no_grad` or `.data`?": (
            lambda x, out_channels, stride: oracle(x.detach(), out_channels, stride)
        ),
    }
    compare(
        observed(option_a),
        observed(oracle),
        cases,
        {message: observed(mistake) for message, mistake in mistakes.items()},
        what="(output, gradient at the input)",
    )


@exercise("2.7", "Kaiming initialisation")
def check_kaiming(kaiming):
    def usual(out_channels, in_channels, kernel):
        weight = torch.zeros(out_channels, in_channels, kernel, kernel)
        attempt(kaiming, weight)
        return weight

    sizes = [(pick(50, 90), pick(150, 190), 3), (pick(150, 190), pick(50, 90), 3), (pick(300, 350), pick(200, 250), 1)]
    weights = [usual(*size) for size in sizes]
    if any(weight.abs().max() == 0 for weight in weights):
        fail("the weights are still zero: fill the tensor you are given, in place (`normal_`), instead of making a new one.")
    variances = torch.tensor([weight.var().item() for weight in weights])
    hypotheses = {
        "the fan is fan_in (channels in · k²). The task asks for fan_out: channels *out* · k².": lambda o, i, k: (
            2 / (i * k * k)
        ),
        "the variance is 1 / fan. ReLU halves the second moment; the factor 2 makes up for it.": lambda o, i, k: (
            1 / (o * k * k)
        ),
        "2 / fan is used as the standard deviation. It is the variance: take the root.": lambda o, i, k: (2 / (o * k * k)) ** 2,
        "the kernel's area k² is missing in the fan.": lambda o, i, k: 2 / o,
        "the fan counts k once, not k².": lambda o, i, k: 2 / (o * k),
        "this is Glorot's variance, 2 / (fan_in + fan_out). Kaiming's counts one of the two.": lambda o, i, k: (
            2 / ((o + i) * k * k)
        ),
    }

    def agrees(variance):
        expected = torch.tensor([variance(*size) for size in sizes])
        return ((variances / expected - 1).abs() < 0.05).all()  # the smallest tensor has 60,000 values: 0.6 % scatter

    if not agrees(lambda o, i, k: 2 / (o * k * k)):
        for message, variance in hypotheses.items():
            if agrees(variance):
                fail(message)
        o, i, k = sizes[0]
        fail(f"for a shape of {(o, i, k, k)} the variance should be near {2 / (o * k * k):.3g}, and is {variances[0]:.3g}.")
    if any(weight.mean().abs() > 0.05 * weight.std() for weight in weights):
        fail("the mean of the weights should be 0.")
    tails = [(weight / weight.std()).pow(4).mean() for weight in weights]  # 3 for a normal distribution, 1.8 for a uniform one
    if any(abs(tail - 3) > 0.3 for tail in tails):
        fail("mean and variance are right, but the distribution is not normal (uniform, perhaps?).")


@exercise("2.8", "every parameter of a ResNet")
def check_count(count_parameters):
    def oracle(depths, width, num_classes):
        model = resnet.ResNet(resnet.Bottleneck, depths, num_classes, "cifar", width)
        return sum(p.numel() for p in model.parameters())

    def without(layers):
        def mistake(depths, width, num_classes):
            model = resnet.ResNet(resnet.Bottleneck, depths, num_classes, "cifar", width)
            return sum(p.numel() for p in model.parameters()) - layers(model, width)

        return mistake

    def of(model, kind, where=""):
        parts = [m for name, m in model.named_modules() if isinstance(m, kind) and where in name]
        return sum(p.numel() for part in parts for p in part.parameters())

    compare(
        count_parameters,
        oracle,
        [(tuple(pick(1, 3) for _ in range(pick(2, 4))), 4 * pick(1, 3), pick(2, 12)) for _ in range(6)],
        {
            "BatchNorm's parameters are missing: each has a scale and a shift for every channel.": without(
                lambda m, w: of(m, nn.BatchNorm2d)
            ),
            "BatchNorm is counted with one parameter per channel; it has two, scale and shift.": without(
                lambda m, w: of(m, nn.BatchNorm2d) // 2
            ),
            "BatchNorm is counted with four numbers per channel. Two of them are buffers, not parameters.": without(
                lambda m, w: -of(m, nn.BatchNorm2d)
            ),
            "the projections are missing: the first block of each stage has one.": without(
                lambda m, w: of(m, nn.Module, "downsample.")
            ),
            "the projections' BatchNorm is missing.": without(lambda m, w: of(m, nn.BatchNorm2d, "downsample")),
            "the first stage's projection is missing. Its stride is 1, but its channels change from w to 4w.": without(
                lambda m, w: of(m.layer1, nn.Module, "downsample.")
            ),
            "the linear layer's bias is missing.": without(lambda m, w: m.fc.bias.numel()),
            "the linear layer is missing.": without(lambda m, w: of(m.fc, nn.Linear)),
            "the stem is missing (its convolution, and its BatchNorm).": without(lambda m, w: 27 * w + 2 * w),
        },
    )


# --- 03 CIFAR-10 --------------------------------------------------------------------------------------------------------


@exercise("3.1", "mean and standard deviation per channel")
def check_channel_statistics(channel_statistics):
    def statistics(x, scale=255):
        x = x.double() / scale
        return x.mean((0, 2, 3)), x.std((0, 2, 3), unbiased=False)

    def pooled(x):
        return [value.expand(3) for value in ((x / 255).mean(), (x / 255).std())]

    cases = []
    for _ in range(2):
        level = torch.randint(60, 190, (3, 1, 1)) + 40 * torch.randn(pick(40, 60), 3, 1, 1)  # pictures differ in brightness
        cases.append(((level + 30 * torch.randn(len(level), 3, 24, 24)).clamp(0, 255).byte(),))
    compare(
        lambda x: y if (y := channel_statistics(x)) is None else tuple(y),
        statistics,
        cases,
        {
            "these are on the scale 0–255: divide by 255 first.": lambda x: statistics(x, 1),
            "all channels have the same numbers: average over N, H and W, and keep C.": pooled,
            "the standard deviation is the average of each picture's own. Pictures also differ from one another: "
            "pool all pixels of a channel.": lambda x: (
                statistics(x)[0],
                (x.double() / 255).std((2, 3), unbiased=False).mean(0),
            ),
            "the standard deviation is that of the pictures' means. Pool all pixels of a channel.": lambda x: (
                statistics(x)[0],
                (x.double() / 255).mean((2, 3)).std(0),
            ),
            "this is the variance; its root is asked for.": lambda x: (statistics(x)[0], statistics(x)[1] ** 2),
        },
        tolerance=2e-3,
        what="(mean, standard deviation)",
    )


@exercise("3.2", "a crop for each picture")
def check_crop(crop):
    def variant(mode="reflect", sign=1, swapped=False, together=False):
        def run(images, down, right, pad):
            if swapped:
                down, right = right, down
            if together:
                down, right = down[:1].expand_as(down), right[:1].expand_as(right)
            h, w = images.shape[2:]
            padded = F.pad(images, (pad,) * 4, mode=mode)
            corners = [(pad + sign * int(d), pad + sign * int(r)) for d, r in zip(down, right, strict=True)]
            return torch.stack([p[:, y : y + h, x : x + w] for p, (y, x) in zip(padded, corners, strict=True)])

        return run

    cases = []
    for _ in range(3):
        n, pad = pick(3, 6), pick(2, 3)
        images = torch.rand(n, pick(1, 3), pick(5, 8), pick(5, 8))
        cases.append((images, *(torch.randint(-pad, pad + 1, (2, n))), pad))
    compare(
        crop,
        variant(),
        cases,
        {
            "all pictures move alike: the first one's shift is used for the whole batch. Each has its own.": variant(
                together=True
            ),
            "down and right are swapped: rows are the third axis, columns the fourth.": variant(swapped=True),
            "the sign is turned round: the pixel in row i is *read from* row i + down.": variant(sign=-1),
            "the border is filled with zeros; the task mirrors it.": variant("constant"),
            "the border repeats the outermost pixel; the task mirrors at it (the outermost pixel appears once).": variant(
                "replicate"
            ),
            "what leaves on one side comes in on the other (`roll`, or a negative index). The task mirrors.": variant(
                "circular"
            ),
        },
    )


@exercise("3.3", "flip the chosen ones")
def check_flip(flip):
    def variant(dim=3, chosen_as=lambda chosen: chosen):
        return lambda x, chosen: torch.where(chosen_as(chosen).view(-1, 1, 1, 1), x.flip(dim), x)

    cases = []
    for _ in range(3):
        side, n = pick(4, 7), pick(4, 7)
        chosen = torch.arange(n) % 2 == pick(0, 1)
        cases.append((torch.rand(n, 3, side, side), chosen))
    compare(
        flip,
        variant(),
        cases,
        {
            "pictures are turned upside down. Left and right are the last axis, W.": variant(2),
            "the channels are reversed: red becomes blue. Flip the last axis, W.": variant(1),
            "the order of the pictures is reversed: axis 0 is the batch. Flip the last axis, W.": variant(0),
            "all pictures are flipped as soon as one is chosen.": variant(chosen_as=lambda c: c.any().expand_as(c)),
            "those that were *not* chosen are flipped.": variant(chosen_as=lambda c: ~c),
            "nothing is flipped. `x.flip(3)` returns a new tensor; it changes nothing in place.": variant(
                chosen_as=torch.zeros_like
            ),
        },
    )


@exercise("3.4", "cutout for each picture")
def check_cutout(cutout):
    def variant(start=lambda c, size: c - size // 2, length=lambda size: size, both=True, together=False, value=0.0):
        def run(x, rows, columns, size):
            if together:
                rows, columns = rows[:1].expand_as(rows), columns[:1].expand_as(columns)

            def covered(centres, side):
                first = start(centres, size)[:, None]
                return (torch.arange(side) >= first) & (torch.arange(side) < first + length(size))

            down, across = covered(rows, x.shape[2])[:, :, None], covered(columns, x.shape[3])[:, None, :]
            return x.masked_fill((down & across if both else down | across)[:, None], value)

        return run

    def by_slices(x, rows, columns, size):
        x = x.clone()
        for picture, row, column in zip(x, rows.tolist(), columns.tolist(), strict=True):
            top, left = row - size // 2, column - size // 2
            picture[:, top : top + size, left : left + size] = 0
        return x

    cases = []
    for size in (4, 3, 6):
        n, h, w = pick(5, 8), pick(8, 11), pick(8, 11)
        rows, columns = torch.randint(0, h, (n,)), torch.randint(0, w, (n,))
        rows[0], columns[1] = 0, 0
        cases.append((torch.rand(n, 3, h, w) + 0.1, rows, columns, size))
    compare(
        cutout,
        variant(),
        cases,
        {
            "all pictures lose the same square, the first one's. Each has its own centre.": variant(together=True),
            "near the top or the left border nothing is covered: a slice from a negative start counts from the end. Cut it off "
            "at 0 (`max(0, …)`).": by_slices,
            "a cross is covered: a pixel must lie in the rows *and* in the columns of the square.": variant(both=False),
            "the square begins at the centre instead of lying around it: start at centre - size // 2.": variant(
                lambda c, size: c
            ),
            "the square is one pixel too large: it ends before start + size.": variant(length=lambda size: size + 1),
            "for an odd size the square is one pixel too small: it ends before start + size, not before centre + size // 2.": (
                variant(length=lambda size: size - size % 2)
            ),
            "the square has half the size (or `size` is taken as a radius somewhere).": variant(length=lambda size: size // 2),
            "the square has twice the size: `size` is its side, not its radius.": variant(lambda c, s: c - s, lambda s: 2 * s),
            "the square is filled with 1; the task asks for 0, the mean colour.": variant(value=1.0),
        },
    )


@exercise("3.5", "a stratified split")
def check_split(split):
    classes, per_class = pick(3, 5), pick(4, 8)
    counts = [pick(20, 40) for _ in range(classes)]
    labels = torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])[torch.randperm(sum(counts))]

    def parts(seed):
        given = attempt(split, labels.clone(), per_class, seed)
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            fail("two lists of indices are expected: (those to train on, those set apart).")
        for part in given:
            if not isinstance(part, (Tensor, list)):
                fail(f"a part should be a tensor of indices, and is {shown(part)}.")
        given = [torch.as_tensor(part) for part in given]
        if any(part.dtype == torch.bool for part in given):
            fail("these are masks of truth values; indices are asked for: `torch.nonzero(mask)[:, 0]`.")
        for part in given:
            if part.ndim != 1:
                fail(f"a part has shape {tuple(part.shape)}; indices have one axis: `torch.nonzero(…)[:, 0]`.")
        return [part.long() for part in given]

    rest, apart = parts(1)
    both = torch.cat([rest, apart])
    if len(both) and (both.min() < 0 or both.max() >= len(labels)):
        fail(f"there are indices outside of 0 … {len(labels) - 1}.")
    if len(both) and set(both.tolist()) <= set(labels.tolist()):
        fail("these are labels; indices are asked for: the places in `labels` where they stand.")
    if set(rest.tolist()) & set(apart.tolist()):
        fail("some pictures are in both parts: the score on the part set apart would be a lie.")
    if len(both) != len(labels):
        fail(f"{len(both)} indices for {len(labels)} pictures: some are lost, or appear twice.")
    found = torch.bincount(labels[apart], minlength=classes).tolist()
    if len(rest) == classes * per_class:
        fail("the parts are swapped: first those to train on, then those set apart.")
    if found != [per_class] * classes:
        why = (
            "of one class more than of another; choose class by class"
            if sum(found) == classes * per_class
            else "choose `per_class` of each"
        )
        fail(f"set apart are {found} of the classes, and should be {[per_class] * classes}: {why}.")
    first = torch.cat([torch.nonzero(labels == k)[:per_class, 0] for k in range(classes)])
    if set(first.tolist()) == set(apart.tolist()):
        fail("the first pictures of each class are set apart. Files are often sorted: choose at random.")
    again, other = parts(1)[1], parts(2)[1]
    if set(again.tolist()) != set(apart.tolist()):
        fail("the same seed gives another split: draw from a generator of your own that starts from the seed.")
    if set(other.tolist()) == set(apart.tolist()):
        fail("another seed gives the same split: is the seed used?")


# --- 04 Training --------------------------------------------------------------------------------------------------------


@exercise("4.1", "warm-up and cosine")
def check_lr_factor(lr_factor):
    def schedule(factor):
        return lambda total, warmup: [factor(step, total, warmup) for step in range(total)]

    def variant(rise=lambda step, w: (step + 1) / (w + 1), progress=lambda step, n, w: (step - w) / (n - w), fall=None):
        fall = fall or (lambda p: (1 + math.cos(math.pi * p)) / 2)
        return schedule(lambda step, n, w: rise(step, w) if step < w else fall(progress(step, n, w)))

    compare(
        schedule(lr_factor),
        variant(),
        [(pick(30, 60), pick(4, 12)) for _ in range(4)],
        {
            "the first step has a rate of 0 and does nothing. The warm-up rises from 1 / (warmup + 1).": variant(
                lambda s, w: s / w
            ),
            "the warm-up reaches the peak one step early: its last step has warmup / (warmup + 1).": variant(
                lambda s, w: (s + 1) / w
            ),
            "nothing rises: during the warm-up the rate is at its peak already.": variant(lambda s, w: 1.0),
            "there is no warm-up: the cosine begins at step 0.": schedule(lambda s, n, w: (1 + math.cos(math.pi * s / n)) / 2),
            "the cosine begins after the warm-up but is sized for `total` steps, so it never ends. It has "
            "total - warmup steps.": variant(progress=lambda s, n, w: (s - w) / n),
            "the cosine counts from step 0, so the rate jumps down where the warm-up ends. Begin at step - warmup.": variant(
                progress=lambda s, n, w: s / n
            ),
            "the rate becomes negative: the cosine runs from 1 to -1. Shift and halve it: (1 + cos) / 2.": variant(
                fall=lambda p: math.cos(math.pi * p)
            ),
            "the rate goes down and up again: half a period of the cosine is wanted, π and not 2π.": variant(
                fall=lambda p: (1 + math.cos(2 * math.pi * p)) / 2
            ),
            "the last step has a rate of exactly 0 and does nothing: divide by total - warmup, not by one less.": variant(
                progress=lambda s, n, w: (s - w) / (n - w - 1)
            ),
            "this falls linearly; a half cosine is asked for.": variant(fall=lambda p: 1 - p),
        },
        what="the list of the rates",
    )


@exercise("4.2", "label-smoothed cross-entropy")
def check_smooth_cross_entropy(smooth_cross_entropy):
    def loss(target, reduce=torch.mean, log=lambda z: F.log_softmax(z, dim=1)):
        return lambda logits, labels, eps: reduce(-(target(logits, labels, eps) * log(logits)).sum(1))

    def mixed(logits, labels, eps):
        return (1 - eps) * F.one_hot(labels, logits.shape[1]) + eps / logits.shape[1]

    def others(logits, labels, eps):
        hot, k = F.one_hot(labels, logits.shape[1]), logits.shape[1]
        return (1 - eps) * hot + eps / (k - 1) * (1 - hot)

    def only_right(logits, labels, eps):
        return (1 - eps) * F.one_hot(labels, logits.shape[1])

    def plain(logits, labels, eps):
        return F.one_hot(labels, logits.shape[1])

    cases = [(pick(2, 4) * torch.randn(pick(3, 9), k), k, 0.1 * pick(1, 4)) for k in (3, 5, 10)]
    cases = [(logits, torch.randint(0, k, (len(logits),)), eps) for logits, k, eps in cases]
    large = [(300 * torch.randn(4, 6), torch.randint(0, 6, (4,)), 0.2)]
    mistakes = {
        "the ε is shared among the *other* classes. Here all K classes get ε / K, the right one too (as in PyTorch).": loss(
            others
        ),
        "nothing is smoothed: this is the plain cross-entropy.": loss(plain),
        "the right class's share is reduced, but the others get nothing: add ε / K for each class.": loss(only_right),
        "the losses are added up; their mean over the batch is asked for.": loss(mixed, torch.sum),
        "the losses of the pictures are not averaged: one number is asked for.": loss(mixed, lambda x: x),
        "the softmax is taken twice: the logits go into one log-softmax.": loss(
            mixed, log=lambda z: F.log_softmax(z.softmax(1), dim=1)
        ),
        "the logarithm is missing: the loss is -Σ q · log p.": loss(mixed, log=lambda z: z.softmax(1)),
        "the softmax runs over the batch (axis 0) instead of the classes (axis 1).": loss(
            mixed, log=lambda z: F.log_softmax(z, dim=0)
        ),
    }
    oracle = lambda logits, labels, eps: F.cross_entropy(logits, labels, label_smoothing=eps)  # noqa: E731
    compare(smooth_cross_entropy, oracle, cases, mistakes, what="the loss")
    if not torch.as_tensor(attempt(smooth_cross_entropy, *large[0])).isfinite():
        fail("right for small logits; for large ones infinite or not a number: exp overflows. Use `log_softmax`.")
    compare(smooth_cross_entropy, oracle, large, what="the loss for large logits")
    logits, labels, epsilon = cases[0]
    logits.requires_grad_()
    mine, right = (attempt(function, logits, labels, epsilon) for function in (smooth_cross_entropy, oracle))
    if not getattr(mine, "requires_grad", False):
        fail("the value is right, but no gradient flows through it, so nothing can learn from it. Look for `.item()`.")
    if not same(*(torch.autograd.grad(loss, logits)[0] for loss in (mine, right)), 1e-4):
        fail("the value is right, but its gradient is wrong: a part of the loss is a number, not a tensor. Look for `.item()`.")


@exercise("4.3", "a step of SGD")
def check_sgd_step(sgd_step):
    def oracle(w, g, v, lr, momentum, decay):
        parameter = nn.Parameter(w.clone())
        optimizer = torch.optim.SGD([parameter], lr, momentum, weight_decay=decay, nesterov=True)
        optimizer.state[parameter]["momentum_buffer"] = v.clone()
        parameter.grad = g.clone()
        optimizer.step()
        return parameter.detach(), optimizer.state[parameter]["momentum_buffer"]

    def variant(
        d=lambda g, w, decay: g + decay * w,
        velocity=lambda v, d, momentum, lr: momentum * v + d,
        step=lambda d, old, new, momentum, lr: lr * (d + momentum * new),
        shrink=lambda lr, decay: 1.0,
    ):
        def run(w, g, v, lr, momentum, decay):
            change = d(g, w, decay)
            new = velocity(v, change, momentum, lr)
            return shrink(lr, decay) * w - step(change, v, new, momentum, lr), new

        return run

    cases = [(*torch.randn(3, pick(3, 6)), 0.1 * pick(1, 5), 0.1 * pick(5, 9), 0.1 * pick(1, 3)) for _ in range(4)]
    compare(
        sgd_step,
        oracle,
        cases,
        {
            "this is momentum without Nesterov's look ahead: the step is d + momentum · v with the *new* v.": variant(
                step=lambda d, old, new, m, lr: lr * new
            ),
            "weight decay is missing: d = g + weight_decay · w.": variant(lambda g, w, decay: g),
            "weight decay acts on the weights directly (as in AdamW); here it joins the gradient.": variant(
                lambda g, w, decay: g, shrink=lambda lr, decay: 1 - lr * decay
            ),
            "weight decay has the wrong sign: the weights would grow.": variant(lambda g, w, decay: g - decay * w),
            "the gradient is damped by 1 - momentum. PyTorch's velocity is a sum: v ← momentum · v + d.": variant(
                velocity=lambda v, d, m, lr: m * v + (1 - m) * d
            ),
            "the learning rate is inside the velocity. In PyTorch's form it multiplies the whole step, at the end.": variant(
                velocity=lambda v, d, m, lr: m * v + lr * d, step=lambda d, old, new, m, lr: lr * d + m * new
            ),
            "the step goes up the gradient: the new weights are w - lr · (…).": variant(
                step=lambda d, old, new, m, lr: -lr * (d + m * new)
            ),
        },
        what="(weights, velocity)",
    )


def small_net(classes: int = 3) -> nn.Module:
    """A small network with BatchNorm, for checks that train."""
    return nn.Sequential(
        resnet.conv3x3(3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes)
    )


@exercise("4.4", "an average of the weights, buffers included")
def check_update_ema(update_ema):
    def updated(update):
        def run(average, model, decay):
            update(average, model, decay)
            return dict(average.state_dict()), dict(model.state_dict())

        return run

    def variant(floats=lambda a, b, d: d * a + (1 - d) * b, buffers=None, counters=lambda a, b: b):
        @torch.no_grad()
        def update(average, model, decay):
            names = {name for name, _ in average.named_parameters()}
            theirs = model.state_dict()
            for name, value in average.state_dict().items():
                rule = floats if name in names or buffers is None else buffers
                value.copy_(rule(value, theirs[name], decay) if value.is_floating_point() else counters(value, theirs[name]))

        return updated(update)

    cases = []
    for _ in range(3):
        pair = randomize(small_net()), randomize(small_net())
        for number, net in enumerate(pair):
            net[1].num_batches_tracked += 10 * number + pick(1, 9)
        cases.append((*pair, 0.1 * pick(6, 9)))
    compare(
        updated(update_ema),
        variant(),
        cases,
        {
            "BatchNorm's buffers are left as they are: the average would be evaluated with statistics of another network. Go "
            "through `state_dict()`, not only `parameters()`.": variant(buffers=lambda a, b, d: a, counters=lambda a, b: a),
            "BatchNorm's buffers are copied; the task asks for their average too.": variant(buffers=lambda a, b, d: b),
            "decay is the wrong way round: average ← decay · average + (1 - decay) · model.": variant(
                lambda a, b, d: (1 - d) * a + d * b
            ),
            "the average is simply replaced by the model.": variant(lambda a, b, d: b),
            "the counter `num_batches_tracked` is left behind. Copy what is not a floating-point number.": variant(
                counters=lambda a, b: a
            ),
            "nothing changes. Change the tensors in place (`copy_`, `lerp_`), under `torch.no_grad()`.": variant(
                lambda a, b, d: a, counters=lambda a, b: a
            ),
            "1 - decay is missing before the model's weights: the average grows without end.": variant(
                lambda a, b, d: d * a + b
            ),
        },
        what="(the average's state, the model's state)",
        keeps_inputs=False,
    )


@exercise("4.5", "one epoch")
def check_train_one_epoch(train_one_epoch):
    def observed(train):
        def run(model, batches):
            optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.5)
            loss, accuracy = train(model, batches, F.cross_entropy, optimizer)
            return float(loss), float(accuracy), dict(model.state_dict())

        return run

    def variant(mode=True, zero=True, step=True, average="pictures", probabilities=False):
        def train(model, batches, loss_function, optimizer):
            model.train(mode)
            losses, rights, sizes = [], [], []
            for x, labels in batches:
                logits = model(x).softmax(1) if probabilities else model(x)
                loss = loss_function(logits, labels)
                if zero:
                    optimizer.zero_grad()
                loss.backward()
                if step:
                    optimizer.step()
                losses.append(loss.item())
                rights.append((logits.argmax(1) == labels).double().mean().item())
                sizes.append(len(labels))
            weights = sizes if average == "pictures" else [1] * len(sizes)
            if average == "last":
                return losses[-1], rights[-1]
            if average == "loss":
                return sum(losses) / len(losses), sum(r * n for r, n in zip(rights, sizes, strict=True)) / sum(sizes)
            if average == "sum":
                return sum(losses), sum(rights) / len(rights)
            return tuple(sum(v * n for v, n in zip(values, weights, strict=True)) / sum(weights) for values in (losses, rights))

        return observed(train)

    cases = []
    for _ in range(3):
        sizes = [pick(6, 9), pick(6, 9), pick(2, 3)]
        batches = [(torch.randn(n, 3, 6, 6), torch.randint(0, 3, (n,))) for n in sizes]
        cases.append((randomize(small_net()).eval(), batches))
    compare(
        observed(train_one_epoch),
        variant(),
        cases,
        {
            "gradients pile up from batch to batch: call `optimizer.zero_grad()` before `backward()`.": variant(zero=False),
            "the weights do not move. No `optimizer.step()`, or `zero_grad()` between `backward()` and it?": variant(
                step=False
            ),
            "the weights are right, but loss and accuracy are averaged over batches. The last batch is smaller: "
            "weigh each by its size, divide by the number of pictures.": variant(average="batches"),
            "the accuracy is right, but the loss is averaged over batches. The last batch is smaller: weigh each by its size, "
            "divide by the number of pictures.": variant(average="loss"),
            "loss and accuracy are those of the last batch; the whole epoch's are asked for.": variant(average="last"),
            "the loss is summed over batches and never divided.": variant(average="sum"),
            "BatchNorm works with its running statistics: the model is in eval mode. Call `model.train()` first.": variant(
                mode=False
            ),
            "a softmax stands before the loss. `F.cross_entropy` wants logits and takes the softmax itself.": variant(
                probabilities=True
            ),
        },
        tolerance=1e-3,
        what="(mean loss, accuracy, the model's state)",
        keeps_inputs=False,
    )


@exercise("4.6", "stop and go on")
def check_checkpoint(save, load):
    def make(seed):
        torch.manual_seed(seed)
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)

    def train(model, optimizer, scheduler, seed):
        torch.manual_seed(seed)
        for _ in range(3):
            loss = F.cross_entropy(model.train()(torch.randn(6, 3, 6, 6)), torch.randint(0, 3, (6,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

    parts, seed, done = make(pick(0, 999)), pick(1000, 1999), pick(2, 7)
    train(*parts, seed)
    before = copy.deepcopy([part.state_dict() for part in parts])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        attempt(save, path, *parts, done)
        if not path.is_file():
            fail("there is no file at `path` after saving. Is the path used as it is given?")
        if not all(same(part.state_dict(), state, 0.0) for part, state in zip(parts, before, strict=True)):
            fail("saving changes what it saves.")
        train(*parts, seed + 1)  # going on undisturbed must not change what was saved
        resumed = make(pick(2000, 2999))
        epoch = attempt(load, path, *resumed)
    model, optimizer, scheduler = (same(part.state_dict(), state, 0.0) for part, state in zip(resumed, before, strict=True))
    if not model:
        fail("the model's state is not what was saved. Save and load `model.state_dict()`, statistics included.")
    if not optimizer:
        fail("the optimizer's velocities are lost, so the next steps differ. Save and load `optimizer.state_dict()`.")
    if not scheduler:
        fail("the scheduler starts anew, and so does the learning rate. Save and load `scheduler.state_dict()`.")
    if epoch != done:
        extra = " An epoch too many or too few is skipped or repeated." if epoch in (done - 1, done + 1) else ""
        fail(f"`load` should return the number of epochs done, {done}, and returns {shown(epoch)}.{extra}")
    train(*resumed, seed + 1)
    if not same(resumed[0].state_dict(), parts[0].state_dict(), 0.0):
        fail("everything seems restored, and still the next steps differ from those of the undisturbed run.")


# --- 05 Evaluation ------------------------------------------------------------------------------------------------------


@exercise("5.1", "a confusion matrix")
def check_confusion(confusion):
    def oracle(labels, predicted, classes):
        matrix = torch.zeros(classes, classes, dtype=torch.int64)
        for pair in zip(labels.tolist(), predicted.tolist(), strict=True):
            matrix[pair] += 1
        return matrix

    def once(labels, predicted, classes):
        return (oracle(labels, predicted, classes) > 0).long()

    def by_largest(labels, predicted, classes):
        return oracle(labels, predicted, int(max(labels.max(), predicted.max())) + 1)

    cases = []
    for classes in (4, 6, 5):
        n = pick(60, 90)
        cases.append(
            (torch.randint(0, classes - 1, (n,)), torch.randint(0, classes - 1, (n,)), classes)
        )  # the last never occurs
    compare(
        confusion,
        oracle,
        cases,
        {
            "rows and columns are swapped: rows are the true classes, columns the predictions.": lambda *a: oracle(*a).T,
            "each cell is at most 1: with repeated indices `matrix[labels, predicted] += 1` adds only once. Use `bincount` or "
            "`index_put_(…, accumulate=True)`.": once,
            "a class that does not occur has no row: the size must come from `classes`.": by_largest,
            "the diagonal is empty: right answers belong into the matrix too.": lambda *a: oracle(*a).fill_diagonal_(0),
            "these are shares; counts are asked for.": lambda *a: oracle(*a) / len(a[0]),
        },
    )


@exercise("5.2", "recall and precision")
def check_recall_precision(recall_precision):
    def ratios(matrix, empty=0.0):
        right = matrix.diagonal().double()
        return [torch.where(total > 0, right / total.clamp(min=1), empty) for total in (matrix.sum(1), matrix.sum(0))]

    cases = []
    for _ in range(3):
        classes = pick(3, 6)
        matrix = torch.randint(1, 20, (classes, classes)) + torch.diag(torch.randint(20, 60, (classes,)))
        matrix[:, pick(0, classes - 1)] = 0  # a class that is never predicted
        matrix[pick(0, classes - 1)] = 0  # and one that never occurs
        cases.append((matrix,))
    compare(
        lambda matrix: tuple(recall_precision(matrix)),
        lambda matrix: tuple(ratios(matrix)),
        cases,
        {
            "the two are swapped. Recall divides by those that *are* of the class (rows), precision by those *called* so.": (
                lambda m: tuple(ratios(m)[::-1])
            ),
            "a class that is never predicted has precision 0 / 0: define it as 0.": lambda m: tuple(ratios(m, math.nan)),
            "both are averaged: one number per class is asked for.": lambda m: tuple(r.mean() for r in ratios(m)),
            "the diagonal is divided by all pictures; divide by those of the class.": lambda m: (m.diagonal() / m.sum(),) * 2,
        },
        what="(recall, precision)",
    )


@exercise("5.3", "the expected calibration error")
def check_ece(ece):
    def gaps(confidence, correct, bins, extra=0):
        index = (confidence * bins).long().clamp(max=bins + extra - 1)
        for b in range(bins + extra):
            inside = index == b
            if inside.any():
                yield inside.double().mean(), correct[inside].double().mean() - confidence[inside].double().mean()

    def combine(rule):
        return lambda confidence, correct, bins: rule(list(gaps(confidence, correct, bins)), bins)

    def weighed(g):
        return sum(share * gap.abs() for share, gap in g)

    def by_count(confidence, correct, bins):
        parts = confidence.argsort().tensor_split(bins)
        return sum(len(p) / len(correct) * (correct[p].double().mean() - confidence[p].mean()).abs() for p in parts)

    cases = []
    for bins in (5, 10, 8):
        confidence = 0.3 + 0.7 * torch.rand(pick(300, 500)) ** 0.5  # the lowest bin stays empty
        confidence[:20] = 1.0
        correct = torch.rand_like(confidence) < 0.2 + 0.6 * confidence
        correct[(confidence > 1 - 1 / bins) & (confidence < 1)] = True  # the last bin boasts at 1.0 only
        cases.append((confidence, correct, bins))
    compare(
        ece,
        lambda *case: weighed(gaps(*case)),
        cases,
        {
            "a confidence of exactly 1 gets a bin of its own. It belongs to the last: the index is at most bins - 1.": (
                lambda *case: weighed(gaps(*case, extra=1))
            ),
            "a confidence of exactly 1 falls into no bin. It belongs to the last: the index is at most bins - 1.": (
                lambda *case: weighed([*gaps(*case, extra=1)][:-1])
            ),
            "every bin counts alike: weigh its gap by the share of the pictures in it.": combine(
                lambda g, bins: sum(gap.abs() for _, gap in g) / len(g)
            ),
            "every bin counts alike, empty ones too: weigh each gap by the share of the pictures in the bin.": combine(
                lambda g, bins: sum(gap.abs() for _, gap in g) / bins
            ),
            "gaps above and below cancel: take each bin's absolute gap before adding.": combine(
                lambda g, bins: sum(share * gap for share, gap in g)
            ),
            "gaps above and below cancel: take each bin's absolute gap before adding, not the sum's.": combine(
                lambda g, bins: sum(share * gap for share, gap in g).abs()
            ),
            "this is the largest gap (the *maximum* calibration error).": combine(
                lambda g, bins: max(gap.abs() for _, gap in g)
            ),
            "the gaps are squared; the absolute gap is asked for.": combine(lambda g, bins: sum(s * gap**2 for s, gap in g)),
            "the bins hold equally many pictures; here they are equally wide.": by_count,
        },
        what="the error",
    )


@exercise("5.4", "temperature scaling")
def check_fit_temperature(fit_temperature):
    def best(logits, labels):
        """Bisection: as a function of 1 / T the loss is convex, so its slope changes sign once."""
        z, (low, high) = logits.double(), (math.log(1 / 20), math.log(1 / 0.05))
        own = z.gather(1, labels[:, None]).mean()
        for _ in range(40):
            middle = (low + high) / 2
            slope = ((z * math.exp(middle)).softmax(1) * z).sum(1).mean() - own
            low, high = (middle, high) if slope < 0 else (low, middle)
        return math.exp(-low)

    cases = []
    for temperature in (2.5, 0.5, 1.6):
        logits = 2 * torch.randn(pick(300, 400), pick(4, 8))
        labels = torch.distributions.Categorical(logits=logits).sample()
        cases.append((logits * temperature, labels))
    compare(
        lambda logits, labels: float(fit_temperature(logits, labels)),
        best,
        cases,
        {
            "this is 1 / T: the logits are *divided* by the temperature.": lambda z, y: 1 / best(z, y),
            "this is the logarithm of T.": lambda z, y: math.log(best(z, y)),
            "T is 1 whatever the logits are. Does your minimiser move, and does the loss depend on T?": lambda z, y: 1.0,
            "T is fitted to probabilities: divide the logits, then take one log-softmax (which `F.cross_entropy` does).": (
                lambda z, y: best(z.softmax(1), y)
            ),
            "T is fitted to the predictions, and so becomes as small as it may: fit to the labels.": lambda z, y: (
                fit_temperature(z, z.argmax(1))
            ),
        },
        tolerance=0.01,
        what="the temperature",
    )


@exercise("5.5", "is that a difference?")
def check_smallest_difference(smallest_difference):
    def variant(rule):
        def run(accuracy, n, z):
            return rule(torch.distributions.Binomial(n, torch.tensor(accuracy, dtype=torch.float64)).stddev.item() / n, n, z)

        return run

    compare(
        smallest_difference,
        variant(lambda sd, n, z: z * math.hypot(sd, sd)),
        [(0.01 * pick(60, 97), pick(500, 20_000), 0.1 * pick(10, 30)) for _ in range(5)],
        {
            "this is for one network against a fixed number. Both are measured: their variances add up, a factor √2.": variant(
                lambda sd, n, z: z * sd
            ),
            "the two errors are added, a factor 2. Independent errors add in squares: √2.": variant(
                lambda sd, n, z: 2 * z * sd
            ),
            "z is missing.": variant(lambda sd, n, z: math.hypot(sd, sd)),
            "the root is missing: p(1 - p) / n is a variance.": variant(lambda sd, n, z: z * 2 * sd**2),
            "n is missing: the variance of one accuracy is p(1 - p) / n.": variant(lambda sd, n, z: z * math.sqrt(2 * n) * sd),
            "n is not under the root: √(p(1 - p) / n), not √(p(1 - p)) / n.": variant(
                lambda sd, n, z: z * math.sqrt(2 / n) * sd
            ),
            "this is in percentage points; a share is asked for, as the accuracy is one.": variant(
                lambda sd, n, z: 100 * z * math.hypot(sd, sd)
            ),
        },
        what="the smallest difference",
    )


@exercise("5.6", "the best of many")
def check_best_of(best_of):
    for _ in range(3):
        count, n, p = pick(10, 60), pick(200, 800), 0.01 * pick(60, 90)
        scores = torch.distributions.Binomial(n, torch.tensor(p, dtype=torch.float64))
        below = scores.log_prob(torch.arange(n + 1, dtype=torch.float64)).exp().cumsum(0)
        exact = (1 - below[:-1].clamp(max=1) ** count).sum().item() / n  # E[max] = Σ P(max > k)
        sd, given = scores.stddev.item() / n, attempt(best_of, count, n, p)
        if not is_numeric(given) or torch.as_tensor(given).numel() != 1:
            fail(f"one number is asked for, the expected best of {count} scores; got {shown(given)}.")
        off = (float(given) - exact) / sd
        if abs(off) < 0.15:
            continue
        if abs(float(given) - 100 * exact) < 15 * sd:
            fail("this is in percent; a share is asked for.")
        if abs(float(given) - p) < 0.15 * sd:
            fail(
                "this is the average score. Take the best of each group of `count` scores first, then average over the groups."
            )
        if abs(float(given) - n * exact) < 0.15 * n * sd:
            fail("this is a number of pictures; divide by n.")
        if off > 0.6:
            fail(
                f"{float(given):.4f} is too high (near {exact:.4f} is right). "
                "Best over *all* draws? Average the bests of many groups."
            )
        hint = "Does each group hold `count` scores, each of n pictures? Are there enough groups?"
        fail(f"the expected best of {count} scores on {n} pictures is {exact:.4f}, you say {float(given):.4f}. {hint}")


# --- 06 Inside the network ----------------------------------------------------------------------------------------------


def small_resnet() -> nn.Module:
    """A small residual network in eval mode, with a block that changes the shape at the start of stages 2 and 3."""
    return randomize(resnet.ResNet(resnet.BasicBlock, (2, 3, 2), pick(4, 6), width=pick(3, 5))).eval()


@exercise("6.1", "the receptive field")
def check_receptive_field(receptive_field):
    def oracle(layers):
        x = torch.zeros(1, 1, 1500, requires_grad=True, dtype=torch.float64)
        y = x
        for kernel, stride in layers:
            y = F.conv1d(y, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride)
        reached = [torch.autograd.grad(y[0, 0, i], x, retain_graph=True)[0].nonzero()[:, 2] for i in (0, 1)]
        return len(reached[0]), (reached[1][0] - reached[0][0]).item()

    def variant(add=lambda k, s, step: (k - 1) * step, start=1, after=True):
        def mistake(layers):
            size, step = start, 1
            for k, s in layers:
                step = step if after else step * s
                size += add(k, s, step)
                step = step * s if after else step
            return size, step

        return mistake

    cases = [([(2 * pick(1, 3) + 1, 2), (1, 1)] + [(pick(2, 5), pick(1, 2)) for _ in range(pick(2, 4))],) for _ in range(4)]
    compare(
        lambda layers: tuple(receptive_field(layers)),
        oracle,
        cases,
        {
            "k - 1 is added for each layer without the step: behind a stride of 2, neighbours lie 2 pixels apart.": variant(
                lambda k, s, step: k - 1
            ),
            "a layer's own stride is applied too early. It widens the steps of the layers *behind* it.": variant(after=False),
            "k is added where k - 1 should be: a kernel of 1 sees no neighbour.": variant(lambda k, s, step: k * step),
            "begin with 1: before any layer a value sees its own pixel.": variant(start=0),
            "only the last stride counts; the steps multiply from layer to layer.": lambda layers: (
                oracle(layers)[0],
                layers[-1][1],
            ),
            "the strides are added; the steps multiply from layer to layer.": lambda layers: (
                oracle(layers)[0],
                sum(s for _, s in layers),
            ),
        },
        what="(size, step)",
    )


@exercise("6.2", "shapes by hooks")
def check_output_shapes(output_shapes):
    def oracle(model, names, x, shape=lambda given, y: tuple(y.shape[1:])):
        states, y = {}, x
        for name, part in model.named_children():
            given, y = y, part(y.flatten(1) if name == "fc" else y)
            states[name] = shape(given, y)
            if name == "bn1":
                y = F.relu(y)  # the order of the children is not the order in which they run
        return {name: states[name] for name in names}

    def observed(function):
        def run(model, names, x):
            before = model.training
            result = function(model, names, x)
            if any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
                fail(
                    "hooks are left on the model, and run at every later call. Remove them: `handle.remove()`, in a `finally`."
                )
            if model.training != before:
                fail("the model is left in another mode than it came in.")
            return {name: tuple(shape) for name, shape in result.items()}

        return run

    cases = []
    names = ["layer2", "conv1", "layer3", "layer1", "avgpool", "fc"]  # not in the order in which they run
    for number in range(3):
        side = 8 * pick(1, 2)
        cases.append((small_resnet().train(number == 1), names, torch.randn(pick(2, 3), 3, side, side)))
    compare(
        observed(output_shapes),
        oracle,
        cases,
        {
            "the batch is part of the shape: leave the first axis out.": lambda *case: oracle(
                *case, shape=lambda given, y: tuple(y.shape)
            ),
            "these are the shapes of what goes *in*. A forward hook receives (module, inputs, output).": lambda *case: oracle(
                *case, shape=lambda given, y: tuple(given.flatten(1).shape[1:]) if y.ndim == 2 else tuple(given.shape[1:])
            ),
            "all names have one shape: a function made in a loop sees the last name. Bind it: `name=name`.": lambda *case: {
                name: oracle(*case)[case[1][-1]] for name in case[1]
            },
            "only the last name is there: a function made in a loop sees it alone. Bind it: `name=name`.": lambda *case: {
                case[1][-1]: oracle(*case)[case[1][-1]]
            },
        },
        what="the dictionary of shapes",
        keeps_inputs=False,
    )


@exercise("6.3", "Grad-CAM")
def check_grad_cam(grad_cam):
    def variant(score=None, weights=lambda g: g.mean((2, 3), keepdim=True), rectify=F.relu, picked=None):
        def run(model, name, x, classes):
            a, rest = x, list(model.stages)
            a = model.maxpool(F.relu(model.bn1(model.conv1(a))))
            while True:
                stage = rest.pop(0)
                a = getattr(model, stage)(a)
                if stage == name:
                    break
            a = a.detach().requires_grad_()
            y = a
            for stage in rest:
                y = getattr(model, stage)(y)
            logits = model.fc(y.mean((2, 3)))
            chosen = picked(logits) if picked else classes
            total = (score(logits, chosen) if score else logits.gather(1, chosen[:, None])).sum()
            (gradient,) = torch.autograd.grad(total, a)
            return rectify((weights(gradient) * a).sum(1)).detach()

        return run

    def by_module(model, name, x, classes):
        maps = grad_cam(model, getattr(model, name), x, classes)
        if any(part._forward_hooks or part._backward_hooks for part in model.modules()):
            fail("hooks are left on the model, and run at every later call. Remove them: `handle.remove()`.")
        return maps

    cases = []
    while len(cases) < 3:
        model, x, name = small_resnet(), torch.randn(pick(3, 4), 3, 16, 16), f"layer{len(cases) + 1}"
        predicted, others = model(x).argmax(1), model.fc.out_features - 1
        classes = (predicted + 1 + torch.arange(len(x)) % others) % (others + 1)  # never the predicted ones
        if (variant()(model, name, x, classes) > 0).float().mean() > 0.3:  # maps of zeros would tell nothing
            cases.append((model, name, x, classes))
    compare(
        by_module,
        variant(),
        cases,
        {
            "the ReLU is missing: only evidence *for* the class is shown.": variant(rectify=lambda m: m),
            "the absolute value is taken: evidence against the class would shine too. Use a ReLU.": variant(rectify=torch.abs),
            "you differentiate the probability (after the softmax); Grad-CAM takes the logit.": variant(
                lambda z, c: z.softmax(1).gather(1, c[:, None])
            ),
            "you differentiate the logarithm of the probability, or the loss; Grad-CAM takes the logit.": variant(
                lambda z, c: z.log_softmax(1).gather(1, c[:, None])
            ),
            "the predicted class is explained, not the one that is asked for.": variant(picked=lambda z: z.argmax(1)),
            "all logits are added: choose each picture's own with `gather`.": variant(lambda z, c: z),
            "the weights are sums over the pixels; Grad-CAM takes the mean of the gradient over H and W.": variant(
                weights=lambda g: g.sum((2, 3), keepdim=True)
            ),
            "gradient and activation are multiplied pixel by pixel. Average the gradient over H and W first.": (
                variant(weights=lambda g: g)
            ),
            "the weights are averaged over the batch as well: each picture has its own.": variant(
                weights=lambda g: g.mean((0, 2, 3), keepdim=True)
            ),
            "the maps are scaled to 0–1; leave them in units of the logit, so that they can be compared.": (
                lambda *case: (lambda m: m / m.amax((1, 2), keepdim=True))(variant()(*case))
            ),
        },
        what="the maps",
        keeps_inputs=False,
    )


@exercise("6.4", "drop a block")
def check_without_block(without_block):
    def replaced(stage, index, by):
        def run(model, x):
            model = copy.deepcopy(model)
            part = getattr(model, stage)
            part[index] = by(part[index])
            return model(x)

        return run

    def observed(model, stage, index, x):
        whole = model(x)
        logits = without_block(model, stage, index, x)
        if not same(model(x), whole, 1e-6):
            fail(
                "the network is changed for good: after the call it gives other logits. Work on a copy, or put the block back."
            )
        return logits

    def variant(by, shift=0):
        return lambda model, stage, index, x: replaced(stage, index + shift, by)(model, x)

    class Nothing(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    class Through(nn.Module):
        def __init__(self, block, relu):
            super().__init__()
            self.block, self.relu = block, relu

        def forward(self, x):
            out = self.block.bn2(self.block.conv2(F.relu(self.block.bn1(self.block.conv1(x)))))
            return F.relu(out) if self.relu else out

    def rest_of_stage(model, stage, index, x):
        model = copy.deepcopy(model)
        setattr(model, stage, getattr(model, stage)[:index])
        return model(x)

    cases = []
    for stage in ("layer1", "layer2", "layer3"):
        model = small_resnet()
        cases.append((model, stage, 1, torch.randn(pick(2, 3), 3, 16, 16)))
    cases.append((small_resnet(), "layer1", 0, torch.randn(2, 3, 16, 16)))  # it keeps the shape
    with torch.no_grad():
        compare(
            observed,
            variant(lambda block: nn.Identity()),
            cases,
            {
                "nothing is dropped: these are the whole network's logits.": lambda model, stage, index, x: model(x),
                "the block before it is dropped: `index` counts from 0.": variant(
                    lambda block: block.downsample or nn.Identity(), -1
                ),
                "the block puts out zeros. What is dropped is F; the shortcut stays, so the block hands on x.": variant(
                    lambda block: Nothing()
                ),
                "the shortcut is dropped and F is kept. It should be the other way round.": variant(
                    lambda block: Through(block, True)
                ),
                "this block and all behind it in the stage are dropped; only one should be.": rest_of_stage,
            },
            what="the logits",
            keeps_inputs=False,
        )
        model, _, _, x = cases[0]
        whole = model(x)
        if not isinstance(outcome(without_block, (model, "layer2", 0, x)), ValueError):  # whatever else, it does not fit
            fail("block 0 of layer2 changes the shape and is needed: raise ValueError where `downsample` is not None.")
        if not same(outcome(model, (x,)), whole, 1e-6):
            fail("ValueError is raised, but the block is gone: look at `downsample` before you change anything.")


@exercise("6.5", "how much a block changes")
def check_relative_change(relative_change):
    def variant(rule, branch=None):
        def run(block, x):
            f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
            return rule(branch(block, f, x) if branch else f, x)

        return run

    def ratio(f, x):
        return (f.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean()

    def norm(z):
        return z.flatten(1).norm(dim=1)

    cases = []
    for _ in range(3):
        width = pick(3, 6)
        block = randomize(resnet.BasicBlock(width, width)).eval()
        scale = torch.rand(5).view(-1, 1, 1, 1) * 3 + 0.2
        cases.append((block, F.relu(torch.randn(5, width, pick(4, 6), pick(4, 6)) * scale)))
    with torch.no_grad():
        compare(
            lambda block, x: float(relative_change(block, x)),
            variant(ratio),
            cases,
            {
                "this is ‖y - x‖ / ‖x‖. The last ReLU has already cut F(x) + x: take `bn2`'s output.": variant(
                    ratio, lambda block, f, x: F.relu(f + x) - x
                ),
                "this is ‖y‖ / ‖x‖, the size of the whole output. How large is F(x)?": variant(
                    ratio, lambda block, f, x: F.relu(f + x)
                ),
                "the norms are taken over the whole batch. Divide for each picture, then average.": variant(
                    lambda f, x: f.norm() / x.norm()
                ),
                "the mean norms are divided; divide for each picture, then average.": variant(
                    lambda f, x: norm(f).mean() / norm(x).mean()
                ),
                "the squares of the norms are divided; take the root.": variant(lambda f, x: (norm(f) / norm(x)).pow(2).mean()),
                "the ratio is upside down: ‖F(x)‖ / ‖x‖.": variant(lambda f, x: (norm(x) / norm(f)).mean()),
                "F(x) is taken after a ReLU; the branch ends with BatchNorm.": variant(lambda f, x: ratio(F.relu(f), x)),
            },
            what="the ratio",
            keeps_inputs=False,
        )


@exercise("6.6", "a direction, filter by filter")
def check_filter_normalised(filter_normalised):
    def variant(dims):
        def run(direction, weight):
            if weight.ndim == 1:
                return torch.zeros_like(weight)
            axes = tuple(d for d in range(weight.ndim) if d not in dims)
            size = [z.pow(2).sum(axes, keepdim=True).sqrt() for z in (weight, direction)]
            return direction * size[0] / size[1]

        return run

    def unit(direction, weight):
        if weight.ndim == 1:
            return torch.zeros_like(weight)
        axes = tuple(range(1, weight.ndim))
        return direction / direction.pow(2).sum(axes, keepdim=True).sqrt()

    def squared(direction, weight):
        return variant((0,))(direction, weight) ** 2 / direction

    def one_dimensional(direction, weight):
        return direction * weight.norm() / direction.norm() if weight.ndim == 1 else variant((0,))(direction, weight)

    shapes = [(pick(4, 6), pick(2, 3), 3, 3), (pick(4, 6), pick(7, 9)), (pick(4, 6),)]
    cases = []
    for shape in shapes:
        scale = (torch.rand(shape[0]) * 3 + 0.2).view(-1, *[1] * (len(shape) - 1))
        cases.append((torch.randn(shape), torch.randn(shape) * scale))
    compare(
        filter_normalised,
        variant((0,)),
        cases,
        {
            "the whole tensor is scaled by one factor. Each filter (each output channel) has its own norm.": variant(()),
            "the norms are per *input* channel; a filter is a slice along axis 0.": variant((1,)),
            "each filter has norm 1: multiply by the norm of the weight's filter.": unit,
            "the squares of the norms are used: take the root.": squared,
            "BatchNorm's scales, shifts and biases (one axis) should get a direction of 0.": one_dimensional,
        },
        what="the direction",
    )


# --- spot the deviation -------------------------------------------------------------------------------------------------
# What is handed out here is wrong, and looks right. Its message names the symptom; the messages for half a repair say more.


@exercise("8.1", "a shortcut for another shape")
def check_projection(make_shortcut):
    def forward(relu=False, stride=None, norm=True, pool=False):
        def run(asked, module, conv, bn, x):
            x, asked = (F.avg_pool2d(x, asked), 1) if pool else (x, asked)
            out = F.conv2d(x, conv.weight, stride=stride or asked)
            out = bn(out) if norm else out
            return F.relu(out) if relu else out

        return run

    cases = []
    for number in range(6):
        in_channels, out_channels, stride = pick(2, 5), pick(6, 9), 1 + number % 2
        module = attempt(make_shortcut, in_channels, out_channels, stride)
        if not isinstance(module, nn.Module):
            fail(f"expected a module, got {shown(module)}.")
        convs, norms = ([m for m in module.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d))
        if len(convs) != 1:
            fail(f"expected one convolution, found {len(convs)}.")
        if convs[0].kernel_size != (1, 1):
            fail("the convolution reads neighbouring pixels. A projection changes channels pixel by pixel: its kernel is 1×1.")
        if not norms and convs[0].bias is not None:
            fail("multiply the input by ten: F(x) stays as it is, this path grows tenfold. What does F have that it lacks?")
        if not norms:
            fail("the constant is gone, but the scale of this path still follows its input's. What keeps the scale of F(x)?")
        if convs[0].bias is not None:
            fail("the scale is right. But what is the convolution's bias for, if a BatchNorm behind it subtracts the mean?")
        if norms[0].num_features != out_channels:
            fail("the BatchNorm does not fit what the convolution puts out. It stands *behind* it, as in F(x).")
        randomize(module).train(number % 3 == 0)
        x = torch.randn(pick(2, 4), in_channels, 2 * pick(2, 4), 2 * pick(2, 4))
        cases.append((stride, module, convs[0], norms[0], x))
    compare(
        lambda asked, module, conv, bn, x: module(x),
        forward(),
        cases,
        {
            "the stride is gone: F(x) shrinks, and the shortcut does not.": forward(stride=1),
            "there is a ReLU on the shortcut, so it can carry nothing negative.": forward(relu=True),
            "neighbouring pixels are averaged before the 1×1: a known variant (ResNet-D), not what is asked for.": forward(
                pool=True
            ),
            "the BatchNorm is made, and not used.": forward(norm=False),
        },
    )


@exercise("8.2", "the stages of a network")
def check_stages(build_stages):
    def geometry(build):
        def run(in_channels, widths, depths):
            stages = build(in_channels, widths, depths)
            return [[(b.conv1.in_channels, b.conv1.out_channels, b.conv1.stride[0]) for b in stage] for stage in stages]

        return run

    def variant(stride_of, forgetful=False):
        def build(in_channels, widths, depths):
            stages = []
            for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
                blocks = []
                for j in range(depth):
                    blocks.append(resnet.BasicBlock(in_channels, width, 2 if stride_of(i, j, depth) else 1))
                    in_channels = in_channels if forgetful else width
                stages.append(blocks)
            return stages

        return geometry(build)

    cases = []
    for _ in range(3):
        number = pick(3, 4)
        cases.append((pick(2, 4), [pick(2, 4) * 2**i for i in range(number)], [pick(2, 3) for _ in range(number)]))
    compare(
        geometry(build_stages),
        variant(lambda i, j, depth: i > 0 and j == 0),
        cases,
        {
            "print the shape behind each stage. Which stages should halve the resolution, and which one does?": (
                variant(lambda i, j, depth: i == 0 and j == 0)
            ),
            "now all blocks halve the resolution, except the very first. Each later *stage* halves it once.": (
                variant(lambda i, j, depth: i > 0 or j > 0)
            ),
            "every block of the later stages halves the resolution; only the first of each should.": variant(
                lambda i, j, d: i > 0
            ),
            "the first stage halves the resolution too. It keeps what the stem gives it.": variant(lambda i, j, depth: j == 0),
            "every block but the first of each stage has the stride; it is the other way round.": variant(
                lambda i, j, depth: j > 0
            ),
            "the stride sits in the last block of a stage; the first one changes the shape.": (
                variant(lambda i, j, depth: i > 0 and j == depth - 1)
            ),
            "no block halves the resolution.": variant(lambda i, j, depth: False),
            "the strides are right, but every block expects the channels of the stem, not of the block before it.": (
                variant(lambda i, j, depth: i > 0 and j == 0, forgetful=True)
            ),
        },
        what="the list of (channels in, channels out, stride), stage by stage and block by block,",
    )


@exercise("8.3", "a basic block")
def check_addition(Block):
    def variant(end, final=F.relu):
        def forward(b, x):
            out = b.conv2(F.relu(b.bn1(b.conv1(x))))
            return final(end(b, out, x))

        return lambda mine, b, x: observe(lambda x: forward(b, x), x)

    def nothing(y):
        return y

    cases = []
    for number in range(6):
        channels = pick(3, 6)
        theirs = randomize(resnet.BasicBlock(channels, channels)).train(number % 3 == 0)
        mine = with_weights_of(theirs, attempt(Block, channels))
        cases.append((mine, theirs, torch.randn(pick(2, 4), channels, pick(4, 8), pick(4, 8))))
    compare(
        lambda mine, b, x: observe(mine, x),
        lambda mine, b, x: observe(b, x),
        cases,
        {
            "no value leaves this block smaller than it came in. What would F(x) have to be, to make one smaller?": (
                variant(lambda b, out, x: F.relu(b.bn2(out)) + x, nothing)
            ),
            "there is a ReLU behind the addition now, and still one on F(x), which therefore is never negative.": (
                variant(lambda b, out, x: F.relu(b.bn2(out)) + x)
            ),
            "F(x) may be negative now, but the sum is handed on without a ReLU.": variant(
                lambda b, out, x: b.bn2(out) + x, nothing
            ),
            "x is added before the second BatchNorm, which normalises the shortcut away.": variant(
                lambda b, out, x: b.bn2(out + x)
            ),
            "x goes through a ReLU before it is added: the shortcut should carry x as it is.": (
                variant(lambda b, out, x: b.bn2(out) + F.relu(x))
            ),
            "nothing is added any more.": variant(lambda b, out, x: b.bn2(out)),
        },
        what="(output, gradient at the input)",
    )


@exercise("8.4", "a schedule")
def check_schedule(make_schedule):
    def rates(schedule):
        def run(pictures, batch_size, epochs):
            """The learning rate of each step that is taken, and the one after the last."""
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
            scheduler, taken = schedule(optimizer, pictures, batch_size, epochs), [0.5]
            for _ in range(epochs * (pictures // batch_size)):
                optimizer.step()
                scheduler.step()
                taken.append(optimizer.param_groups[0]["lr"])
            return torch.tensor(taken)

        return run

    def sized(steps):
        return rates(lambda optimizer, *sizes: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps(*sizes)))

    cases = []
    for _ in range(4):
        batch_size = pick(500, 900)
        cases.append((batch_size * pick(8, 20) + pick(1, batch_size - 1), batch_size, pick(2, 4)))
    compare(
        rates(make_schedule),
        sized(lambda n, b, e: e * (n // b)),
        cases,
        {
            "the rate after the last step should be 0. How many steps does the schedule expect, how many are taken?": (
                sized(lambda n, b, e: e * (50_000 // b))
            ),
            "this is sized for 45,000 pictures, whatever `pictures` says. The next subset will be of another size.": (
                sized(lambda n, b, e: e * (45_000 // b))
            ),
            "the last, short batch of an epoch is dropped, and counted here: round down, not up.": sized(
                lambda n, b, e: e * -(-n // b)
            ),
            "the schedule counts in steps, and is sized in epochs.": sized(lambda n, b, e: e),
            "the schedule is sized for one epoch; afterwards the rate rises again.": sized(lambda n, b, e: n // b),
            "the schedule counts in batches, and is sized in pictures.": sized(lambda n, b, e: e * n),
            "the batches of all epochs are counted as if they were cut from one long row: each epoch drops its own rest.": (
                sized(lambda n, b, e: e * n // b)
            ),
        },
        what="the learning rate of the steps",
    )


@exercise("8.5", "an accuracy")
def check_accuracy(accuracy):
    def right(batches):
        return [(logits.argmax(1) == labels).double() for logits, labels in batches]

    def variant(count):
        return lambda model, batches: count(right(batches))

    cases = []
    for _ in range(5):
        size, classes = pick(8, 12), pick(3, 6)
        sizes = [size] * pick(2, 4) + [pick(1, 3)]
        batches = [(torch.randn(n, classes), torch.randint(classes, (n,))) for n in sizes]
        for i, (logits, labels) in enumerate(batches):  # most right, but few in the last batch
            chosen = torch.arange(len(labels))[: len(labels) - pick(1, 3) if i < len(sizes) - 1 else 0]
            logits[chosen, labels[chosen]] += 9.0
        cases.append((nn.Identity(), batches))
    compare(
        accuracy,
        variant(lambda hits: torch.cat(hits).mean()),
        cases,
        {
            "cut the same pictures into other batches, and the result changes. Which pictures count for more than others?": (
                variant(lambda hits: torch.stack([h.mean() for h in hits]).mean())
            ),
            "all batches are counted as if they were as long as the first.": (
                variant(lambda hits: torch.cat(hits).sum() / (len(hits) * len(hits[0])))
            ),
            "the last batch is left out. Dropping the short batch is for training; in a measurement every picture counts.": (
                variant(lambda hits: torch.cat(hits[:-1]).mean())
            ),
            "the number of right answers is divided by the number of batches.": variant(
                lambda hits: torch.cat(hits).sum() / len(hits)
            ),
            "this is the number of right answers; the accuracy is their share.": variant(lambda hits: torch.cat(hits).sum()),
            "this is in percent; the docstring asks for a share between 0 and 1.": variant(
                lambda hits: 100 * torch.cat(hits).mean()
            ),
            "only the last batch is counted: is something set to 0 inside the loop?": variant(lambda hits: hits[-1].mean()),
        },
        what="the accuracy",
    )


@exercise("8.6", "predictions")
def check_predict(predict):
    def observed(function):
        def run(model, batches):
            torch.manual_seed(0)  # dropout draws
            logits = function(model, batches)
            return logits, getattr(logits, "requires_grad", None), model

        return run

    def variant(before, after, grad=False):
        def run(model, batches):
            mode = model.training
            before(model)
            with torch.set_grad_enabled(grad):
                logits = torch.cat([model(x) for x in batches])
            after(model, mode)
            return logits

        return observed(run)

    def stay(*_):
        pass

    cases = []
    for training in (True, False, True):
        channels = pick(2, 4)
        model = nn.Sequential(
            nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.Flatten(), nn.Dropout(0.4), nn.LazyLinear(5)
        )
        model(torch.zeros(2, 3, 6, 6))
        cases.append((randomize(model).train(training), [torch.randn(pick(2, 5), 3, 6, 6) for _ in range(pick(2, 3))]))
    compare(
        observed(predict),
        variant(lambda m: m.eval(), lambda m, mode: m.train(mode)),
        cases,
        {
            "one picture gets another answer in other company, and predicting changes the buffers. When do they change?": (
                variant(stay, stay)
            ),
            "the predictions are right, but the network is left in eval mode; if training goes on, it is another one.": (
                variant(lambda m: m.eval(), stay)
            ),
            "the network is always put into train mode at the end, also if it came in eval mode. Remember how it came.": (
                variant(lambda m: m.eval(), lambda m, mode: m.train())
            ),
            "eval mode is set after the predictions are made.": variant(stay, lambda m, mode: m.eval()),
            "the network is put into train mode before it predicts: the other one is meant.": variant(
                lambda m: m.train(), lambda m, mode: m.train(mode)
            ),
            "the modes are right, but gradients are recorded: memory for nothing. Where has `no_grad` gone?": variant(
                lambda m: m.eval(), lambda m, mode: m.train(mode), grad=True
            ),
        },
        what="(logits, whether they require a gradient, the network afterwards)",
    )


@exercise("8.7", "a moving average of the weights")
def check_ema(update_average):
    def network(channels):
        model = randomize(
            nn.Sequential(nn.Conv2d(3, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.Conv2d(channels, 2, 1))
        )
        model[1].num_batches_tracked.fill_(pick(1, 1000))
        return model

    def observed(update):
        def run(average, model, decay):
            before = copy.deepcopy(model)
            for _ in range(2):
                try:
                    update(average, model, decay)
                except RuntimeError as error:
                    if "Long" in str(error) or "Int" in str(error):
                        fail("`num_batches_tracked` is a whole number and cannot be averaged: copy what is not floating point.")
                    raise
            if not same(model, before, 0.0):
                fail("the network itself is changed; only its average should be.")
            pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
            if any(tensor.data_ptr() in pointers for tensor in average.state_dict().values()):
                fail("network and average now share their memory: from here on they are one. Copy values, not tensors.")
            return dict(average.state_dict())

        return run

    def variant(parameters=None, buffers=None, whole=None):
        """Rules for parameters, buffers and whole numbers, functions of (old, new, decay); None leaves them alone."""

        def update(average, model, decay):
            names, old, new = dict(model.named_parameters()), average.state_dict(), model.state_dict()
            for key in old:
                rule = parameters if key in names else buffers if old[key].is_floating_point() else whole
                if rule:
                    old[key].copy_(rule(old[key], new[key], decay))

        return observed(update)

    def mean(old, new, decay):
        return decay * old + (1 - decay) * new

    def swapped(old, new, decay):
        return (1 - decay) * old + decay * new

    def copied(old, new, decay):
        return new

    cases = []
    for _ in range(3):
        channels = pick(2, 5)
        cases.append((network(channels), network(channels), 0.6 + 0.3 * torch.rand(()).item()))
    both = [variant(mean, mean, copied), variant(mean, copied, copied)]  # buffers averaged or copied: either is good
    answers = [outcome(observed(update_average), copy.deepcopy(case)) for case in cases]
    fits = [all(same(a, o(*copy.deepcopy(c)), 1e-4) for a, c in zip(answers, cases)) for o in both]
    compare(
        observed(update_average),
        both[fits.index(True) if any(fits) else 0],
        cases,
        {
            "every weight of the average is right, its predictions are not. What else does `state_dict()` hold?": variant(mean),
            "the average does not move. (`a = …` only names a new tensor; `a.copy_(…)` writes into the old one.)": variant(),
            "nothing but the counter moves. (`a = …` only names a new tensor; `a.copy_(…)` writes into the old one.)": (
                variant(whole=copied)
            ),
            "nothing is averaged any more: the parameters are overwritten too.": variant(copied, copied, copied),
            "`decay` is the share of the *old* value that stays: the two weights are swapped.": variant(swapped),
            "the buffers move now, but `decay` and 1 - `decay` are swapped.": variant(swapped, swapped, copied),
            "the running statistics are right, `num_batches_tracked` is not: a count, to be copied.": variant(mean, mean),
            "the running statistics are copied, `num_batches_tracked` is not: copy it as well.": variant(mean, copied),
            "the buffers are averaged, and the parameters are left behind.": variant(None, mean, copied),
            "the buffers are copied, and the parameters are left behind.": variant(None, copied, copied),
        },
        what="the state of the average",
    )


@exercise("8.8", "cutout")
def check_cutout_in_batches(cutout):
    def holes(x, size, generator):
        """Where the learner's function has written, (N, H, W), after the properties that every cutout has are checked."""
        given = x.clone()
        out = attempt(cutout, given, size, generator)
        if not torch.equal(given, x):
            fail(CHANGED)
        if not isinstance(out, Tensor) or out.shape != x.shape:
            fail(f"the result should have shape {tuple(x.shape)}, and is {shown(out)}.")
        written = out != x
        if not written.any():
            fail("nothing is covered.")
        if (out[written] != 0).any():
            fail("something other than 0 is written, or pixels outside of the square are changed.")
        if not torch.equal(written.all(1), written.any(1)):
            fail("the three colours of a picture have holes at different places; a square covers all of them.")
        return written.any(1)

    h, w, size = 2 * pick(6, 8), 2 * pick(9, 11), 2 * pick(2, 3)
    x = torch.randn(1500, 3, h, w).abs() + 0.5  # never 0
    generator = torch.Generator().manual_seed(1)
    hole = holes(x, size, generator)
    rows, columns = hole.any(2), hole.any(1)  # (N, H), (N, W)
    if not torch.equal(hole, rows[:, :, None] & columns[:, None, :]):
        fail("what is covered is not a rectangle.")
    one_row, one_column = ((each == each[0]).all() for each in (rows, columns))
    if one_row and one_column:
        fail("some batches lose the object in *every* picture, others in none. How often should a place be drawn?")
    if one_row or one_column:
        fail(f"the {'rows' if one_row else 'columns'} of the hole are still the same in all pictures of a batch.")
    for name, side in (("high", rows), ("wide", columns)):
        if side.sum(1).max() != size:
            fail(f"a whole square should be {size} pixels {name}, and is {side.sum(1).max()}.")
    if rows.sum(1).min() == size and columns.sum(1).min() == size:
        fail("no hole reaches over the border. Its centre can be any pixel, so part of it may lie outside.")

    def share(length):  # of all centres, those that cover each row (or column)
        starts, position = torch.arange(length)[:, None] - size // 2, torch.arange(length)
        return ((starts <= position) & (position < starts + size)).double().mean(0)

    middle = columns[:, w // 2]  # is the row drawn independently of the column?
    if abs(rows[middle, h // 2].double().mean() - rows[~middle, h // 2].double().mean()) > 0.2:
        fail("row and column are not drawn independently: the holes lie on a line.")
    if max((side.double().mean(0) - share(side.shape[1])).abs().max() for side in (rows, columns)) > 0.12:
        fail("the holes are not spread evenly: every pixel should be the centre of a hole equally often.")
    if torch.equal(holes(x, size, generator), hole):
        fail("the next batch has the same holes. Is a seed set inside the function?")
    if not torch.equal(holes(x, size, torch.Generator().manual_seed(1)), hole):
        fail("the same generator does not give the same holes: draw from `generator`.")


@exercise("8.9", "a pre-activation block")
def check_preactivation(Block):
    def reference(channels):
        """The block as it should be, with the names of the one handed out."""
        module = nn.Module()
        convs, norms = (
            [make() for _ in range(2)]
            for make in (lambda: resnet.conv3x3(channels, channels), lambda: nn.BatchNorm2d(channels))
        )
        module.branch = nn.Sequential(nn.ReLU(), convs[0], norms[0], nn.ReLU(), convs[1], norms[1])
        return randomize(module)

    def observed(forward):
        def run(mine, theirs, x):
            leaf = x.clone().requires_grad_()
            given = leaf * 1.0
            y = forward(mine, theirs.branch, given)
            if not isinstance(y, Tensor):
                return y
            signal = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            (gradient,) = torch.autograd.grad((y * signal).sum(), leaf, allow_unused=True)
            return y.detach(), torch.zeros_like(x) if gradient is None else gradient, torch.equal(given, x)

        return run

    def overwritten(mine, branch, x):
        return torch.relu_(x) + branch[1:](x)

    def copied_aside(mine, branch, x):
        return x.clone() + branch[1:](torch.relu_(x))

    def shape_kept(mine, branch, x):
        return F.relu(x) + branch(x)

    cases = []
    for number in range(4):
        channels = pick(3, 6)
        theirs = reference(channels).train(number % 2 == 0)
        mine = with_weights_of(theirs, attempt(Block, channels))
        cases.append((mine, theirs, torch.randn(pick(2, 4), channels, pick(4, 8), pick(4, 8))))
    compare(
        observed(lambda mine, branch, x: mine(x)),
        observed(lambda mine, branch, x: x + branch(x)),
        cases,
        {
            "keep a copy of x before the call, and compare x with it afterwards. (A second *name* for x is no copy.)": observed(
                overwritten
            ),
            "the output is right, but the caller's x is still overwritten. It is not the block's to change.": observed(
                copied_aside
            ),
            "x is no longer overwritten, but what the shortcut carries is ReLU(x), not x.": observed(shape_kept),
            "the values are right, but no gradient flows through the shortcut. Look for `detach` or `.data`.": (
                observed(lambda mine, branch, x: x.detach() + branch(x))
            ),
            "the values are right, but no gradient flows through F. Look for `detach` or `.data`.": (
                observed(lambda mine, branch, x: x + branch(x.detach()))
            ),
            "the first ReLU is gone: F starts with an activation, that is what makes it a *pre*-activation block.": (
                observed(lambda mine, branch, x: x + branch[1:](x))
            ),
            "there is a ReLU behind the addition now; nothing stands there in a pre-activation block.": (
                observed(lambda mine, branch, x: F.relu(x + branch(x)))
            ),
            "nothing is added any more.": observed(lambda mine, branch, x: branch(x)),
        },
        what="(output, gradient at the input, whether the input is as it was)",
    )


@exercise("8.10", "the epoch that is reported")
def check_selection(train_and_test):
    def observed(function):
        """What is returned, the epoch whose weights the network ends with, and at which epochs the test set was looked at."""

        def run(validation, test):
            model, looks = nn.Linear(1, 1), []
            nn.init.constant_(model.weight, -1.0)

            def train_one_epoch(model):
                with torch.no_grad():
                    model.weight += 1

            def accuracy(model, pictures):
                epoch = int(model.weight.item())
                if pictures is test:
                    looks.append(epoch)
                return pictures[epoch]

            reported = function(model, train_one_epoch, accuracy, validation, test, len(test))
            return reported, int(model.weight.item()), looks

        return run

    def by(rule, report=None, last=False, every=False):
        """Picks an epoch by a rule; reports test[epoch] unless told otherwise; `last`: the network stays in its last epoch."""

        def run(validation, test):
            chosen, end = rule(validation, test), len(test) - 1
            used = end if last else chosen
            looks = [*range(len(test))] if every else [used]
            return (report(validation, test) if report else test[used]), used, looks

        return run

    def best(values):
        return max(range(len(values)), key=values.__getitem__)

    cases = []
    while len(cases) < 4:
        epochs = pick(6, 9)
        validation, test = ((0.5 + 0.4 * torch.rand(epochs, dtype=torch.float64)).tolist() for _ in range(2))
        if len({best(validation), best(test), epochs - 1}) == 3:
            cases.append((validation, test))
    compare(
        observed(train_and_test),
        by(lambda v, t: best(v)),
        cases,
        {
            "let all epochs be equally good, and differ by luck alone: what does this report? Which pictures may decide?": (
                by(lambda v, t: best(t), every=True)
            ),
            "validation pictures decide, but the best *test* accuracy of all epochs is reported.": (
                by(lambda v, t: best(v), lambda v, t: max(t), every=True)
            ),
            "the right number, but the test pictures are looked at in every epoch. Look once, when everything is decided.": (
                by(lambda v, t: best(v), every=True)
            ),
            "the *validation* accuracy that decided is reported: it was chosen for being high, so it flatters.": lambda v, t: (
                (max(v), best(v), [])
            ),
            "the last epoch's network is tested, not the chosen one's. Is a *copy* of its state kept, and loaded before?": (
                by(lambda v, t: best(v), last=True)
            ),
            "the test pictures are looked at before the chosen weights are back: load first, then measure.": lambda v, t: (
                (t[-1], best(v), [len(t) - 1])
            ),
            "the right number, but the network stays in its last epoch. It should end with the chosen weights.": lambda v, t: (
                (t[best(v)], len(t) - 1, [best(v)])
            ),
            "the epoch with the *lowest* validation accuracy is chosen.": by(
                lambda v, t: min(range(len(v)), key=v.__getitem__)
            ),
            "still the test pictures decide; they are only looked at once more.": lambda v, t: (
                (max(t), best(t), [*range(len(t)), best(t)])
            ),
            "the test pictures are looked at in every epoch and at the end. Look once, after all choices.": lambda v, t: (
                (t[best(v)], best(v), [*range(len(t)), best(v)])
            ),
        },
        what="(what is reported, the epoch whose weights are kept, the epochs at which the test pictures were looked at)",
    )
