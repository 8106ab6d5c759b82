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
        ("(var + eps).sqrt()", "(var.sqrt() + eps)", "outside the root"),
        ("momentum)", "1 - momentum)", "wrong way round"),
        (
            "mean, var, gamma, beta = (",
            "mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)\n"
            "    mean, var, gamma, beta = (",
            "eval mode",
        ),
        ("running_mean.lerp_(", "running_mean = running_mean.lerp(", "running mean:"),
        (
            "_(mean, momentum)\n            running_var.lerp_",
            "(mean, momentum)\n            running_var.lerp",
            "do not change",
        ),
        (
            "return gamma * (x - mean) / (var + eps).sqrt() + beta",
            "return gamma * (x - mean) / (var + eps).sqrt()",
            "output: wrong in",
        ),
        (
            "return gamma * (x - mean)",
            "x -= mean\n    return gamma * x",
            "changes what it was given",
        ),
        ("(x - mean)", "(x - mean).detach()", "gradient at `x` is wrong"),
        ("return gamma *", "return gamma.data *", "no gradient reaches `gamma`"),
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
    ],
    "basic-block": [
        ("F.relu(out + shortcut)", "F.relu(out) + shortcut", "ReLU comes before the addition"),
        ("F.relu(out + shortcut)", "F.relu(F.relu(out) + shortcut)", "leave the first one out"),
        ("F.relu(out + shortcut)", "out + shortcut", "last ReLU"),
        ("F.relu(out + shortcut)", "F.relu(out)", "plain block"),
        ("F.relu(out + shortcut)", "F.relu(out + shortcut.detach())", "no gradient", "detach"),
        ("conv3x3(width, width)", "conv3x3(width, width, stride)", "both 3×3"),
        (
            "conv3x3(in_channels, width, stride)",
            "conv3x3(in_channels, width)",
            "no convolution has the stride",
        ),
        ("nn.BatchNorm2d(width))", ")", "no BatchNorm"),
        ("if stride != 1 or in_channels != width:", "if stride != 1:", "`downsample` is missing"),
        ("if stride != 1 or in_channels != width:", "if True:", "already agree"),
        ("F.relu(self.bn1(self.conv1(x)))", "self.bn1(self.conv1(x))", "between the two"),
        ("return F.relu(out + shortcut)", "out + shortcut", "`return`"),
        (
            "= F.relu(self.bn1(self.conv1(x)))",
            "= F.relu(self.bn1(self.conv1(F.relu_(x))))",
            "changes what it was given",
        ),
        (
            "self.conv2 = conv3x3(width, width)",
            "self.conv2 = nn.Conv2d(width, width, 3, padding=1)",
            "`conv2.bias`",
            "needs no bias",
        ),
        ("bn2", "norm2", "names of the layers", "bn2"),
        (
            "conv3x3(width, width)",
            "conv3x3(width, -width)",
            "stopped with RuntimeError",
            "of its cell: self.conv2 =",  # and not the line of helpers/resnet.py
        ),
        (
            "out = self.bn2(self.conv2(out))",
            "self.bn2(self.conv2(out))\n        out = self.bn2(self.conv2(out))",
            "`bn2` runs 2 times",
        ),
        (
            "self.conv2 = conv3x3(width, width)",
            "self.conv2 = conv1x1(width, width)",
            "`conv2.weight` has a 1×1 kernel",
            "3×3",
        ),
        (
            {
                "nn.Sequential(conv1x1": "nn.Sequential(__import__('collections').OrderedDict("
                "conv=conv1x1",
                "nn.BatchNorm2d(width))": "norm=nn.BatchNorm2d(width)))",
            },
            "called `conv` and `norm`",
        ),
        ("downsample", "projection", "no projection is called `downsample`", "`projection`"),
        ("out + shortcut)", "out.detach() + shortcut)", "no gradient flows through F"),
        ("def forward", "@torch.no_grad()\n    def forward", "no gradient flows at all"),
        (
            "self.bn1 = nn.BatchNorm2d(width)",
            "self.bn1 = nn.BatchNorm2d(width, momentum=0.3)",
            "buffers, at ['bn1.running_mean']",
            "train mode",
        ),
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
        (
            "self.conv1 = conv1x1(in_channels, width)",
            "self.conv1 = conv3x3(in_channels, width)",
            "`conv1.weight` has a 3×3 kernel",
            "1×1",
        ),
        ("out + shortcut)", "out + shortcut.detach())", "no gradient flows through the shortcut"),
    ],
    "make-stage": [
        ("width, 1)", "width, stride)", "every block has the stride"),
        (
            "block(in_channels, width, stride)",
            "block(in_channels, width, 1)",
            "no block has the stride",
        ),
        ("width * block.expansion, width, 1", "width, width, 1", "width · expansion"),
        ("width * block.expansion, width, 1", "in_channels, width, 1", "`in_channels`"),
        ("range(depth - 1)", "range(depth)", "one block too many"),
        ("range(depth - 1)", "range(depth - 2)", "one block too few"),
        ("return nn.Sequential(*blocks)", "return blocks", "nn.Sequential"),
        (
            {
                "for _ in range(depth - 1):": "if depth > 1:",
                "blocks.append(block(": "blocks += (depth - 1) * [block(",
                "width, 1))": "width, 1)]",
            },
            "shares its weights",
        ),
        ("(in_channels, width, stride)]", "(in_channels, width, 2)]", "whatever `stride` is"),
    ],
    "option-a": [
        (
            "0, 0, 0, 0, 0, out_channels - x.shape[1]",
            "0, 0, 0, 0, out_channels - x.shape[1], 0",
            "before the old channels",
        ),
        (
            "0, 0, 0, 0, 0, out_channels - x.shape[1]",
            "0, 0, 0, 0, (out_channels - x.shape[1]) // 2, (out_channels - x.shape[1]) // 2",
            "split",
        ),
        ("x[:, :, ::stride, ::stride]", "F.avg_pool2d(x, stride)", "average"),
        ("x[:, :, ::stride, ::stride]", "F.max_pool2d(x, stride)", "maximum"),
        (
            "x[:, :, ::stride, ::stride]",
            "x[:, :, stride - 1 :: stride, stride - 1 :: stride]",
            "start at the first",
        ),
        ("x = x[:, :, ::stride, ::stride]", "", "resolution stays"),
        ("x[:, :, ::stride, ::stride]", "x[::stride, ::stride]", "shape"),
        ("x[:, :, ::stride, ::stride]", "x[:, :, ::stride, ::stride].detach()", "no gradient"),
        (
            "x[:, :, ::stride, ::stride]",
            "x[:, :, : x.shape[2] // stride * stride : stride, "
            ": x.shape[3] // stride * stride : stride]",
            "shape",
        ),
        (
            "return F.pad(x, (0, 0, 0, 0, 0, out_channels - x.shape[1]))",
            "zeros = torch.zeros(len(x), out_channels - x.shape[1], *x.shape[2:])\n"
            "    return torch.cat([x, zeros], 1)",
            "type is not",
            "bfloat16 expected",
        ),
        ("::stride, ::stride]", "::2, ::2]", "shape", "stride=1"),
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
        ("with torch.no_grad():", "if True:", "refuses to be overwritten"),
        ("k**2", "9", ", 1, 1) the variance should be near"),
        (
            "with torch.no_grad():",
            "torch.manual_seed(0)\n    with torch.no_grad():",
            "Is a seed set",
        ),
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
}
