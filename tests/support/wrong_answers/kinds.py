"""Kinds of wrong answers that fit many exercises, made from their solutions.

A kind is code that stands after a solution and replaces `NAME` by one that goes wrong in one way;
`right` is the solution. FITS says which exercises a kind is tried on. (A class is the answer where
the name begins with a capital letter: there the kind works on `forward`.)
"""

import torch
from torch import Tensor, nn

FUNCTION = """

right_{name} = {name}


def {name}(*arguments, **named):
    def right(*arguments):
        return right_{name}(*arguments, **named)

{body}
"""

CLASS = """

right_{name} = {name}


class {name}(right_{name}):
    def forward(self, *arguments):
        right = super().forward
{body}
"""

# kind: (what happens, words of the diagnosis)
KINDS = {
    "missing return": ("right(*arguments)", "`return`"),
    "without gradient": (
        """
with torch.no_grad():
    return right(*arguments)
""",
        "no gradient",
    ),
    "overwrites its input": (
        """
result = right(*arguments)
found = list(arguments)
while not isinstance(found[0], torch.Tensor) or not found[0].ndim:
    first = found.pop(0)
    if isinstance(first, (list, tuple)):
        found = [*first, *found]
with torch.no_grad():
    found[0].copy_(found[0].flip(0) if found[0].dtype == torch.bool else found[0] + 1)
return result
""",
        "changes what it was given",
    ),
    "square images only": (
        """
arguments = list(arguments)
for i, x in enumerate(arguments):
    if isinstance(x, torch.Tensor) and x.ndim == 4:
        side = min(x.shape[2:])
        arguments[i] = x[:, :, :side, :side]
return right(*arguments)
""",
        "",
    ),
    "another type": (
        """
def other(y):
    return y.to(torch.float32 if y.dtype == torch.float64 else torch.float64)


result = right(*arguments)
return other(result) if isinstance(result, torch.Tensor) else tuple(other(y) for y in result)
""",
        "type is not",
    ),
    "goes through the batches twice": (
        """
for batches in arguments:
    if not isinstance(batches, torch.nn.Module) and hasattr(batches, "__iter__"):
        for _ in batches:
            pass
return right(*arguments)
""",
        "gone through twice",
    ),
    "remembers its first result": (
        """
first = globals().setdefault("first", [])
if not first:
    first.append(right(*arguments))
return first[0]
""",
        "",
    ),
}

NO_RESULT = {"update-ema", "ema", "checkpoint"}
NO_RESULT |= {"investigation"}
OF_NUMBERS = {"conv-cost", "count-paths", "second-moment", "receptive-field", "count"}
OF_NUMBERS |= {"smallest-difference", "best-of", "projection", "stages", "schedule"}
OF_NUMBERS |= {"warm-restarts"}
OF_NUMBERS |= {"grown", "selection", "average-projection", "deep-stem", "fold-batch-norm"}
BLOCKS = {"addition", "preactivation", "squeeze-excite"}
BLOCKS |= {"preactivation-bottleneck", "resnext", "stochastic-depth"}
BLOCKS |= {"rezero"}
IMAGES = {"residual", "batch-norm", "crop", "flip", "cutout"}
IMAGES |= {"batch-norm-backward"}
IMAGES |= {"output-shapes", "contrastive-cam", "without-block", "relative-change"}
DIFFERENTIABLE = BLOCKS | {"residual", "batch-norm", "smooth-cross-entropy"}
DIFFERENTIABLE |= {"mixup-loss"}
BATCHES = {"train-one-epoch", "accuracy", "predict"}
TYPED = {"rezero", "batch-norm-backward"}
TYPED |= {"residual", "batch-norm", "crop", "flip", "cutout", "sgd-step"}
TYPED |= {"smooth-cross-entropy", "filter-normalised", "addition"}
TYPED |= {"squeeze-excite", "mixup-loss"}
TYPED |= {"preactivation-bottleneck", "resnext", "stochastic-depth"}


def kinds_of(exercise: str) -> list[str]:
    """The kinds that fit an exercise."""
    fits = {
        "missing return": exercise not in NO_RESULT,
        "without gradient": exercise in DIFFERENTIABLE,
        "overwrites its input": exercise not in NO_RESULT | OF_NUMBERS | {"preactivation"},
        "square images only": exercise in IMAGES | BLOCKS,
        "another type": exercise in TYPED,
        "goes through the batches twice": exercise in BATCHES,
        "remembers its first result": exercise not in NO_RESULT | BLOCKS,
    }
    return [kind for kind, fit in fits.items() if fit]


def of_kind(kind: str, solution: str, name: str) -> str:
    """The wrong answer of a kind, from a solution that defines `name`."""
    body, _ = KINDS[kind]
    template, indent = (CLASS, 8) if name[0].isupper() else (FUNCTION, 4)
    lines = [" " * indent + line if line else "" for line in body.strip().splitlines()]
    return solution + template.format(name=name, body="\n".join(lines))


# --- what a check draws

RECORDER = """

from wrong_answers.kinds import summary

of_solution, drawn = {name}, []


def {name}(*arguments, **named):
    drawn.append(summary([*arguments, *named.values()]))
    return of_solution(*arguments, **named)


{name}.expansion = getattr(of_solution, "expansion", None)
"""


def summary(value):
    """Something that differs between different arguments of an answer."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.double().sum().item()
    if isinstance(value, nn.Module):
        return [summary(tensor) for tensor in value.state_dict().values()]
    if isinstance(value, torch.Generator):
        return value.initial_seed()
    if isinstance(value, (list, tuple)):
        return [summary(part) for part in value]
    if isinstance(value, (int, float)):
        return value
    return type(value).__name__
