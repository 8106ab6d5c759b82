"""Wrong answers to the exercises of lesson 05."""

WRONG = {
    "confusion": [
        ("labels * classes + predicted", "predicted * classes + labels", "swapped"),
        (
            """def confusion(labels, predicted, classes):
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    matrix[labels, predicted] += 1
    return matrix
""",
            "adds only once",
        ),
        (
            """def confusion(labels, predicted, classes):
    classes = int(max(labels.max(), predicted.max())) + 1
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
""",
            "no row",
        ),
        (
            ".view(classes, classes)",
            ".view(classes, classes).fill_diagonal_(0)",
            "diagonal is empty",
        ),
        (".view(classes, classes)", ".view(classes, classes) / len(labels)", "fractions"),
        (", minlength=classes**2", "", "stopped with RuntimeError"),
        (".view(classes, classes)", ".view(classes, classes).float()", "whole numbers expected"),
        (
            """def confusion(labels, predicted, classes):
    from sklearn.metrics import confusion_matrix

    return torch.tensor(confusion_matrix(labels, predicted, labels=range(classes)))
""",
            "scikit-learn",
        ),
        (
            """from sklearn import metrics


def count(labels, predicted, classes):
    return torch.tensor(metrics.confusion_matrix(labels, predicted, labels=range(classes)))


def confusion(labels, predicted, classes):
    return count(labels, predicted, classes)
""",
            "scikit-learn",
        ),
    ],
    "recall-precision": [
        (
            "right / matrix.sum(1).clamp(min=1), right / matrix.sum(0).clamp(min=1)",
            "right / matrix.sum(0).clamp(min=1), right / matrix.sum(1).clamp(min=1)",
            "swapped",
        ),
        (".clamp(min=1)", "", "0 / 0"),
        (".sum(1).clamp(min=1)", ".sum(1)", "not a number"),
        ({".sum(1).clamp(min=1)": ".sum()", ".sum(0).clamp(min=1)": ".sum()"}, "by all images"),
        (
            {
                ".clamp(min=1), right": ".clamp(min=1)).mean(), (right",
                "return right": "return (right",
                ".sum(0).clamp(min=1)": ".sum(0).clamp(min=1)).mean()",
            },
            "averaged",
        ),
        ("right / matrix.sum(1).clamp(min=1), ", "", "parts"),
    ],
    "ece": [
        (
            {
                "inside.float().mean() * gap.abs()": "gap.abs()",
                "float(total)": "float(total) / len(index.unique())",
            },
            "counts alike",
        ),
        ("gap.abs()", "gap", "cancel"),
        ({"gap.abs()": "gap", "float(total)": "abs(float(total))"}, "not the sum's"),
        (
            "total += inside.float().mean() * gap.abs()",
            "total = max(total, gap.abs())",
            "largest gap",
        ),
        ("gap.abs()", "gap**2", "squared"),
        ("index.unique()", "range(bins)", "a bin is empty"),
        (".clamp(max=bins - 1)", "", "bin of its own"),
        (
            {".clamp(max=bins - 1)": "", "index.unique()": "index[index < bins].unique()"},
            "into no bin",
        ),
        (
            """def ece(confidence, correct, bins):
    total = 0
    for part in confidence.argsort().tensor_split(bins):
        gap = correct[part].float().mean() - confidence[part].mean()
        total += len(part) / len(correct) * gap.abs()
    return float(total)
""",
            "equally many",
        ),
    ],
    "vector-scaling": [
        ("return w.detach()", "return 1 / w.detach()", "temperatures, 1 / w"),
        ("logits * w", "logits / w", "temperatures, 1 / w"),
        ("return w.detach()", "return w.detach().log()", "logarithms"),
        ("logits * w", "logits.softmax(1) * w", "to probabilities"),
        ("logits * w", "logits.log_softmax(1) * w", "log-probabilities"),
        ("logits * w", "(logits * w).softmax(1)", "cross-entropy is", "Uphill"),
        (
            {
                "torch.ones(logits.shape[1]": "torch.ones(1",
                "w.detach()": "w.detach() + 0 * logits[0]",
            },
            "the same factor",
        ),
        ("torch.ones(logits.shape[1]", "torch.ones(1", "shape", "expected, got"),
        ("logits * w, labels", "logits * w, logits.argmax(1)", "with other labels", "which labels"),
        ("return w.detach()", "return torch.full_like(w, 1.5)", "with other labels"),
        ("    optimizer.step(closure)\n", "", "all factors are 1"),
        ("max_iter=100", "max_iter=1", "minimum is not reached", "is possible"),
        ("        optimizer.zero_grad()\n", "", "set to zero"),
        (
            """def vector_scaling(logits, labels):
    w = torch.ones(logits.shape[1], requires_grad=True)
    for _ in range(20):
        (slope,) = torch.autograd.grad(F.cross_entropy(logits * w, labels), w)
        w = w + 0.1 * slope
    return w.detach()
""",
            "Uphill",
        ),
        (
            {
                "    optimizer =": "    b = (0 * w).detach().requires_grad_()\n    optimizer =",
                "LBFGS([w]": "LBFGS([w, b]",
                "logits * w": "logits * w + b",
            },
            "a bias is fitted",
        ),
        ("logits * w", "(logits - logits.mean(1, keepdim=True)) * w", "mean is subtracted"),
        ("        return loss\n", "", "stopped with TypeError", "without `return`"),
        ("return w.detach()", "return 0.99 * w.detach() + 0.05", "minimum is not reached"),
    ],
    "smallest-difference": [
        ("2 * accuracy", "accuracy", "√2"),
        ("z * math.sqrt(2 * accuracy", "2 * z * math.sqrt(accuracy", "added"),
        ("z * math", "math", "z is missing"),
        (
            "math.sqrt(2 * accuracy * (1 - accuracy) / n)",
            "(2 * accuracy * (1 - accuracy) / n)",
            "root is missing",
        ),
        (" / n)", ")", "n is missing"),
        (" / n)", ") / n", "not under the root"),
        ("z * math", "100 * z * math", "percentage points"),
        ("z * math", "1.96 * math", "whatever `z`"),
    ],
    "best-of": [
        (".max(dim=1).values", ".float().mean(dim=1)", "average score"),
        (".max(dim=1).values", ".max()", "over *all* draws"),
        ("(hits.max(dim=1).values / n).mean().item()", "hits.max()[None] / n", "over *all* draws"),
        (" / n)", ")", "number of images"),
        (".mean().item()", ".mean().item() * 100", "percent"),
        ("(2000, count)", "(2000, max(1, count // 4))", "the best of about", "hold `count`"),
        (
            "(hits.max(dim=1).values / n).mean().item()",
            "p + math.sqrt(2 * math.log(count) * p * (1 - p) / n)",
            "a bound on",
        ),
        (" / n).mean().item()", " / n).mean().item() - 0.5", "expected, got"),
    ],
    "ece-interval": [
        (
            """def ece_interval(first, second, bins, repetitions, level, generator):
    n, found = len(first[0]), []

    def error(confidence, correct):
        index = (confidence * bins).long().clamp(max=bins - 1)
        gap = correct.double() - confidence
        return sum(gap[index == b].sum().abs() for b in range(bins)) / n

    for _ in range(repetitions):
        i = torch.randint(n, (n,), generator=generator)
        found.append(error(first[0][i], first[1][i]) - error(second[0][i], second[1][i]))
    found, tail = torch.stack(found), (1 - level) / 2
    return found.quantile(tail).item(), found.quantile(1 - tail).item()
""",
            "without a loop",
        ),
        (
            "    def errors(confidence, correct):\n",
            "    def errors(confidence, correct):\n"
            "        drawn = torch.randint(n, (repetitions, n), generator=generator)\n",
            "resampled independently",
        ),
        (
            {
                "errors(confidence, correct)": "errors(confidence, correct, drawn=drawn)",
                "errors(*second)": "errors(*second, torch.arange(n).expand(repetitions, n))",
            },
            "only the first",
        ),
        (
            {
                "errors(confidence, correct)": "errors(confidence, correct, drawn=drawn)",
                "errors(*first)": "errors(*first, torch.arange(n).expand(repetitions, n))",
            },
            "only the second",
        ),
        (
            "torch.randint(n, (repetitions, n), generator=generator)",
            "torch.rand(repetitions, n, generator=generator).argsort(1)",
            "*with* replacement",
        ),
        ("tail = (1 - level) / 2", "tail = 0.025", "whatever `level`"),
        ("tail = (1 - level) / 2", "tail = 1 - level", "too narrow"),
        ("tail = (1 - level) / 2", "tail = (1 - level) / 4", "too wide"),
        ("errors(*first) - errors(*second)", "errors(*second) - errors(*first)", "the sign"),
        ("return differences", "tail = 1 - tail\n    return differences", "swapped"),
        (
            "errors(*first) - errors(*second)",
            "(errors(*first) - errors(*second)).abs()",
            "absolute difference",
        ),
        ("gap = correct.double() - confidence", "gap = correct.double()", "*accuracies*"),
        ("sums.abs().sum(1)", "sums.sum(1)", "cancel"),
        ("sums.abs().sum(1)", "sums.sum(1).abs()", "cancel", "not the sum's"),
        ("/ n", "/ n * 100", "in percent"),
        (
            {"(repetitions, n)": "(repetitions, n // 2)", "/ n": "/ (n // 2)"},
            "half as large",
        ),
        (".clamp(max=bins - 1)", "", "out of bounds"),
        (", generator=generator", "", "nothing is drawn from `generator`"),
        ("    n = len", "    generator.manual_seed(0)\n    n = len", "a seed set inside"),
        (
            "    return differences",
            """    n = len(first[0])
    repetitions, drawn = 1, torch.arange(n)[None]
    value = (errors(*first) - errors(*second)).item()
    margin = differences.std().item()
    margin *= torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - tail)).item()
    return value - margin, value + margin
    return differences""",
            "± z standard errors",
        ),
        (
            "    return differences",
            """    n = len(first[0])
    repetitions, drawn = 1, torch.arange(n)[None]
    differences = 2 * (errors(*first) - errors(*second)) - differences
    return differences""",
            "reflected",
        ),
        (".item(), differences", " - 0.01, differences", "the bootstrap gives"),
        ("differences.quantile(tail).item(), ", "", "(low, high) expected"),
    ],
}
