"""Checks of the exercises of lesson 05, evaluation."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from helpers.checks.engine import (
    CHANGED,
    attempt,
    compare,
    exercise,
    fail,
    is_numeric,
    named,
    packages_of,
    parts,
    pick,
    same,
    shown,
)
from helpers.evaluation import difference

__all__ = [
    "check_confusion",
    "check_recall_precision",
    "check_ece",
    "check_vector_scaling",
    "check_smallest_difference",
    "check_best_of",
    "check_ece_interval",
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
        "not a number: a bin is empty, and the mean of no images is 0 / 0. Leave empty bins "
        "out.": variant(lambda found, bins: math.nan),
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


@exercise("5.4", "a factor for each class")
def check_vector_scaling(vector_scaling):
    def newton(design, labels):
        """The minimum of the mean cross-entropy of logits design @ v, for a design (N, K, P)."""
        v = torch.zeros(design.shape[2], dtype=torch.float64)
        rows = torch.arange(len(labels))

        def cost(v):
            return (design @ v).log_softmax(1)[rows, labels].neg().mean()

        for _ in range(60):
            p = (design @ v).softmax(1)
            off = p.clone()
            off[rows, labels] -= 1.0
            gradient = torch.einsum("nkp,nk->p", design, off) / len(labels)
            spread = design - torch.einsum("nk,nkp->np", p, design)[:, None]
            hessian = torch.einsum("nk,nkp,nkq->pq", p, spread, spread) / len(labels)
            step = torch.linalg.solve(hessian + 1e-10 * torch.eye(len(v)).double(), gradient)
            while cost(v - step) > cost(v) and step.abs().max() > 1e-9:
                step = step / 2
            v = v - step
            if step.abs().max() < 1e-8:
                break
        return v

    def best(logits, labels):
        return newton(torch.diag_embed(logits.double()), labels)

    def with_bias(logits, labels):
        z, classes = logits.double(), logits.shape[1]
        shifts = torch.eye(classes, dtype=torch.float64)[:, 1:].expand(len(z), -1, -1)
        return newton(torch.cat([torch.diag_embed(z), shifts], 2), labels)[:classes]

    def shared(logits, labels):
        return newton(logits.double()[:, :, None], labels).expand(logits.shape[1])

    def loss(factors, logits, labels):
        return F.cross_entropy(logits.double() * torch.as_tensor(factors).double(), labels).item()

    def not_at_the_minimum(logits, labels):
        """Fails where the answer's factors are some way down, or up, from the start."""
        found = torch.as_tensor(vector_scaling(logits.clone(), labels.clone())).detach()
        if found.shape != logits.shape[1:]:
            return None
        here, least = loss(found, logits, labels), loss(best(logits, labels), logits, labels)
        start = loss(torch.ones(logits.shape[1]), logits, labels)
        if not here <= start:
            fail(
                f"with your factors the cross-entropy is {here:.4g}; with factors of 1 it is "
                f"{start:.4g}. Uphill, or steps that are too long?"
            )
        if here > least + 1e-4:
            fail(
                f"the minimum is not reached: your factors give a cross-entropy of {here:.4f}, and "
                f"{least:.4f} is possible. More steps? Gradients that are not set to zero before?"
            )
        return None

    cases = []
    for _ in range(3):
        classes = pick(4, 7)
        z = 2 * torch.randn(pick(600, 800), classes)
        labels = torch.distributions.Categorical(logits=z).sample()
        factors = 0.5 * 4 ** ((torch.randperm(classes) + torch.rand(classes)) / classes)
        cases.append((z / factors, labels))
    logits, labels = cases[0]
    found = attempt(vector_scaling, logits.clone(), labels.clone())
    others = attempt(vector_scaling, logits.clone(), logits.argmax(1))
    if is_numeric(found) and same(found, torch.ones(logits.shape[1]), 1e-6):
        fail("all factors are 1. Is a step taken, along a gradient that reaches them?")
    if is_numeric(found) and same(found, others, 1e-6):
        fail(
            "with other labels your function returns the same. The cross-entropy of which labels "
            "is to be smallest?"
        )
    mistakes = {
        "these are temperatures, 1 / w: the logits are *multiplied* by the factors.": (
            lambda z, y: 1 / best(z, y)
        ),
        "these are the logarithms of the factors.": lambda z, y: best(z, y).log(),
        "all classes have the same factor: this is one temperature, as in the lesson.": shared,
        "the factors are fitted to probabilities: multiply the logits, then take one log-softmax "
        "(which `F.cross_entropy` does).": lambda z, y: best(z.softmax(1), y),
        "the factors are fitted to log-probabilities; take the logits as they are.": (
            lambda z, y: best(z.log_softmax(1), y)
        ),
        "a bias is fitted as well. Without one the factors are different.": with_bias,
        "each image's mean is subtracted from its logits. With one factor per class that makes a "
        "difference: take the logits as they are.": (
            lambda z, y: best(z - z.mean(1, keepdim=True), y)
        ),
        "": not_at_the_minimum,  # says more by itself
    }
    compare(
        vector_scaling,
        best,
        cases,
        mistakes,
        tolerance=0.02,
        what="the factors",
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
        "1.96 standard errors, whatever `z` says.": variant(
            lambda sd, n, z: 1.96 * math.hypot(sd, sd)
        ),
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
                "this is the average score, or nearly. Take the best of each group of `count` "
                "scores first, then average over the groups. (The standard error of one score is "
                "√(p(1 - p) / n).)"
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
                f"{right}, which is too high. Best over *all* draws, or along the wrong axis? "
                f"Average the bests of many groups of `count`.{case}"
            )
        fail(f"{right}. Is each score one of n images, and p its expectation?{case}")


class AtMost(TorchFunctionMode):
    """Inside, PyTorch's functions may be called `limit` times; then it fails with a message."""

    def __init__(self, limit: int, message: str):
        super().__init__()
        self.left, self.message = limit, message

    def __torch_function__(self, function, types, arguments=(), named=None):
        self.left -= 1
        if self.left < 0:
            fail(self.message)
        return function(*arguments, **(named or {}))


REPETITIONS = 4000
TOLERANCE = 0.25  # in standard errors; two sets of 4,000 resamples differ by about 0.05


@exercise("5.7", "an interval without a formula")
def check_ece_interval(ece_interval):
    def gaps(confidence, correct, bins):
        """(N, bins): correct - confidence of each image, in the column of its bin."""
        index = np.minimum((confidence * bins).astype(int), bins - 1)
        table = np.zeros((len(index), bins))
        table[np.arange(len(index)), index] = correct - confidence
        return table

    def draw(size, bins, claims=(0.12, 0.17), constant=None):
        """Two networks on the same images, which are mostly right or wrong together.

        `claims` says how much too high the confidences are; None: too low for hard images, too high
        for easy ones.
        """
        hardness, luck = torch.rand(size), torch.rand(size)
        networks = []
        for number in range(2):
            confidence = (0.4 + 0.6 * hardness**0.5) * (1 - 0.1 * number * torch.rand(size))
            confidence[:5] = 1.0
            claim = 0.4 * (hardness - 0.5) if claims[number] is None else claims[number]
            own = torch.where(torch.rand(size) < 0.85, luck, torch.rand(size))
            correct = own < confidence - claim
            if constant is not None:
                confidence = torch.full((size,), constant)
            networks.append((confidence, correct))
        return networks[0], networks[1], bins

    class Case:
        """Two networks, and what bootstraps of several kinds make of them."""

        def __init__(self, first, second, bins, level):
            self.first, self.second, self.bins, self.level = first, second, bins, level
            self.tables = []
            for confidence, correct in (first, second):
                self.tables.append(gaps(confidence.double().numpy(), correct.numpy(), bins))
            self.accuracies = [correct.double().numpy()[:, None] for _, correct in (first, second)]
            self.size = len(first[0])
            self.value = self.errors(np.ones((1, self.size)), 0)[0]
            self.value -= self.errors(np.ones((1, self.size)), 1)[0]
            self.random = np.random.default_rng(pick(0, 99_999))
            self.counts = self.resample()
            self.differences = self.errors(self.counts, 0) - self.errors(self.counts, 1)
            self.sd = self.differences.std()

        def resample(self, images=None):
            """(REPETITIONS, N): how often each image is drawn."""
            chances = np.full(self.size, 1 / self.size)
            return self.random.multinomial(images or self.size, chances, REPETITIONS)

        def errors(self, counts, number, tables=None, size=lambda sums: np.abs(sums).sum(1)):
            """The error of one network in each resample; the first axis is that of `counts`."""
            return size(counts @ (tables or self.tables)[number]) / counts.sum(1)

        def quantiles(self, differences, level=None, low=None):
            tail = (1 - (level or self.level)) / 2 if low is None else low
            return np.quantile(differences, [tail, 1 - tail])

        # what mistakes give

        def unpaired(self):
            others = self.resample()
            return self.quantiles(self.errors(self.counts, 0) - self.errors(others, 1))

        def first_only(self):
            fixed = self.errors(np.ones((1, self.size)), 1)
            return self.quantiles(self.errors(self.counts, 0) - fixed)

        def second_only(self):
            fixed = self.errors(np.ones((1, self.size)), 0)
            return self.quantiles(fixed - self.errors(self.counts, 1))

        def half_as_many(self):
            counts = self.resample(self.size // 2)
            return self.quantiles(self.errors(counts, 0) - self.errors(counts, 1))

        def of_accuracies(self):
            tables = self.accuracies
            found = [self.errors(self.counts, number, tables) for number in (0, 1)]
            return self.quantiles(found[0] - found[1])

        def signed(self, size):
            found = [self.errors(self.counts, number, size=size) for number in (0, 1)]
            return self.quantiles(found[0] - found[1])

        def normal(self):
            z = torch.distributions.Normal(0, 1).icdf(torch.tensor((1 + self.level) / 2)).item()
            return np.array([self.value - z * self.sd, self.value + z * self.sd])

        def of_the_mean(self):
            return self.value + (self.quantiles(self.differences) - self.value) / self.size**0.5

    def call(case, generator, repetitions=REPETITIONS):
        """(low, high) of the answer, after what every answer fulfils."""
        given = [*case.first, *case.second]
        kept = [tensor.clone() for tensor in given]
        arguments = (case.first, case.second, case.bins, repetitions, case.level, generator)
        result = parts(attempt(ece_interval, *arguments), "(low, high)")
        if not all(torch.equal(one, other) for one, other in zip(given, kept, strict=True)):
            fail(CHANGED)
        if len(result) != 2 or not all(is_numeric(part) for part in result):
            fail(f"(low, high) expected, two numbers; got {shown(result)}.")
        if any(torch.as_tensor(part).numel() != 1 for part in result):
            fail("(low, high) expected, two numbers; got a tensor with more values.")
        return np.array([float(part) for part in result])

    def near(found, interval, case):
        return bool((np.abs(found - interval) < TOLERANCE * case.sd).all())

    mistakes = {
        "the two networks are resampled independently, and the interval is too wide. They were "
        "tested on the same images: one draw of images serves both.": Case.unpaired,
        "only the first network is resampled. An image that is drawn twice counts twice for "
        "both.": Case.first_only,
        "only the second network is resampled. An image that is drawn twice counts twice for "
        "both.": Case.second_only,
        "the sign is wrong: first minus second.": (
            lambda case: -case.quantiles(case.differences)[::-1]
        ),
        "low and high are swapped.": lambda case: case.quantiles(case.differences)[::-1],
        "this is a 95 % interval, whatever `level` says.": (
            lambda case: case.quantiles(case.differences, level=0.95)
        ),
        "too narrow: 1 - level is cut off at *each* end. Both ends together are 1 - level.": (
            lambda case: case.quantiles(case.differences, low=1 - case.level)
        ),
        "too wide: a quarter of 1 - level is cut off at each end; it should be half.": (
            lambda case: case.quantiles(case.differences, low=(1 - case.level) / 4)
        ),
        "the quantiles are those of the absolute difference: keep its sign.": (
            lambda case: case.quantiles(np.abs(case.differences))
        ),
        "gaps above and below cancel: take each bin's absolute gap before adding.": (
            lambda case: case.signed(lambda sums: sums.sum(1))
        ),
        "gaps above and below cancel: take each bin's absolute gap before adding, not the sum's.": (
            lambda case: case.signed(lambda sums: np.abs(sums.sum(1)))
        ),
        "this is the interval of the difference of the *accuracies*.": Case.of_accuracies,
        "the resamples are half as large as the sample. Each holds N images.": Case.half_as_many,
        "divided by √N once too often: the spread of the resamples is the standard error "
        "already.": Case.of_the_mean,
        "this is the difference ± z standard errors. Asked for are quantiles of the resamples, "
        "which need not lie evenly around it.": Case.normal,
        "the quantiles are reflected at the difference (the *basic* interval); take them as they "
        "are.": lambda case: 2 * case.value - case.quantiles(case.differences)[::-1],
    }
    cases = []
    for bins, level, claims in (
        (10, 0.9, (0.12, 0.17)),
        (8, 0.8, (0.12, 0.02)),  # the second is nearly calibrated
        (5, 0.6, (None, 0.17)),
    ):
        cases.append(Case(*draw(pick(250, 350), bins, claims), level))
    first, second, _ = draw(pick(500, 600), 10, constant=0.001)
    cases.append(Case(first, second, 10, 0.95))  # the error is the accuracy, less 0.001
    rule = difference([first[1]], [second[1]])
    given = []
    for case in cases:
        generator = torch.Generator().manual_seed(pick(0, 99_999))
        state = generator.get_state()
        loop = (
            f"more than {REPETITIONS:,} calls of PyTorch for {REPETITIONS:,} resamples: draw all "
            "of them at once, (repetitions, N), without a loop over them."
        )
        with AtMost(REPETITIONS, loop):
            given.append(call(case, generator))
        if torch.equal(generator.get_state(), state):
            fail("nothing is drawn from `generator`.")
    intervals = [case.quantiles(case.differences) for case in cases[:-1]]
    intervals.append(np.array([rule.low, rule.high]))  # by formula
    pairs = list(zip(given, intervals, cases, strict=True))
    if not all(near(found, interval, case) for found, interval, case in pairs):
        if all(found[0] == found[1] for found in given):
            fail(
                "the intervals are single points: every resample gives the same. Draw *with* "
                "replacement, N images out of N."
            )
        if all(near(found / 100, interval, case) for found, interval, case in pairs):
            fail("this is in percent; fractions are asked for.")
        for message, mistake in mistakes.items():
            if all(near(found, mistake(case), case) for found, _, case in pairs):
                fail(message)
    for found, interval, case in pairs:
        if not near(found, interval, case):
            kind = "the bootstrap"
            if case is cases[-1]:
                kind = "`evaluation.difference`, as all confidences are 0.001 there,"
            fail(
                f"{found[0]:.4f} to {found[1]:.4f}, where {kind} gives {interval[0]:.4f} to "
                f"{interval[1]:.4f}.\nIn the case N={case.size}, bins={case.bins}, "
                f"level={case.level}, difference {case.value:.4f}"
            )
    case = cases[0]
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    once, again = call(case, generator, 200), call(case, generator, 200)
    if (once == again).all():
        fail("two calls draw the same resamples. Is a seed set inside the function?")
    generator.set_state(state)
    if (call(case, generator, 200) != once).any():
        fail("the same generator gives another interval: draw from `generator` alone.")

    def half_interval(first, second):
        return attempt(ece_interval, first, second, 5, 200, 0.5, generator)

    check_coverage(half_interval)


def check_coverage(interval) -> None:
    """Fails unless about half of the 50 % intervals contain the true difference of accuracies.

    All confidences are 0.001, so that the calibration errors are the accuracies, less 0.001.
    """
    size, trials, inside = 60, 80, 0
    confidence = torch.full((size,), 0.001)
    for _ in range(trials):
        luck, right = torch.rand(size), []
        for accuracy in (0.8, 0.6):
            own = torch.where(torch.rand(size) < 0.8, luck, torch.rand(size))
            right.append(own < accuracy)
        low, high = interval((confidence, right[0]), (confidence, right[1]))
        inside += float(low) <= 0.8 - 0.6 <= float(high)
    if not 0.25 < inside / trials < 0.8:
        fail(
            f"in {trials} simulated tests of {size} images the 50 % interval contains the true "
            f"difference {inside / trials:.0%} of the time."
        )
