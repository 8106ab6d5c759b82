"""Check of the exercise of lesson 07: the form of an investigation."""

import math
import re

import torch
from torch import Tensor

from helpers.checks.engine import attempt, compare, exercise, fail, named, pick, shown
from helpers.records import RESULTS, RUNS, differing_settings, is_right, read_seeds

__all__ = ["check_investigation"]

CLAIMS = ("a is better", "b is better", "not distinguishable")

# part of an investigation: what it is
PARTS = {
    "prediction": "a text with a number",
    "a": "the name of an arm",
    "b": "the name of another arm",
    "setting": "the name of the one setting that differs",
    "split": "'val'",
    "interval": "(low, high) of a - b, as `difference` gives it",
    "n": "(seeds of a, seeds of b)",
    "claim": "what your `verdict` says of the interval",
    "conclusion": "a text",
}


@exercise("7.1", "an investigation of your own")
def check_investigation(investigation, verdict):
    check_verdict(verdict)
    found = attempt(investigation)
    check_parts(found)
    runs = {arm: read_arm(found[arm]) for arm in ("a", "b")}
    check_one_change(found, runs)
    check_interval(found, runs)
    low, high = found["interval"]
    right = attempt(verdict, low, high)
    if found["claim"] != right:
        fail(
            f"the interval is {100 * low:+.2f} to {100 * high:+.2f} points, and your own `verdict` "
            f"says {right!r} of it; the claim is {shown(found['claim'])}."
        )
    if not isinstance(found["conclusion"], str) or len(found["conclusion"].split()) < 15:
        fail(
            "the conclusion should be a sentence or two, at least 15 words: what was compared, "
            "what the interval says, and for which training it holds."
        )


def check_verdict(verdict) -> None:
    def oracle(low, high):
        if low > 0:
            return "a is better"
        return "b is better" if high < 0 else "not distinguishable"

    def swapped(low, high):
        return {"a is better": "b is better", "b is better": "a is better"}.get(
            oracle(low, high), "not distinguishable"
        )

    def by_middle(low, high):
        return "a is better" if low + high > 0 else "b is better"

    def only_a(low, high):
        return "a is better" if low > 0 else "not distinguishable"

    def inside_out(low, high):
        return by_middle(low, high) if low < 0 < high else "not distinguishable"

    def never_sure(low, high):
        return "not distinguishable"

    cases = []
    for middle, half in ((3, 1), (-3, 1), (1, 4), (-1, 4), (8, 7), (-8, 7), (0.2, 0.1)):
        size = 0.001 * pick(2, 9)
        cases.append((size * (middle - half), size * (middle + half)))
    mistakes = {
        "a and b are swapped: the interval is of a - b, so both ends above 0 mean that a is "
        "better.": swapped,
        "the middle of the interval decides, and not the interval: where it includes 0 the arms "
        "are not distinguishable.": by_middle,
        "an interval below 0 also says something: b is better.": only_a,
        "the wrong way round: an interval that *includes* 0 is the one that does not tell the arms "
        "apart.": inside_out,
        "no interval is narrow enough for you: where it excludes 0, name the better arm.": (
            never_sure
        ),
    }
    compare(verdict, oracle, cases, mistakes, what="the claim", describe=named("low", "high"))


def check_parts(found) -> None:
    """Fails unless all parts are there, of the right kind."""
    if not isinstance(found, dict):
        fail(f"a dictionary with the keys {', '.join(PARTS)} is expected, got {shown(found)}.")
    for key, what in PARTS.items():
        if key not in found:
            fail(f"`{key}` is missing: {what}.")
        if found[key] is None or found[key] is ... or str(found[key]).strip() == "":
            fail(f"`{key}` is empty: {what}.")
    prediction = found["prediction"]
    if not isinstance(prediction, str) or not re.search(r"\d", prediction):
        fail(
            "the prediction has no number. “It gets better” cannot fail: write how many points you "
            "expect, before you look."
        )
    if found["split"] == "test":
        fail(
            "you choose on the test images. A comparison that serves a choice uses the validation "
            "images: split 'val'. The test set comes once, at the end."
        )
    if found["split"] != "val":
        fail(f"`split` should be 'val', the validation images, and is {shown(found['split'])}.")
    if found["a"] == found["b"]:
        fail(f"both arms are {found['a']}: an arm cannot differ from itself.")
    interval = found["interval"]
    if not isinstance(interval, (tuple, list)) or len(interval) != 2:
        fail(f"`interval` should be two numbers, (low, high), and is {shown(interval)}.")


def read_arm(name) -> list[dict]:
    """The runs of an arm; fails where they are fewer than three, unfinished, or of two settings."""
    if not isinstance(name, str):
        fail(
            f"an arm is named by a text, such as 'mine-a' for the folders runs/mine-a-seed0, "
            f"-seed1, …; got {shown(name)}."
        )
    name = name.removeprefix("results/").removeprefix("runs/")
    if re.search(r"-seed\d+$", name):
        fail(f"{name} is one run; an arm is all runs of one setting: the name without `-seed0`.")
    places = [*RUNS.glob(f"{name}-seed*"), *RESULTS.glob(f"{name}-seed*")]
    for folder in sorted(places):
        ending = folder.name.removeprefix(name)
        if re.fullmatch(r"-seed\d+", ending) and not (folder / "metrics.json").is_file():
            fail(
                f"the run {folder.parent.name}/{folder.name} is not finished: the same command "
                "goes on with it. (Or delete the folder.)"
            )
    try:
        runs = read_seeds(name)
    except FileNotFoundError:
        fail(
            f"there are no finished runs called {name}-seed0, … in results/ or runs/. An arm is "
            "the name without `-seed0`."
        )
    except ValueError as reason:  # of two settings, or damaged
        fail(str(reason))
    for run in runs:
        epochs, seed = run["config"]["epochs"], run["config"]["seed"]
        if len(run["history"]) != epochs:
            fail(
                f"the run of {name} with seed {seed} has {len(run['history'])} of its {epochs} "
                "epochs: it is not complete."
            )
        if run["config"]["split"] != "train" or not any(key.startswith("val_") for key in run):
            fail(
                f"the runs of {name} have learned from the validation images, too (`split` "
                f"{run['config']['split']!r}): nothing is left to choose on. Train with `--split "
                "train`."
            )
    if len(runs) < 3:
        seeds = [run["config"]["seed"] for run in runs]
        fail(
            f"{name} has {len(runs)} finished run(s), of the seeds {seeds}, and three are needed: "
            "without the spread between seeds the interval is too narrow."
        )
    return runs


def check_one_change(found: dict, runs: dict[str, list[dict]]) -> None:
    """Fails unless exactly one setting differs, the one that is named."""
    pair = [runs["a"][0], runs["b"][0]]
    differing = differing_settings(pair)
    if not differing:
        fail(
            "config.json of the two arms is the same but for seed and recipe: the arms do not "
            "differ in anything."
        )
    if len(differing) > 1:
        listed = ", ".join(
            f"{name} ({pair[0]['config'][name]}, {pair[1]['config'][name]})" for name in differing
        )
        fail(f"an ablation changes one setting; these arms differ in {len(differing)}: {listed}.")
    if found["setting"] != differing[0]:
        fail(
            f"the setting that differs is {differing[0]!r}, says config.json; you name "
            f"{shown(found['setting'])}."
        )
    labels = [run["val_labels"] for arm in runs.values() for run in arm]
    if not all(torch.equal(each, labels[0]) for each in labels):
        fail("the two arms were measured on different validation images.")


def interval_of(a: list[Tensor], b: list[Tensor]) -> tuple[float, float]:
    """The 95 % interval of lesson 07, section 1, with SciPy's own Welch interval for the seeds."""
    from scipy import stats  # here: other checks need no SciPy

    means = [[right.double().mean().item() for right in arm] for arm in (a, b)]
    welch = stats.ttest_ind(*means, equal_var=False).confidence_interval(0.95)
    middle = sum(means[0]) / len(means[0]) - sum(means[1]) / len(means[1])
    seeds = (welch.high - welch.low) / 2
    fractions = [torch.stack(arm).double().mean(dim=0).numpy() for arm in (a, b)]
    images = 1.96 * stats.sem(fractions[0] - fractions[1])
    half = math.hypot(seeds, images)
    return middle - half, middle + half


def check_interval(found: dict, runs: dict[str, list[dict]]) -> None:
    """Fails unless the interval and n are those of the files."""
    right = {arm: [is_right(run, "val") for run in runs[arm]] for arm in runs}
    expected = interval_of(right["a"], right["b"])
    try:
        given = tuple(float(number) for number in found["interval"])
    except (TypeError, ValueError):
        fail(f"`interval` should be two numbers, (low, high), and is {shown(found['interval'])}.")

    def is_it(pair, tolerance=1e-4):
        return all(abs(x - y) < tolerance for x, y in zip(given, pair, strict=True))

    count = (len(right["a"]), len(right["b"]))
    if not is_it(expected):
        low, high = expected
        if is_it((100 * low, 100 * high), 1e-2):
            fail("the interval is in points; give it as `difference` does, as fractions (0–1).")
        if is_it((-high, -low)):
            fail("this is the interval of b - a; a - b is asked for: `difference(a, b)`.")
        if is_it((high, low)):
            fail("the ends of the interval are swapped: (low, high).")
        tested = [[is_right(run, "test") for run in arm] for arm in runs.values() if with_test(arm)]
        if len(tested) == 2 and is_it(interval_of(*tested)):
            fail("this is the interval on the *test* images. Choose on validation: split 'val'.")
        fail(
            f"the files give {100 * low:+.2f} to {100 * high:+.2f} points for a - b (n = "
            f"{count[0]} and {count[1]}), and you give {100 * given[0]:+.2f} to "
            f"{100 * given[1]:+.2f}. Use all seeds of both arms, and `difference`."
        )
    n = found["n"]
    if n != count and n != list(count) and not (count[0] == count[1] == n):
        fail(f"n should be the seeds of the two arms, {count}, and is {shown(n)}.")


def with_test(arm: list[dict]) -> bool:
    return all("test_labels" in run for run in arm)
