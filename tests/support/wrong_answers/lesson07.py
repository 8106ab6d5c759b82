"""Wrong answers to the exercise of lesson 07."""

WRONG = {
    "investigation": [
        (
            {
                "if low > 0": "if high < 0",
                'if high < 0:\n        return "b': 'if low > 0:\n        return "b',
            },
            "swapped",
        ),
        ("if low > 0:", "if low + high > 0:", "the claim"),
        (
            {"if low > 0:": "if low + high > 0:", "if high < 0:": "if low + high <= 0:"},
            "the middle of the interval",
        ),
        ({'        return "b is better"': '        return "not distinguishable"'}, "below 0 also"),
        ('"a is better"', '"A"', "'a is better' expected"),
        ("if low > 0:", "if low > 0.5:", "the claim"),
        (
            {"if low > 0:": "if False:", "if high < 0:": "if False:"},
            "no interval is narrow enough",
        ),
        ('"setting": "lr",', "", "`setting` is missing"),
        ('"setting": "lr"', '"setting": "model"', "the setting that differs is 'lr'"),
        ('"prediction": prediction', '"prediction": "It gets worse."', "no number"),
        ('"conclusion": conclusion', '"conclusion": "b is better."', "at least 15 words"),
        ('"conclusion": conclusion', '"conclusion": " "', "`conclusion` is empty"),
        (
            {
                'right_answers(a, "val"), right_answers(b, "val")': (
                    'right_answers(a, "test"), right_answers(b, "test")'
                )
            },
            "on the *test* images",
        ),
        ('"split": "val"', '"split": "test"', "you choose on the test images"),
        (
            'right_answers(a, "val"), right_answers(b, "val")',
            'right_answers(b, "val"), right_answers(a, "val")',
            "of b - a",
        ),
        (
            'right_answers(a, "val"), right_answers(b, "val")',
            'right_answers(a, "val")[:1], right_answers(b, "val")[:1]',
            "Use all seeds",
        ),
        (
            '"interval": (found.low, found.high)',
            '"interval": (100 * found.low, 100 * found.high)',
            "in points",
        ),
        (
            "(found.low, found.high),",
            "(found.high, found.low),",
            "ends of the interval are swapped",
        ),
        ('"interval": (found.low, found.high)', '"interval": found.value', "two numbers"),
        ('"n": found.seeds', '"n": 5000', "the seeds of the two arms"),
        ("verdict(found.low, found.high)", '"a is better"', "your own `verdict`"),
        ("verdict(found.low, found.high)", '"not distinguishable"', "your own `verdict`"),
        ('"ablation-plain20"\n', '"ablation-plain20-lr002"\n', "cannot differ from itself"),
        ('"b": b,', '"b": "ablation-plain20-",', "no finished runs"),
        ('"b": b,', '"b": "ablation-plain20-seed0",', "without `-seed0`"),
        ('"b": b,', '"b": 20,', "named by a text"),
        ('"b": b,', '"b": "ablation-resnet20",', "differ in 2", "model (plain20, resnet20)"),
        ('"b": b,', '"b": "cifar10-resnet9-laptop-train",', "and three are needed"),
        ('"b": b,', '"b": "cifar10-resnet9-laptop-train-val",', "learned from the validation"),
        ('"claim": verdict(found.low, found.high),', "", "`claim` is missing"),
    ],
}
