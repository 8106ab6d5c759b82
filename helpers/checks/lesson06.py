"""Checks of the exercises of lesson 06, inside the network."""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from helpers import resnet
from helpers.checks.engine import (
    attempt,
    compare,
    exercise,
    fail,
    named,
    outcome,
    parts,
    pick,
    rectangle,
    same,
    shown,
)
from helpers.checks.modules import randomize

__all__ = [
    "check_receptive_field",
    "check_output_shapes",
    "check_contrastive_cam",
    "check_without_block",
    "check_relative_change",
    "check_filter_normalised",
]

STAGES = ["layer1", "layer2", "layer3"]


def small_resnet() -> nn.Module:
    """A small residual network of three stages in eval mode; stages 2 and 3 begin with a block that
    changes the shape.
    """
    classes, width = pick(4, 6), pick(3, 5)
    model = resnet.CifarResNet(
        resnet.BasicBlock, (2, 3, 2), classes, width=width, shortcut=resnet.projection
    )
    return randomize(model).eval()


@exercise("6.1", "the receptive field")
def check_receptive_field(receptive_field):
    def oracle(layers):
        """Where the gradients of the first two values of a chain of convolutions arrive."""
        x = torch.zeros(1, 1, 1500, requires_grad=True, dtype=torch.float64)
        y = x
        for kernel, stride in layers:
            y = F.conv1d(y, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride)
        (of_first,) = torch.autograd.grad(y[0, 0, 0], x, retain_graph=True)
        (of_second,) = torch.autograd.grad(y[0, 0, 1], x)
        first, second = of_first[0, 0].nonzero(), of_second[0, 0].nonzero()
        return len(first), (second[0] - first[0]).item()

    def variant(add, start=1):
        """The rule with another summand for each layer, `add(kernel, stride, step)`."""

        def mistake(layers):
            size, step = start, 1
            for kernel, stride in layers:
                size += add(kernel, stride, step)
                step *= stride
            return size, step

        return mistake

    cases = []
    for _ in range(4):
        layers = [(2 * pick(1, 3) + 1, 2), (1, 1)]
        for _ in range(pick(2, 4)):
            layers.append((pick(2, 5), pick(1, 2)))
        cases.append((layers,))
    mistakes = {
        "k - 1 is added for each layer without the step: after a stride of 2, neighbours lie 2 "
        "pixels apart.": variant(lambda k, s, step: k - 1),
        "a layer's own stride is applied too early. It widens the steps of the layers *after* "
        "it.": variant(lambda k, s, step: (k - 1) * step * s),
        "k is added where k - 1 should be: a kernel of 1 sees no neighbour.": variant(
            lambda k, s, step: k * step
        ),
        "begin with 1: before any layer a value sees its own pixel.": variant(
            lambda k, s, step: (k - 1) * step, start=0
        ),
        "only the last stride counts; the steps multiply from layer to layer.": lambda layers: (
            oracle(layers)[0],
            layers[-1][1],
        ),
        "the strides are added; the steps multiply from layer to layer.": lambda layers: (
            oracle(layers)[0],
            sum(stride for _, stride in layers),
        ),
    }
    compare(
        lambda layers: parts(receptive_field(layers), "(size, step)"),
        oracle,
        cases,
        mistakes,
        what="(size, step)",
        describe=named("layers"),
    )


class Counted(nn.Module):
    """A layer that counts how often it runs."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.runs = layer, 0

    def forward(self, x):
        self.runs += 1
        return self.layer(x)


@exercise("6.2", "shapes by hooks")
def check_output_shapes(output_shapes):
    def shapes(model, names, x, shape=lambda x, y: tuple(y.shape[1:])):
        """{name: shape(input, output)} of children, which run in another order than `names`."""
        found = {}
        y = x
        for name in ("conv1", "bn1", *STAGES, "avgpool", "fc"):
            x = y.flatten(1) if name == "fc" else y
            y = getattr(model, name)(x)
            found[name] = shape(x, y)
            if name == "bn1":
                y = F.relu(y)
        return {name: found[name] for name in names}

    def with_batch(model, names, x):
        return shapes(model, names, x, shape=lambda x, y: tuple(y.shape))

    def of_inputs(model, names, x):
        return shapes(model, names, x, shape=lambda x, y: tuple(x.shape[1:]))

    def last_for_all(model, names, x):
        return dict.fromkeys(names, shapes(model, names, x)[names[-1]])

    def last_only(model, names, x):
        return {names[-1]: shapes(model, names, x)[names[-1]]}

    def answer(model, names, x):
        before, runs = model.training, model.conv1.runs
        buffers = copy.deepcopy(list(model.buffers()))
        found = output_shapes(model, names, x)
        if any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
            fail(
                "hooks are left on the model, and run at every later call. Remove them: "
                "`handle.remove()`, in a `finally`."
            )
        if model.training != before:
            fail("the model is left in another mode than it came in.")
        runs = model.conv1.runs - runs
        if runs > 1:
            fail(
                f"the model runs {runs} times. Register all hooks first, then send x through once."
            )
        if not all(map(torch.equal, model.buffers(), buffers)):
            fail(
                "BatchNorm's running statistics have moved: the pass ran in train mode. Eval mode "
                "for the pass, then back."
            )
        if not isinstance(found, Mapping):
            fail(f"a dictionary is expected, got {shown(found)}.")
        return {name: shape and tuple(shape) for name, shape in found.items()}

    names = ["layer2", "conv1", "layer3", "layer1", "avgpool", "fc"]
    cases = []
    for number in range(3):
        h, w = rectangle(2, 4)
        model = small_resnet().train(number == 1)
        model.conv1 = Counted(model.conv1)
        cases.append((model, names, torch.randn(pick(2, 3), 3, 4 * h, 4 * w)))
    mistakes = {
        "the batch is part of the shape: leave the first axis out.": with_batch,
        "these are the shapes of what goes *in*. A forward hook receives (module, inputs, "
        "output).": of_inputs,
        "all names have one shape: a function made in a loop sees the last name. Bind it: "
        "`name=name`.": last_for_all,
        "only the last name is there: a function made in a loop sees it alone. Bind it: "
        "`name=name`.": last_only,
    }
    compare(
        answer,
        shapes,
        cases,
        mistakes,
        what="the dictionary of shapes",
        may_change=(0,),
        describe=named("model", "names", "x"),
    )


class Probe(nn.Module):
    """A layer whose output is kept as it was, with a tensor of zeros added to differentiate by."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        self.kept = y.detach().clone()
        self.zeros = torch.zeros_like(y, requires_grad=True)
        return y + self.zeros


class Fails(nn.Module):
    def forward(self, x):
        raise ArithmeticError("the network fails here")


@exercise("6.3", "this class rather than that")
def check_contrastive_cam(contrastive_cam):
    def logit(logits, classes):
        return logits.gather(1, classes[:, None])

    def difference(logits, a, b):
        return logit(logits, a) - logit(logits, b)

    def probed(model, name, x):
        """(logits, probe) of a copy of the model with a probe in place of the named layer."""
        model = copy.deepcopy(model).eval()
        probe = Probe(model.get_submodule(name))
        before, _, last = name.rpartition(".")
        setattr(model.get_submodule(before), last, probe)
        return model(x), probe

    def mean(gradient):
        return gradient.mean((2, 3), keepdim=True)

    def variant(score=difference, weights=mean, rectify=F.relu):
        def run(model, name, x, a, b):
            logits, probe = probed(model, name, x)
            (gradient,) = torch.autograd.grad(score(logits, a, b).sum(), probe.zeros)
            return rectify((weights(gradient) * probe.kept).sum(1))

        return run

    def by_linear_layer(model, name, x, a, b):
        """For the last stage the weights are those of the linear layer, over h · w."""
        _, probe = probed(model, name, x)
        w = model.fc.weight.detach()
        maps = torch.einsum("nk,nkhw->nhw", w[a] - w[b], probe.kept)
        return F.relu(maps / maps[0].numel())

    def oracle(model, name, x, a, b):
        if name == "layer3":
            return by_linear_layer(model, name, x, a, b)
        return variant()(model, name, x, a, b)

    def of_maps(combine):
        """By two maps of Grad-CAM, for each class."""

        def run(*case):
            for_a = variant(lambda logits, a, b: logit(logits, a))(*case)
            for_b = variant(lambda logits, a, b: logit(logits, b))(*case)
            return combine(for_a, for_b)

        return run

    def scaled(*case):
        maps = oracle(*case)
        return maps / maps.amax((1, 2), keepdim=True)

    def enlarged(*case):
        size = case[2].shape[2:]
        return F.interpolate(oracle(*case)[:, None], size=size, mode="bilinear").squeeze(1)

    def state(model, x):
        """What must be as it was: modes, gradients, what takes part in gradients, buffers."""
        modes = [part.training for part in model.modules()]
        gradients = [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
        wanted = [p.requires_grad for p in model.parameters()]
        buffers = [buffer.clone() for buffer in model.buffers()]
        return modes, gradients, wanted, x.requires_grad, buffers

    def check_state(before, model, x, when=""):
        for part in model.modules():
            if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks:
                fail(
                    f"hooks are left on the model{when}, and run at every later call. Remove them: "
                    "`handle.remove()`, in a `finally`."
                )
        modes, gradients, wanted, x_wanted, buffers = state(model, x)
        if not same(buffers, before[4], 0.0):
            fail(
                "BatchNorm's running statistics have moved: the network ran in train mode, in "
                "which images influence each other. Eval mode, and back."
            )
        if modes != before[0]:
            hint = "Every part has its own mode: a BatchNorm may be frozen in eval mode."
            if modes[0] != before[0][0]:
                hint = "Put it back, in a `finally`."
            fail(f"the model is left in another mode than it came in{when}. {hint}")
        for gradient, old in zip(gradients, before[1], strict=True):
            if (gradient is None) != (old is None) or not same(gradient, old, 0.0):
                fail(
                    f"the gradients of the parameters, `.grad`, are changed{when}; a training step "
                    "would use them. `torch.autograd.grad(…)` returns a gradient and stores none."
                )
        if wanted != before[2]:
            fail(f"`requires_grad` of the parameters is changed{when}: leave them as they were.")
        if x_wanted != before[3]:
            fail("`requires_grad` of the caller's x is changed: use `x.detach()`, a tensor anew.")

    def answer(model, name, x, a, b):
        before = state(model, x)
        maps = contrastive_cam(model, name, x, a, b)
        check_state(before, model, x)
        if getattr(maps, "requires_grad", False):
            fail(
                "the maps still hold the graph of the whole network in memory: return them "
                "`detach()`ed."
            )
        return maps

    cases = []
    names = [
        *("layer3", "layer2", "conv1", "layer2.1.bn1"),
        f"layer1.{pick(0, 1)}.conv2",
        "layer2.0.bn1",
    ]
    while len(cases) < len(names):
        number, (h, w) = len(cases), rectangle(3, 5)
        model = small_resnet().double()
        model.train(number in (1, 3))
        if number == 1:
            model.layer2[1].eval()  # frozen
        if number == 2:
            model.requires_grad_(False)
        if number in (1, 4):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
        x = torch.randn(pick(3, 4), 3, 4 * h, 4 * w, dtype=torch.float64)
        classes = model.fc.out_features
        chosen = torch.stack([torch.randperm(classes)[:2] for _ in x])
        case = (model, names[number], x, chosen[:, 0], chosen[:, 1])
        if (oracle(*case) > 0).double().mean() > 0.3:  # maps of zeros would tell nothing
            cases.append(case)
    mistakes = {
        "this is the map for class a alone. What speaks for b as well should cancel.": variant(
            lambda logits, a, b: logit(logits, a)
        ),
        "a and b are exchanged: why a, rather than b?": variant(
            lambda logits, a, b: difference(logits, b, a)
        ),
        "two maps of Grad-CAM are subtracted, each after its ReLU: what speaks *against* b is lost "
        "that way. One gradient, of the difference.": of_maps(lambda for_a, for_b: for_a - for_b),
        "two maps of Grad-CAM are subtracted, each after its ReLU, and rectified again: what "
        "speaks *against* b is lost. One gradient, of the difference.": of_maps(
            lambda for_a, for_b: F.relu(for_a - for_b)
        ),
        "the two logits are added; it is their difference that says why a and not b.": variant(
            lambda logits, a, b: logit(logits, a) + logit(logits, b)
        ),
        "the ReLU is missing: only evidence for a is to be shown.": variant(
            rectify=lambda maps: maps
        ),
        "the absolute value is taken: evidence for b would shine too. Use a ReLU.": variant(
            rectify=torch.abs
        ),
        "you differentiate probabilities (after the softmax); take the logits.": variant(
            lambda logits, a, b: difference(logits.softmax(1), a, b)
        ),
        "the predicted class takes the place of a.": variant(
            lambda logits, a, b: difference(logits, logits.argmax(1), b)
        ),
        "all images get the classes of the first one: choose each image's own with `gather`.": (
            variant(lambda z, a, b: difference(z, a[:1].expand_as(a), b[:1].expand_as(b)))
        ),
        "the weights are sums over the pixels; take the mean of the gradient over h and w.": (
            variant(weights=lambda gradient: gradient.sum((2, 3), keepdim=True))
        ),
        "gradient and activation are multiplied pixel by pixel. Average the gradient over h and w "
        "first.": variant(weights=lambda gradient: gradient),
        "the weights are averaged over the batch as well: each image has its own.": variant(
            weights=lambda gradient: gradient.mean((0, 2, 3), keepdim=True)
        ),
        "the maps are scaled to 0–1; leave them in units of the logit, so that they can be "
        "compared.": scaled,
        "the maps are enlarged to the image's size; (N, h, w), as the layer's output, is asked "
        "for.": enlarged,
    }
    describe = named("model", "name", "x", "a", "b")
    plain, in_place = cases[:3] + cases[4:5], [cases[3], cases[5]]
    compare(answer, oracle, plain, mistakes, what="the maps", describe=describe)
    for case in in_place:
        if not same(attempt(answer, *copy.deepcopy(case)), oracle(*case), 1e-4):
            fail(
                f"right at the other layers, and wrong at `{case[1]}`: a ReLU in place overwrites "
                "its output after your hook has kept it. What a forward hook *returns* takes the "
                "place of the output: hand on a `clone()`."
            )
    check_failure(contrastive_cam, cases[1], state, check_state)


def check_failure(answer, case, state, check_state) -> None:
    """The model raises in the middle: the error must come through, and leave no traces."""
    model, name, x, a, b = copy.deepcopy(case)
    model.layer3[0].conv1 = Fails()
    before = state(model, x)
    error = outcome(answer, (model, name, x, a, b))
    if not isinstance(error, ArithmeticError):
        fail(
            "the network raised an error, and your function did not hand it on: clean up in "
            f"`finally`, without `except`. (It ended with {shown(error)}.)"
        )
    check_state(before, model, x, " when it raises")


@exercise("6.4", "drop a block")
def check_without_block(without_block):
    class Zeros(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    class OnlyBranch(nn.Module):
        """ReLU(F(x)) of a block."""

        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            b = self.block
            return F.relu(b.bn2(b.conv2(F.relu(b.bn1(b.conv1(x))))))

    def variant(replacement, shift=0):
        """The network with `replacement(block)` in place of the block."""

        def run(model, stage, index, x):
            model = copy.deepcopy(model)
            blocks = getattr(model, stage)
            blocks[index + shift] = replacement(blocks[index + shift])
            return model(x)

        return run

    def nothing_dropped(model, stage, index, x):
        return model(x)

    def rest_of_stage(model, stage, index, x):
        model = copy.deepcopy(model)
        setattr(model, stage, getattr(model, stage)[:index])
        return model(x)

    def answer(model, stage, index, x):
        kept = x.clone()
        whole = model(kept)
        logits = without_block(model, stage, index, x)
        if not same(model(kept), whole, 1e-6):
            fail(
                "the network is changed for good: after the call it gives other logits. Work on a "
                "copy, or put the block back."
            )
        return logits

    cases = []
    for stage in STAGES:
        h, w = rectangle(3, 5)
        cases.append((small_resnet(), stage, 1, torch.randn(pick(2, 3), 3, 4 * h, 4 * w)))
    cases.append((small_resnet(), "layer1", 0, torch.randn(2, 3, 12, 16)))  # it keeps the shape
    mistakes = {
        "nothing is dropped: these are the whole network's logits.": nothing_dropped,
        "the block before it is dropped: `index` counts from 0.": variant(
            lambda block: block.downsample or nn.Identity(), shift=-1
        ),
        "the block outputs zeros. What is dropped is F; the shortcut stays, so the block hands on "
        "x.": variant(lambda block: Zeros()),
        "the shortcut is dropped and F is kept. It should be the other way round.": variant(
            OnlyBranch
        ),
        "this block and all after it in the stage are dropped; only one should be.": rest_of_stage,
    }
    with torch.no_grad():
        compare(
            answer,
            variant(lambda block: nn.Identity()),
            cases,
            mistakes,
            what="the logits",
            describe=named("model", "stage", "index", "x"),
        )
        model, _, _, x = cases[0]
        whole = model(x)
        refusal = outcome(without_block, (model, "layer2", 0, x))
        if not isinstance(refusal, ValueError):  # whatever else, it does not fit
            fail(
                "block 0 of layer2 changes the shape and is needed: raise ValueError where "
                "`downsample` is not None."
            )
        if not same(outcome(model, (x,)), whole, 1e-6):
            fail(
                "ValueError is raised, but the block is gone: look at `downsample` before you "
                "change anything."
            )


@exercise("6.5", "how much a block changes")
def check_relative_change(relative_change):
    def norm(z):
        """(N,): of each image."""
        return z.flatten(1).norm(dim=1)

    def mean_ratio(f, x):
        return (norm(f) / norm(x)).mean()

    def variant(rule):
        """By a rule of F(x) and x."""

        def run(block, x):
            f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
            return rule(f, x)

        return run

    cases = []
    for _ in range(3):
        width = pick(3, 6)
        block = randomize(resnet.BasicBlock(width, width)).eval()
        scale = torch.rand(5).view(-1, 1, 1, 1) * 3 + 0.2
        cases.append((block, F.relu(torch.randn(5, width, *rectangle(4, 6)) * scale)))
    mistakes = {
        "this is ‖y - x‖ / ‖x‖. The last ReLU has already cut F(x) + x: take `bn2`'s output.": (
            variant(lambda f, x: mean_ratio(F.relu(f + x) - x, x))
        ),
        "this is ‖y‖ / ‖x‖, the size of the whole output. How large is F(x)?": variant(
            lambda f, x: mean_ratio(F.relu(f + x), x)
        ),
        "the norms are taken over the whole batch. Divide for each image, then average.": variant(
            lambda f, x: f.norm() / x.norm()
        ),
        "the mean norms are divided; divide for each image, then average.": variant(
            lambda f, x: norm(f).mean() / norm(x).mean()
        ),
        "the squares of the norms are divided; take the root.": variant(
            lambda f, x: (norm(f) / norm(x)).pow(2).mean()
        ),
        "the ratio is upside down: ‖F(x)‖ / ‖x‖.": variant(lambda f, x: mean_ratio(x, f)),
        "F(x) is taken after a ReLU; the branch ends with BatchNorm.": variant(
            lambda f, x: mean_ratio(F.relu(f), x)
        ),
    }
    with torch.no_grad():
        compare(
            lambda block, x: float(relative_change(block, x)),
            variant(mean_ratio),
            cases,
            mistakes,
            what="the ratio",
            describe=named("block", "x"),
        )


@exercise("6.6", "a direction, filter by filter")
def check_filter_normalised(filter_normalised):
    def norms(z, axes):
        return z.pow(2).sum(axes, keepdim=True).sqrt()

    def per(axis, direction, weight):
        """Each slice along an axis (None: the whole tensor) with the weight's norm."""
        if weight.ndim == 1:
            return torch.zeros_like(weight)
        axes = tuple(i for i in range(weight.ndim) if i != axis)
        return direction * norms(weight, axes) / norms(direction, axes)

    def per_filter(direction, weight):
        return per(0, direction, weight)

    def per_input_channel(direction, weight):
        return per(1, direction, weight)

    def per_tensor(direction, weight):
        return per(None, direction, weight)

    def of_norm_1(direction, weight):
        if weight.ndim == 1:
            return torch.zeros_like(weight)
        return direction / norms(direction, tuple(range(1, weight.ndim)))

    def squared(direction, weight):
        return per_filter(direction, weight) ** 2 / direction

    def with_one_axis(direction, weight):
        if weight.ndim == 1:
            return direction * weight.norm() / direction.norm()
        return per_filter(direction, weight)

    shapes = [(pick(4, 6), pick(2, 3), 3, 3), (pick(4, 6), pick(7, 9)), (pick(4, 6),)]
    cases = []
    for shape in shapes:
        column = (-1,) + (1,) * (len(shape) - 1)
        scale = (torch.rand(shape[0]) * 3 + 0.2).view(column)
        cases.append((torch.randn(shape), torch.randn(shape) * scale))
    mistakes = {
        "the whole tensor is scaled by one factor. Each filter (each output channel) has its own "
        "norm.": per_tensor,
        "the norms are per *input* channel; a filter is a slice along axis 0.": per_input_channel,
        "each filter has norm 1: multiply by the norm of the weight's filter.": of_norm_1,
        "the squares of the norms are used: take the root.": squared,
        "BatchNorm's scales, shifts and biases (one axis) should get a direction of 0.": (
            with_one_axis
        ),
    }
    compare(
        filter_normalised,
        per_filter,
        cases,
        mistakes,
        what="the direction",
        same_type_as=1,
        describe=named("direction", "weight"),
    )
