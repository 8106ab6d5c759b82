"""Checks of the exercises of lesson 05, evaluation."""

import math

import torch

from helpers.checks.engine import (
    attempt,
    compare,
    exercise,
    fail,
    is_numeric,
    named,
    packages_of,
    parts,
    pick,
    shown,
)

__all__ = [
    "check_confusion",
    "check_recall_precision",
    "check_ece",
    "check_fit_temperature",
    "check_smallest_difference",
    "check_best_of",
]


@exercise("5.1", "a confusion matrix")
def check_confusion(confusion):
    def oracle(labels, predicted, classes):
        matrix = torch.zeros(classes, classes, dtype=torch.int64)
        for label, prediction in zip(labels, predicted, strict=True):
            matrix[label, prediction] += 1
        return matrix

    def swapped(labels, predicted, classes):
        return oracle(predicted, labels, classes)

    def once(labels, predicted, classes):
        return (oracle(labels, predicted, classes) > 0).long()

    def by_largest(labels, predicted, classes):
        return oracle(labels, predicted, int(max(labels.max(), predicted.max())) + 1)

    def without_diagonal(labels, predicted, classes):
        return oracle(labels, predicted, classes).fill_diagonal_(0)

    def fractions(labels, predicted, classes):
        return oracle(labels, predicted, classes) / len(labels)

    cases = []
    for classes in (4, 6, 5):
        n = pick(60, 90)
        labels = torch.randint(0, classes - 1, (n,))  # the last class never occurs
        predicted = torch.randint(0, classes - 1, (n,))
        cases.append((labels, predicted, classes))
    mistakes = {
        "rows and columns are swapped: rows are the true classes, columns the predictions.": (
            swapped
        ),
        "each cell is at most 1: with repeated indices `matrix[labels, predicted] += 1` adds only "
        "once. Use `bincount` or `index_put_(…, accumulate=True)`.": once,
        "a class that does not occur has no row: the size must come from `classes`.": by_largest,
        "the diagonal is empty: right answers belong into the matrix too.": without_diagonal,
        "these are fractions; counts are asked for.": fractions,
    }
    if "sklearn" in packages_of(confusion):
        fail("scikit-learn counts here. The task is to do so without it.")
    compare(
        confusion,
        oracle,
        cases,
        mistakes,
        what="the matrix",
        describe=named("labels", "predicted", "classes"),
    )


@exercise("5.2", "recall and precision")
def check_recall_precision(recall_precision):
    def variant(empty=0.0):
        """(recall, precision) of each class; `empty` is the value of 0 / 0."""

        def run(matrix):
            right = matrix.diagonal().double()
            called, occurring = matrix.sum(0), matrix.sum(1)
            recall = torch.where(occurring > 0, right / occurring.clamp(min=1), empty)
            precision = torch.where(called > 0, right / called.clamp(min=1), empty)
            return recall, precision

        return run

    def swapped(matrix):
        recall, precision = variant()(matrix)
        return precision, recall

    def averaged(matrix):
        recall, precision = variant()(matrix)
        return recall.mean(), precision.mean()

    def by_all_images(matrix):
        fraction = matrix.diagonal() / matrix.sum()
        return fraction, fraction

    cases = []
    for _ in range(3):
        classes = pick(3, 6)
        matrix = torch.randint(1, 20, (classes, classes))
        matrix += torch.diag(torch.randint(20, 60, (classes,)))
        matrix[:, pick(0, classes - 1)] = 0  # a class that is never predicted
        matrix[pick(0, classes - 1)] = 0  # and one that never occurs
        cases.append((matrix,))
    mistakes = {
        "the two are swapped. Recall divides by those that *are* of the class (rows), precision by "
        "those *called* so.": swapped,
        "a class that is never predicted has precision 0 / 0: define it as 0.": variant(math.nan),
        "both are averaged: one number per class is asked for.": averaged,
        "the diagonal is divided by all images; divide by those of the class.": by_all_images,
    }
    compare(
        lambda matrix: parts(recall_precision(matrix), "(recall, precision)"),
        variant(),
        cases,
        mistakes,
        what="(recall, precision)",
    )


@exercise("5.3", "the expected calibration error")
def check_ece(ece):
    def gaps(confidence, correct, bins, extra=0):
        """(fraction of the images, accuracy - confidence) of each bin that holds any; `extra` bins
        more, for a confidence of exactly 1.
        """
        index = (confidence * bins).long().clamp(max=bins + extra - 1)
        found = []
        for b in range(bins + extra):
            inside = index == b
            if inside.any():
                accuracy, mean = correct[inside].double().mean(), confidence[inside].double().mean()
                found.append((inside.double().mean(), accuracy - mean))
        return found

    def weighted(found):
        return sum(fraction * gap.abs() for fraction, gap in found)

    def variant(rule):
        """The error by `rule(gaps, bins)`."""
        return lambda confidence, correct, bins: rule(gaps(confidence, correct, bins), bins)

    def bin_of_its_own(confidence, correct, bins):
        return weighted(gaps(confidence, correct, bins, extra=1))

    def no_bin(confidence, correct, bins):
        return weighted(gaps(confidence, correct, bins, extra=1)[:-1])

    def by_count(confidence, correct, bins):
        total = 0.0
        for part in confidence.argsort().tensor_split(bins):
            gap = correct[part].double().mean() - confidence[part].mean()
            total += len(part) / len(correct) * gap.abs()
        return total

    def draw(bins):
        confidence = 0.3 + 0.7 * torch.rand(pick(300, 500)) ** 0.5  # the lowest bin stays empty
        confidence[:20] = 1.0
        correct = torch.rand_like(confidence) < 0.2 + 0.6 * confidence
        last_bin = (confidence > 1 - 1 / bins) & (confidence < 1)
        correct[last_bin] = True  # it is overconfident at 1.0 only
        if abs(sum(fraction * gap for fraction, gap in gaps(confidence, correct, bins))) < 0.01:
            return draw(bins)  # a sum that nearly vanishes tells mistakes apart by rounding only
        return confidence, correct, bins

    oracle = variant(lambda found, bins: weighted(found))
    cases = [draw(bins) for bins in (5, 10, 8)]
    mistakes = {
        "a confidence of exactly 1 gets a bin of its own. It belongs to the last: the index is at "
        "most bins - 1.": bin_of_its_own,
        "a confidence of exactly 1 falls into no bin. It belongs to the last: the index is at most "
        "bins - 1.": no_bin,
        "every bin counts alike: weigh its gap by the fraction of the images in it.": variant(
            lambda found, bins: sum(gap.abs() for _, gap in found) / len(found)
        ),
        "every bin counts alike, empty ones too: weigh each gap by the fraction of the images in "
        "the bin.": variant(lambda found, bins: sum(gap.abs() for _, gap in found) / bins),
        "gaps above and below cancel: take each bin's absolute gap before adding.": variant(
            lambda found, bins: sum(fraction * gap for fraction, gap in found)
        ),
        "gaps above and below cancel: take each bin's absolute gap before adding, not the "
        "sum's.": variant(lambda found, bins: sum(fraction * gap for fraction, gap in found).abs()),
        "this is the largest gap (the *maximum* calibration error).": variant(
            lambda found, bins: max(gap.abs() for _, gap in found)
        ),
        "the gaps are squared; the absolute gap is asked for.": variant(
            lambda found, bins: sum(fraction * gap**2 for fraction, gap in found)
        ),
        "the bins hold equally many images; here they are equally wide.": by_count,
    }
    describe = named("confidence", "correct", "bins")
    compare(ece, oracle, cases, mistakes, what="the error", describe=describe)


@exercise("5.4", "temperature scaling")
def check_fit_temperature(fit_temperature):
    def best(logits, labels):
        """Bisection for log(1 / T): the loss is convex in 1 / T, so its slope changes sign once."""
        z = logits.double()
        of_labels = z.gather(1, labels[:, None]).mean()
        low, high = math.log(1 / 20), math.log(1 / 0.05)
        for _ in range(40):
            middle = (low + high) / 2
            expected = ((z * math.exp(middle)).softmax(1) * z).sum(1).mean()
            if expected < of_labels:  # the loss still falls
                low = middle
            else:
                high = middle
        return math.exp(-low)

    def of_predictions(logits, labels):
        found = float(fit_temperature(logits, logits.argmax(1)))
        return found if found < 0.2 else math.nan

    cases = []
    for temperature in (2.5, 0.5, 1.6):
        logits = 2 * torch.randn(pick(300, 400), pick(4, 8))
        labels = torch.distributions.Categorical(logits=logits).sample()
        cases.append((logits * temperature, labels))
    mistakes = {
        "this is 1 / T: the logits are *divided* by the temperature.": lambda z, y: 1 / best(z, y),
        "this is the logarithm of T.": lambda z, y: math.log(best(z, y)),
        "T is fitted to probabilities: divide the logits, then take one log-softmax (which "
        "`F.cross_entropy` does).": lambda z, y: best(z.softmax(1), y),
        "T is fitted to the predictions, and so becomes as small as it may: fit to the labels.": (
            of_predictions
        ),
    }
    compare(
        lambda logits, labels: float(fit_temperature(logits, labels)),
        best,
        cases,
        mistakes,
        tolerance=0.01,
        what="the temperature",
        describe=named("logits", "labels"),
    )


@exercise("5.5", "is that a difference?")
def check_smallest_difference(smallest_difference):
    def variant(rule):
        """By a rule of the standard deviation of one accuracy, n and z."""

        def run(accuracy, n, z):
            hits = torch.distributions.Binomial(n, torch.tensor(accuracy, dtype=torch.float64))
            return rule(hits.stddev.item() / n, n, z)

        return run

    cases = []
    for _ in range(5):
        cases.append((0.01 * pick(60, 97), pick(500, 20_000), 0.1 * pick(12, 30)))
    mistakes = {
        "this is for one network against a fixed number. Both are measured: their variances add "
        "up, a factor √2.": variant(lambda sd, n, z: z * sd),
        "the two errors are added, a factor 2. Independent errors add in squares: √2.": variant(
            lambda sd, n, z: 2 * z * sd
        ),
        "z is missing.": variant(lambda sd, n, z: math.hypot(sd, sd)),
        "the root is missing: p(1 - p) / n is a variance.": variant(lambda sd, n, z: z * 2 * sd**2),
        "n is missing: the variance of one accuracy is p(1 - p) / n.": variant(
            lambda sd, n, z: z * math.sqrt(2 * n) * sd
        ),
        "n is not under the root: √(p(1 - p) / n), not √(p(1 - p)) / n.": variant(
            lambda sd, n, z: z * math.sqrt(2 / n) * sd
        ),
        "this is in percentage points; a fraction is asked for, as the accuracy is one.": variant(
            lambda sd, n, z: 100 * z * math.hypot(sd, sd)
        ),
    }
    compare(
        smallest_difference,
        variant(lambda sd, n, z: z * math.hypot(sd, sd)),
        cases,
        mistakes,
        what="the smallest difference",
        describe=named("accuracy", "n", "z"),
    )


@exercise("5.6", "the best of many")
def check_best_of(best_of):
    for _ in range(3):
        count, n, p = pick(10, 60), pick(200, 800), 0.01 * pick(60, 90)
        hits = torch.distributions.Binomial(n, torch.tensor(p, dtype=torch.float64))
        at_most = hits.log_prob(torch.arange(n + 1, dtype=torch.float64)).exp().cumsum(0)
        sd = hits.stddev.item() / n

        def expected_best(k, n=n, at_most=at_most):
            best_above = 1 - at_most[:-1].clamp(max=1) ** k  # P(max > i) for i = 0 … n - 1
            return best_above.sum().item() / n  # E[max] = Σ P(max > i)

        exact = expected_best(count)
        case = f"\nIn the case count={count}, n={n}, p={p:.2f}"
        given = attempt(best_of, count, n, p)
        if not is_numeric(given) or torch.as_tensor(given).numel() != 1:
            fail(
                f"one number is asked for, the expected best of {count} scores; got "
                f"{shown(given)}.{case}"
            )
        given = float(given)
        if abs(given - exact) < 0.15 * sd:
            continue
        if abs(given - 100 * exact) < 15 * sd:
            fail("this is in percent; a fraction is asked for.")
        if abs(given - p) < 0.15 * sd:
            fail(
                "this is the average score. Take the best of each group of `count` scores first, "
                "then average over the groups."
            )
        if abs(given - n * exact) < 0.15 * n * sd:
            fail("this is a number of images; divide by n.")
        if not 0 <= given <= 1:
            fail(f"an accuracy lies between 0 and 1, and this is {given:.4g}.{case}")
        if abs(given - p - math.sqrt(2 * math.log(count)) * sd) < 0.1 * sd:
            fail(
                "this is p + √(2 ln count) standard errors: a bound on the expected best, not the "
                "expected best itself."
            )
        others = {k: expected_best(k) for k in range(1, 301)}
        nearest = min(others, key=lambda k: abs(others[k] - given))
        right = f"{exact:.4f} expected, got {given:.4f}"
        if abs(others[nearest] - given) < 0.05 * sd and nearest < 300:
            fail(
                f"{right}, which would be the best of about {nearest} scores. Does each group "
                f"hold `count` of them, and are there enough groups?{case}"
            )
        if given > exact:
            fail(
                f"{right}, which is too high. Best over *all* draws? Average the bests of many "
                f"groups.{case}"
            )
        fail(f"{right}. Is each score one of n images, and p its expectation?{case}")
