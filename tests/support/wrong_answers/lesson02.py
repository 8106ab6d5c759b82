"""Wrong answers to the exercises of lesson 02."""

INSTANCE_NORM = """\
def batch_norm(x, gamma, beta, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    mean, var = running_mean.view(1, -1, 1, 1), running_var.view(1, -1, 1, 1)
    if training:
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        running_mean.lerp_(x.mean((0, 2, 3)), momentum)
        running_var.lerp_(x.var((0, 2, 3), unbiased=True), momentum)
    return gamma.view(1, -1, 1, 1) * (x - mean) / (var + eps).sqrt() + beta.view(1, -1, 1, 1)
"""

WRONG = {
    "conv-cost": [
        (
            "(n + 2 * padding - kernel) // stride + 1",
            "math.ceil((n + 2 * padding - kernel) / stride) + 1",
            "rounded up",
        ),
        ("(n + 2 * padding - kernel) // stride + 1", "(n + 2 * padding - kernel) // stride", "+ 1"),
        ("2 * padding", "padding", "both sides"),
        ("parameters * side**2", "parameters * n**2", "output"),
        ("parameters * side**2", "2 * parameters * side**2", "twice"),
        ("kernel**2", "kernel", "k²"),
        ("* out_channels\n", "* out_channels + out_channels\n", "bias"),
        ("side, parameters, parameters", "side, parameters", "3 parts expected, got 2"),
        ("// stride + 1", "// 2 + 1", "the side:", "In the case n="),
    ],
    "batch-norm": [
        ("unbiased=False", "unbiased=True", "divide by the unbiased"),
        ("x.var((0, 2, 3), unbiased=True)", "var", "running variance", "unbiased"),
        (INSTANCE_NORM, "instance normalisation"),
        (
            "x.mean((0, 2, 3)), x.var(",
            "x.mean((2, 3)), x.var(",
            "stopped with RuntimeError",
            "running_mean.lerp_(mean, momentum)",
        ),
        ("(var.view(column) + eps).sqrt()", "(var.view(column).sqrt() + eps)", "outside the root"),
        ("momentum)", "1 - momentum)", "wrong way round"),
        (
            "column = (",
            "mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)\n    column = (",
            "eval mode",
        ),
        ("running_mean.lerp_(", "running_mean = running_mean.lerp(", "running mean:"),
        (
            "_(mean, momentum)\n            running_var.lerp_",
            "(mean, momentum)\n            running_var.lerp",
            "do not change",
        ),
        (" + beta.view(column)", "", "output: wrong in"),
        (
            "x_hat = (x - mean.view(column))",
            "x -= mean.view(column)\n    x_hat = x",
            "changes what it was given",
        ),
        ("(x - mean.view(column))", "(x - mean.view(column)).detach()", "gradient at `x` is wrong"),
        ("return gamma.view", "return gamma.data.view", "no gradient reaches `gamma`"),
        ("x.mean((0, 2, 3)), x.var(", "x.mean((0, 2, 3)).data, x.var(", "gradient at `x` is wrong"),
        ("def batch_norm(", "@torch.no_grad()\ndef batch_norm(", "no gradient"),
        ("with torch.no_grad():", "if True:", "part of the graph"),
        (
            """def batch_norm(x, gamma, beta, mean, var, training, momentum=0.1, eps=1e-5):
    return F.batch_norm(x, mean, var, gamma, beta, training, momentum, eps)
""",
            "own BatchNorm",
        ),
        (
            """def batch_norm(x, gamma, beta, mean, var, training, momentum=0.1, eps=1e-5):
    norm = nn.BatchNorm2d(len(gamma), eps, momentum).train(training)
    return norm(x)
""",
            "own BatchNorm",
        ),
        (
            """def batch_norm(x, gamma, beta, mean, var, training, momentum=0.1, eps=1e-5):
    return torch.native_batch_norm(x, gamma, beta, mean, var, training, momentum, eps)[0]
""",
            "own BatchNorm",
        ),
        (
            """def batch_norm(x, gamma, beta, mean, var, training, momentum=0.1, eps=1e-5):
    n, c, h, w = x.shape
    y = x.transpose(0, 1).reshape(1, c, n * h, w)
    y = F.instance_norm(y, mean, var, gamma, beta, training, momentum, eps)
    return y.view(c, n, h, w).transpose(0, 1)
""",
            "own instance normalisation",
        ),
    ],
    "preactivation-bottleneck": [
        ("self.downsample(first)", "self.downsample(x)", "the projection reads x"),
        ("self.downsample(first)", "self.downsample(self.bn1(x))", "`bn1` runs 2 times"),
        ("shortcut = x if", "shortcut = first if", "should be x itself"),
        ("return out + shortcut", "return F.relu(out + shortcut)", "a ReLU follows the addition"),
        ("return out + shortcut", "return F.relu(out) + shortcut", "never negative"),
        ("return out + shortcut", "return out", "nothing is added"),
        ("return out + shortcut", "out + shortcut", "`return`"),
        ("return out + shortcut", "return out + shortcut.detach()", "through the shortcut"),
        ("return out + shortcut", "return out.detach() + shortcut", "through F"),
        ("return out + shortcut", "x += out\n        return x", "changes what it was given"),
        ("F.relu(self.bn1(x))", "self.bn1(F.relu_(x))", "changes what it was given"),
        ("self.downsample(first)", "self.downsample(F.relu(x))", "the projection reads ReLU(x)"),
        (
            {
                "F.relu(self.bn1(x))": "self.bn1(F.relu(x))",
                "F.relu(self.bn2(out))": "self.bn2(F.relu(out))",
                "F.relu(self.bn3(out))": "self.bn3(F.relu(out))",
            },
            "ReLUs come before the BatchNorms",
        ),
        ("F.relu(self.bn1(x))", "self.bn1(x)", "between bn1 and conv1"),
        ("F.relu(self.bn2(out))", "self.bn2(out)", "between bn2 and conv2"),
        ("F.relu(self.bn3(out))", "self.bn3(out)", "between bn3 and conv3"),
        (
            {
                "self.bn1 = nn.BatchNorm2d(in_channels)": "self.bn1 = nn.BatchNorm2d(width)",
                "self.bn3 = nn.BatchNorm2d(width)": "self.bn3 = nn.BatchNorm2d(out_channels)",
            },
            "`bn1` has",
            "BatchNorm comes first",
        ),
        ("self.bn3 = nn.BatchNorm2d(width)", "self.bn3 = nn.BatchNorm2d(4 * width)", "`bn3` has"),
        (
            "self.downsample = conv1x1(in_channels, out_channels, stride)",
            "self.downsample = projection(in_channels, out_channels, stride)",
            "1×1 convolution alone",
        ),
        ("if stride != 1 or in_channels != out_channels:", "if stride != 1:", "no projection"),
        ("in_channels != out_channels", "in_channels != width", "already agree"),
        (
            {
                "conv3x3(width, width, stride)": "conv3x3(width, width)",
                "conv1x1(in_channels, width)": "conv1x1(in_channels, width, stride)",
            },
            "sits in the first 1×1",
        ),
        ("conv3x3(width, width, stride)", "conv3x3(width, width)", "no convolution of F"),
        (
            "self.conv2 = conv3x3(width, width, stride)",
            "self.conv2 = nn.Conv2d(width, width, 3, stride, 1)",
            "`conv2.bias`",
        ),
        (
            "self.conv2 = conv3x3(width, width, stride)",
            "self.conv2 = conv1x1(width, width, stride)",
            "`conv2.weight` has a 1×1 kernel",
        ),
        (
            "self.conv1 = conv1x1(in_channels, width)",
            "self.conv1 = conv1x1(in_channels, -width)",
            "stopped with RuntimeError",
            "of its cell: self.conv1 =",  # and not the line of helpers/resnet.py
        ),
        ("downsample", "projection", "no projection is called `downsample`", "`projection`"),
        ("bn2", "norm2", "names of the layers", "bn2"),
        ("def forward", "@torch.no_grad()\n    def forward", "no gradient flows at all"),
        (
            "self.bn2 = nn.BatchNorm2d(width)",
            "self.bn2 = nn.BatchNorm2d(width, momentum=0.3)",
            "buffers, at ['bn2.running_mean']",
            "train mode",
        ),
    ],
    "resnext": [
        (", groups=groups, bias", ", bias", "not split into groups"),
        (", groups=groups, bias", ", groups=inner, bias", "`conv2` has", "groups, and should"),
        ("groups * (width * width_per_group // 64)", "groups * width_per_group", "for width 64"),
        ("groups * (width * width_per_group // 64)", "width", "as in the plain bottleneck"),
        (
            "groups * (width * width_per_group // 64)",
            "width * width_per_group // 64",
            "divisible by groups",
        ),
        ("out_channels = width *", "out_channels = inner *", "whatever the groups are"),
        (
            "self.conv1 = conv1x1(in_channels, inner)",
            "groups_ = groups if in_channels % groups == 0 else 1\n        "
            "self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=groups_, bias=False)",
            "`conv1` is split",
        ),
        (
            "self.conv3 = conv1x1(inner, out_channels)",
            "self.conv3 = nn.Conv2d(inner, out_channels, 1, groups=groups, bias=False)",
            "`conv3` is split",
        ),
        ("groups=groups, bias=False", "groups=groups", "`conv2.bias`", "needs no bias"),
        ("F.relu(out + shortcut)", "F.relu(out) + shortcut", "ReLU comes before the addition"),
        ("F.relu(out + shortcut)", "F.relu(F.relu(out) + shortcut)", "leave the first one out"),
        ("F.relu(out + shortcut)", "out + shortcut", "last ReLU"),
        ("F.relu(out + shortcut)", "F.relu(out)", "plain block"),
        ("F.relu(out + shortcut)", "F.relu(out + shortcut.detach())", "no gradient", "detach"),
        ("F.relu(self.bn2(self.conv2(out)))", "self.bn2(self.conv2(out))", "second BatchNorm"),
        ("F.relu(self.bn1(self.conv1(x)))", "self.bn1(self.conv1(x))", "first BatchNorm"),
        ("inner, 3, stride, padding", "inner, 3, padding", "no convolution has the stride"),
        (
            {
                "inner, 3, stride, padding": "inner, 3, padding",
                "conv1x1(in_channels, inner)": "conv1x1(in_channels, inner, stride)",
            },
            "sits in the first 1×1",
        ),
        ("if stride != 1 or in_channels != out_channels:", "if stride != 1:", "is missing"),
        ("if stride != 1 or in_channels != out_channels:", "if True:", "already agree"),
        (
            "projection(in_channels, out_channels, stride)",
            "conv1x1(in_channels, out_channels, stride)",
            "projection is a single layer",
        ),
        (
            "projection(in_channels, out_channels, stride)",
            "nn.Sequential(__import__('collections').OrderedDict(conv=conv1x1(in_channels, "
            "out_channels, stride), norm=nn.BatchNorm2d(out_channels)))",
            "called `conv` and `norm`",
        ),
        ("3, stride, padding=1", "1, stride, padding=0", "`conv2.weight` has a 1×1 kernel"),
        (
            "out = self.bn3(self.conv3(out))",
            "self.bn3(self.conv3(out))\n        out = self.bn3(self.conv3(out))",
            "`bn3` runs 2 times",
        ),
    ],
    "stochastic-depth": [
        ("nn.ModuleList(blocks)", "blocks", "`nn.ModuleList`"),
        ("y + p * block.branch(x)", "y + block.branch(x)", "at full size"),
        ("y + p * block.branch(x)", "y + block.branch(x) / p", "is divided by p"),
        ("y + p * block.branch(x)", "y + (1 - p) * block.branch(x)", "of being dropped"),
        ("y = y + p * block.branch(x)", "y = p * y + block.branch(x)", "output", "In the case"),
        (
            "y = y + p * block.branch(x)",
            "y = p * y + p * block.branch(x)",
            "shortcut is multiplied",
        ),
        ("if not self.training:", "if False:", "output changes from call to call"),
        ("enumerate(self.blocks, 1)", "enumerate(self.blocks)", "counted from 0"),
        (
            "number / len(self.blocks)",
            "(number - 1) / (len(self.blocks) - 1 + 1e-12)",
            "line starts at the stage's *input*",
        ),
        ("1 - number / len(self.blocks) * (1 - self.survival)", "self.survival", "same probab"),
        ("* (1 - self.survival)", "* self.survival", "slope is p"),
        ("p = 1 - number", "p = number", "probability of being dropped"),
        ("torch.rand(()) < p", "torch.rand(()) > p", "in train mode these are", "being *dropped*"),
        ("torch.rand(()) < p", "torch.rand(()) < self.survival", "in train mode all blocks"),
        ("torch.rand(()) < p", "True", "no block is ever dropped"),
        ("torch.rand(()) < p", "p > 0.7", "nothing is drawn"),
        ("y = y + block.branch(x)", "y = y + block.branch(x) / p", "kept F(x) is divided by p"),
        ("y = y + block.branch(x)", "y = y + p * block.branch(x)", "kept F(x) is multiplied by p"),
        (
            "elif torch.rand(()) < p:\n                y = y + block.branch(x)",
            "else:\n                y = y + (torch.rand(()) < p) * block.branch(x)",
            "then thrown away",
        ),
        (
            "elif torch.rand(()) < p:\n                y = y + block.branch(x)",
            "else:\n                kept = torch.rand(len(x), 1, 1, 1) < p\n"
            "                y = y + kept * block.branch(x)",
            "images of one batch are treated differently",
        ),
        (
            "elif torch.rand(()) < p:",
            "elif torch.rand(()) >= p:\n                x = y\n                continue\n"
            "            else:",
            "without the ReLU",
        ),
        (
            {"for number": "u = torch.rand(())\n        for number", "torch.rand(()) < p": "u < p"},
            "one number drawn for all blocks",
        ),
        ("            x = F.relu(y)", "            x = y", "ReLU after the addition is missing"),
        ("x = F.relu(y)", "x = F.relu(y).detach()", "no gradient flows at all"),
        ("y = y + block.branch(x)", "y = y + block.branch(x.detach())", "a gradient is wrong"),
        ("y = block.skip(x)\n", "y = block(x)\n", "whole block is called"),
        (
            "elif torch.rand(()) < p:",
            "elif torch.rand(()) >= p:\n                continue\n            else:",
            "still has its shortcut",
        ),
        ("nn.ModuleList(blocks)", "nn.ModuleList(copy.deepcopy(blocks))", "Keep those given"),
    ],
    "average-projection": [
        (", ceil_mode=True", "", "rounded down"),
        (
            "conv1x1(in_channels, out_channels)",
            "conv1x1(in_channels, out_channels, stride)",
            "still has the stride",
        ),
        (
            "nn.Sequential(pool, conv1x1(in_channels, out_channels), ",
            "nn.Sequential(conv1x1(in_channels, out_channels), pool, ",
            "Pool first",
        ),
        ("nn.AvgPool2d(stride, stride", "nn.MaxPool2d(stride, stride", "take the mean"),
        ("nn.AvgPool2d(stride, stride", "nn.AvgPool2d(2, stride", "shape"),
        ("ceil_mode=True)", "ceil_mode=True, divisor_override=stride**2)", "averaged with zeros"),
        (
            "nn.AvgPool2d(stride, stride, ceil_mode=True)",
            "nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()",
            "overlap, with zeros",
        ),
        (
            "nn.AvgPool2d(stride, stride, ceil_mode=True)",
            "nn.AvgPool2d(2, 2, ceil_mode=True)",
            "With stride 1 the size stays",
        ),
        (
            "nn.AvgPool2d(stride, stride, ceil_mode=True)",
            "nn.AvgPool2d(2, stride, ceil_mode=True) if stride > 1 else nn.Identity()",
            "windows are 2×2, whatever",
        ),
        ("nn.Sequential(pool, ", "nn.Sequential(", "the size stays"),
        (
            "pool, conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels)",
            "conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels), pool",
            "after BatchNorm",
        ),
        (", nn.BatchNorm2d(out_channels)", "", "expected one BatchNorm"),
        ("nn.BatchNorm2d(out_channels)", "nn.BatchNorm2d(out_channels), nn.ReLU()", "ReLU follows"),
        (
            "conv1x1(in_channels, out_channels)",
            "nn.Conv2d(in_channels, out_channels, 1)",
            "needs no bias",
        ),
        (
            "pool, conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels)",
            "pool, nn.BatchNorm2d(in_channels), conv1x1(in_channels, out_channels)",
            "comes after the convolution",
        ),
        (
            "conv1x1(in_channels, out_channels)",
            "conv3x3(in_channels, out_channels)",
            "1×1 kernel, and found 3×3",
        ),
    ],
    "deep-stem": [
        ("width // 2, width // 2, width]", "width, width, width]", "the others half"),
        ("stride=2 if i == 0 else 1", "stride=2 if i == 2 else 1", "the strides", "1, 1, 2"),
        ("stride=2 if i == 0 else 1", "stride=1", "1, 1, 1"),
        ("conv3x3(channels[i]", "conv1x1(channels[i]", "All three kernels are 3×3"),
        ("nn.ReLU(inplace=True)]", "nn.Identity()]", "ReLUs are missing"),
        (
            "nn.ReLU(inplace=True)]",
            "nn.ReLU() if i < 2 else nn.Identity()]",
            "after the third BatchNorm",
        ),
        (
            "nn.BatchNorm2d(channels[i + 1]), nn.ReLU(inplace=True)]",
            "nn.ReLU(), nn.BatchNorm2d(channels[i + 1])]",
            "ReLUs come before the BatchNorms",
        ),
        (", nn.MaxPool2d(3, stride=2, padding=1)", "", "max-pool is missing"),
        ("nn.MaxPool2d(3, stride=2, padding=1)", "nn.MaxPool2d(2)", "2×2 windows"),
        ("nn.MaxPool2d(3, stride=2, padding=1)", "nn.AvgPool2d(3, 2, 1)", "averages"),
        ("[conv, nn.BatchNorm2d(channels[i + 1]), ", "[conv, ", "BatchNorm after each"),
        (
            "[conv, nn.BatchNorm2d(channels[i + 1]), ",
            "[nn.BatchNorm2d(channels[i]), conv, ",
            "run in the order BatchNorm, convolution",
        ),
        (
            "conv.weight.normal_(0, math.sqrt(2 / (9 * channels[i + 1])))",
            "pass",
            "those that PyTorch starts with",
        ),
        ("9 * channels[i + 1])))", "9 * channels[i])))", "fan_in"),
        ("math.sqrt(2 / (9 * channels[i + 1]))", "2 / (9 * channels[i + 1])", "take the root"),
        ("math.sqrt(2 /", "math.sqrt(1 /", "factor 2"),
        ("9 * channels[i + 1])))", "channels[i + 1])))", "area, 9, is missing"),
        ("9 * channels[i + 1])))", "3 * channels[i + 1])))", "not its area"),
        ("9 * channels[i + 1])))", "9 * width)))", "convolution 1 should have variance"),
        (
            "conv.weight.normal_(0, math.sqrt(2 / (9 * channels[i + 1])))",
            "bound = math.sqrt(6 / (9 * channels[i + 1]))\n"
            "            conv.weight.uniform_(-bound, bound)",
            "not normal",
        ),
        ("normal_(0, ", "normal_(0.01, ", "mean of the weights"),
        ("    layers = []", "    torch.manual_seed(0)\n    layers = []", "Is a seed set"),
        (
            "conv.weight.normal_(0, math.sqrt(2 / (9 * channels[i + 1])))",
            "nn.init.kaiming_normal_(conv.weight, mode='fan_out')",
            "draw them yourself",
        ),
        ("with torch.no_grad():", "if True:", "stopped with RuntimeError", "conv.weight.normal_"),
    ],
    "count": [
        (
            {
                " + 2 * (w + w + 4 * w)": "",
                " + 2 * (4 * w)": "",
                "27 * width + 2 * width": "27 * width",
            },
            "BatchNorm's parameters are missing",
            "shift",
        ),
        (
            {"2 * (w + w": "(w + w", "2 * (4 * w)": "(4 * w)", "+ 2 * width": "+ width"},
            "one parameter per channel",
        ),
        (
            {
                "2 * (w + w": "4 * (w + w",
                "2 * (4 * w)": "4 * (4 * w)",
                "+ 2 * width": "+ 4 * width",
            },
            "buffers, not parameters",
        ),
        (" + 2 * (w + w + 4 * w)", "", "expected, got", "depths=("),
        ("+ 2 * (4 * w)  # the projection", "", "projections' BatchNorm"),
        ("if number == 0:", "if number == 0 and i > 0:", "first stage's projection"),
        ("if number == 0:", "if False:", "projections are missing"),
        (" + num_classes\n", "\n", "linear layer's bias"),
        ("27 * width + 2 * width", "0", "stem"),
        ("total, channels = 27", "nn.Linear(width, 9)\n    total, channels = 27", "is built"),
        (
            "total, channels = 27",
            "nn.BatchNorm2d(9, affine=False, track_running_stats=False)\n    total, channels = 27",
            "is built",
        ),
    ],
    "squeeze-excite": [
        ("torch.sigmoid(self.fc2(", "(self.fc2(", "sigmoid is missing"),
        ("torch.sigmoid(self.fc2(", "F.softmax(dim=1, input=self.fc2(", "softmax"),
        ("torch.sigmoid(self.fc2(", "F.relu(self.fc2(", "where the sigmoid belongs"),
        ("F.relu(self.fc1(squeezed))", "self.fc1(squeezed)", "between the two linear layers"),
        ("f.mean((2, 3))", "f.sum((2, 3))", "take the mean"),
        ("f.mean((2, 3))", "f.amax((2, 3))", "maximum"),
        ("f.mean((2, 3))", "f.mean((0, 2, 3)).expand(len(f), -1)", "over the batch"),
        ("return f * ", "return f + f * ", "only scales"),
        ("return f * ", "return f + ", "multiply the channels"),
        ("return f * factors", "return f * factors.detach()", "through the factors"),
        ("channels // reduction, channels)", "channels // 16, channels)", "`fc2.weight`"),
        (
            "nn.Linear(channels, channels // reduction)",
            "nn.Conv2d(channels, channels // reduction, 1)",
            "another kind of layer",
        ),
        ("channels // reduction)\n", "channels // reduction, bias=False)\n", "fc1.bias"),
    ],
    "fold-batch-norm": [
        ("(norm.running_var + norm.eps).sqrt()", "norm.running_var.sqrt()", "ε is missing"),
        ("norm.eps).sqrt()", "1e-5).sqrt()", "ε is 1e-5 here"),
        ("(norm.running_var + norm.eps).sqrt()", "(norm.running_var.sqrt() + norm.eps)", "outside"),
        ("(norm.running_var + norm.eps).sqrt()", "(norm.running_var + norm.eps)", "by its root"),
        ("scale = norm.weight /", "scale = 1 /", "γ is missing"),
        ("norm.bias - norm.running_mean * scale", "norm.bias", "the bias is β alone"),
        ("norm.bias - norm.running_mean * scale", "-norm.running_mean * scale", "β is missing"),
        ("scale.view", "scale.float().double().view", "seven digits"),
        ("    conv.bias = nn", "    unused = nn", "there is no bias"),
        ("norm.running_mean * scale", "norm.running_mean", "unscaled"),
        ("norm.running_mean * scale", "norm.running_mean * norm.weight", "times γ"),
        (
            "norm.bias - norm.running_mean",
            "norm.bias + norm.running_mean",
            "the running mean is add",
        ),
        ("                fold_into(conv, layer)\n", "", "not folded into"),
        (
            "nn.BatchNorm2d):",
            "nn.BatchNorm2d) and name != '1':",
            "projections still have their BatchNorm",
        ),
        (
            "fold_into(conv, layer)",
            "name != '1' and fold_into(conv, layer)",
            "projections are taken out, but not folded",
        ),
        ("copy.deepcopy(model).eval()", "model.eval()", "comes back"),
        ("copy.deepcopy(model).eval()", "copy.copy(model.eval())", "has changed"),
        ("nn.BatchNorm2d):", "nn.BatchNorm2d) and name != 'bn3':", "still has"),
        ("    return model\n", "    model\n", "`return`"),
        (
            "module.add_module(name, nn.Identity())",
            "module.add_module(name, layer.eval())",
            "still has",
            "BatchNorm layers",
        ),
        (
            "scale.view(-1, 1, 1, 1)",
            "scale.view(1, -1, 1, 1)",
            "stopped with RuntimeError",
            "scale.view",
        ),
        (
            "    return model\n",
            "    model.fc = fc\n    return model\n",
            "stopped with NameError",
        ),
        (
            {
                "    model = copy": "    given = model\n    model = copy",
                "    return model\n": "    model.fc = given.fc\n    return model\n",
            },
            "own tensor",
        ),
        (
            """def fold_batch_norm(model):
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        layers = dict(module.named_children())
        for one, two in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")):
            if isinstance(layers.get(two), nn.BatchNorm2d):
                fused = torch.nn.utils.fusion.fuse_conv_bn_eval(layers[one], layers[two])
                module.add_module(one, fused)
                module.add_module(two, nn.Identity())
    return model
""",
            "own folding",
        ),
        (
            """class Scale(nn.Module):
    def __init__(self, norm):
        super().__init__()
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.scale = nn.Parameter(scale.view(-1, 1, 1))
        self.shift = nn.Parameter((norm.bias - norm.running_mean * scale).view(-1, 1, 1))

    def forward(self, x):
        return self.scale * x + self.shift


def fold_batch_norm(model):
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                module.add_module(name, Scale(layer))
    return model
""",
            "numbers of its own",
        ),
    ],
}
