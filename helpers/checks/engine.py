"""What the checks of all lessons share: calling answers, comparing results, naming mistakes.

A check states three things: an oracle, cases with random shapes and values, and the usual mistakes,
each as a function that makes it. `compare` runs them all. An answer that does in every case exactly
what a mistake does has made that mistake. Nothing is compared with a stored number.
"""

import copy
import functools
import linecache
import numbers
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

HELPERS = Path(__file__).parents[1]

STUB = (
    "nothing here yet. Write your answer in the cell above, delete `raise NotImplementedError()`, "
    "run both."
)
CHANGED = (
    "your code changes what it was given. Look for `+=`, `inplace=True`, or methods that end in "
    "`_`, on an input."
)


class CheckFailed(AssertionError):
    """What a check says about a wrong answer; a notebook shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for this
        return [f"✗ {self}"]


def fail(message: str) -> NoReturn:
    raise CheckFailed(message)


def exercise(number: str, title: str) -> Callable:
    """Makes a function of the learner's answers a check.

    The check is seeded, is kind to stubs, and prints a line when it passes.
    """
    label = f"{number} {title}"

    def decorate(check: Callable) -> Callable:
        @functools.wraps(check)
        def run(*answers, seed: int = 0) -> None:
            try:
                if any(answer is None or answer is ... for answer in answers):
                    raise NotImplementedError
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    check(*answers)
            except NotImplementedError as error:
                if error.args:  # not a stub's: torch raises it too
                    raise
                raise CheckFailed(f"{label}: {STUB}") from None
            except CheckFailed as failure:
                raise CheckFailed(f"{label}: {failure}") from failure.__cause__
            print(f"✓ {label}: right")

        return run

    return decorate


# --- calling the learner's code


def outcome(function: Callable, arguments: tuple):
    """What the function returns, or the exception it ends with. A stub's error goes through."""
    try:
        return function(*arguments)
    except CheckFailed:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) and not error.args:
            raise
        return error


def attempt(function: Callable, *arguments):
    """What the learner's function returns; an error in it fails with the line that raised it."""
    result = outcome(function, arguments)
    if isinstance(result, Exception):
        stopped(result)
    return result


def stopped(error: Exception) -> NoReturn:
    """Fails with the place in the learner's code where an exception arose."""
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):  # the innermost is the last
        if written_here(frame.filename):
            line = linecache.getline(frame.filename, frame.lineno).strip()
            where = f"\nat line {frame.lineno} of its cell: {line}"
    message = str(error).strip().splitlines() or [""]
    text = f"your code stopped with {type(error).__name__}: {message[0]}{where}"
    raise CheckFailed(text) from error


def written_here(filename: str) -> bool:
    """Whether this is a notebook's cell, and not a library or a file of helpers/."""
    libraries = (str(HELPERS), "site-packages", "dist-packages", "lib/python")
    return not any(part in filename for part in libraries)


# --- comparing


def compare(
    answer: Callable,
    oracle: Callable,
    cases: Iterable[tuple],
    mistakes: Mapping[str, Callable] | None = None,
    tolerance: float = 1e-4,
    what: str = "the result",
    keeps_inputs: bool = True,
) -> None:
    """Calls `answer` and `oracle` with copies of the arguments in each case.

    Raises CheckFailed where they differ. The diagnosis is the message of the first mistake whose
    function does what the answer does (a value or an exception) in every case, and else a
    description of the difference. With `keeps_inputs` an answer that changes its arguments fails.
    """
    cases = list(cases)
    given = []
    changed = False
    for case in cases:
        arguments = copy.deepcopy(case)
        given.append(outcome(answer, arguments))
        for now, before in zip(arguments, case, strict=True):
            if not isinstance(now, nn.Module) and not same(now, before, 0.0):
                changed = True
    expected = [outcome(oracle, copy.deepcopy(case)) for case in cases]
    for each in expected:
        if isinstance(each, Exception):
            raise RuntimeError("the oracle of this check fails") from each
    if keeps_inputs and changed:
        fail(CHANGED)
    wrong = [i for i in range(len(cases)) if not same(given[i], expected[i], tolerance)]
    if not wrong:
        return
    for message, mistake in (mistakes or {}).items():
        if does(mistake, cases, given, tolerance):
            fail(message)
    first = wrong[0]
    if isinstance(given[first], Exception):
        stopped(given[first])
    fail(difference(given[first], expected[first], what))


def does(function: Callable, cases: list[tuple], results: list, tolerance: float) -> bool:
    """Whether the function gives these results in all cases."""
    for case, result in zip(cases, results, strict=True):
        if not same(result, outcome(function, copy.deepcopy(case)), tolerance):
            return False
    return True


def same(a, b, tolerance: float) -> bool:
    """Equal in shape and, within a relative tolerance, in value; containers part by part."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b) and str(a) == str(b)
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        return a.training == b.training and same(a.state_dict(), b.state_dict(), tolerance)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key], tolerance) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b))
    if is_numeric(a) and is_numeric(b):
        a, b = as_float64(a), as_float64(b)
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


def as_float64(value) -> Tensor:
    return torch.as_tensor(value).detach().to(torch.float64)


def difference(given, expected, what: str) -> str:
    """In what two outcomes differ, for a mistake that has no name."""
    if given is None:
        return f"{what} is None. Does your function end with `return`?"
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        if list(given) != list(expected):
            keys = shown(list(expected))
            return f"{what} should have the keys {keys}, and has {shown(list(given))}."
        for key in expected:
            if not same(given[key], expected[key], 1e-4):
                return difference(given[key], expected[key], f"{what}, its `{key}`,")
    if isinstance(expected, (list, tuple)) and isinstance(given, (list, tuple)):
        if len(given) != len(expected):
            return f"{what} should have {len(expected)} parts, and has {len(given)}."
        for i in range(len(expected)):
            if not same(given[i], expected[i], 1e-4):
                part = what if len(expected) == 1 else f"part {i + 1} of {what}"
                return difference(given[i], expected[i], part)
    if is_numeric(given) and is_numeric(expected):
        return difference_of_numbers(as_float64(given), as_float64(expected), what)
    return f"{what} should be {shown(expected)}, and is {shown(given)}."


def difference_of_numbers(a: Tensor, b: Tensor, what: str) -> str:
    """In what the tensor `a` differs from the right one, `b`."""
    if a.shape != b.shape:
        return f"{what} should have shape {tuple(b.shape)}, and has {tuple(a.shape)}."
    if not a.isfinite().all() and b.isfinite().all():
        return (
            f"{what} has values that are infinite or not a number: a division by 0, a log of 0, "
            "an exp of much?"
        )
    if b.numel() == 1:
        return f"{what} should be {b.item():.5g}, and is {a.item():.5g}."
    ratio = a[b != 0] / b[b != 0]
    zeros_agree = not a[b == 0].any()
    if len(ratio) > 1 and ratio[0] and zeros_agree and torch.allclose(ratio, ratio[0], rtol=1e-3):
        return (
            f"{what} is {ratio[0].item():.4g} times what it should be, everywhere. "
            "Which factor is missing, or one too many?"
        )
    off = ~torch.isclose(a, b, rtol=1e-3, atol=1e-4)
    return (
        f"{what} is wrong in {off.float().mean().item():.0%} of its values, "
        f"by up to {(a - b).abs().max().item():.3g} "
        f"(the right ones are up to {b.abs().max().item():.3g} in size)."
    )


def shown(value) -> str:
    """A value as it stands in a message, at most 120 characters."""
    text = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) < 120 else text[:117] + "…"


def pick(low: int, high: int) -> int:
    """A random whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


# --- networks


def randomize(module: nn.Module) -> nn.Module:
    """Random scales, shifts and statistics in every BatchNorm, so that a missing one shows."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.3)
            nn.init.normal_(layer.bias, 0.0, 0.5)
            nn.init.normal_(layer.running_mean, 0.0, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module


def observe(module: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient at the input; fails where the input is overwritten."""
    x = x.clone().requires_grad_()
    given = x * 1.0
    y = module(given)
    if given._version:
        fail(CHANGED)
    if not isinstance(y, Tensor):
        return y
    return y.detach(), input_gradient(y, x)


def input_gradient(y: Tensor, x: Tensor) -> Tensor:
    """The gradient at x for a fixed random signal at y; zeros where none arrives."""
    signal = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((y * signal).sum(), x, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def with_weights_of(reference: nn.Module, mine: nn.Module) -> nn.Module:
    """`mine` with the state of `reference`, by name; fails where names or shapes differ."""
    if not isinstance(mine, nn.Module):
        fail(f"expected a module, got {shown(mine)}.")
    here, there = mine.state_dict(), reference.state_dict()
    missing = [key for key in there if key not in here]
    extra = [key for key in here if key not in there]
    for key in there:
        if key in here and here[key].shape != there[key].shape:
            right, wrong = tuple(there[key].shape), tuple(here[key].shape)
            fail(f"`{key}` should have shape {right}, and has {wrong}: count its channels.")
    for key in extra:
        if key.endswith("bias") and key.replace("bias", "running_mean") not in here:
            fail(
                f"`{key}` should not exist: a convolution before BatchNorm needs no bias "
                "(`bias=False`)."
            )
    if any("downsample" in key for key in missing):
        lacks = "the projection `downsample` is missing"
        if all(key.startswith("downsample.1") for key in missing):
            lacks = "the projection has no BatchNorm after its 1×1 convolution"
        fail(
            f"{lacks}: where stride or channels change, the shortcut is nn.Sequential(1×1 "
            "convolution, BatchNorm)."
        )
    if any("downsample" in key for key in extra):
        fail(
            "there is a projection `downsample` where the shapes already agree: x should be added "
            "as it is."
        )
    lists = []
    if missing:
        lists.append(f"missing: {', '.join(missing[:3])}")
    if extra:
        lists.append(f"not expected: {', '.join(extra[:3])}")
    if lists:
        fail(f"the names of the layers differ from the task's; {'; '.join(lists)}.")
    mine.load_state_dict(there)
    return mine.train(reference.training)
