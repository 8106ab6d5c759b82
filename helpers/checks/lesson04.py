"""Checks of the exercises of lesson 04, training."""

import copy
import math
import tempfile
import weakref
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from helpers import resnet
from helpers.checks.engine import (
    Forbidden,
    OnePass,
    attempt,
    compare,
    exercise,
    fail,
    named,
    parts,
    pick,
    rectangle,
    same,
    shown,
)
from helpers.checks.modules import randomize, run_once

__all__ = [
    "check_warm_restarts",
    "check_smooth_cross_entropy",
    "check_sgd_step",
    "check_train_one_epoch",
    "check_checkpoint",
    "check_mixup_loss",
]


@exercise("4.1", "cosine with warm restarts")
def check_warm_restarts(warm_restarts):
    def schedule(factor_at):
        """The factors of the first steps of a training."""

        def run(steps, cycle, factor, warmup):
            return [factor_at(step, cycle, factor, warmup) for step in range(steps)]

        return run

    def by_torch(steps, cycle, factor, warmup):
        """The same from PyTorch's own scheduler, which is stepped and knows no warm-up."""

        def rates(count, first):
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
            restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
            scheduler, found = restarts(optimizer, first, factor), []
            for _ in range(count):
                found.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
            return found

        rise = [(step + 1) / (warmup + 1) for step in range(warmup)]
        fall = rates(cycle - warmup, cycle - warmup)
        return (rise + fall + rates(max(0, steps - cycle), factor * cycle))[:steps]

    def half_cosine(progress):
        return (1 + math.cos(math.pi * progress)) / 2

    def counted(step, length, late=False):
        """(number, first step, length) of the cycle that a step is in, for lengths by number."""
        k, start = 0, 0
        while step > start + length(k) or (step == start + length(k) and not late):
            start += length(k)
            k += 1
        return k, start, length(k)

    def variant(
        rise=lambda step, w: (step + 1) / (w + 1),
        fall=half_cosine,
        progress=lambda inside, w, length: (inside - w) / (length - w),
        length=lambda cycle, factor, w, k: cycle * factor**k,
        warm=lambda k: k == 0,
        late=False,
    ):
        def factor_at(step, cycle, factor, warmup):
            def of(k):
                return length(cycle, factor, warmup, k)

            k, start, steps = counted(step, of, late)
            inside, w = step - start, warmup if warm(k) else 0
            if inside < w:
                return rise(inside, w)
            return fall(progress(inside, w, steps))

        return schedule(factor_at)

    def by_logarithm(step, cycle, factor, warmup):
        """The number of the cycle from a logarithm, as PyTorch has it for a given epoch."""
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if step < cycle:
            return half_cosine((step - warmup) / (cycle - warmup))
        if factor == 1:
            return half_cosine(step % cycle / cycle)
        k = int(math.log(step / cycle * (factor - 1) + 1, factor))
        start = cycle * (factor**k - 1) / (factor - 1)
        return half_cosine((step - start) / (cycle * factor**k))

    def never(step, cycle, factor, warmup):
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return half_cosine((step - warmup) / (cycle - warmup))

    def ends(cycle, factor, w, k):
        return cycle if k == 0 else max(1, cycle * factor**k - cycle * factor ** (k - 1))

    cases = []
    for factor in (1, 2, 2):
        cycle = pick(9, 14)
        cases.append((cycle * sum(factor**k for k in range(4)) + 2, cycle, factor, pick(3, 5)))
    cycle = pick(4, 6)  # with a factor of 3 rounding spoils a logarithm after five cycles
    cases.append((121 * cycle + 3, cycle, 3, pick(1, 2)))
    mistakes = {
        "the first step has a rate of 0 and does nothing. The warm-up rises from "
        "1 / (warmup + 1).": variant(rise=lambda step, w: step / w),
        "the warm-up reaches the peak one step early: its last step has warmup / (warmup + 1).": (
            variant(rise=lambda step, w: (step + 1) / w)
        ),
        "nothing rises: during the warm-up the rate is at its peak already.": variant(
            rise=lambda step, w: 1.0
        ),
        "there is no warm-up: the first cosine begins at step 0.": variant(warm=lambda k: False),
        "every cycle has a warm-up; only the first one should: a restart is at the peak at "
        "once.": variant(warm=lambda k: True),
        "the first cycle is too long: its `cycle` steps include the warm-up.": variant(
            length=lambda cycle, factor, w, k: cycle * factor**k + (w if k == 0 else 0)
        ),
        "the first cosine is sized for `cycle` steps, so the restart comes before it has ended. It "
        "has cycle - warmup steps.": variant(
            progress=lambda inside, w, length: (inside - w) / length
        ),
        "the first cosine counts from step 0, so the rate jumps down where the warm-up ends. Begin "
        "at step - warmup.": variant(progress=lambda inside, w, length: inside / length),
        "the rate becomes negative: the cosine runs from 1 to -1. Shift and halve it: "
        "(1 + cos) / 2.": variant(fall=lambda progress: math.cos(math.pi * progress)),
        "the rate goes down and up again in each cycle: half a period of the cosine is wanted, π "
        "and not 2π.": variant(fall=lambda progress: half_cosine(2 * progress)),
        "this falls linearly; a half cosine is asked for.": variant(
            fall=lambda progress: 1 - progress
        ),
        "the last step of a cycle has a rate of exactly 0 and does nothing: 0 would be reached at "
        "the step of the restart.": variant(
            progress=lambda inside, w, length: (inside - w) / (length - w - 1)
        ),
        "the restarts come one step late: the step at which a cycle ends has a rate of 0, and "
        "belongs to the next one, with a rate of 1.": variant(late=True),
        "right but for some restarts, which come one step late: the number of the cycle is "
        "computed with a logarithm, and rounding makes 5 a 4.999…. Add up the lengths (whole "
        "numbers) instead.": schedule(by_logarithm),
        "there is no restart: after the first cycle the cosine simply goes on, up again.": (
            schedule(never)
        ),
        "there is no restart: the rate stays at 0 after the first cycle.": schedule(
            lambda step, cycle, factor, w: never(min(step, cycle), cycle, factor, w)
        ),
        "all cycles have the same length: each is `factor` times as long as the one before.": (
            variant(length=lambda cycle, factor, w, k: cycle)
        ),
        "the cycles grow by addition; each is `factor` *times* as long as the one before.": variant(
            length=lambda cycle, factor, w, k: cycle * (1 + k * (factor - 1))
        ),
        "the *ends* of the cycles are multiplied by `factor`, and should be their lengths: a cycle "
        "begins where all before it, together, end.": variant(length=ends),
        "the first cycle is `factor` times too long: it has `cycle` steps, and only the later ones "
        "grow.": variant(length=lambda cycle, factor, w, k: cycle * factor ** (k + 1)),
        "the later cycles are too short: they grow from `cycle`, the whole length of the first, "
        "warm-up included.": variant(
            length=lambda cycle, factor, w, k: cycle if k == 0 else (cycle - w) * factor**k
        ),
        "the cosine is a step ahead: it is 1 at the first step of its cycle, so count from 0.": (
            variant(progress=lambda inside, w, length: (inside - w + 1) / (length - w))
        ),
    }
    compare(
        schedule(warm_restarts),
        by_torch,
        cases,
        mistakes,
        what="the list of the rates",
        describe=named("steps", "cycle", "factor", "warmup"),
    )


@exercise("4.2", "label-smoothed cross-entropy")
def check_smooth_cross_entropy(smooth_cross_entropy):
    def answer(logits, labels, epsilon):
        with Forbidden(
            (F.cross_entropy,),
            "PyTorch's own cross-entropy is called. The task is to write the loss without it.",
        ):
            return smooth_cross_entropy(logits, labels, epsilon)

    def oracle(logits, labels, epsilon):
        return F.cross_entropy(logits, labels, label_smoothing=epsilon)

    def smoothed(logits, labels, epsilon):
        classes = logits.shape[1]
        return (1 - epsilon) * F.one_hot(labels, classes) + epsilon / classes

    def among_others(logits, labels, epsilon):
        classes = logits.shape[1]
        hot = F.one_hot(labels, classes)
        return (1 - epsilon) * hot + epsilon / (classes - 1) * (1 - hot)

    def only_reduced(logits, labels, epsilon):
        return (1 - epsilon) * F.one_hot(labels, logits.shape[1])

    def plain(logits, labels, epsilon):
        return F.one_hot(labels, logits.shape[1])

    def variant(target=smoothed, reduce=torch.mean, log=lambda z: F.log_softmax(z, dim=1)):
        def run(logits, labels, epsilon):
            losses = -(target(logits, labels, epsilon) * log(logits)).sum(1)
            return reduce(losses)

        return run

    sizes = []
    for k in (3, 5, 10):
        kind = torch.float64 if k == 5 else torch.float32
        logits = pick(2, 4) * torch.randn(pick(3, 9), k, dtype=kind)
        sizes.append((logits, k, 0.1 * pick(1, 4)))
    cases = []
    for logits, k, epsilon in sizes:
        cases.append((logits, torch.randint(0, k, (len(logits),)), epsilon))
    large = (300 * torch.randn(4, 6), torch.randint(0, 6, (4,)), 0.2)
    mistakes = {
        "the ε is shared among the *other* classes. Here all K classes get ε / K, the right one "
        "too (as in PyTorch).": variant(among_others),
        "nothing is smoothed: this is the plain cross-entropy.": variant(plain),
        "the right class's share is reduced, but the others get nothing: add ε / K for each "
        "class.": variant(only_reduced),
        "the losses are added up; their mean over the batch is asked for.": variant(
            reduce=torch.sum
        ),
        "the losses of the images are not averaged: one number is asked for.": variant(
            reduce=lambda losses: losses
        ),
        "the softmax is taken twice: the logits go into one log-softmax.": variant(
            log=lambda z: F.log_softmax(z.softmax(1), dim=1)
        ),
        "the logarithm is missing: the loss is -Σ q · log p.": variant(log=lambda z: z.softmax(1)),
        "the softmax runs over the batch (axis 0) instead of the classes (axis 1).": variant(
            log=lambda z: F.log_softmax(z, dim=0)
        ),
    }
    describe = named("logits", "labels", "epsilon")
    compare(answer, oracle, cases, mistakes, what="the loss", describe=describe)
    if not torch.as_tensor(attempt(answer, *large)).isfinite():
        fail(
            "right for small logits; for large ones infinite or not a number: exp overflows. Use "
            "`log_softmax`."
        )
    compare(
        answer,
        oracle,
        [*cases, large],
        what="the loss",
        gradients={0: "logits"},
        same_type_as=0,
        describe=describe,
    )


@exercise("4.3", "a step of SGD")
def check_sgd_step(sgd_step):
    def oracle(w, g, v, lr, momentum, decay):
        parameter = nn.Parameter(w.clone())
        optimizer = torch.optim.SGD([parameter], lr, momentum, weight_decay=decay, nesterov=True)
        optimizer.state[parameter]["momentum_buffer"] = v.clone()
        parameter.grad = g.clone()
        optimizer.step()
        return parameter.detach(), optimizer.state[parameter]["momentum_buffer"]

    def variant(
        direction=lambda g, w, decay: g + decay * w,
        velocity=lambda v, d, momentum, lr: momentum * v + d,
        step=lambda d, v, momentum, lr: lr * (d + momentum * v),
        shrink=lambda lr, decay: 1.0,
    ):
        def run(w, g, v, lr, momentum, decay):
            d = direction(g, w, decay)
            v = velocity(v, d, momentum, lr)
            return shrink(lr, decay) * w - step(d, v, momentum, lr), v

        return run

    cases = []
    for _ in range(4):
        w, g, v = torch.randn(3, *rectangle(3, 6))
        cases.append((w, g, v, 0.1 * pick(1, 5), 0.1 * pick(5, 9), 0.1 * pick(1, 3)))
    mistakes = {
        "this is momentum without Nesterov's look ahead: the step is d + momentum · v with the "
        "*new* v.": variant(step=lambda d, v, momentum, lr: lr * v),
        "weight decay is missing: d = g + weight_decay · w.": variant(
            direction=lambda g, w, decay: g
        ),
        "weight decay acts on the weights directly (as in AdamW); here it joins the gradient.": (
            variant(direction=lambda g, w, decay: g, shrink=lambda lr, decay: 1 - lr * decay)
        ),
        "weight decay has the wrong sign: the weights would grow.": variant(
            direction=lambda g, w, decay: g - decay * w
        ),
        "the gradient is damped by 1 - momentum. PyTorch's velocity is a sum: v ← momentum · v + "
        "d.": variant(velocity=lambda v, d, momentum, lr: momentum * v + (1 - momentum) * d),
        "the learning rate is inside the velocity. In PyTorch's form it multiplies the whole step, "
        "at the end.": variant(
            velocity=lambda v, d, momentum, lr: momentum * v + lr * d,
            step=lambda d, v, momentum, lr: lr * d + momentum * v,
        ),
        "the step goes up the gradient: the new weights are w - lr · (…).": variant(
            step=lambda d, v, momentum, lr: -lr * (d + momentum * v)
        ),
    }
    compare(
        sgd_step,
        oracle,
        cases,
        mistakes,
        what="(weights, velocity)",
        same_type_as=0,
        describe=named("w", "g", "v", "lr", "momentum", "weight_decay"),
    )


def small_net(classes: int = 3) -> nn.Module:
    """A small network with BatchNorm, for checks that train."""
    return nn.Sequential(
        resnet.conv3x3(3, 4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


class Token:
    """Something that weak references can point to."""


class Marked(torch.autograd.Function):
    """The identity. It puts a token into the graph and a weak reference to it into `marks`."""

    @staticmethod
    def forward(ctx, loss, marks):
        ctx.token = Token()
        marks.append(weakref.ref(ctx.token))
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@exercise("4.4", "one epoch")
def check_train_one_epoch(train_one_epoch):
    def observed(train, loss_function=F.cross_entropy):
        def run(model, batches):
            optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.5)
            result = parts(train(model, batches, loss_function, optimizer), "(loss, accuracy)")
            if len(result) != 2:
                fail(f"(loss, accuracy) expected, got {len(result)} parts.")
            loss, accuracy = result
            if getattr(loss, "requires_grad", False):
                fail(
                    "the loss that is returned still carries its graph. Add up `loss.item()` or "
                    "`loss.detach()`."
                )
            return float(loss), float(accuracy), dict(model.state_dict())

        return run

    def weighted(values, weights):
        return sum(value * n for value, n in zip(values, weights, strict=True)) / sum(weights)

    def over_images(losses, accuracies, sizes):
        return weighted(losses, sizes), weighted(accuracies, sizes)

    def over_batches(losses, accuracies, sizes):
        return sum(losses) / len(losses), sum(accuracies) / len(accuracies)

    def loss_over_batches(losses, accuracies, sizes):
        return sum(losses) / len(losses), weighted(accuracies, sizes)

    def summed_loss(losses, accuracies, sizes):
        return sum(losses), sum(accuracies) / len(accuracies)

    def of_last_batch(losses, accuracies, sizes):
        return losses[-1], accuracies[-1]

    def variant(
        mode=True, zero=True, step=True, probabilities=False, average=over_images, again=""
    ):
        def train(model, batches, loss_function, optimizer):
            model.train(mode)
            losses, accuracies, sizes = [], [], []
            for x, labels in batches:
                logits = model(x)
                if probabilities:
                    logits = logits.softmax(1)
                loss = loss_function(logits, labels)
                if again == "before the step":
                    logits = model(x)
                if zero:
                    optimizer.zero_grad()
                loss.backward()
                if step:
                    optimizer.step()
                if again == "after it":
                    logits = model(x)
                losses.append(loss.item())
                accuracies.append((logits.argmax(1) == labels).double().mean().item())
                sizes.append(len(labels))
            return average(losses, accuracies, sizes)

        return observed(train)

    def batches_of(sizes):
        h, w = rectangle(5, 8)
        return [(torch.randn(n, 3, h, w), torch.randint(0, 3, (n,))) for n in sizes]

    cases = []
    for _ in range(3):
        sizes = [pick(8, 9), pick(6, 7), pick(2, 3)]
        cases.append((randomize(small_net()).eval(), batches_of(sizes)))
    mistakes = {
        "gradients pile up from batch to batch: call `optimizer.zero_grad()` before "
        "`backward()`.": variant(zero=False),
        "the weights do not move. No `optimizer.step()`, or `zero_grad()` between `backward()` and "
        "it?": variant(step=False),
        "the weights are right, but loss and accuracy are averaged over batches. The last batch is "
        "smaller: weigh each by its size, divide by the number of images.": variant(
            average=over_batches
        ),
        "the accuracy is right, but the loss is averaged over batches. The last batch is smaller: "
        "weigh each by its size, divide by the number of images.": variant(
            average=loss_over_batches
        ),
        "loss and accuracy are those of the last batch; the whole epoch's are asked for.": variant(
            average=of_last_batch
        ),
        "the loss is summed over batches and never divided.": variant(average=summed_loss),
        "BatchNorm works with its running statistics: the model is in eval mode. Call "
        "`model.train()` first.": variant(mode=False),
        "a softmax stands before the loss. `F.cross_entropy` wants logits and takes the softmax "
        "itself.": variant(probabilities=True),
        "the model runs twice for each batch, and BatchNorm's running statistics move twice: use "
        "the logits of the first pass.": variant(again="before the step"),
        "the accuracy is that of a second pass, after the step: use the logits from before "
        "it.": variant(again="after it"),
    }

    def describe(case):
        model, batches = case
        sizes = [len(labels) for _, labels in getattr(batches, "batches", batches)]
        return f"batches of {sizes} images"

    compare(
        observed(train_one_epoch),
        variant(),
        cases,
        mistakes,
        tolerance=1e-3,
        what="(mean loss, accuracy, the model's state)",
        may_change=(0,),
        describe=describe,
    )
    marks, early = [], []

    def let_go(i):
        """Before batch i: only the last loss may still have its graph, and it must exist."""
        if len(marks) < i:
            early.append(i)
        if any(mark() is not None for mark in marks[: max(i - 1, 0)]):
            fail(
                "the numbers are right, but a sum (or list) of losses keeps the graph of every "
                "batch in memory. Add up `loss.item()` or `loss.detach()`."
            )

    def marked(logits, labels):
        return Marked.apply(F.cross_entropy(logits, labels), marks)

    batches = batches_of([pick(6, 9), pick(6, 9), pick(6, 9), pick(2, 3)])
    compare(
        observed(train_one_epoch, marked),
        lambda model, batches: variant()(model, batches.batches),
        [(randomize(small_net()), OnePass(batches, let_go))],
        tolerance=1e-3,
        what="(mean loss, accuracy, the model's state)",
        may_change=(0, 1),
        describe=describe,
    )
    if early:
        fail(
            "the numbers are right, but batches are read ahead of the training: a stream may be "
            "larger than the memory. Take one batch, make its step, take the next."
        )


@exercise("4.5", "stop and go on", returns=False)
def check_checkpoint(save, load):
    def make(seed):
        torch.manual_seed(seed)
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)

    def train(model, optimizer, scheduler, seed):
        torch.manual_seed(seed)
        for _ in range(3):
            logits = model.train()(torch.randn(6, 3, 6, 7))
            loss = F.cross_entropy(logits, torch.randint(0, 3, (6,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

    run, seed, done = make(pick(0, 999)), pick(1000, 1999), pick(2, 7)
    train(*run, seed)
    another = make(pick(3000, 3999))
    train(*another, seed + 2)
    before = copy.deepcopy([part.state_dict() for part in run])
    later = copy.deepcopy(another[0].state_dict())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        attempt(save, path, *run, done)
        if not path.is_file():
            fail("there is no file at `path` after saving. Is the path used as it is given?")
        files = sorted(file.name for file in Path(folder).iterdir())
        if len(files) > 1:
            fail(f"`save` should write one file, at `path`, and leaves {', '.join(files)}.")
        if not all(same(run[i].state_dict(), before[i], 0.0) for i in range(3)):
            fail("saving changes what it saves.")
        size = path.stat().st_size
        train(*run, seed + 1)  # going on undisturbed must not change what was saved
        moved = path.rename(Path(folder) / "moved.pt")  # all that is kept is in the file
        attempt(save, path, *another, done + 10)
        resumed = make(pick(2000, 2999))
        epoch = attempt(load, moved, *resumed)
    model, optimizer, scheduler = (part.state_dict() for part in resumed)
    if same(model, later, 0.0):
        fail(
            "two runs are saved, the first is loaded, and the second comes back. Does the state "
            "sit in a global variable, or at a fixed path, and not in the file at `path`?"
        )
    if not same(model, before[0], 0.0):
        fail(
            "the model's state is not what was saved. Save and load `model.state_dict()`, "
            "statistics included."
        )
    if not same(optimizer["state"], before[1]["state"], 0.0):
        fail(
            "the optimizer's velocities are lost, so the next steps differ. Save and load "
            "`optimizer.state_dict()`."
        )
    if not same(optimizer["param_groups"], before[1]["param_groups"], 0.0):
        fail(
            "the optimizer's velocities are back, its settings (`param_groups`) are not: the "
            "learning rate, for one. Save and load the whole `optimizer.state_dict()`."
        )
    if not same(scheduler, before[2], 0.0):
        fail(
            "the scheduler starts anew, and so does the learning rate. Save and load "
            "`scheduler.state_dict()`."
        )
    if epoch != done:
        hint = ""
        if epoch in (done - 1, done + 1):
            hint = " An epoch too many or too few is skipped or repeated."
        fail(
            f"`load` should return the number of epochs done, {done}, and returns "
            f"{shown(epoch)}.{hint}"
        )
    tensors = [
        *before[0].values(),
        *(state["momentum_buffer"] for state in before[1]["state"].values()),
    ]
    needed = sum(tensor.nbytes for tensor in tensors)
    if size < needed:
        fail(
            f"the file at `path` has {size:,} bytes, and weights and velocities alone have "
            f"{needed:,}: is a part of the state kept elsewhere?"
        )
    train(*resumed, seed + 1)
    if not same(resumed[0].state_dict(), run[0].state_dict(), 0.0):
        fail(
            "everything seems restored, and still the next steps differ from those of the "
            "undisturbed run."
        )


@exercise("4.6", "MixUp's loss")
def check_mixup_loss(mixup_loss):
    def mixed(a, b, weight):
        return weight * a + (1 - weight) * b

    def variant(
        inputs=lambda x, order, lam: mixed(x, x[order], lam),
        loss=lambda own, others, lam: mixed(own, others, lam),
        reduction="mean",
    ):
        def run(model, x, labels, order, lam):
            logits = model(inputs(x, order, lam))
            own = F.cross_entropy(logits, labels, reduction=reduction)
            others = F.cross_entropy(logits, labels[order], reduction=reduction)
            return loss(own, others, lam)

        return run

    def of_images(model, x, labels, order, lam):
        logits = model(x)
        own = F.cross_entropy(logits, labels)
        return mixed(own, F.cross_entropy(logits[order], labels[order]), lam)

    def other_way_back(model, x, labels, order, lam):
        logits = model(mixed(x, x[order], lam))
        others = F.cross_entropy(logits, labels[order.argsort()])
        return mixed(F.cross_entropy(logits, labels), others, lam)

    def of_classes(model, x, labels, order, lam):
        logits = model(mixed(x, x[order], lam))
        return F.cross_entropy(logits, mixed(labels, labels[order], lam).long())

    def answer(model, x, labels, order, lam):
        return run_once(model, lambda: mixup_loss(model, x, labels, order, lam))

    cases = []
    for lam in (0.1 * pick(1, 2), 0.1 * pick(3, 4), 0.1 * pick(6, 9)):
        n, classes = pick(7, 9), 3
        labels = torch.arange(n) % classes
        order = torch.randperm(n)
        while (labels[order] == labels[order.argsort()]).all():  # else the way back is the same
            order = torch.randperm(n)
        model = randomize(small_net(classes)).double()
        x = 3 * torch.randn(n, 3, *rectangle(4, 8), dtype=torch.float64)
        cases.append((model, x, labels, order, lam))
    mistakes = {
        "the images are mixed, the labels are not: the loss knows two classes for each.": variant(
            loss=lambda own, others, lam: own
        ),
        "the labels are mixed, the images are not.": variant(inputs=lambda x, order, lam: x),
        "the weights of the two losses are swapped: image n has the weight lam, so its own label, "
        "too.": variant(loss=lambda own, others, lam: mixed(others, own, lam)),
        "the weights of the two images are swapped: the image itself has lam, the other one 1 - "
        "lam.": variant(inputs=lambda x, order, lam: mixed(x[order], x, lam)),
        "the weights of images and losses are both swapped: lam belongs to image n and its own "
        "label.": variant(
            inputs=lambda x, order, lam: mixed(x[order], x, lam),
            loss=lambda own, others, lam: mixed(others, own, lam),
        ),
        "the two losses are added without their weights.": variant(
            loss=lambda own, others, lam: own + others
        ),
        "the two losses have equal weights; they have those of the images.": variant(
            loss=lambda own, others, lam: (own + others) / 2
        ),
        "the losses are summed over the batch; their mean is asked for.": variant(reduction="sum"),
        "one number is asked for, the mean over the batch.": variant(reduction="none"),
        "the numbers of the classes are mixed: half of cat and dog is no class. Mix the losses.": (
            of_classes
        ),
        "the model sees the images one by one, and not their mixtures.": of_images,
        "the other labels are in another order than the other images: `labels[order]`.": (
            other_way_back
        ),
    }
    compare(
        answer,
        variant(),
        cases,
        mistakes,
        what="the loss",
        may_change=(0,),
        gradients={1: "x"},
        same_type_as=1,
        describe=named("model", "x", "labels", "order", "lam"),
    )
