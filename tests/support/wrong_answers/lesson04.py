"""Wrong answers to the exercises of lesson 04."""

WRONG = {
    "warm-restarts": [
        ("(step + 1) / (warmup + 1)", "step / warmup", "first step has a rate of 0"),
        ("(step + 1) / (warmup + 1)", "(step + 1) / warmup", "one step early"),
        ("(step + 1) / (warmup + 1)", "1.0", "nothing rises"),
        ({"if step < warmup": "if False", "if start == 0:": "if False:"}, "no warm-up"),
        (
            """def warm_restarts(step, cycle, factor, warmup):
    start, length = 0, cycle
    while step >= start + length:
        start += length
        length *= factor
    if step - start < warmup:
        return (step - start + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * (step - start - warmup) / (length - warmup))) / 2
""",
            "every cycle has a warm-up",
        ),
        (
            """def warm_restarts(step, cycle, factor, warmup):
    if step < warmup:
        return (step + 1) / (warmup + 1)
    start, length = warmup, cycle
    while step >= start + length:
        start += length
        length *= factor
    return (1 + math.cos(math.pi * (step - start) / length)) / 2
""",
            "the first cycle is too long",
        ),
        ("warmup, cycle - warmup", "warmup, cycle", "sized for `cycle` steps"),
        ("    if start == 0:", "    if False:", "jumps down where the warm-up ends"),
        ("(1 + math.cos(math.pi", "2 * (math.cos(math.pi", "negative"),
        ("math.pi * (step", "2 * math.pi * (step", "down and up again in each"),
        (
            "(1 + math.cos(math.pi * (step - start) / length)) / 2",
            "1 - (step - start) / length",
            "linearly",
        ),
        ("(step - start) / length", "(step - start) / (length - 1)", "exactly 0"),
        ("while step >= start", "while step > start", "one step late: the step at which"),
        (
            """def warm_restarts(step, cycle, factor, warmup):
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if step < cycle:
        return (1 + math.cos(math.pi * (step - warmup) / (cycle - warmup))) / 2
    if factor == 1:
        return (1 + math.cos(math.pi * (step % cycle) / cycle)) / 2
    n = int(math.log(step / cycle * (factor - 1) + 1, factor))
    start, length = cycle * (factor**n - 1) // (factor - 1), cycle * factor**n
    return (1 + math.cos(math.pi * (step - start) / length)) / 2
""",
            "logarithm",
        ),
        ("while step >= start + length", "while False", "goes on, up again"),
        (
            {
                "while step >= start + length": "while False",
                "(step - start) / length": "min(1, (step - start) / length)",
            },
            "stays at 0",
        ),
        ("length *= factor", "length = cycle", "the same length"),
        ("length *= factor", "length += cycle * (factor - 1)", "by addition"),
        (
            {"        length *= factor": "        length = start * (factor - 1) or cycle"},
            "the list of the rates",
        ),
        ("length *= factor", "length = start * factor - start if factor > 1 else 1", "*ends*"),
        ("start, length = 0, cycle\n", "start, length = 0, cycle * factor\n", "In the case steps="),
        (
            """def warm_restarts(step, cycle, factor, warmup):
    if step < warmup:
        return (step + 1) / (warmup + 1)
    start, length = warmup, cycle - warmup
    while step >= start + length:
        start += length
        length *= factor
    return (1 + math.cos(math.pi * (step - start) / length)) / 2
""",
            "too short",
        ),
        ("(step - start) / length", "(step - start + 1) / length", "a step ahead"),
    ],
    "smooth-cross-entropy": [
        (
            "(1 - epsilon) * plain + epsilon * uniform",
            "(1 - epsilon) * plain "
            "+ epsilon * (uniform * logits.shape[1] - plain) / (logits.shape[1] - 1)",
            "*other* classes",
        ),
        ("(1 - epsilon) * plain + epsilon * uniform", "plain", "nothing is smoothed"),
        (
            "(1 - epsilon) * plain + epsilon * uniform",
            "(1 - epsilon) * plain",
            "the others get nothing",
        ),
        ("F.log_softmax(logits, dim=1)", "F.log_softmax(logits.softmax(1), dim=1)", "twice"),
        ("F.log_softmax(logits, dim=1)", "logits.softmax(1)", "logarithm is missing"),
        ("F.log_softmax(logits, dim=1)", "F.log_softmax(logits, dim=0)", "over the batch"),
        ("F.log_softmax(logits, dim=1)", "logits.softmax(1).log()", "large ones"),
        (
            {
                ".mean()\n    uniform": ".sum()\n    uniform",
                "-log_p.mean()": "-log_p.mean(1).sum()",
            },
            "added up",
        ),
        ("+ epsilon * uniform", "+ (epsilon * uniform).item()", "gradient at `logits` is wrong"),
        (
            "return (1 - epsilon) * plain + epsilon * uniform",
            "return ((1 - epsilon) * plain + epsilon * uniform).item()",
            ".item()",
        ),
        (
            "return (1 - epsilon) * plain + epsilon * uniform",
            "return F.cross_entropy(logits, labels, label_smoothing=epsilon)",
            "own cross-entropy",
        ),
        (
            "return (1 - epsilon) * plain + epsilon * uniform",
            "return nn.CrossEntropyLoss(label_smoothing=epsilon)(logits, labels)",
            "own cross-entropy",
        ),
    ],
    "sgd-step": [
        ("w - lr * (d + momentum * v), v", "w - lr * v, v", "without Nesterov"),
        (
            "v = momentum * v + d\n    return w - lr * (d + momentum * v), v",
            "return w - lr * (d + momentum * v), momentum * v + d",
            "with the *new* v",
        ),
        ("g + weight_decay * w", "g", "weight decay is missing"),
        (
            {"g + weight_decay * w": "g", "return w -": "return w * (1 - lr * weight_decay) -"},
            "AdamW",
        ),
        ("g + weight_decay * w", "g - weight_decay * w", "wrong sign"),
        ("momentum * v + d\n", "momentum * v + (1 - momentum) * d\n", "damped"),
        (
            {
                "momentum * v + d\n": "momentum * v + lr * d\n",
                "lr * (d + momentum * v)": "(lr * d + momentum * v)",
            },
            "inside the velocity",
        ),
        ("return w - lr", "return w + lr", "up the gradient"),
        ("v = momentum * v + d", "v.mul_(momentum).add_(d)", "changes what it was given"),
    ],
    "train-one-epoch": [
        ("        optimizer.zero_grad()\n", "", "pile up"),
        (
            "        optimizer.zero_grad()\n        loss.backward()\n",
            "        loss.backward()\n        optimizer.zero_grad()\n",
            "or `zero_grad()` between",
        ),
        ("        optimizer.step()\n", "", "do not move"),
        (
            "        optimizer.zero_grad()\n",
            "        logits = model(x)\n        optimizer.zero_grad()\n",
            "twice for each batch",
        ),
        (
            "        optimizer.step()\n",
            "        optimizer.step()\n        logits = model(x)\n",
            "second pass",
        ),
        (
            {
                "loss.item() * len(labels)": "loss.item()",
                "labels).sum()": "labels).float().mean()",
                "seen += len(labels)": "seen += 1",
            },
            "averaged over batches",
        ),
        (
            {
                "loss.item() * len(labels)": "loss.item()",
                "loss_sum / seen": "loss_sum / len(batches)",
            },
            "accuracy is right, but the loss",
        ),
        ("    model.train()\n", "", "eval mode"),
        ("    model.train()\n", "    model.eval()\n", "eval mode"),
        ("logits = model(x)", "logits = model(x).softmax(1)", "wants logits"),
        (
            {"loss_sum +=": "loss_sum =", "correct +=": "correct =", "seen +=": "seen ="},
            "last batch",
        ),
        ("loss.item() * len(labels)", "loss * len(labels)", "carries its graph"),
        (
            {
                "loss_sum, correct, seen = 0.0, 0, 0": "losses, correct, seen = [], 0, 0",
                "loss_sum += loss.item() * len(labels)": "losses.append(loss * len(labels))",
                "loss_sum / seen": "sum(losses).item() / seen",
            },
            "keeps the graph of every batch",
        ),
        (
            {
                "seen = 0.0, 0, 0": "seen = 0.0, 0, sum(len(y) for _, y in batches)",
                "        seen += len(labels)\n": "",
            },
            "gone through twice",
        ),
        ("    for x, labels in batches:", "    for x, labels in list(batches):", "read ahead"),
        (
            "return loss_sum / seen, correct / seen",
            "return loss_sum / seen",
            "(loss, accuracy) expected",
        ),
    ],
    "checkpoint": [
        ('        "optimizer": optimizer.state_dict(),\n', "", "stopped with KeyError"),
        ('    optimizer.load_state_dict(saved["optimizer"])\n', "", "velocities"),
        ('    scheduler.load_state_dict(saved["scheduler"])\n', "", "scheduler starts anew"),
        ('    model.load_state_dict(saved["model"])\n', "", "model's state"),
        ('return saved["epochs_done"]', 'return saved["epochs_done"] + 1', "too many or too few"),
        ('return saved["epochs_done"]', "pass", "returns None"),
        (", path)", ', path.with_name("other.pt"))', "no file at `path`"),
        (
            "    optimizer.load_state_dict(",
            "    groups = optimizer.state_dict()['param_groups']\n"
            "    saved['optimizer']['param_groups'] = groups\n"
            "    optimizer.load_state_dict(",
            "settings (`param_groups`) are not",
        ),
        (
            {
                "    torch.save(state, path)": "    path.write_text('')\n    KEPT.update(state)",
                "torch.load(path, weights_only=True)": "KEPT",
                "def save(": "KEPT = {}\n\n\ndef save(",
            },
            "second comes back",
        ),
        (
            {
                "    torch.save(state, path)": "    token = str(len(KEPT))\n"
                "    KEPT[token] = copy.deepcopy(state)\n    path.write_text(token)",
                "torch.load(path, weights_only=True)": "KEPT[path.read_text()]",
                "def save(": "import copy\n\nKEPT = {}\n\n\ndef save(",
            },
            "kept elsewhere",
        ),
        (
            ", path)",
            ", path)\n    torch.save(optimizer.state_dict(), path.with_suffix('.opt'))",
            "should write one file",
            "checkpoint.opt",
        ),
    ],
    "mixup-loss": [
        ("lam * own + (1 - lam) * others", "own", "the labels are not"),
        ("model(mixture)", "model(x)", "the images are not"),
        ("lam * own + (1 - lam) * others", "lam * others + (1 - lam) * own", "losses are swapped"),
        ("lam * x + (1 - lam) * x[order]", "lam * x[order] + (1 - lam) * x", "images are swapped"),
        ("lam * own + (1 - lam) * others", "own + others", "without their weights"),
        ("lam * own + (1 - lam) * others", "(own + others) / 2", "equal weights"),
        ("labels[order])", "labels[order.argsort()])", "another order"),
        (
            "    own = ",
            "    mixed = lam * labels + (1 - lam) * labels[order]\n"
            "    return F.cross_entropy(logits, mixed.long())\n    own = ",
            "no class",
        ),
        ("logits = model(mixture)", "logits = model(mixture)\n    model(x)", "runs 2 times"),
        ("return lam * own", "return lam * own.detach()", "gradient at `x` is wrong"),
        (", labels)", ", labels, reduction='sum')", "expected, got", "lam="),
    ],
}
