"""Wrong answers to the exercises of lesson 04."""

WRONG = {
    "lr-factor": [
        ("(step + 1) / (warmup + 1)", "step / warmup", "first step has a rate of 0"),
        ("(step + 1) / (warmup + 1)", "(step + 1) / warmup", "one step early"),
        ("(step + 1) / (warmup + 1)", "1.0", "nothing rises"),
        ("(step - warmup) / (total - warmup)", "(step - warmup) / total", "never ends"),
        ("(step - warmup) / (total - warmup)", "step / total", "jumps down"),
        ("(1 + math.cos(math.pi * progress)) / 2", "math.cos(math.pi * progress)", "negative"),
        ("math.pi * progress", "2 * math.pi * progress", "down and up again"),
        ("(total - warmup)", "(total - warmup - 1)", "exactly 0"),
        ("(1 + math.cos(math.pi * progress)) / 2", "1 - progress", "linearly"),
        (
            {"if step < warmup": "if False", "(step - warmup) / (total - warmup)": "step / total"},
            "no warm-up",
        ),
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
    "update-ema": [
        ("average.state_dict().items()", "average.named_parameters()", "buffers are left"),
        (
            "if value.is_floating_point():",
            "if value.is_floating_point() and name in dict(average.named_parameters()):",
            "buffers are copied",
        ),
        ("1 - decay)", "decay)", "wrong way round"),
        ("value.lerp_(theirs[name], 1 - decay)", "value.copy_(theirs[name])", "simply replaced"),
        ("value.copy_(theirs[name])", "pass", "num_batches_tracked"),
        (
            {"value.lerp_(": "value.lerp(", "value.copy_(theirs[name])": "value = theirs[name]"},
            "nothing changes",
        ),
        (
            "value.lerp_(theirs[name], 1 - decay)",
            "value.mul_(decay).add_(theirs[name])",
            "without end",
        ),
        ("if value.is_floating_point():", "if True:", "stopped with"),
        (
            "value.copy_(theirs[name])",
            "average[1].num_batches_tracked = theirs[name]",
            "`1.num_batches_tracked`",
            "the model's own tensor",
        ),
        (
            "1 - decay)\n",
            "1 - decay)\n                theirs[name].mul_(2)\n",
            "the model itself is changed",
        ),
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
        (
            "return loss_sum / seen, correct / seen",
            "return loss_sum / seen",
            "(loss, accuracy) expected",
        ),
    ],
    "checkpoint": [
        (
            '"optimizer": optimizer, "scheduler": scheduler}\n    torch',
            '"scheduler": scheduler}\n    torch',
            "stopped with KeyError",
        ),
        (
            '"model": model, "optimizer": optimizer, "scheduler"',
            '"model": model, "scheduler"',
            "velocities",
        ),
        (
            '"optimizer": optimizer, "scheduler": scheduler}',
            '"optimizer": optimizer}',
            "scheduler starts anew",
        ),
        ('"model": model, "optimizer"', '"optimizer"', "model's state"),
        ('return saved["epochs_done"]', 'return saved["epochs_done"] + 1', "too many or too few"),
        ('return saved["epochs_done"]', "pass", "returns None"),
        (", path)", ', path.with_name("other.pt"))', "no file at `path`"),
        (
            "        part.load_state_dict(saved[name])",
            "        if name == 'optimizer':\n"
            "            groups = part.state_dict()['param_groups']\n"
            "            saved[name]['param_groups'] = groups\n"
            "        part.load_state_dict(saved[name])",
            "settings (`param_groups`) are not",
        ),
        (
            {
                "    torch.save({": "    path.write_text('')\n    KEPT.update({",
                ", path)": ")",
                "torch.load(path, weights_only=True)": "KEPT",
                "def save(": "KEPT = {}\n\n\ndef save(",
            },
            "second comes back",
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
