"""Wrong answers to the exercises of lesson 09."""

WRONG = {
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
    "grown": [
        ("copy.deepcopy(model)", "model", "*is* the given one"),
        ("copy.deepcopy(model)", "copy.copy(model)", "the given network is changed"),
        (
            "    return large",
            "    model.eval() if model.training else model.train()\n    return large",
            "the given network is changed",
        ),
        (
            "copy.deepcopy(model)",
            "copy.copy(model)\n    large._modules = {\n"
            "        name: nn.Sequential(*part) if name.startswith('layer') else part\n"
            "        for name, part in model.named_children()}",
            "own tensor",
        ),
        ("range(missing)", "range(missing + 1)", "are asked for"),
        ("range(missing)", "range(depth)", "are asked for"),
        ("zero_gamma=True)", "zero_gamma=False)", "γ of", "is not 0"),
        (
            "initialize(stage[-1], zero_gamma=True)",
            "initialize(stage[-1])\n                nn.init.zeros_(stage[-1].bn1.weight)",
            "*last* BatchNorm",
        ),
        (
            "initialize(stage[-1], zero_gamma=True)",
            "initialize(stage[-1], zero_gamma=True)\n"
            "                nn.init.zeros_(stage[-1].bn1.weight)",
            "behind a zero",
        ),
        (
            "initialize(stage[-1], zero_gamma=True)",
            "if block.downsample is None:\n"
            "                    stage[-1].load_state_dict(block.state_dict())\n"
            "                nn.init.zeros_((stage[-1].bn3 if hasattr(block, 'bn3') else "
            "stage[-1].bn2).weight)",
            "still adds β",
        ),
        ("    return large", "    initialize(large, zero_gamma=True)\n    return large", "trained"),
        (
            "    return large",
            "    for stage in stages:\n        for block in stage[1:]:\n"
            "            last = block.bn3 if hasattr(block, 'bn3') else block.bn2\n"
            "            nn.init.zeros_(last.weight)\n    return large",
            "γ of a *trained* block",
        ),
        (
            "    return large",
            "    for part in large.modules():\n        if isinstance(part, nn.BatchNorm2d):\n"
            "            part.reset_running_stats()\n    return large",
            "buffers belong",
        ),
        (
            "    return large",
            "    for part in large.modules():\n        if isinstance(part, nn.BatchNorm2d):\n"
            "            part.num_batches_tracked.zero_()\n    return large",
            "buffers belong",
        ),
        (
            "    return large",
            "    for part in stages:\n        for p in part[-1].parameters():\n"
            "            p.requires_grad_(False)\n    return large",
            "frozen",
        ),
        (
            "initialize(stage[-1], zero_gamma=True)",
            "initialize(stage[-1], zero_gamma=True)\n"
            "                nn.init.zeros_(stage[-1].conv1.weight)",
            "gradient",
        ),
        (
            {
                "        for _ in": "        new = None\n        for _ in",
                "stage.append(type(block)(width * block.expansion, width))": (
                    "new = new or type(block)(width * block.expansion, width)\n"
                    "                stage.append(new)"
                ),
            },
            "one and the same tensor",
        ),
        ("stage.append(copy.deepcopy(block))", "stage.append(block)", "one and the same tensor"),
        ("last.weight /= missing + 1", "last.weight /= 1", "should be 1/"),
        ("last.bias /= missing + 1", "last.bias /= 1", "β of"),
        (
            {
                "                last.weight /= missing + 1\n": "                pass\n",
                "                last.bias /= missing + 1\n": "",
                "stage.append(copy.deepcopy(block))": (
                    "stage.append(copy.deepcopy(block))\n"
                    "                new = stage[-1]\n"
                    "                new = new.bn3 if hasattr(new, 'bn3') else new.bn2\n"
                    "                new.weight.data /= missing + 1\n"
                    "                new.bias.data /= missing + 1"
                ),
            },
            "the block that was copied, too",
        ),
        ("copied = copies and block.downsample is None", "copied = False", "copies are asked for"),
        (
            "copied = copies and block.downsample is None",
            "copied = block.downsample is None",
            "not as it was trained",
        ),
        ("copied = copies and block.downsample is None", "copied = copies", "a projection"),
        (" or not block.residual", "", "ValueError is asked for a plain network"),
        ("if missing < 0 or not", "if not", "depths that are smaller"),
        (
            {"    if len(depths) != len(stages):\n": "    if False:\n"},
            "three depths for four stages",
        ),
        ('raise ValueError("only', 'raise TypeError("only', "Instead: TypeError"),
        (
            "initialize(stage[-1], zero_gamma=True)",
            "initialize(stage[-1], zero_gamma=True)\n                stage[-1].residual = False",
            "outputs differ",
        ),
        (
            "initialize(stage[-1], zero_gamma=True)",
            "initialize(stage[-1], zero_gamma=True)\n"
            "                stage[-1].relu = nn.Identity()",
            "residual blocks",
        ),
        (
            """from helpers.networks import grow
from helpers.resnet import CifarResNet


def grown(model, depths, copies=False):
    large = CifarResNet(type(model.layer1[0]), depths)
    large.load_state_dict(model.state_dict(), strict=False)
    grow(large, 0.0)
    return large
""",
            "without `grow` and `first_blocks`",
        ),
        (
            """from helpers import networks
from helpers.resnet import CifarResNet


def grown(model, depths, copies=False):
    return deeper(model, depths)


def deeper(model, depths):
    large = CifarResNet(type(model.layer1[0]), depths)
    networks.grow(large, 0.0)
    return large
""",
            "without `grow` and `first_blocks`",
        ),
    ],
}
