"""Wrong answers to the exercises of lesson 06."""

WRONG = {
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
        (
            "        with evaluating(model), torch.no_grad():",
            "        model.eval()\n        with torch.no_grad():",
            "another mode",
        ),
        ("model(x)", "model.train()(x)", "have moved"),
        ("evaluating(model), ", "", "have moved"),
        ("dict.fromkeys(names), []", "{}, []", "the keys", "expected, got"),
        ("return shapes", "return None", "returns None"),
        (
            "        handles.append(getattr(model, name).register_forward_hook(note))",
            "        handles.append(getattr(model, name).register_forward_hook(note))\n"
            "        model(x)",
            "runs 7 times",
        ),
        ("return shapes", "return list(shapes.values())", "a dictionary is expected"),
    ],
    "contrastive-cam": [
        (" - logits.gather(1, b[:, None])", "", "class a alone"),
        (
            {
                "a[:, None]) - ": "b[:, None]) - ",
                "gather(1, b[:, None])\n": "gather(1, a[:, None])\n",
            },
            "exchanged",
        ),
        (
            """def contrastive_cam(model, name, x, a, b):
    def cam(classes):
        kept = []

        def keep(layer, inputs, output):
            kept.append(output)
            return output.clone()

        handle = model.get_submodule(name).register_forward_hook(keep)
        try:
            with evaluating(model):
                logits = model(x.detach().requires_grad_())
        finally:
            handle.remove()
        score = logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, kept[0])
        return F.relu((gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1)).detach()

    return F.relu(cam(a) - cam(b))
""",
            "two maps of Grad-CAM",
            "rectified again",
        ),
        ("a[:, None]) - logits", "a[:, None]) + logits", "are added"),
        (
            "return F.relu((weights * kept[0]).sum(1))",
            "return (weights * kept[0]).sum(1)",
            "ReLU is",
        ),
        (
            "F.relu((weights * kept[0]).sum(1))",
            "(weights * kept[0]).sum(1).abs()",
            "absolute value",
        ),
        (
            "    score =",
            "    logits = logits.softmax(1)\n    score =",
            "probabilities (after",
        ),
        ("gather(1, a[:, None])", "max(1, keepdim=True).values", "predicted class"),
        (
            "logits.gather(1, a[:, None]) - logits.gather(1, b[:, None])",
            "logits[:, a[0]] - logits[:, b[0]]",
            "of the first one",
        ),
        ("gradient.mean((2, 3), keepdim=True)", "gradient.sum((2, 3), keepdim=True)", "are sums"),
        ("gradient.mean((2, 3), keepdim=True)", "gradient", "pixel by pixel"),
        (
            "gradient.mean((2, 3), keepdim=True)",
            "gradient.mean((0, 2, 3), keepdim=True)",
            "over the batch",
        ),
        (
            "    return F.relu(",
            "    most = F.relu((weights * kept[0]).sum(1)).amax((1, 2))\n"
            "    weights = weights / most[:, None, None, None]\n    return F.relu(",
            "scaled to 0–1",
        ),
        (
            "sum(1)).detach()",
            "sum(1)).detach()[:, None]",
            "shape",
        ),
        (
            {
                "return F.relu((": "maps = F.relu((",
                "sum(1)).detach()": "sum(1, keepdim=True)).detach()\n    return F.interpolate("
                'maps, size=x.shape[2:], mode="bilinear").squeeze(1)',
            },
            "enlarged",
        ),
        ("        return output.clone()", "        return None", "a ReLU in place", "`clone()`"),
        (
            "kept.append(output)\n        return output.clone()",
            "kept.append(output.clone())",
            "stopped with RuntimeError",
        ),
        ("        handle.remove()", "        pass", "hooks are left"),
        (
            {
                "    try:\n": "    if True:\n",
                "    finally:\n        handle": "    if True:\n        handle",
            },
            "hooks are left on the model when it raises",
        ),
        ("with evaluating(model):", "if True:", "running statistics have moved"),
        (
            {"with evaluating(model):": "if model.eval():"},
            "left in another mode",
        ),
        (
            {
                "    try:\n        with evaluating(model):": "    mode = model.training\n"
                "    try:\n        if model.eval():",
                "    score =": "    model.train(mode)\n    score =",
            },
            "its own mode",
        ),
        (
            {
                "    try:\n        with evaluating(model):": "    modes = [(p, p.training) "
                "for p in model.modules()]\n    try:\n        if model.eval():",
                "    score =": "    for p, mode in modes:\n        p.training = mode\n    score =",
            },
            "another mode than it came in when it raises",
        ),
        (
            "(gradient,) = torch.autograd.grad(score.sum(), kept[0])",
            "kept[0].retain_grad()\n    score.sum().backward()\n    gradient = kept[0].grad",
            "`.grad`, are changed",
        ),
        ("x.detach().requires_grad_()", "x.requires_grad_()", "caller's x"),
        ("model(x.detach().requires_grad_())", "model(x)", "RuntimeError"),
        (
            "    kept = []\n",
            "    kept = []\n    model.requires_grad_(True)\n",
            "`requires_grad` of the parameters",
        ),
        (".sum(1)).detach()", ".sum(1))", "the graph"),
        (
            "    finally:\n",
            "    except ArithmeticError:\n        return x\n    finally:\n",
            "hand it on",
        ),
    ],
    "without-block": [
        ("return shortened(x)", "return model(x)", "nothing is dropped"),
        ("copy.deepcopy(model)", "model", "for good"),
        (
            "[index] = nn.Identity()",
            "[index].register_forward_hook(lambda b, i, o: o * 0)",
            "zeros",
        ),
        (
            "getattr(shortened, stage)[index] = nn.Identity()",
            "setattr(shortened, stage, getattr(shortened, stage)[:index])",
            "all after it",
        ),
        ("raise ValueError(", "print(", "changes the shape"),
        (
            "if getattr(model, stage)[index].downsample is not None",
            "if index == 0",
            "stopped with ValueError",
        ),
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
        (
            "f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))",
            "f = block(x) - x",
            "last ReLU has already cut",
        ),
        (
            "f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))",
            "f = block(x)",
            "whole output",
        ),
        (
            "(f.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean()",
            "(f.norm() / x.norm())",
            "whole batch",
        ),
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
            "filters / filters.norm(dim=1, keepdim=True) * lengths",
            "filters / filters.norm() * weight.norm()",
            "whole tensor",
        ),
        (" * lengths", "", "norm 1"),
        (
            "torch.zeros_like(weight)",
            "direction * weight.norm() / direction.norm()",
            "one axis",
        ),
        (
            "filters / filters.norm(dim=1, keepdim=True) * lengths",
            "filters * (lengths / filters.norm(dim=1, keepdim=True)) ** 2",
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
}
