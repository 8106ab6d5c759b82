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
        ("index.unique()", "range(bins)", "not a number"),
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
    "fit-temperature": [
        ("logits / t", "logits * t", "*divided*"),
        ("temperatures[losses.argmin()].item()", "1.0", "1 in every case"),
        (
            "temperatures[losses.argmin()].item()",
            "temperatures.log()[losses.argmin()].item()",
            "logarithm",
        ),
        ("logits / t", "logits.softmax(1) / t", "probabilities"),
        (
            "F.cross_entropy(logits / t, labels)",
            "F.cross_entropy(logits / t, logits.argmax(1))",
            "predictions",
        ),
        ("argmin", "argmax", "in every case"),
        ("temperatures[losses.argmin()].item()", "1.5", "1.5 in every case"),
        (".item()", ".item() + 0.1", "expected, got", "In the case logits="),
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
}
