"""Plausible wrong answers to the exercises, as edits of the solutions, with words that the diagnosis must contain.

{notebook: {exercise: [(text, replacement, word, …), …]}}. Instead of text and replacement stands a dict of several, or one
string, the whole answer.
"""

WRONG = {
    "01_residual_learning": {
        "residual": [
            ("F.relu(branch(x) + x)", "F.relu(branch(x)) + x", "before the addition"),
            ("F.relu(branch(x) + x)", "F.relu(F.relu(branch(x)) + x)", "leave that one out"),
            ("F.relu(branch(x) + x)", "branch(x) + x", "ReLU after the addition is missing"),
            ("F.relu(branch(x) + x)", "F.relu(branch(x))", "nothing is added"),
            ("F.relu(branch(x) + x)", "F.relu(branch(x) - x)", "x is subtracted"),
            ("F.relu(branch(x) + x)", "F.relu(x - branch(x))", "F(x) is subtracted"),
            ("F.relu(branch(x) + x)", "F.relu(branch(x) + x.detach())", "no gradient flows through x"),
            ("F.relu(branch(x) + x)", "F.relu(branch(x).detach() + x)", "through the branch"),
            ("return F.relu(branch(x) + x)", "x += branch(x)\n    return F.relu(x)", "changes what it was given"),
            ("return F.relu(branch(x) + x)", "F.relu(branch(x) + x)", "`return`"),
        ],
        "input-gradient": [
            ("g @ jacobian + g", "g @ jacobian", "identity is missing"),
            ("g @ jacobian + g", "g", "branch is missing"),
            ("upstream * mask", "upstream", "mask is missing"),
            ("g @ jacobian + g", "g @ jacobian + upstream", "branch only"),
            ("g @ jacobian + g", "upstream @ jacobian + g", "shortcut only"),
            ({"upstream * mask": "upstream", "g @ jacobian + g": "(g @ jacobian + g) * mask"}, "at the input"),
            ("g @ jacobian + g", "jacobian @ g + g", "wrong side"),
        ],
        "count-paths": [
            ("range(blocks + 1)", "range(1, blocks + 1)", "length 0"),
            ("range(blocks + 1)", "range(blocks)", "longest path"),
            ("[math.comb(blocks, length) for length in range(blocks + 1)]", "2**blocks", "number of all paths"),
            ("math.comb(blocks, length)", "2**length", "*which* k"),
            ("math.comb(", "math.perm(", "order counts"),
            ("math.comb(blocks, length)", "math.comb(blocks, length) / 2**blocks", "shares"),
        ],
        "zero-gamma": [
            ("module.bn3 if isinstance(module, Bottleneck) else module.bn2", "module.bn1", "first BatchNorm"),
            ("module.bn3 if isinstance(module, Bottleneck) else module.bn2", "module.bn2", "ends with `bn3`"),
            (
                "module.bn3 if isinstance(module, Bottleneck) else module.bn2",
                "[m for m in module.modules() if isinstance(m, nn.BatchNorm2d)][-1]",
                "instead of the branch's last",
            ),
            (
                "nn.init.zeros_(last.weight)",
                "for m in module.children():\n                if isinstance(m, nn.BatchNorm2d): nn.init.zeros_(m.weight)",
                "every BatchNorm",
            ),
            ("last.weight", "last.bias", "shift β is set to 0; γ"),
            ("nn.init.zeros_(last.weight)", "last.weight * 0", "no scale is 0"),
            ("raise ValueError", "print", "plain network is accepted"),
            ("raise ValueError", "raise RuntimeError", "stopped with RuntimeError"),
            ("nn.init.zeros_(last.weight)", "last.weight = nn.Parameter(0 * last.weight)", "in place", "optimiser"),
            ("(BasicBlock, Bottleneck)", "BasicBlock", "should be '0', and is 'not 0'"),
        ],
        "second-moment": [
            ("(1 + scale**2) ** blocks", "(1 + scale) ** (2 * blocks)", "as if F(x) pointed along x"),
            ("(1 + scale**2) ** blocks", "(1 + scale) ** blocks", "squares must be"),
            ("(1 + scale**2) ** blocks", "1 + blocks * scale**2", "linearly"),
            ("(1 + scale**2) ** blocks", "1 + scale**2", "one block's factor"),
            ("(1 + scale**2) ** blocks", "2**blocks", "not squared, or not used"),
            ("** blocks", "** (blocks / 2)", "root"),
            ("return (1 + scale**2)", "(1 + scale**2)", "`return`"),
        ],
        "gradient-by-depth": [
            ("for gradient in gradients]", "for gradient in reversed(gradients)]", "begin with the first"),
            ("states[:-1]", "states[1:]", "*outputs*"),
            ("states[:-1]", "states", "one entry too many"),
            (".mean()", ".sum()", "sums of squares"),
            ("gradient.pow(2).mean()", "gradient.norm()", "norms"),
            ("gradient.pow(2).mean()", "gradient.mean()", "signs cancel"),
            ("gradient.pow(2).mean()", "gradient.pow(2).mean().sqrt()", "roots"),
            ("x.detach().clone().requires_grad_()", "x", "stopped with RuntimeError", "torch.autograd.grad"),
        ],
    },
    "02_building_resnet50": {
        "conv-cost": [
            ("(n + 2 * padding - kernel) // stride + 1", "math.ceil((n + 2 * padding - kernel) / stride) + 1", "rounded up"),
            ("(n + 2 * padding - kernel) // stride + 1", "(n + 2 * padding - kernel) // stride", "+ 1"),
            ("2 * padding", "padding", "both sides"),
            ("parameters * side**2", "parameters * n**2", "output"),
            ("parameters * side**2", "2 * parameters * side**2", "twice"),
            ("kernel**2", "kernel", "k²"),
            ("* out_channels\n", "* out_channels + out_channels\n", "bias"),
            ("side, parameters, parameters", "side, parameters", "3 parts"),
        ],
        "batch-norm": [
            ("unbiased=False", "unbiased=True", "divide by the unbiased"),
            ("x.var((0, 2, 3), unbiased=True)", "var", "running variance", "unbiased"),
            (
                {
                    "mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)": "mean, var = x.mean((0, 2, 3)), 0",
                    "mean, var, gamma, beta =": "if training: var, mean = torch.var_mean(x, (2, 3), False)\n    mean, var =",
                    "1, -1, 1, 1) for each in (mean, var, gamma, beta)": "-1, x.shape[1], 1, 1) for each in (mean, var)",
                    "gamma *": "gamma.view(1, -1, 1, 1) *",
                    "+ beta": "+ beta.view(1, -1, 1, 1)",
                },
                "instance normalisation",
            ),
            (
                "x.mean((0, 2, 3)), x.var(",
                "x.mean((2, 3)), x.var(",
                "stopped with RuntimeError",
                "running_mean.lerp_(mean, momentum)",
            ),
            ("(var + eps).sqrt()", "(var.sqrt() + eps)", "outside the root"),
            ("momentum)", "1 - momentum)", "wrong way round"),
            (
                "mean, var, gamma, beta = (",
                "mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)\n    mean, var, gamma, beta = (",
                "eval mode",
            ),
            ("running_mean.lerp_(", "running_mean = running_mean.lerp(", "part 2"),
            ("_(mean, momentum)\n        running_var.lerp_", "(mean, momentum)\n        running_var.lerp", "do not change"),
            (
                "return gamma * (x - mean) / (var + eps).sqrt() + beta",
                "return gamma * (x - mean) / (var + eps).sqrt()",
                "part 1",
            ),
            ("return gamma * (x - mean)", "x -= mean\n    return gamma * x", "changes what it was given"),
        ],
        "basic-block": [
            ("F.relu(out + shortcut)", "F.relu(out) + shortcut", "ReLU comes before the addition"),
            ("F.relu(out + shortcut)", "F.relu(F.relu(out) + shortcut)", "leave the first one out"),
            ("F.relu(out + shortcut)", "out + shortcut", "last ReLU"),
            ("F.relu(out + shortcut)", "F.relu(out)", "plain block"),
            ("F.relu(out + shortcut)", "F.relu(out + shortcut.detach())", "no gradient", "detach"),
            ("conv3x3(width, width)", "conv3x3(width, width, stride)", "both 3×3"),
            ("conv3x3(in_channels, width, stride)", "conv3x3(in_channels, width)", "no convolution has the stride"),
            (", nn.BatchNorm2d(width))", ")", "no BatchNorm"),
            ("if stride != 1 or in_channels != width:", "if stride != 1:", "`downsample` is missing"),
            ("if stride != 1 or in_channels != width:", "if True:", "already agree"),
            ("F.relu(self.bn1(self.conv1(x)))", "self.bn1(self.conv1(x))", "between the two"),
            ("return F.relu(out + shortcut)", "out + shortcut", "`return`"),
            ("= F.relu(self.bn1(self.conv1(x)))", "= F.relu(self.bn1(self.conv1(F.relu_(x))))", "changes what it was given"),
            (
                "self.conv2 = conv3x3(width, width)",
                "self.conv2 = nn.Conv2d(width, width, 3, padding=1)",
                "`conv2.bias`",
                "needs no bias",
            ),
            ("bn2", "norm2", "names of the layers", "bn2"),
        ],
        "bottleneck": [
            ("expansion = 4", "expansion = 1", "`Bottleneck.expansion` should be 4"),
            (
                "conv1x1(in_channels, width)\n",
                "conv1x1(in_channels, width, stride)\n        stride_, stride = stride, 1\n",
                "`downsample` is missing",
            ),
            ("F.relu(out + shortcut)", "F.relu(out) + shortcut", "ReLU comes before the addition"),
            ("F.relu(out + shortcut)", "F.relu(F.relu(out) + shortcut)", "leave the first one out"),
            ("F.relu(out + shortcut)", "out + shortcut", "last ReLU"),
            ("F.relu(self.bn2(self.conv2(out)))", "self.bn2(self.conv2(out))", "second BatchNorm"),
            ("F.relu(self.bn1(self.conv1(x)))", "self.bn1(self.conv1(x))", "first BatchNorm"),
            ("conv3x3(width, width, stride)", "conv3x3(width, width)", "no convolution has the stride"),
            ("in_channels != out_channels", "in_channels != width", "downsample"),
            ("width * self.expansion", "width", "conv3.weight", "count its channels"),
        ],
        "make-stage": [
            ("width, 1)", "width, stride)", "every block has the stride"),
            ("block(in_channels, width, stride)", "block(in_channels, width, 1)", "no block has the stride"),
            ("width * block.expansion, width, 1", "width, width, 1", "width · expansion"),
            ("width * block.expansion, width, 1", "in_channels, width, 1", "`in_channels`"),
            ("range(depth - 1)", "range(depth)", "one block too many"),
            ("range(depth - 1)", "range(depth - 2)", "one block too few"),
            ("return nn.Sequential(*blocks)", "return blocks", "nn.Sequential"),
            (
                {"for _ in range(depth - 1):": "if depth > 1:", "blocks.append(block(": "blocks += (depth - 1) * [block("}
                | {"width, 1))": "width, 1)]"},
                "shares its weights",
            ),
        ],
        "option-a": [
            ("0, 0, 0, 0, 0, out_channels - x.shape[1]", "0, 0, 0, 0, out_channels - x.shape[1], 0", "before the old channels"),
            (
                "0, 0, 0, 0, 0, out_channels - x.shape[1]",
                "0, 0, 0, 0, (out_channels - x.shape[1]) // 2, (out_channels - x.shape[1]) // 2",
                "split",
            ),
            ("x[:, :, ::stride, ::stride]", "F.avg_pool2d(x, stride)", "average"),
            ("x[:, :, ::stride, ::stride]", "F.max_pool2d(x, stride)", "maximum"),
            ("x[:, :, ::stride, ::stride]", "x[:, :, stride - 1 :: stride, stride - 1 :: stride]", "start at the first"),
            ("x = x[:, :, ::stride, ::stride]", "", "resolution stays"),
            ("x[:, :, ::stride, ::stride]", "x[::stride, ::stride]", "shape"),
            ("x[:, :, ::stride, ::stride]", "x[:, :, ::stride, ::stride].detach()", "no gradient"),
            (
                "x[:, :, ::stride, ::stride]",
                "x[:, :, : x.shape[2] // stride * stride : stride, : x.shape[3] // stride * stride : stride]",
                "shape",
            ),
        ],
        "kaiming": [
            ("out_channels, _, k, _ = weight.shape", "_, out_channels, k, _ = weight.shape", "fan_in"),
            ("2 / (", "1 / (", "factor 2"),
            ("math.sqrt(2 / (out_channels * k**2))", "2 / (out_channels * k**2)", "standard deviation"),
            ("k**2", "k", "k once"),
            ("out_channels * k**2", "out_channels", "area"),
            (
                "weight.normal_(0, math.sqrt(2 / (out_channels * k**2)))",
                "bound = math.sqrt(6 / (out_channels * k**2))\n        weight.uniform_(-bound, bound)",
                "not normal",
            ),
            ("weight.normal_(0, ", "weight = torch.randn_like(weight) * (", "still zero"),
            ("normal_(0, ", "normal_(0.01, ", "mean"),
        ],
        "count": [
            (
                {" + 2 * (w + w + 4 * w)": "", " + 2 * (4 * w)": "", "27 * width + 2 * width": "27 * width"},
                *("BatchNorm's parameters are missing", "shift"),
            ),
            ({"2 * (w + w": "(w + w", "2 * (4 * w)": "(4 * w)", "+ 2 * width": "+ width"}, "one parameter per channel"),
            (
                {"2 * (w + w": "4 * (w + w", "2 * (4 * w)": "4 * (4 * w)", "+ 2 * width": "+ 4 * width"},
                "buffers, not parameters",
            ),
            (" + 2 * (w + w + 4 * w)", "", "should be"),
            ("+ 2 * (4 * w)  # the projection", "", "projections' BatchNorm"),
            ("if number == 0:", "if number == 0 and i > 0:", "first stage's projection"),
            ("if number == 0:", "if False:", "projections are missing"),
            (" + num_classes\n", "\n", "linear layer's bias"),
            ("27 * width + 2 * width", "0", "stem"),
        ],
    },
    "03_cifar10": {
        "channel-statistics": [
            (" / 255", "", "scale 0–255"),
            ("x.mean((0, 2, 3)), x.std((0, 2, 3))", "x.mean().repeat(3), x.std().repeat(3)", "all channels have the same"),
            ("x.std((0, 2, 3))", "x.std((2, 3)).mean(0)", "average of each picture's own"),
            ("x.std((0, 2, 3))", "x.mean((2, 3)).std(0)", "pictures' means"),
            ("x.std((0, 2, 3))", "x.var((0, 2, 3))", "variance"),
            ("(0, 2, 3)", "(0, 1, 2)", "shape"),
            ("return x.mean", "x.mean", "`return`"),
        ],
        "crop": [
            ("mirrored(h, down), mirrored(w, right)", "mirrored(h, right), mirrored(w, down)", "swapped"),
            ("+ shift[:, None]", "- shift[:, None]", "sign"),
            ("+ shift[:, None]", "+ shift[:1].expand(len(shift))[:, None]", "alike"),
            (
                {"(torch.arange(size) + shift[:, None]).abs()": "(torch.arange(size) + shift[:, None]) % size"},
                *("comes in on the other",),
            ),
            (
                {
                    "(torch.arange(size) + shift[:, None]).abs()": "(torch.arange(size) + shift[:, None])",
                    "(size - 1) - ((size - 1) - position).abs()": "position.clamp(0, size - 1)",
                },
                *("outermost pixel", "mirrors"),
            ),
            ("picked.permute(0, 3, 1, 2)", "picked", "shape"),
            (".abs()\n        return", "\n        return", "is wrong in"),
        ],
        "flip": [
            ("x.flip(3)", "x.flip(2)", "upside down"),
            ("x.flip(3)", "x.flip(1)", "channels are reversed"),
            ("x.flip(3)", "x.flip(0)", "order of the pictures"),
            ("x.flip(3), x)", "x, x.flip(3))", "*not* chosen"),
            ("torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x)", "x.flip(3) if chosen.any() else x", "as soon as one"),
            ("return torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x)", "x.flip(3)\n    return x", "nothing is flipped"),
            (
                "return torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x)",
                "x[chosen] = x[chosen].flip(3)\n    return x",
                "changes what it was given",
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
            (
                "members[torch.randperm(len(members), generator=generator)[:per_class]]",
                "members[:per_class]",
                "first pictures of each class",
            ),
            ("generator=generator", "generator=None", "the same seed gives another split"),
            ("manual_seed(seed)", "manual_seed(0)", "another seed gives the same"),
            (
                "torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]",
                "torch.nonzero(~rest)[:, 0], torch.nonzero(rest)[:, 0]",
                "parts are swapped",
            ),
            ("torch.nonzero(rest)[:, 0], ", "torch.arange(len(labels)), ", "in both parts"),
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
            ("torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]", "rest.nonzero(), (~rest).nonzero()", "one axis"),
            (
                "torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]",
                "rest.nonzero(as_tuple=True), (~rest).nonzero(as_tuple=True)",
                "a tensor of indices",
            ),
            ("torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]", "labels[rest], labels[~rest]", "these are labels"),
            ("torch.nonzero(rest)[:, 0], torch.nonzero(~rest)[:, 0]", "torch.tensor([]), torch.tensor([])", "0 indices for"),
            ("torch.nonzero(rest)[:, 0], ", "torch.nonzero(rest)[:-1, 0], ", "lost"),
        ],
    },
    "04_training": {
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
                "(1 - epsilon) * plain + epsilon * (uniform * logits.shape[1] - plain) / (logits.shape[1] - 1)",
                "*other* classes",
            ),
            ("(1 - epsilon) * plain + epsilon * uniform", "plain", "nothing is smoothed"),
            ("(1 - epsilon) * plain + epsilon * uniform", "(1 - epsilon) * plain", "the others get nothing"),
            ("F.log_softmax(logits, dim=1)", "F.log_softmax(logits.softmax(1), dim=1)", "twice"),
            ("F.log_softmax(logits, dim=1)", "logits.softmax(1)", "logarithm is missing"),
            ("F.log_softmax(logits, dim=1)", "F.log_softmax(logits, dim=0)", "over the batch"),
            ("F.log_softmax(logits, dim=1)", "logits.softmax(1).log()", "large ones"),
            ({".mean()\n    uniform": ".sum()\n    uniform", "-log_p.mean()": "-log_p.mean(1).sum()"}, "added up"),
            ("+ epsilon * uniform", "+ (epsilon * uniform).item()", "gradient is wrong"),
            (
                "return (1 - epsilon) * plain + epsilon * uniform",
                "return ((1 - epsilon) * plain + epsilon * uniform).item()",
                ".item()",
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
            ({"g + weight_decay * w": "g", "return w -": "return w * (1 - lr * weight_decay) -"}, "AdamW"),
            ("g + weight_decay * w", "g - weight_decay * w", "wrong sign"),
            ("momentum * v + d\n", "momentum * v + (1 - momentum) * d\n", "damped"),
            (
                {"momentum * v + d\n": "momentum * v + lr * d\n", "lr * (d + momentum * v)": "(lr * d + momentum * v)"},
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
            ({"value.lerp_(": "value.lerp(", "value.copy_(theirs[name])": "value = theirs[name]"}, "nothing changes"),
            ("value.lerp_(theirs[name], 1 - decay)", "value.mul_(decay).add_(theirs[name])", "without end"),
            ("if value.is_floating_point():", "if True:", "stopped with"),
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
                    "(logits.argmax(dim=1) == labels).sum()": "(logits.argmax(dim=1) == labels).float().mean()",
                    "seen += len(labels)": "seen += 1",
                },
                "averaged over batches",
            ),
            (
                {"loss.item() * len(labels)": "loss.item()", "loss_sum / seen": "loss_sum / len(batches)"},
                "accuracy is right, but the loss",
            ),
            ("    model.train()\n", "", "eval mode"),
            ("    model.train()\n", "    model.eval()\n", "eval mode"),
            ("logits = model(x)", "logits = model(x).softmax(1)", "wants logits"),
            ({"loss_sum +=": "loss_sum =", "correct +=": "correct =", "seen +=": "seen ="}, "last batch"),
        ],
        "checkpoint": [
            (
                '"optimizer": optimizer, "scheduler": scheduler}\n    torch',
                '"scheduler": scheduler}\n    torch',
                "stopped with KeyError",
            ),
            ('"model": model, "optimizer": optimizer, "scheduler"', '"model": model, "scheduler"', "velocities"),
            ('"optimizer": optimizer, "scheduler": scheduler}', '"optimizer": optimizer}', "scheduler starts anew"),
            ('"model": model, "optimizer"', '"optimizer"', "model's state"),
            ('return saved["epochs_done"]', 'return saved["epochs_done"] + 1', "too many or too few"),
            ('return saved["epochs_done"]', "pass", "returns None"),
            (", path)", ', path.with_name("other.pt"))', "no file at `path`"),
        ],
    },
    "05_evaluation": {
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
            (".view(classes, classes)", ".view(classes, classes).fill_diagonal_(0)", "diagonal is empty"),
            (".view(classes, classes)", ".view(classes, classes) / len(labels)", "shares"),
            (", minlength=classes**2", "", "stopped with RuntimeError"),
        ],
        "recall-precision": [
            (
                "right / matrix.sum(1).clamp(min=1), right / matrix.sum(0).clamp(min=1)",
                "right / matrix.sum(0).clamp(min=1), right / matrix.sum(1).clamp(min=1)",
                "swapped",
            ),
            (".clamp(min=1)", "", "0 / 0"),
            (".sum(1).clamp(min=1)", ".sum(1)", "not a number"),
            ({".sum(1).clamp(min=1)": ".sum()", ".sum(0).clamp(min=1)": ".sum()"}, "by all pictures"),
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
                {"inside.float().mean() * gap.abs()": "gap.abs()", "float(total)": "float(total) / len(index.unique())"},
                "counts alike",
            ),
            ("gap.abs()", "gap", "cancel"),
            ({"gap.abs()": "gap", "float(total)": "abs(float(total))"}, "not the sum's"),
            ("total += inside.float().mean() * gap.abs()", "total = max(total, gap.abs())", "largest gap"),
            ("gap.abs()", "gap**2", "squared"),
            ("index.unique()", "range(bins)", "not a number"),
            (".clamp(max=bins - 1)", "", "bin of its own"),
            ({".clamp(max=bins - 1)": "", "index.unique()": "index[index < bins].unique()"}, "into no bin"),
            (
                """def ece(confidence, correct, bins):
    total = 0
    for part in confidence.argsort().tensor_split(bins):
        total += len(part) / len(correct) * (correct[part].float().mean() - confidence[part].mean()).abs()
    return float(total)
""",
                "equally many",
            ),
        ],
        "fit-temperature": [
            ("logits / t", "logits * t", "*divided*"),
            ("temperatures[losses.argmin()].item()", "1.0", "T is 1"),
            ("temperatures[losses.argmin()].item()", "temperatures.log()[losses.argmin()].item()", "logarithm"),
            ("logits / t", "logits.softmax(1) / t", "probabilities"),
            ("F.cross_entropy(logits / t, labels)", "F.cross_entropy(logits / t, logits.argmax(1))", "predictions"),
            ("argmin", "argmax", "should be"),
        ],
        "smallest-difference": [
            ("2 * accuracy", "accuracy", "√2"),
            ("z * math.sqrt(2 * accuracy", "2 * z * math.sqrt(accuracy", "added"),
            ("z * math", "math", "z is missing"),
            ("math.sqrt(2 * accuracy * (1 - accuracy) / n)", "(2 * accuracy * (1 - accuracy) / n)", "root is missing"),
            (" / n)", ")", "n is missing"),
            (" / n)", ") / n", "not under the root"),
            ("z * math", "100 * z * math", "percentage points"),
        ],
        "best-of": [
            (".max(dim=1).values", ".float().mean(dim=1)", "average score"),
            (".max(dim=1).values", ".max()", "over *all* draws"),
            ("(hits.max(dim=1).values / n).mean().item()", "hits.max()[None] / n", "over *all* draws"),
            (" / n)", ")", "number of pictures"),
            (".mean().item()", ".mean().item() * 100", "percent"),
            ("(2000, count)", "(2000, max(1, count // 4))", "hold `count` scores"),
        ],
    },
    "06_inside_the_network": {
        "receptive-field": [
            ("(kernel - 1) * step", "kernel - 1", "without the step"),
            (
                "size += (kernel - 1) * step\n        step *= stride",
                "step *= stride\n        size += (kernel - 1) * step",
                "too early",
            ),
            ("(kernel - 1) * step", "kernel * step", "k - 1 should be"),
            ("size, step = 1, 1", "size, step = 0, 1", "begin with 1"),
            ("return size, step", "return size, stride", "last stride"),
            ("return size, step", "return size, sum(s for _, s in layers)", "strides are added"),
        ],
        "output-shapes": [
            ("output.shape[1:]", "output.shape", "batch is part"),
            ("output.shape[1:]", "inputs[0].shape[1:]", "what goes *in*"),
            (
                {"output, name=name)": "output)", "dict.fromkeys(names), []": "{}, []"},
                "only the last name",
            ),
            ("handle.remove()", "pass", "hooks are left"),
            ("model(x)", "model.train()(x)", "another mode"),
            ("model(x)", "model.eval()(x)", "another mode"),
            ("dict.fromkeys(names), []", "{}, []", "should have the keys"),
            ("return shapes", "return None", "stopped with"),
        ],
        "grad-cam": [
            ("F.relu((weights * activation).sum(1))", "(weights * activation).sum(1)", "ReLU is missing"),
            ("F.relu((weights * activation).sum(1))", "(weights * activation).sum(1).abs()", "absolute value"),
            ("logits.gather", "logits.softmax(1).gather", "probability (after"),
            ("logits.gather", "logits.log_softmax(1).gather", "logarithm of the probability"),
            ("classes[:, None]", "logits.argmax(1)[:, None]", "predicted class"),
            ("logits.gather(1, classes[:, None]).sum()", "logits.sum()", "all logits"),
            ("gradient.mean((2, 3), keepdim=True)", "gradient.sum((2, 3), keepdim=True)", "sums over the pixels"),
            ("gradient.mean((2, 3), keepdim=True)", "gradient", "pixel by pixel"),
            ("gradient.mean((2, 3), keepdim=True)", "gradient.mean((0, 2, 3), keepdim=True)", "over the batch"),
            ("return F.relu(", "maps = F.relu(", "None"),
            ("    handle.remove()\n", "", "hooks are left"),
        ],
        "without-block": [
            ("return shortened(x)", "return model(x)", "nothing is dropped"),
            ("copy.deepcopy(model)", "model", "for good"),
            ("[index] = nn.Identity()", "[index].register_forward_hook(lambda b, i, o: o * 0)", "zeros"),
            (
                "getattr(shortened, stage)[index] = nn.Identity()",
                "setattr(shortened, stage, getattr(shortened, stage)[:index])",
                "all behind it",
            ),
            ("raise ValueError(", "print(", "changes the shape"),
            ("if getattr(model, stage)[index].downsample is not None", "if index == 0", "stopped with ValueError"),
            (
                "raise ValueError(",
                "getattr(model, stage)[index] = nn.Identity()\n        raise ValueError(",
                "the block is gone",
            ),
            (
                "getattr(shortened, stage)[index] = nn.Identity()",
                "block = getattr(shortened, stage)[index]\n    block.residual = False",
                "F is kept",
            ),
        ],
        "relative-change": [
            ("f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))", "f = block(x) - x", "last ReLU has already cut"),
            ("f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))", "f = block(x)", "whole output"),
            ("(f.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean()", "(f.norm() / x.norm())", "whole batch"),
            (
                "(f.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean()",
                "(f.flatten(1).norm(dim=1).mean() / x.flatten(1).norm(dim=1).mean())",
                "mean norms",
            ),
            ("norm(dim=1)).mean()", "norm(dim=1)).pow(2).mean()", "squares"),
            (
                "(f.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1))",
                "(x.flatten(1).norm(dim=1) / f.flatten(1).norm(dim=1))",
                "upside down",
            ),
            ("f.flatten(1)", "F.relu(f).flatten(1)", "after a ReLU"),
        ],
        "filter-normalised": [
            (
                {"direction * factor.view(-1, *[1] * (weight.ndim - 1))": "direction * weight.norm() / direction.norm()"},
                "whole tensor",
            ),
            ("weight.flatten(1).norm(dim=1) / direction", "1 / direction", "norm 1"),
            (
                "torch.zeros_like(weight)",
                "direction * weight.norm() / direction.norm()",
                "one axis",
            ),
            (
                "factor = weight.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)",
                "factor = (weight.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)) ** 2",
                "squares of the norms",
            ),
            (
                """def filter_normalised(direction, weight):
    if weight.ndim == 1:
        return torch.zeros_like(weight)
    size = [z.transpose(0, 1).flatten(1).norm(dim=1) for z in (weight, direction)]
    return direction * (size[0] / size[1]).view(1, -1, *[1] * (weight.ndim - 2))
""",
                "*input* channel",
            ),
        ],
    },
}
