"""Wrong answers to the exercises of lesson 01."""

WRONG = {
    "residual": [
        ("F.relu(branch(x) + x)", "F.relu(branch(x)) + x", "before the addition"),
        ("F.relu(branch(x) + x)", "F.relu(F.relu(branch(x)) + x)", "leave that one out"),
        ("F.relu(branch(x) + x)", "branch(x) + x", "ReLU after the addition is missing"),
        ("F.relu(branch(x) + x)", "F.relu(branch(x))", "nothing is added"),
        ("F.relu(branch(x) + x)", "F.relu(branch(x) - x)", "x is subtracted"),
        ("F.relu(branch(x) + x)", "F.relu(x - branch(x))", "F(x) is subtracted"),
        ("F.relu(branch(x) + x)", "F.relu(branch(x) + x.detach())", "no gradient flows through x"),
        ("F.relu(branch(x) + x)", "F.relu(branch(x).detach() + x)", "through the branch"),
        (
            "return F.relu(branch(x) + x)",
            "x += branch(x)\n    return F.relu(x)",
            "changes what it was given",
        ),
        ("return F.relu(branch(x) + x)", "F.relu(branch(x) + x)", "`return`"),
        ("F.relu(branch(x) + x)", "F.relu(branch(x).add_(x))", "returns x itself"),
        ("F.relu(branch(x) + x)", "F.relu(branch(x) + x).detach()", "flows at all"),
    ],
    "input-gradient": [
        ("g @ jacobian + g", "g @ jacobian", "identity is missing"),
        ("g @ jacobian + g", "g", "branch is missing"),
        ("upstream * mask", "upstream", "mask is missing"),
        ("g @ jacobian + g", "g @ jacobian + upstream", "branch only"),
        ("g @ jacobian + g", "upstream @ jacobian + g", "shortcut only"),
        (
            {"upstream * mask": "upstream", "g @ jacobian + g": "(g @ jacobian + g) * mask"},
            "at the input",
        ),
        ("g @ jacobian + g", "jacobian @ g + g", "wrong side"),
    ],
    "count-paths": [
        ("range(blocks + 1)", "range(1, blocks + 1)", "length 0"),
        ("range(blocks + 1)", "range(blocks)", "longest path"),
        (
            "[math.comb(blocks, length) for length in range(blocks + 1)]",
            "2**blocks",
            "number of all paths",
        ),
        ("math.comb(blocks, length)", "2**length", "*which* k"),
        ("math.comb(", "math.perm(", "order counts"),
        ("math.comb(blocks, length)", "math.comb(blocks, length) / 2**blocks", "fractions"),
    ],
    "zero-gamma": [
        (
            "module.bn3 if isinstance(module, Bottleneck) else module.bn2",
            "module.bn1",
            "first BatchNorm",
        ),
        (
            "module.bn3 if isinstance(module, Bottleneck) else module.bn2",
            "module.bn2",
            "ends with `bn3`",
        ),
        (
            "module.bn3 if isinstance(module, Bottleneck) else module.bn2",
            "[m for m in module.modules() if isinstance(m, nn.BatchNorm2d)][-1]",
            "instead of the branch's last",
        ),
        (
            "nn.init.zeros_(last.weight)",
            "for m in module.children():\n"
            "                if isinstance(m, nn.BatchNorm2d): nn.init.zeros_(m.weight)",
            "every BatchNorm",
        ),
        ("last.weight", "last.bias", "shift β is set to 0; γ"),
        ("nn.init.zeros_(last.weight)", "last.weight * 0", "no scale is 0"),
        ("raise ValueError", "print", "plain network of BasicBlocks is accepted"),
        (
            "if not module.residual:",
            "if not module.residual and isinstance(module, BasicBlock):",
            "plain network of Bottlenecks is accepted",
        ),
        (
            {
                "            if not module.residual:": "            plain = not module.residual",
                '                raise ValueError("a plain': '            text = str("a plain',
                "zeros_(last.weight)": "zeros_(last.weight)\n"
                "            if plain:\n                raise ValueError(text)",
            },
            "still its scales are 0",
        ),
        (
            "nn.init.zeros_(last.weight)",
            "nn.init.zeros_(last.weight)\n"
            "            nn.init.zeros_([m for m in module.children() if isinstance(m, nn.Conv2d)]"
            "[-1].weight)",
            "last convolution",
        ),
        (
            "nn.init.zeros_(last.weight)",
            "nn.init.zeros_(last.weight)\n            nn.init.normal_(module.conv1.weight)",
            "conv1.weight",
            "'as before' expected, got 'changed'",
        ),
        (
            "nn.init.zeros_(last.weight)",
            "nn.init.zeros_(last.weight)\n            last.weight.requires_grad_(False)",
            "no longer asks for a gradient",
        ),
        ("raise ValueError", "raise RuntimeError", "stopped with RuntimeError"),
        (
            "nn.init.zeros_(last.weight)",
            "last.weight = nn.Parameter(0 * last.weight)",
            "in place",
            "optimiser",
        ),
        ("(BasicBlock, Bottleneck)", "BasicBlock", "'set to 0' expected, got 'as before'"),
    ],
    "second-moment": [
        ("(1 + scale**2) ** blocks", "(1 + scale) ** (2 * blocks)", "as if F(x) pointed along x"),
        ("(1 + scale**2) ** blocks", "(1 + scale) ** blocks", "squares must be"),
        ("(1 + scale**2) ** blocks", "1 + blocks * scale**2", "linearly"),
        ("(1 + scale**2) ** blocks", "1 + scale**2", "one block's factor"),
        ("(1 + scale**2) ** blocks", "2**blocks", "not squared, or not used"),
        ("** blocks", "** (blocks / 2)", "root"),
        ("return (1 + scale**2)", "(1 + scale**2)", "`return`"),
        ("** blocks", "** (blocks + 0.3)", "up to 5 %", "In the case blocks=6, scale="),
    ],
    "gradient-by-depth": [
        (
            "for gradient in gradients]",
            "for gradient in reversed(gradients)]",
            "begin with the first",
        ),
        ("states[:-1]", "states[1:]", "*outputs*"),
        ("states[:-1]", "states", "one entry too many"),
        (".mean()", ".sum()", "sums of squares"),
        ("gradient.pow(2).mean()", "gradient.norm()", "norms"),
        ("gradient.pow(2).mean()", "gradient.mean()", "signs cancel"),
        ("gradient.pow(2).mean()", "gradient.pow(2).mean().sqrt()", "roots"),
        (
            "x.detach().clone().requires_grad_()",
            "x",
            "stopped with RuntimeError",
            "torch.autograd.grad",
        ),
    ],
}
