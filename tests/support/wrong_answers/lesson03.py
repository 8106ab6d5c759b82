"""Wrong answers to the exercises of lesson 03."""

WRONG = {
    "channel-statistics": [
        (" / 255", "", "scale 0–255"),
        (
            "x.mean((0, 2, 3)), x.std((0, 2, 3))",
            "x.mean().repeat(3), x.std().repeat(3)",
            "all channels have the same",
        ),
        ("x.std((0, 2, 3))", "x.std((2, 3)).mean(0)", "average of each image's own"),
        ("x.std((0, 2, 3))", "x.mean((2, 3)).std(0)", "images' means"),
        ("x.std((0, 2, 3))", "x.var((0, 2, 3))", "variance"),
        ("(0, 2, 3)", "(0, 1, 2)", "shape"),
        ("return x.mean", "x.mean", "`return`"),
    ],
    "crop": [
        (
            "mirrored(h, down), mirrored(w, right)",
            "mirrored(h, right), mirrored(w, down)",
            "swapped",
        ),
        ("+ shift[:, None]", "- shift[:, None]", "sign"),
        ("+ shift[:, None]", "+ shift[:1].expand(len(shift))[:, None]", "alike"),
        ("shift[:, None]).abs()", "shift[:, None]) % size", "comes in on the other"),
        (
            {
                "shift[:, None]).abs()": "shift[:, None])",
                "(size - 1) - ((size - 1) - position).abs()": "position.clamp(0, size - 1)",
            },
            "outermost pixel",
            "mirrors",
        ),
        ("picked.permute(0, 3, 1, 2)", "picked", "shape"),
        (".abs()\n        return", "\n        return", "wrong in", "In the case images="),
    ],
    "flip": [
        ("x.flip(3)", "x.flip(2)", "upside down"),
        ("x.flip(3)", "x.flip(1)", "channels are reversed"),
        ("x.flip(3)", "x.flip(0)", "order of the images"),
        ("x.flip(3), x)", "x, x.flip(3))", "*not* chosen"),
        (
            "torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x)",
            "x.flip(3) if chosen.any() else x",
            "as soon as one",
        ),
        (
            "return torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x)",
            "x.flip(3)\n    return x",
            "nothing is flipped",
        ),
        (
            "return torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x)",
            "x[chosen] = x[chosen].flip(3)\n    return x",
            "changes what it was given",
        ),
        (
            "torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x)",
            "x + chosen.view(-1, 1, 1, 1).float() * (x.flip(3).float() - x)",
            "type is not",
            "uint8 expected",
        ),
    ],
    "cutout": [
        ("centres[:, None]", "centres[:1, None]", "same square"),
        ("& across", "| across", "cross"),
        ("- size // 2", "", "begins at the centre"),
        ("position < start + size", "position <= start + size", "one pixel too large"),
        ("position < start + size", "position < start + size // 2", "half the size"),
        ("position < start + size", "position < centres[:, None] + size // 2", "odd size"),
        ({"- size // 2": "- size", "start + size": "start + 2 * size"}, "twice the size"),
        ("0.0)", "1.0)", "filled with 1"),
        (
            """def cutout(x, rows, columns, size):
    x = x.clone()
    for n in range(len(x)):
        top, left = rows[n] - size // 2, columns[n] - size // 2
        x[n, :, top : top + size, left : left + size] = 0
    return x
""",
            "negative start",
        ),
        ("x.masked_fill(", "x.masked_fill_(", "changes what it was given"),
    ],
    "split": [
        ("members[order[:per_class]]", "members[:per_class]", "first images of each class"),
        ("generator=generator", "generator=None", "the same seed gives another split"),
        ("manual_seed(seed)", "manual_seed(0)", "another seed gives the same"),
        (
            "torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]",
            "torch.nonzero(~rest)[:, 0], torch.nonzero(rest)[:, 0]",
            "splits are swapped",
        ),
        ("torch.nonzero(rest)[:, 0], ", "torch.arange(len(labels)), ", "in both splits"),
        (
            """def split(labels, per_class, seed):
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    apart = per_class * len(labels.unique())
    return order[apart:], order[:apart]
""",
            "class by class",
        ),
        ("[:per_class]", "[: per_class // 2]", "`per_class` of each"),
        ("torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]", "rest, ~rest", "masks"),
        (
            "torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]",
            "rest.nonzero(), (~rest).nonzero()",
            "one axis",
        ),
        (
            "torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]",
            "rest.nonzero(as_tuple=True), (~rest).nonzero(as_tuple=True)",
            "a tensor of indices",
        ),
        (
            "torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]",
            "labels[rest], labels[~rest]",
            "these are labels",
        ),
        (
            "torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]",
            "torch.tensor([]), torch.tensor([])",
            "0 indices for",
        ),
        ("torch.nonzero(rest)[:, 0], ", "torch.nonzero(rest)[:-1, 0], ", "lost"),
        ("labels.unique()", "range(10)", "`per_class` of each", "not ten"),
        ("rest = torch.ones", "labels += 1\n    rest = torch.ones", "changes what it was given"),
    ],
}
