"""What the checks of all lessons share: calling answers, comparing results, naming mistakes.

A check states three things: an oracle, cases with random shapes and values, and the usual mistakes,
each as a function that makes it. `compare` runs them all. An answer that does in every case exactly
what a mistake does has made that mistake. Nothing is compared with a stored number, and the cases
are new in every run: a message says the seed that repeats them.
"""

import copy
import functools
import inspect
import linecache
import numbers
import secrets
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HELPERS = Path(__file__).parents[1]

STUB = (
    "nothing here yet. Write your answer in the cell above, delete `raise NotImplementedError()`, "
    "run both."
)
CHANGED = (
    "your code changes what it was given. Look for `+=`, `inplace=True`, or methods that end in "
    "`_`, on an input."
)
CUT = "A `detach`, `no_grad`, `.data` or `.item()`?"


class CheckFailed(AssertionError):
    """What a check says about a wrong answer; a notebook shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for this
        return [f"✗ {self}"]


def fail(message: str) -> NoReturn:
    raise CheckFailed(message)


def exercise(number: str, title: str, returns: bool = True) -> Callable:
    """Makes a function of the learner's answers a check.

    The check draws its cases from `seed`, a new one in every run unless one is given. It is kind to
    stubs and prints a line when it passes. Functions that forget their `return` are told so, except
    where nothing is to be returned (`returns=False`).
    """
    label = f"{number} {title}"

    def decorate(check: Callable) -> Callable:
        @functools.wraps(check)
        def run(*answers, seed: int | None = None) -> None:
            if seed is None:
                seed = secrets.randbelow(1_000_000)
            try:
                if any(answer is None or answer is ... for answer in answers):
                    raise NotImplementedError
                if returns:
                    answers = tuple(returning(answer) for answer in answers)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    check(*answers)
            except NotImplementedError as error:
                if error.args:  # not a stub's: torch raises it too
                    raise
                raise CheckFailed(f"{label}: {STUB}") from None
            except CheckFailed as failure:
                again = f"The same cases again: checks.{check.__name__}(…, seed={seed})"
                raise CheckFailed(f"{label}: {failure}\n{again}") from failure.__cause__
            print(f"✓ {label}: right")

        return run

    return decorate


def returning(answer):
    """The learner's function, or one that fails where that returns None; classes as they are."""
    if not inspect.isroutine(answer):
        return answer

    @functools.wraps(answer)
    def run(*arguments, **named):
        result = answer(*arguments, **named)
        if result is None:
            fail(f"`{answer.__name__}` returns None. Does every way through it end with `return`?")
        return result

    return run


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


def stopped(error: Exception, case: str = "") -> NoReturn:
    """Fails with the place in the learner's code where an exception arose, and the case."""
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):  # the innermost is the last
        if written_here(frame.filename):
            line = linecache.getline(frame.filename, frame.lineno).strip()
            where = f"\nat line {frame.lineno} of its cell: {line}"
    message = str(error).strip().splitlines() or [""]
    if isinstance(error, (TypeError, AttributeError)) and "NoneType" in message[0]:
        where += "\nSomething is None there. A function without `return`?"
    if case:
        where += f"\nIn the case {case}"
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
    may_change: Collection[int] = (),
    gradients: Mapping[int, str] | None = None,
    same_type_as: int | None = None,
    describe: Callable[[tuple], str] | None = None,
) -> None:
    """Calls `answer` and `oracle` with copies of the arguments in each case.

    Raises CheckFailed where they differ. The diagnosis is the message of the first mistake whose
    function does what the answer does (a value or an exception) in every case, and else a
    description of the difference, with the case it arose in. "(a, b)" as `what` names the parts.

    Arguments must be left as they are, except those with a number in `may_change`. `gradients`
    names the arguments, by their numbers, that gradients must reach. Where the result has the type
    of an argument, `same_type_as` is its number; otherwise only whole numbers, floating-point
    numbers and truth values are told apart.
    """
    cases = list(cases)
    given = []
    changed = []
    for case in cases:
        arguments = copy.deepcopy(case)
        given.append(outcome(answer, arguments))
        for i in range(len(case)):
            if i not in may_change and not same(arguments[i], case[i], 0.0):
                changed.append(case[i])
    expected = [outcome(oracle, copy.deepcopy(case)) for case in cases]
    for each in expected:
        if isinstance(each, Exception):
            raise RuntimeError("the oracle of this check fails") from each
    if changed:
        fail(f"{CHANGED} (It was {shown(changed[0])}.)")
    wrong = [i for i in range(len(cases)) if not same(given[i], expected[i], tolerance)]
    if wrong:
        for message, mistake in (mistakes or {}).items():
            if does(mistake, cases, given, tolerance):
                fail(message)
        if is_constant(given) and not is_constant(expected):
            fail(f"{what}: {shown(given[0])} in every case, whatever your function is given.")
        first = wrong[0]
        place = (describe or described)(cases[first])
        if isinstance(given[first], Exception):
            stopped(given[first], place)
        fail(f"{difference(given[first], expected[first], what, tolerance)}\nIn the case {place}")
    for case, result, right in zip(cases, given, expected, strict=True):
        like = None if same_type_as is None else case[same_type_as].dtype
        check_type(result, right, what, like)
    if gradients:
        compare_gradients(answer, oracle, cases, gradients, describe or described)


def described(case: tuple) -> str:
    """The arguments of a case, shortly."""
    return ", ".join(shown(argument) for argument in case)


def named(*names: str) -> Callable[[tuple], str]:
    """`described`, with the names of the arguments."""

    def describe(case: tuple) -> str:
        pairs = [f"{name}={shown(value)}" for name, value in zip(names, case, strict=True)]
        return ", ".join(pairs)

    return describe


def is_constant(results: list) -> bool:
    """Whether these are the same number, three times or more."""
    if len(results) < 3:
        return False
    for result in results:
        if not is_numeric(result) or as_float64(result).numel() != 1:
            return False
        if not as_float64(result).isfinite():
            return False
    return all(same(result, results[0], 1e-6) for result in results)


def check_type(given, expected, what: str, like: torch.dtype | None) -> None:
    """Fails where a tensor holds another kind of numbers, or another type than `like`."""
    if isinstance(expected, (list, tuple)) and isinstance(given, (list, tuple)):
        names = part_names(what, len(expected))
        for i in range(len(expected)):
            check_type(given[i], expected[i], names[i], like)
    if not isinstance(expected, Tensor) or not isinstance(given, Tensor):
        return
    if like is not None and given.dtype != like:
        fail(
            f"{what}: the values are right, their type is not: {like} expected, got {given.dtype}."
        )
    if kind(given.dtype) != kind(expected.dtype):
        right, wrong = kind(expected.dtype), kind(given.dtype)
        fail(
            f"{what}: the values are right, their type is not: {right} expected, "
            f"got {wrong} ({given.dtype})."
        )


def kind(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "truth values"
    return "floating-point numbers" if dtype.is_floating_point else "whole numbers"


def compare_gradients(
    answer: Callable,
    oracle: Callable,
    cases: list[tuple],
    wanted: Mapping[int, str],
    describe: Callable[[tuple], str],
) -> None:
    """Fails where other gradients reach the `wanted` arguments of the answer than of the oracle."""
    for case in cases:
        mine = input_gradients(answer, copy.deepcopy(case), list(wanted))
        right = input_gradients(oracle, copy.deepcopy(case), list(wanted))
        for name, given, expected in zip(wanted.values(), mine, right, strict=True):
            if same(given, expected, 1e-3):
                continue
            if not given.any():
                fail(f"the values are right, but no gradient reaches `{name}`. {CUT}")
            fail(
                f"the values are right, but the gradient at `{name}` is wrong: does a part of the "
                f"computation not take part in it? {CUT}\nIn the case {describe(case)}"
            )


def input_gradients(function: Callable, case: tuple, wanted: list[int]) -> list[Tensor]:
    """The gradients at these arguments, for a fixed random signal at the (first) result."""
    arguments, leaves = list(case), []
    for i in wanted:
        leaves.append(arguments[i].clone().requires_grad_())
        arguments[i] = leaves[-1] * 1.0  # no leaf: its values may be read and overwritten
    y = attempt(function, *arguments)
    if isinstance(y, (list, tuple)):
        y = y[0]
    return gradients_of(y, leaves)


def gradients_of(y, leaves: list[Tensor]) -> list[Tensor]:
    """The gradients at the leaves for a fixed random signal at y; zeros where none arrives."""
    if not getattr(y, "requires_grad", False):
        return [torch.zeros_like(leaf) for leaf in leaves]
    signal = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    found = torch.autograd.grad((y * signal).sum(), leaves, allow_unused=True)
    gradients = []
    for gradient, leaf in zip(found, leaves, strict=True):
        gradients.append(torch.zeros_like(leaf) if gradient is None else gradient)
    return gradients


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
        modes = [[part.training for part in module.modules()] for module in (a, b)]
        return modes[0] == modes[1] and same(a.state_dict(), b.state_dict(), tolerance)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key], tolerance) for key in a)
    if isinstance(b, (list, tuple)):
        a = as_list(a)
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


def as_list(value):
    """A tensor or array with axes as a list: right wherever a list of numbers is."""
    return list(value) if is_numeric(value) and getattr(value, "ndim", 0) else value


def as_float64(value) -> Tensor:
    return torch.as_tensor(value).detach().to(torch.float64)


def difference(given, expected, what: str, tolerance: float = 1e-4, place: str = "") -> str:
    """In what two outcomes differ, for a mistake that has no name; `place` is a part's index."""
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        if list(given) != list(expected):
            keys = shown(list(expected))
            return f"{what}{place}: the keys {keys} expected, got {shown(list(given))}."
        for key in expected:
            if not same(given[key], expected[key], tolerance):
                inner = f"{place or ', at '}[{key!r}]"
                return difference(given[key], expected[key], what, tolerance, inner)
    if isinstance(expected, (list, tuple)):
        given = as_list(given)
    if isinstance(expected, (list, tuple)) and isinstance(given, (list, tuple)):
        if len(given) != len(expected):
            return f"{what}{place}: {len(expected)} parts expected, got {len(given)}."
        names = part_names(what, len(expected))
        for i in range(len(expected)):
            if not same(given[i], expected[i], tolerance):
                inner = "" if names[i] != what else f"{place or ', at '}[{i}]"
                return difference(given[i], expected[i], names[i], tolerance, inner)
    if is_numeric(given) and is_numeric(expected):
        return difference_of_numbers(as_float64(given), as_float64(expected), what + place)
    return f"{what}{place}: {shown(expected)} expected, got {shown(given)}."


def part_names(what: str, count: int) -> list[str]:
    """The names of the parts of a result: those in "(a, b)", else the whole one's for each."""
    names = what.removeprefix("(").removesuffix(")").split(", ")
    if what.startswith("(") and len(names) == count:
        return names
    return [what] * count


def difference_of_numbers(a: Tensor, b: Tensor, what: str) -> str:
    """In what the tensor `a` differs from the right one, `b`."""
    if a.shape != b.shape:
        return f"{what}: shape {tuple(b.shape)} expected, got {tuple(a.shape)}."
    if not a.isfinite().all() and b.isfinite().all():
        return (
            f"{what}: some values are infinite or not a number. A division by 0, a log of 0, an "
            "exp of much?"
        )
    if b.numel() == 1:
        digits = 5 if a.item() % 1 or b.item() % 1 else 12  # counts are not rounded
        return f"{what}: {b.item():.{digits}g} expected, got {a.item():.{digits}g}."
    ratio = a[b != 0] / b[b != 0]
    zeros_agree = not a[b == 0].any()
    if len(ratio) > 1 and ratio[0] and zeros_agree and torch.allclose(ratio, ratio[0], rtol=1e-3):
        return (
            f"{what}: {ratio[0].item():.4g} times the right values, everywhere. "
            "Which factor is missing, or one too many?"
        )
    off = ~torch.isclose(a, b, rtol=1e-3, atol=1e-4)
    return (
        f"{what}: wrong in {off.float().mean().item():.0%} of the values, "
        f"by up to {(a - b).abs().max().item():.3g} "
        f"(the right ones are up to {b.abs().max().item():.3g} in size)."
    )


def shown(value) -> str:
    """A value as it stands in a message, at most 120 characters."""
    if isinstance(value, Tensor) and value.ndim > 0:
        text = f"a tensor of shape {tuple(value.shape)}"
    elif isinstance(value, Tensor):
        text = f"{value.item():.5g}"
    elif isinstance(value, nn.Module):
        text = f"a {type(value).__name__} in {'train' if value.training else 'eval'} mode"
    elif isinstance(value, float):
        text = f"{value:.5g}"
    elif inspect.isroutine(value):
        text = f"the function {value.__name__}"
    elif isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        text = f"a {type(value).__name__} of {len(value)} tensors"
    else:
        text = repr(value)
    return text if len(text) < 120 else text[:117] + "…"


def parts(result, what: str) -> tuple:
    """The parts of a result, such as "(mean, standard deviation)"; fails where it has none."""
    if isinstance(result, (list, tuple)) or (is_numeric(result) and getattr(result, "ndim", 0)):
        return tuple(result)
    fail(f"{what} expected, got {shown(result)}.")


def pick(low: int, high: int) -> int:
    """A random whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


def rectangle(low: int, high: int) -> tuple[int, int]:
    """Two different random whole numbers: height and width of an image that is no square."""
    h, w = torch.randperm(high - low + 1)[:2].tolist()
    return low + h, low + w


class OnePass:
    """Batches that can be gone through once and have no length, as those of a stream.

    `looked_at(i)` is called before batch i is handed out.
    """

    def __init__(self, batches: Iterable, looked_at: Callable[[int], None] = lambda i: None):
        self.batches = list(batches)
        self.looked_at = looked_at
        self.used = False

    def __iter__(self) -> Iterator:
        if self.used:
            fail(
                "`batches` is gone through twice. A loader reads and augments anew each time, and "
                "a stream is at its end: one pass."
            )
        self.used = True
        for i, batch in enumerate(self.batches):
            self.looked_at(i)
            yield batch

    def __repr__(self) -> str:
        return "batches that have no length and can be gone through once"


class Forbidden(TorchFunctionMode):
    """Inside, calls of these functions of PyTorch fail with a message, however they are reached."""

    def __init__(self, functions: Collection[Callable], message: str):
        super().__init__()
        self.functions = functions
        self.message = message

    def __torch_function__(self, function, types, arguments=(), named=None):
        if function in self.functions:
            fail(self.message)
        return function(*arguments, **(named or {}))


def packages_of(function: Callable, seen: Collection[Callable] = ()) -> set[str]:
    """The packages that a function's code imports, or takes names from.

    Other functions of the notebook that it names are followed.
    """
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    found = set()
    for name in code.co_names if code else ():
        value = function.__globals__.get(name)
        if inspect.isfunction(value) and value.__globals__ is function.__globals__:
            if value is not function and value not in seen:
                found |= packages_of(value, [*seen, function])
            continue
        found.add(name.partition(".")[0])
        found.add((getattr(value, "__module__", None) or "").partition(".")[0])
        if inspect.ismodule(value):
            found.add(value.__name__.partition(".")[0])
    return found
