"""Checks of "Spot the deviation": what is handed out there is wrong, and looks right.

A message about it names the symptom; the messages about half a repair say more.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import resnet
from helpers.checks.engine import (
    CHANGED,
    CUT,
    OnePass,
    attempt,
    compare,
    exercise,
    fail,
    named,
    outcome,
    pick,
    rectangle,
    same,
    shown,
)
from helpers.checks.modules import (
    compare_blocks,
    describe_block,
    input_gradient,
    observe,
    randomize,
    run_once,
    with_weights_of,
)

__all__ = [
    "check_projection",
    "check_stages",
    "check_addition",
    "check_schedule",
    "check_accuracy",
    "check_predict",
    "check_ema",
    "check_cutout_in_batches",
    "check_preactivation",
    "check_selection",
]


@exercise("D1", "a shortcut for another shape")
def check_projection(make_shortcut):
    def layers(module, out_channels):
        """The convolution and the BatchNorm of a projection; fails where it has others."""
        if not isinstance(module, nn.Module):
            fail(f"expected a module, got {shown(module)}.")
        convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        if len(convs) != 1:
            fail(f"expected one convolution, found {len(convs)}.")
        if convs[0].kernel_size != (1, 1):
            fail(
                "the convolution reads neighbouring pixels. A projection changes channels pixel by "
                "pixel: its kernel is 1×1."
            )
        kinds = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.LocalResponseNorm)
        others = [layer for layer in module.modules() if isinstance(layer, kinds)]
        if others:
            fail(
                f"`{type(others[0]).__name__}` normalises each image by itself. F(x) ends with a "
                "BatchNorm, and so do the weights that are to be loaded."
            )
        if len(norms) > 1:
            fail(f"expected one BatchNorm, found {len(norms)}.")
        if not norms and convs[0].bias is not None:
            fail(
                "multiply the input by ten: F(x) stays as it is, this path grows tenfold. What "
                "does F have that it lacks?"
            )
        if not norms:
            fail(
                "the constant is gone, but the scale of this path still follows its input's. What "
                "keeps the scale of F(x)?"
            )
        if convs[0].bias is not None:
            fail(
                "the scale is right. But what is the convolution's bias for, if a BatchNorm after "
                "it subtracts the mean?"
            )
        if norms[0].num_features != out_channels:
            fail(
                "the BatchNorm does not fit what the convolution outputs. It comes *after* it, as "
                "in F(x)."
            )
        if norms[0].weight is None:
            fail(
                "the BatchNorm has no γ and β (`affine=False`). Those of F(x) have both, and so do "
                "the weights that are to be loaded."
            )
        if norms[0].running_mean is None:
            fail(
                "the BatchNorm keeps no running statistics (`track_running_stats=False`), and "
                "would use the batch's in eval mode, too."
            )
        return convs[0], norms[0]

    def right(stride, module, conv, norm, x):
        return norm(F.conv2d(x, conv.weight, stride=stride))

    def without_stride(stride, module, conv, norm, x):
        return right(1, module, conv, norm, x)

    def with_relu(stride, module, conv, norm, x):
        return F.relu(right(stride, module, conv, norm, x))

    def with_pooling(stride, module, conv, norm, x):
        return right(1, module, conv, norm, F.avg_pool2d(x, stride))

    def without_norm(stride, module, conv, norm, x):
        return F.conv2d(x, conv.weight, stride=stride)

    cases = []
    for number in range(6):
        in_channels, out_channels, stride = pick(2, 5), pick(6, 9), 1 + number % 2
        module = attempt(make_shortcut, in_channels, out_channels, stride)
        conv, norm = layers(module, out_channels)
        randomize(module).train(number % 3 == 0)
        h, w = rectangle(2, 5)
        x = torch.randn(pick(2, 4), in_channels, 2 * h, 2 * w)
        cases.append((stride, module, conv, norm, x))
    mistakes = {
        "the stride is gone: F(x) shrinks, and the shortcut does not.": without_stride,
        "there is a ReLU on the shortcut, so it can carry nothing negative.": with_relu,
        "neighbouring pixels are averaged before the 1×1: a known variant (ResNet-D), not what is "
        "asked for.": with_pooling,
        "the BatchNorm is made, and not used.": without_norm,
    }

    def observed(function):
        def run(stride, module, conv, norm, x):
            return observe(lambda x: function(stride, module, conv, norm, x), x)

        return run

    compare(
        observed(lambda stride, module, conv, norm, x: module(x)),
        observed(right),
        cases,
        {message: observed(mistake) for message, mistake in mistakes.items()},
        what="(output, gradient at the input)",
        may_change=(1, 2, 3),
        same_type_as=4,
        describe=lambda case: f"stride={case[0]}, {shown(case[1])}, x {shown(case[4])}",
    )


@exercise("D2", "the stages of a network")
def check_stages(build_stages):
    def answer(in_channels, widths, depths):
        found = []
        for stage in build_stages(in_channels, widths, depths):
            blocks = []
            for block in stage:
                conv = block.conv1
                blocks.append((conv.in_channels, conv.out_channels, conv.stride[0]))
            found.append(blocks)
        return found

    def variant(halves=lambda i, j, depth: i > 0 and j == 0, forgetful=False):
        """Block j of stage i has a stride where `halves(i, j, depth)`; a forgetful one expects the
        channels of the stem everywhere.
        """

        def run(in_channels, widths, depths):
            found = []
            for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
                blocks = []
                for j in range(depth):
                    blocks.append((in_channels, width, 2 if halves(i, j, depth) else 1))
                    if not forgetful:
                        in_channels = width
                found.append(blocks)
            return found

        return run

    cases = []
    for _ in range(3):
        number = pick(3, 4)
        channels = pick(2, 4)
        widths = [pick(2, 4) * 2**i for i in range(number)]
        cases.append((channels, widths, [pick(2, 3) for _ in range(number)]))
    mistakes = {
        "print the shape after each stage. Which stages should halve the resolution, and which one "
        "does?": variant(lambda i, j, depth: i == 0 and j == 0),
        "now all blocks halve the resolution, except the very first. Each later *stage* halves it "
        "once.": variant(lambda i, j, depth: i > 0 or j > 0),
        "every block of the later stages halves the resolution; only the first of each should.": (
            variant(lambda i, j, depth: i > 0)
        ),
        "the first stage halves the resolution too. It keeps what the stem gives it.": variant(
            lambda i, j, depth: j == 0
        ),
        "every block but the first of each stage has the stride; it is the other way round.": (
            variant(lambda i, j, depth: j > 0)
        ),
        "the stride sits in the last block of a stage; the first one changes the shape.": variant(
            lambda i, j, depth: i > 0 and j == depth - 1
        ),
        "no block halves the resolution.": variant(lambda i, j, depth: False),
        "the strides are right, but every block expects the channels of the stem, not of the block "
        "before it.": variant(forgetful=True),
    }
    compare(
        answer,
        variant(),
        cases,
        mistakes,
        what="the list of (channels in, channels out, stride), stage by stage, block by block",
        describe=named("in_channels", "widths", "depths"),
    )


@exercise("D3", "a basic block")
def check_addition(Block):
    def variant(end):
        """The block that ends with `end(block, out, x)` after its second convolution."""

        def forward(b, x):
            out = b.conv2(F.relu(b.bn1(b.conv1(x))))
            return end(b, out, x)

        return lambda mine, b, x: observe(lambda x: forward(b, x), x)

    cases = []
    for number in range(6):
        channels = pick(3, 6)
        theirs = randomize(resnet.BasicBlock(channels, channels)).train(number % 3 == 0)
        mine = with_weights_of(theirs, attempt(Block, channels))
        x = torch.randn(pick(2, 4), channels, *rectangle(4, 8), dtype=torch.float64)
        cases.append((mine.double(), theirs.double(), x))
    mistakes = {
        "no value leaves this block smaller than it came in. What would F(x) have to be, to make "
        "one smaller?": variant(lambda b, out, x: F.relu(b.bn2(out)) + x),
        "there is a ReLU after the addition now, and still one on F(x), which therefore is never "
        "negative.": variant(lambda b, out, x: F.relu(F.relu(b.bn2(out)) + x)),
        "F(x) may be negative now, but the sum is handed on without a ReLU.": variant(
            lambda b, out, x: b.bn2(out) + x
        ),
        "x is added before the second BatchNorm, which normalises the shortcut away.": variant(
            lambda b, out, x: F.relu(b.bn2(out + x))
        ),
        "x goes through a ReLU before it is added: the shortcut should carry x as it is.": variant(
            lambda b, out, x: F.relu(b.bn2(out) + F.relu(x))
        ),
        "nothing is added any more.": variant(lambda b, out, x: F.relu(b.bn2(out))),
        f"the values are right, but no gradient flows through the shortcut. {CUT}": variant(
            lambda b, out, x: F.relu(b.bn2(out) + x.detach())
        ),
        f"the values are right, but no gradient flows through F. {CUT}": variant(
            lambda b, out, x: F.relu(b.bn2(out).detach() + x)
        ),
        f"the values are right, but no gradient flows at all. {CUT}": variant(
            lambda b, out, x: F.relu(b.bn2(out) + x).detach()
        ),
    }
    compare_blocks(cases, mistakes)


@exercise("D4", "a schedule")
def check_schedule(make_schedule):
    def rates(schedule):
        def run(images, batch_size, epochs):
            """The learning rate of each step that is taken, and the one after the last."""
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
            scheduler = schedule(optimizer, images, batch_size, epochs)
            taken = [0.5]
            for _ in range(epochs * (images // batch_size)):
                optimizer.step()
                scheduler.step()
                taken.append(optimizer.param_groups[0]["lr"])
            return torch.tensor(taken)

        return run

    def sized(steps):
        """The schedule over `steps(images, batch size, epochs)` steps."""

        def schedule(optimizer, images, batch_size, epochs):
            length = steps(images, batch_size, epochs)
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length)

        return rates(schedule)

    cases = []
    for _ in range(4):
        batch_size = pick(500, 900)
        images = batch_size * pick(8, 20) + pick(batch_size // 2 + 1, batch_size - 1)
        cases.append((images, batch_size, pick(2, 4)))
    mistakes = {
        "the rate after the last step should be 0. How many steps does the schedule expect, how "
        "many are taken?": sized(lambda n, b, e: e * (50_000 // b)),
        "this is sized for 45,000 images, whatever `images` says. The next subset will be of "
        "another size.": sized(lambda n, b, e: e * (45_000 // b)),
        "the last, short batch of an epoch is dropped, and counted here: round down, not up.": (
            sized(lambda n, b, e: e * math.ceil(n / b))
        ),
        "the schedule counts in steps, and is sized in epochs.": sized(lambda n, b, e: e),
        "the schedule is sized for one epoch; afterwards the rate rises again.": sized(
            lambda n, b, e: n // b
        ),
        "the schedule counts in batches, and is sized in images.": sized(lambda n, b, e: e * n),
        "the batches of all epochs are counted as if they were cut from one long row: each epoch "
        "drops its own rest.": sized(lambda n, b, e: e * n // b),
    }
    compare(
        rates(make_schedule),
        sized(lambda n, b, e: e * (n // b)),
        cases,
        mistakes,
        what="the learning rate of the steps",
        describe=named("images", "batch_size", "epochs"),
    )


@exercise("D5", "an accuracy")
def check_accuracy(accuracy):
    def variant(count):
        """By `count(hits)`, from a tensor of 0 and 1 for each batch."""

        def run(model, batches):
            hits = [(logits.argmax(1) == labels).double() for logits, labels in batches]
            return count(hits)

        return run

    def random_batches():
        size, classes = pick(8, 12), pick(3, 6)
        sizes = [size] * pick(2, 4) + [pick(2, 4)]
        batches = [(torch.randn(n, classes), torch.randint(classes, (n,))) for n in sizes]
        for logits, labels in batches[:-1]:  # most are right, but few in the last batch
            chosen = torch.arange(len(labels) - pick(1, 3))
            logits[chosen, labels[chosen]] += 9.0
        logits, labels = batches[-1]
        logits[0, labels[0]] -= 9.0  # one is wrong and one is right: else mistakes coincide
        logits[1, labels[1]] += 9.0
        return batches

    cases = [(nn.Identity(), random_batches()) for _ in range(5)]
    mistakes = {
        "cut the same images into other batches, and the result changes. Which images count for "
        "more than others?": variant(lambda hits: torch.stack([h.mean() for h in hits]).mean()),
        "all batches are counted as if they were as long as the first.": variant(
            lambda hits: torch.cat(hits).sum() / (len(hits) * len(hits[0]))
        ),
        "the last batch is left out. Dropping the short batch is for training; in a measurement "
        "every image counts.": variant(lambda hits: torch.cat(hits[:-1]).mean()),
        "the number of right answers is divided by the number of batches.": variant(
            lambda hits: torch.cat(hits).sum() / len(hits)
        ),
        "this is the number of right answers; the accuracy is a fraction.": variant(
            lambda hits: torch.cat(hits).sum()
        ),
        "this is in percent; the docstring asks for a fraction between 0 and 1.": variant(
            lambda hits: 100 * torch.cat(hits).mean()
        ),
        "only the last batch is counted: is something set to 0 inside the loop?": variant(
            lambda hits: hits[-1].mean()
        ),
    }
    compare(
        accuracy,
        variant(lambda hits: torch.cat(hits).mean()),
        cases,
        mistakes,
        what="the accuracy",
        describe=named("model", "batches"),
    )
    compare(
        accuracy,
        lambda model, batches: variant(lambda hits: torch.cat(hits).mean())(model, batches.batches),
        [(nn.Identity(), OnePass(random_batches()))],
        what="the accuracy",
        may_change=(1,),
        describe=named("model", "batches"),
    )


@exercise("D6", "predictions")
def check_predict(predict):
    def observed(function):
        def run(model, batches):
            torch.manual_seed(0)  # dropout draws
            logits = function(model, batches)
            return logits, getattr(logits, "requires_grad", None), model

        return run

    def variant(before, after, gradients=False):
        """With `before(model)`, and afterwards `after(model, modes)`, where `modes` were those of
        its modules.
        """

        def run(model, batches):
            modes = [part.training for part in model.modules()]
            before(model)
            with torch.set_grad_enabled(gradients):
                logits = torch.cat([model(x) for x in batches])
            after(model, modes)
            return logits

        return observed(run)

    def to_eval(model, modes=None):
        model.eval()

    def to_train(model, modes=None):
        model.train()

    def back(model, modes):
        for part, mode in zip(model.modules(), modes, strict=True):
            part.training = mode

    def all_back_alike(model, modes):
        model.train(modes[0])

    def only_top_back(model, modes):
        model.training = modes[0]

    def stay(model, modes=None):
        pass

    cases = []
    for training, frozen in ((True, False), (False, False), (True, True)):
        channels = pick(2, 4)
        model = nn.Sequential(
            nn.Conv2d(3, channels, 3),
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(channels * 2 * 8, 5),
        )
        randomize(model).train(training)
        if frozen:
            model[1].eval()
        batches = [torch.randn(pick(2, 5), 3, 4, 10) for _ in range(pick(2, 3))]
        cases.append((model, batches))
    mistakes = {
        "one image gets another prediction in other company, and predicting changes the buffers. "
        "When do they change?": variant(stay, stay),
        "the predictions are right, but the network is left in eval mode; if training goes on, it "
        "is another one.": variant(to_eval, stay),
        "the network is always put into train mode at the end, also if it came in eval mode. "
        "Remember how it came.": variant(to_eval, to_train),
        "all parts end in one mode. A BatchNorm that was frozen in eval mode would learn from now "
        "on: every module has its own mode.": variant(to_eval, all_back_alike),
        "only the network's own `training` is put back, and its parts stay in eval mode. Every "
        "module has its own mode: `model.modules()`.": variant(to_eval, only_top_back),
        "eval mode is set after the predictions are made.": variant(stay, to_eval),
        "the network is put into train mode before it predicts: the other one is meant.": variant(
            to_train, back
        ),
        "the modes are right, but gradients are recorded: memory for nothing. Where has `no_grad` "
        "gone?": variant(to_eval, back, gradients=True),
    }
    what = "(logits, whether they require a gradient, the network afterwards)"
    describe = named("model", "batches")
    right = variant(to_eval, back)
    compare(
        observed(predict), right, cases, mistakes, what=what, may_change=(0,), describe=describe
    )
    model, batches = cases[0]
    compare(
        observed(predict),
        lambda model, batches: right(model, batches.batches),
        [(model, OnePass(batches))],
        what=what,
        may_change=(0, 1),
        describe=describe,
    )


@exercise("D7", "a moving average of the weights", returns=False)
def check_ema(update_average):
    def network(channels):
        model = nn.Sequential(
            nn.Conv2d(3, channels, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 2, 1),
        )
        randomize(model)
        model[1].num_batches_tracked.fill_(pick(1, 1000))
        return model

    def observed(update):
        def run(average, model, decay):
            before = copy.deepcopy(model)
            for _ in range(2):
                try:
                    update(average, model, decay)
                except RuntimeError as error:
                    if "Long" in str(error) or "Int" in str(error):
                        fail(
                            "`num_batches_tracked` is a whole number and cannot be averaged: copy "
                            "what is not floating point."
                        )
                    raise
            if not same(model, before, 0.0):
                fail("the network itself is changed; only its average should be.")
            pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
            if any(tensor.data_ptr() in pointers for tensor in average.state_dict().values()):
                fail(
                    "network and average now share their memory: from here on they are one. Copy "
                    "values, not tensors."
                )
            return dict(average.state_dict())

        return run

    def variant(parameters=None, buffers=None, whole=None):
        """Rules for parameters, buffers and whole numbers: functions of (old, new, decay).

        None leaves them alone.
        """

        def update(average, model, decay):
            names = dict(model.named_parameters())
            new = model.state_dict()
            for key, old in average.state_dict().items():
                if key in names:
                    rule = parameters
                elif old.is_floating_point():
                    rule = buffers
                else:
                    rule = whole
                if rule is not None:
                    old.copy_(rule(old, new[key], decay))

        return observed(update)

    def mean(old, new, decay):
        return decay * old + (1 - decay) * new

    def swapped(old, new, decay):
        return (1 - decay) * old + decay * new

    def copied(old, new, decay):
        return new

    cases = []
    for _ in range(3):
        channels = pick(2, 5)
        average, model = network(channels), network(channels)
        cases.append((average, model, 0.6 + 0.3 * torch.rand(()).item()))

    def fits(variant):
        """Whether the learner's function does what a variant does, in all cases."""
        for case in cases:
            given = outcome(observed(update_average), copy.deepcopy(case))
            if not same(given, variant(*copy.deepcopy(case)), 1e-4):
                return False
        return True

    oracle = variant(mean, mean, copied)
    if fits(variant(mean, copied, copied)):  # buffers averaged or copied: either is good
        oracle = variant(mean, copied, copied)
    mistakes = {
        "every weight of the average is right, its predictions are not. What else does "
        "`state_dict()` hold?": variant(mean),
        "the average does not move. (`a = …` only names a new tensor; `a.copy_(…)` writes into the "
        "old one.)": variant(),
        "nothing but the counter moves. (`a = …` only names a new tensor; `a.copy_(…)` writes into "
        "the old one.)": variant(whole=copied),
        "nothing is averaged any more: the parameters are overwritten too.": variant(
            copied, copied, copied
        ),
        "`decay` is the fraction of the *old* value that stays: the two weights are swapped.": (
            variant(swapped)
        ),
        "the buffers move now, but `decay` and 1 - `decay` are swapped.": variant(
            swapped, swapped, copied
        ),
        "the running statistics are right, `num_batches_tracked` is not: a count, to be copied.": (
            variant(mean, mean)
        ),
        "the running statistics are copied, `num_batches_tracked` is not: copy it as well.": (
            variant(mean, copied)
        ),
        "the buffers are averaged, and the parameters are left behind.": variant(
            None, mean, copied
        ),
        "the buffers are copied, and the parameters are left behind.": variant(
            None, copied, copied
        ),
    }
    compare(
        observed(update_average),
        oracle,
        cases,
        mistakes,
        what="the state of the average",
        may_change=(0, 1),
        describe=named("average", "model", "decay"),
    )


@exercise("D8", "cutout")
def check_cutout_in_batches(cutout):
    def holes(x, size, generator):
        """Where the learner's function has written, (N, H, W), after what every cutout fulfils."""
        given = x.clone()
        out = attempt(cutout, given, size, generator)
        if not torch.equal(given, x):
            fail(CHANGED)
        if not isinstance(out, Tensor) or out.shape != x.shape:
            fail(f"the result should have shape {tuple(x.shape)}, and is {shown(out)}.")
        if out.dtype != x.dtype:
            fail(f"the result's type is not that of x: {x.dtype} expected, got {out.dtype}.")
        written = out != x
        if not written.any():
            fail("nothing is covered.")
        if (out[written] != 0).any():
            fail("something other than 0 is written, or pixels outside of the square are changed.")
        if not torch.equal(written.all(1), written.any(1)):
            fail(
                "the three colours of an image have holes at different places; a square covers all "
                "of them."
            )
        return written.any(1)

    def centres(sides, size):
        """(N,): the centre of each hole, from the rows (or columns) it covers, (N, H)."""
        length = sides.shape[1]
        position = torch.arange(length)
        first = torch.where(sides, position, length).amin(1)
        end = torch.where(sides, position, -1).amax(1) + 1
        start = torch.where(first > 0, first, end - size)
        return start + size // 2

    def examine(x, size, generator):
        """Fails unless each image has a square of its own, and all centres are equally likely."""
        hole = holes(x, size, generator)
        h, w = hole.shape[1:]
        rows, columns = hole.any(2), hole.any(1)  # (N, H), (N, W)
        if not torch.equal(hole, rows[:, :, None] & columns[:, None, :]):
            fail("what is covered is not a rectangle.")
        one_row, one_column = (rows == rows[0]).all(), (columns == columns[0]).all()
        if one_row and one_column:
            fail(
                "some batches lose the object in *every* image, others in none. How often should a "
                "place be drawn?"
            )
        if one_row or one_column:
            name = "rows" if one_row else "columns"
            fail(f"the {name} of the hole are still the same in all images of a batch.")
        seen = hole.flatten(1).any(1)
        row, column = centres(rows[seen], size), centres(columns[seen], size)
        upper, left = row < h / 2, column < w / 2  # is the row drawn independently of the column?
        together = (upper & left).double().mean()
        apart = upper.double().mean() * left.double().mean()
        if abs(together - apart) > 0.05:
            fail("row and column are not drawn independently: the holes lie on a line.")
        if not seen.all():
            fail(
                f"{(~seen).double().mean():.0%} of the images have no hole. The centre is a pixel "
                "of the image, so part of the square always lies inside."
            )
        for name, side in (("high", rows), ("wide", columns)):
            if side.sum(1).max() != size:
                fail(f"a whole square should be {size} pixels {name}, and is {side.sum(1).max()}.")
        if rows.sum(1).min() == size and columns.sum(1).min() == size:
            fail(
                "no hole reaches over the border. Its centre can be any pixel, so part of it may "
                "lie outside."
            )
        for name, found, length in (("row", row, h), ("column", column, w)):
            if found.min() < 0 or found.max() >= length:
                fail(
                    f"for a size of {size}, some centres lie outside: in {name} "
                    f"{found.min()} … {found.max()} of 0 … {length - 1}."
                )
            counts = torch.bincount(found, minlength=length)
            if 0 < (counts == 0).sum() < length / 4:
                never = counts.argmin().item()
                fail(
                    f"for a size of {size}, {name} {never} of 0 … {length - 1} is never the "
                    "centre. (`torch.randint(0, h)` leaves h out itself.)"
                )
            expected = len(found) / length
            if (counts - expected).abs().max() > 6 * expected**0.5:
                fail(
                    f"the holes are not spread evenly: every {name} should be the centre equally "
                    "often."
                )
        return hole

    generator = torch.Generator().manual_seed(pick(0, 9999))
    images = []
    for size in (2 * pick(2, 3) + 1, 2 * pick(2, 3)):
        h, w = rectangle(11, 17)
        x = torch.randn(3000, 3, h, w).abs() + 0.5  # never 0
        examine(x, size, generator)
        images.append((x[:50], size))
    (x, size), _ = images
    state = generator.get_state()
    hole = holes(x, size, generator)
    if torch.equal(holes(x, size, generator), hole):
        fail("the next batch has the same holes. Is a seed set inside the function?")
    generator.set_state(state)
    if not torch.equal(holes(x, size, generator), hole):
        fail("the same generator does not give the same holes: draw from `generator`.")


@exercise("D9", "a pre-activation block")
def check_preactivation(Block):
    def reference(channels):
        """The block as it should be, with the names of the one handed out."""
        conv1, conv2 = resnet.conv3x3(channels, channels), resnet.conv3x3(channels, channels)
        norm1, norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        module = nn.Module()
        module.branch = nn.Sequential(nn.ReLU(), conv1, norm1, nn.ReLU(), conv2, norm2)
        return randomize(module)

    def observed(forward):
        """(output, gradient at the input, whether the input is as it was) of forward(branch, x)."""

        def run(mine, theirs, x):
            leaf = x.clone().requires_grad_()
            given = leaf * 1.0
            y = forward(theirs.branch, given)
            if y is None:
                fail("None comes out of the block. Does `forward` end with `return`?")
            if not isinstance(y, Tensor):
                return y
            return y.detach(), input_gradient(y, leaf), torch.equal(given, x)

        return run

    def answer(mine, theirs, x):
        return run_once(mine, lambda: observed(lambda branch, x: mine(x))(mine, theirs, x))

    cases = []
    for number in range(4):
        channels = pick(3, 6)
        theirs = reference(channels).train(number % 2 == 0)
        mine = with_weights_of(theirs, attempt(Block, channels))
        x = torch.randn(pick(2, 4), channels, *rectangle(4, 8))
        cases.append((mine, theirs, x))
    mistakes = {
        "keep a copy of x before the call, and compare x with it afterwards. (A second *name* for "
        "x is no copy.)": observed(lambda branch, x: torch.relu_(x) + branch[1:](x)),
        "the output is right, but the caller's x is still overwritten. It is not the block's to "
        "change.": observed(lambda branch, x: x.clone() + branch[1:](torch.relu_(x))),
        "x is no longer overwritten, but what the shortcut carries is ReLU(x), not x.": observed(
            lambda branch, x: F.relu(x) + branch(x)
        ),
        "the values are right, but no gradient flows through the shortcut. Look for `detach` or "
        "`.data`.": observed(lambda branch, x: x.detach() + branch(x)),
        "the values are right, but no gradient flows through F. Look for `detach` or `.data`.": (
            observed(lambda branch, x: x + branch(x.detach()))
        ),
        f"the values are right, but no gradient flows at all. {CUT}": (
            observed(lambda branch, x: (x + branch(x)).detach())
        ),
        "the first ReLU is gone: F starts with an activation, that is what makes it a "
        "*pre*-activation block.": observed(lambda branch, x: x + branch[1:](x)),
        "there is a ReLU after the addition now; nothing stands there in a pre-activation block.": (
            observed(lambda branch, x: F.relu(x + branch(x)))
        ),
        "nothing is added any more.": observed(lambda branch, x: branch(x)),
    }
    compare(
        answer,
        observed(lambda branch, x: x + branch(x)),
        cases,
        mistakes,
        what="(output, gradient at the input, whether the input is as it was)",
        may_change=(0, 1),
        describe=describe_block,
    )


@exercise("D10", "the epoch that is reported")
def check_selection(train_and_test):
    def answer(validation, test):
        """What is reported, the epoch whose weights the network ends with, and the epochs at which
        the test set was looked at. The network's only weight counts the epochs.
        """
        model, looks = nn.Linear(1, 1), []
        nn.init.constant_(model.weight, -1.0)

        def train_one_epoch(model):
            with torch.no_grad():
                model.weight += 1

        def accuracy(model, images):
            epoch = int(model.weight.item())
            if images is test:
                looks.append(epoch)
            return images[epoch]

        reported = train_and_test(model, train_one_epoch, accuracy, validation, test, len(test))
        return reported, int(model.weight.item()), looks

    def best(values):
        return values.index(max(values))

    def every_epoch(values):
        return list(range(len(values)))

    def right(validation, test):
        chosen = best(validation)
        return test[chosen], chosen, [chosen]

    def by_test(validation, test):
        return max(test), best(test), every_epoch(test)

    def by_test_measured_again(validation, test):
        return max(test), best(test), [*every_epoch(test), best(test)]

    def best_test_accuracy(validation, test):
        return max(test), best(validation), every_epoch(test)

    def looked_in_every_epoch(validation, test):
        chosen = best(validation)
        return test[chosen], chosen, every_epoch(test)

    def looked_once_more(validation, test):
        chosen = best(validation)
        return test[chosen], chosen, [*every_epoch(test), chosen]

    def validation_accuracy(validation, test):
        return max(validation), best(validation), []

    def last_epoch(validation, test):
        last = len(test) - 1
        return test[last], last, [last]

    def measured_before_loading(validation, test):
        last = len(test) - 1
        return test[last], best(validation), [last]

    def left_in_last_epoch(validation, test):
        chosen = best(validation)
        return test[chosen], len(test) - 1, [chosen]

    def worst_epoch(validation, test):
        chosen = validation.index(min(validation))
        return test[chosen], chosen, [chosen]

    cases = []
    while len(cases) < 4:
        epochs = pick(6, 9)
        validation = (0.5 + 0.4 * torch.rand(epochs, dtype=torch.float64)).tolist()
        test = (0.5 + 0.4 * torch.rand(epochs, dtype=torch.float64)).tolist()
        if len({best(validation), best(test), epochs - 1}) == 3:
            cases.append((validation, test))
    mistakes = {
        "let all epochs be equally good, and differ by luck alone: what does this report? Which "
        "images may decide?": by_test,
        "validation images decide, but the best *test* accuracy of all epochs is reported.": (
            best_test_accuracy
        ),
        "the right number, but the test images are looked at in every epoch. Look once, when "
        "everything is decided.": looked_in_every_epoch,
        "the *validation* accuracy that decided is reported: it was chosen for being high, so it "
        "flatters.": validation_accuracy,
        "the last epoch's network is tested, not the chosen one's. Is a *copy* of its state kept, "
        "and loaded before?": last_epoch,
        "the test images are looked at before the chosen weights are back: load first, then "
        "measure.": measured_before_loading,
        "the right number, but the network stays in its last epoch. It should end with the chosen "
        "weights.": left_in_last_epoch,
        "the epoch with the *lowest* validation accuracy is chosen.": worst_epoch,
        "still the test images decide; they are only looked at once more.": by_test_measured_again,
        "the test images are looked at in every epoch and at the end. Look once, after all "
        "choices.": looked_once_more,
    }
    compare(
        answer,
        right,
        cases,
        mistakes,
        what="(what is reported, the epoch whose weights are kept, the epochs at which the test "
        "images were looked at)",
    )
