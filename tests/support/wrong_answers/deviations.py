"""Half-repairs of "Spot the deviation".

The deviations themselves, as they are handed out, are tried in test_deviations.py.
"""

CUTOUT = """\
def cutout(x, size, generator=None):
    n, c, h, w = x.shape
    {draw}
    out = x.clone()
    for i in range(n):
        top, left = {place}
        out[i, :, max(top, 0) : max(top + {size}, 0), max(left, 0) : max(left + {size}, 0)] = 0
    return out
"""


def loop(draw="pass", place="(0, 0)", size="size"):
    return CUTOUT.format(draw=draw, place=place, size=size)


def one(side, low=0):
    return f"int(torch.randint({low}, {side}, (), generator=generator)) - size // 2"


EMA_ALL = """\
@torch.no_grad()
def update_average(average, model, decay):
    for old, new in zip(average.state_dict().values(), model.state_dict().values()):
        old.mul_(decay).add_(new, alpha=1 - decay)
"""

SELECTION_AGAIN = """\
def train_and_test(model, train_one_epoch, accuracy, validation, test, epochs):
    best, weights = -1.0, None
    for _ in range(epochs):
        train_one_epoch(model)
        reached = accuracy(model, test)
        if reached > best:
            best, weights = reached, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return accuracy(model, test)
"""

SELECTION_EVERY = """\
def train_and_test(model, train_one_epoch, accuracy, validation, test, epochs):
    best, weights, reported = -1.0, None, None
    for _ in range(epochs):
        train_one_epoch(model)
        reached, on_test = accuracy(model, validation), accuracy(model, test)
        if reached > best:
            best, weights, reported = reached, copy.deepcopy(model.state_dict()), on_test
    model.load_state_dict(weights)
    return reported
"""

STRIDE = "2 if i > 0 and j == 0 else 1"
STEPS = "epochs * (images // batch_size)"
RIGHT = "(model(images).argmax(dim=1) == labels).sum().item()"
AVERAGED = "old.mul_(decay).add_(new, alpha=1 - decay)"

WRONG = {
    "projection": [
        (", bias=False", "", "bias", "subtracts the mean"),
        ("\n        nn.BatchNorm2d(out_channels),", "", "constant is gone", "scale"),
        (
            "nn.BatchNorm2d(out_channels),",
            "nn.BatchNorm2d(out_channels), nn.ReLU(),",
            "ReLU on the shortcut",
        ),
        (", stride=stride", "", "stride is gone"),
        (
            "kernel_size=1, stride=stride",
            "kernel_size=3, stride=stride, padding=1",
            "neighbouring",
            "1×1",
        ),
        (
            {
                "        nn.Conv2d": "        nn.BatchNorm2d(in_channels),\n        nn.Conv2d",
                "\n        nn.BatchNorm2d(out_channels),": "",
            },
            "comes *after* it",
        ),
        (
            "nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)",
            "nn.AvgPool2d(stride), nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)",
            "ResNet-D",
        ),
        ("nn.BatchNorm2d(out_channels)", "nn.GroupNorm(1, out_channels)", "GroupNorm"),
        (
            "nn.BatchNorm2d(out_channels)",
            "nn.BatchNorm2d(out_channels, affine=False)",
            "affine=False",
        ),
        (
            "nn.BatchNorm2d(out_channels)",
            "nn.BatchNorm2d(out_channels, track_running_stats=False)",
            "track_running_stats=False",
        ),
    ],
    "stages": [
        (STRIDE, "2 if i > 0 or j > 0 else 1", "except the very first"),  # 1 and 2 exchanged
        (STRIDE, "2 if i > 0 else 1", "every block of the later stages"),
        (STRIDE, "2 if j == 0 else 1", "first stage halves"),
        (STRIDE, "2 if i > 0 and j == depth - 1 else 1", "last block"),
        (STRIDE, "1 if j == 0 else 2", "other way round"),
        (STRIDE, "1", "no block"),
        ("in_channels = width", "pass", "channels of the stem"),
    ],
    "addition": [
        (
            {"out = self.bn2(self.conv2(out))": "out = F.relu(self.bn2(self.conv2(out)))"},
            "after the addition now",
            "never negative",
        ),
        ("return F.relu(out + x)", "return out + x", "without a ReLU"),
        ("return F.relu(out + x)", "return F.relu(out + F.relu(x))", "x goes through a ReLU"),
        (
            {
                "out = self.bn2(self.conv2(out))": "out = self.bn2(self.conv2(out) + x)",
                "F.relu(out + x)": "F.relu(out)",
            },
            "before the second BatchNorm",
        ),
        ("return F.relu(out + x)", "return F.relu(out)", "nothing is added"),
        (
            "return F.relu(out + x)",
            "x += out\n        return F.relu(x)",
            "changes what it was given",
        ),
        ("def forward", "@torch.no_grad()\n    def forward", "no gradient flows at all"),
        (
            "out = self.bn2(self.conv2(out))",
            "self.bn2(self.conv2(out))\n        out = self.bn2(self.conv2(out))",
            "`bn2` runs 2 times",
        ),
    ],
    "schedule": [
        (STEPS, "epochs * (45_000 // batch_size)", "45,000"),
        (STEPS, "epochs * math.ceil(images / batch_size)", "round down"),
        (STEPS, "images // batch_size", "one epoch", "rises again"),
        (STEPS, "epochs", "sized in epochs"),
        (STEPS, "epochs * images", "sized in images"),
        (STEPS, "epochs * images // batch_size", "drops its own rest"),
    ],
    "accuracy": [
        ("seen += len(labels)", "seen += 1", "number of batches"),
        ("return right / seen", "return right", "number of right answers"),
        ("return right / seen", "return 100 * right / seen", "percent"),
        (
            {RIGHT: f"{RIGHT} / len(labels)", "seen += len(labels)": "seen += 1"},
            "other batches",
            "count for more",
        ),
        (
            {"for images, labels in batches": "for images, labels in list(batches)[:-1]"},
            "last batch is left out",
        ),
        (
            {
                "for images": "seen = len(batches) * len(batches[0][1])\n    for images",
                "        seen += len(labels)\n": "",
            },
            "as long as the first",
        ),
        (
            "        right +=",
            "        right = seen = 0\n        right +=",
            "last batch",
            "inside the loop",
        ),
        ("right = seen = 0", "right = seen = 0\n    list(batches)", "gone through twice"),
        ("right = seen = 0", "right = seen = 0\n    len(batches)", "TypeError"),
    ],
    "predict": [
        ("        part.training = was_training\n", "        pass\n", "left in eval mode"),
        ("part.training = was_training", "model.train()", "always put into train mode"),
        (
            "part.training = was_training",
            "model.train(modes[0][1])",
            "every module has its own mode",
        ),
        ("part.training = was_training", "model.training = modes[0][1]", "parts stay in eval"),
        ("model.eval()", "model.eval", "other company"),  # no parentheses
        ("model.eval()", "model.train()", "train mode before it predicts"),
        ("@torch.no_grad()\n", "", "gradients are recorded"),
        (
            {
                "    model.eval()\n": "",
                "        part.training = was_training\n": "        model.eval()\n",
            },
            "after the predictions",
        ),
        ("    model.eval()\n", "    model.eval()\n    list(batches)\n", "gone through twice"),
    ],
    "ema": [
        (
            {
                "average.state_dict().values()": "average.buffers()",
                "model.state_dict().values()": "model.buffers()",
            },
            "parameters are left behind",
        ),
        ("            old.copy_(new)", "            pass", "num_batches_tracked", "copied"),
        ("old.mul_(decay).add_(new, alpha=1 - decay)", "old.copy_(new)", "nothing is averaged"),
        (
            "old.mul_(decay).add_(new, alpha=1 - decay)",
            "old.mul_(1 - decay).add_(new, alpha=decay)",
            "swapped",
        ),
        (
            "old.mul_(decay).add_(new, alpha=1 - decay)",
            "old = decay * old + (1 - decay) * new",
            "only names",
        ),
        (EMA_ALL, "num_batches_tracked", "whole number"),
    ],
    "cutout": [
        (loop(place=f"({one('h')}, {one('w')})", draw="size = size + 1"), "pixels high"),
        (
            loop(draw=f"row = {one('h')}", place=f"(row, {one('w')})"),
            "rows",
            "same in all images",
        ),
        (
            loop(draw=f"column = {one('w')}", place=f"({one('h')}, column)"),
            "columns",
            "same in all images",
        ),
        (
            loop(draw=f"row, column = {one('h')}, {one('w')}", place="(row, column)"),
            "every* image",
        ),
        (
            loop(
                place="(int(torch.randint(0, h - size + 1, (), generator=generator)), "
                "int(torch.randint(0, w - size + 1, (), generator=generator)))"
            ),
            "over the border",
        ),
        (
            loop(
                draw="generator = torch.Generator().manual_seed(0)",
                place=f"({one('h')}, {one('w')})",
            ),
            "next batch",
        ),
        (
            loop(place=f"({one('h')}, {one('w')})").replace("generator=generator", ""),
            "draw from `generator`",
        ),
        (
            "(n, 1), generator=generator) - size // 2\n    rows",
            "(1, 1), generator=generator) - size // 2\n    rows",
            "columns",
        ),
        (
            "left = torch.randint(0, w, (n, 1), generator=generator) - size // 2",
            "left = top",
            "line",
        ),
        ("x.masked_fill(", "x.masked_fill_(", "changes what it was given"),
        ("randint(0, h,", "randint(0, h // 2,", "spread evenly"),
        (", 0.0)", ", 0.5)", "other than 0"),
        ("& in_columns", "| in_columns", "rectangle"),
        ("rows >= top)", "rows >= top) & (torch.arange(n) % 10 > 0)[:, None]", "have no hole"),
        (
            "rows >= top)",
            "rows >= top) & (torch.arange(n) < n // 2)[:, None]",
            "50% of the images have no hole",
        ),
        (
            "left = torch.randint(0, w, (n, 1), generator=generator) - size // 2",
            "left = (top + size // 2) * w // h - size // 2",
            "line",
        ),
        ("randint(0, h,", "randint(0, h - 1,", "is never the centre"),
        (
            {"randint(0, h,": "randint(0, min(h, w),", "randint(0, w,": "randint(0, min(h, w),"},
            "the centre",
        ),
        ("randint(0, w,", "randint(-1, w + 1,", "some centres lie outside", "column"),
        ("rows < top + size)", "rows < top + size // 2 * 2)", "pixels high"),
    ],
    "preactivation": [
        (
            {
                "nn.ReLU(),": "nn.ReLU(inplace=True),",
                "return x + ": "shortcut = x\n        return shortcut + ",
            },
            "second *name*",
        ),
        (
            {
                "nn.ReLU(),": "nn.ReLU(inplace=True),",
                "return x + ": "shortcut = x.clone().detach()\n        return shortcut + ",
            },
            "gradient",
        ),
        (
            "return x + self.branch(x)",
            "x = F.relu(x)\n        return x + self.branch(x)",
            "ReLU(x)",
            "no longer overwritten",
        ),
        (
            {"nn.ReLU(),": "nn.ReLU(inplace=True),", "return x + ": "return x.clone() + "},
            "caller's x is still overwritten",
        ),
        ("return x + self.branch(x)", "return F.relu(x + self.branch(x))", "after the addition"),
        ("return x + self.branch(x)", "return x + self.branch[1:](x)", "first ReLU is gone"),
        ("return x + self.branch(x)", "return self.branch(x)", "nothing is added"),
        ("def forward", "@torch.no_grad()\n    def forward", "no gradient flows at all"),
    ],
    "selection": [
        (SELECTION_AGAIN, "still the test images decide"),
        (SELECTION_EVERY, "right number", "every epoch"),
        ("return accuracy(model, test)", "return best", "validation", "flatters"),
        ("    model.load_state_dict(weights)\n", "", "last epoch's"),
        (
            "    model.load_state_dict(weights)\n    return accuracy(model, test)",
            "    tested = accuracy(model, test)\n    model.load_state_dict(weights)\n"
            "    return tested",
            "before the chosen weights",
        ),
        (
            "model.load_state_dict(weights)\n",
            "(model := copy.deepcopy(model)).load_state_dict(weights)\n",
            "stays in its last epoch",
        ),
        ("copy.deepcopy(model.state_dict())", "model.state_dict()", "last epoch's", "copy"),
        ({"reached > best": "reached < best", "-1.0": "2.0"}, "lowest"),
    ],
}
