"""Checks of the exercises of lesson 09, fast training."""

import copy
import inspect
from types import CodeType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import networks
from helpers.checks.engine import (
    CheckFailed,
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
from helpers.checks.lesson04 import small_net
from helpers.checks.modules import randomize
from helpers.resnet import BasicBlock, Bottleneck, CifarResNet, ResNet, projection

__all__ = ["check_update_ema", "check_grown"]


@exercise("9.1", "an average of the weights, buffers included", returns=False)
def check_update_ema(update_ema):
    def updated(update):
        """Two updates, between which the model moves on."""

        def run(average, model, decay):
            model, average = copy.deepcopy(model), copy.deepcopy(average)
            for _ in range(2):
                before = copy.deepcopy(model)
                update(average, model, decay)
                if not same(model, before, 0.0):
                    fail("the model itself is changed; only its average should be.")
                pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
                for name, tensor in average.state_dict().items():
                    if tensor.data_ptr() in pointers:
                        fail(
                            f"`{name}` of the average is now the model's own tensor, and follows "
                            "it from here on. Copy values (`copy_`), not tensors."
                        )
                model[1].num_batches_tracked += 3
                model[1].running_mean += 1.0
            return dict(average.state_dict())

        return run

    def mean(a, b, decay):
        return decay * a + (1 - decay) * b

    def old(a, b, decay):
        return a

    def new(a, b, decay):
        return b

    def variant(parameters=mean, buffers=mean, counters=new):
        """Rules for parameters, statistics and counters: functions of (old, new, decay)."""

        @torch.no_grad()
        def update(average, model, decay):
            names = {name for name, _ in average.named_parameters()}
            theirs = model.state_dict()
            for name, value in average.state_dict().items():
                if name in names:
                    rule = parameters
                elif value.is_floating_point():
                    rule = buffers
                else:
                    rule = counters
                value.copy_(rule(value, theirs[name], decay))

        return updated(update)

    def added(a, b, decay):
        return decay * a + b

    def swapped(a, b, decay):
        return (1 - decay) * a + decay * b

    cases = []
    for _ in range(3):
        average, model = randomize(small_net()), randomize(small_net())
        average[1].num_batches_tracked += pick(1, 9)
        model[1].num_batches_tracked += 10 + pick(1, 9)
        cases.append((average, model, 0.1 * pick(6, 9)))
    mistakes = {
        "BatchNorm's buffers are left as they are: the average would be evaluated with statistics "
        "of another network. Go through `state_dict()`, not only `parameters()`.": variant(
            buffers=old, counters=old
        ),
        "BatchNorm's buffers are copied; the task asks for their average too.": variant(
            buffers=new
        ),
        "decay is the wrong way round: average ← decay · average + (1 - decay) · model.": variant(
            swapped, swapped
        ),
        "the average is simply replaced by the model.": variant(new, new),
        "the counter `num_batches_tracked` is left behind. Copy what is not a floating-point "
        "number.": variant(counters=old),
        "nothing changes. Change the tensors in place (`copy_`, `lerp_`), under "
        "`torch.no_grad()`.": variant(old, old, old),
        "1 - decay is missing before the model's weights: the average grows without end.": variant(
            added, added
        ),
    }
    compare(
        updated(update_ema),
        variant(),
        cases,
        mistakes,
        what="the average's state",
        describe=named("average", "model", "decay"),
    )


def last_norm(block: nn.Module) -> nn.BatchNorm2d:
    return block.bn3 if isinstance(block, Bottleneck) else block.bn2


def last_norm_name(block: nn.Module) -> str:
    return "bn3" if isinstance(block, Bottleneck) else "bn2"


def stages_of(model: nn.Module) -> dict[str, nn.Sequential]:
    return {name: part for name, part in model.named_children() if name.startswith("layer")}


def names_in(code: CodeType) -> set[str]:
    """The global names and attributes in a function's code, inner functions included."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= names_in(constant)
    return found


def refuse_ready_made(function, seen: tuple = ()) -> None:
    """Fails where a function, or one of its notebook that it uses, calls what `helpers.networks`
    has for growing.
    """
    function = inspect.unwrap(function)
    if not inspect.isfunction(function) or function in seen:
        return
    ours = {"grow", "first_blocks", "residual_stages"}
    used = names_in(function.__code__)
    for name in used:
        value = function.__globals__.get(name)
        ready_made = any(value is getattr(networks, each) for each in ours)
        module = value is networks or name in ("helpers.networks", "networks")
        if ready_made or (module and used & ours):
            fail(
                "`helpers.networks` is called, which prepares a deep network for growing. Here the "
                "deep one is yours to build: without `grow` and `first_blocks`."
            )
        if getattr(value, "__globals__", None) is function.__globals__:
            refuse_ready_made(value, (*seen, function))


def given_and_wanted() -> list[tuple[nn.Module, tuple[int, ...], nn.Module, Tensor]]:
    """(a network, depths, an untrained network of these depths, images) of several families."""
    families = (
        # class, block, depths, blocks to add, options, smallest image
        (ResNet, BasicBlock, (2, 1, 1, 2), (pick(1, 2), 0, pick(1, 2), 1), {}, 9),
        (CifarResNet, BasicBlock, (1, 1, 1), (pick(1, 2), pick(1, 2), 0), {}, 6),
        (CifarResNet, Bottleneck, (1, 2, 1), (1, pick(1, 3), 1), {"shortcut": projection}, 6),
        (ResNet, Bottleneck, (1, 1, 1, 1), (0, pick(1, 2), 2, 1), {"stem": "imagenet"}, 34),
    )
    found = []
    for kind, block, depths, added, options, side in families:
        options = {"num_classes": pick(3, 6), "width": pick(3, 5)} | options
        deeper = tuple(depth + more for depth, more in zip(depths, added, strict=True))
        model = randomize(kind(block, depths, **options))
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.num_batches_tracked += pick(10, 99)
        images = torch.randn(pick(6, 8), 3, *rectangle(side, side + 6))
        found.append((model, deeper, kind(block, deeper, **options), images))
    return found


def place_of(model: nn.Module, depths: tuple[int, ...], copies: bool) -> str:
    stages = list(stages_of(model).values())
    block = type(stages[0][0]).__name__
    return (
        f"a {type(model).__name__} of {block}s, depths {tuple(len(stage) for stage in stages)}, "
        f"grown to {depths}, copies={copies}"
    )


def check_new(result, model: nn.Module, before: nn.Module, depths, wanted: nn.Module) -> None:
    """Fails unless the result is another network, of the depths and with the names asked for."""
    if not isinstance(result, nn.Module):
        fail(f"a network is expected, got {shown(result)}.")
    if result is model:
        fail("the network that comes back *is* the given one. Return a new one: `copy.deepcopy`.")
    if not same(model, before, 0.0):
        fail("the given network is changed. Work on a copy of it: `copy.deepcopy`.")
    for name, stage in stages_of(wanted).items():
        blocks = len(getattr(result, name, ()))
        if blocks != len(stage):
            fail(f"`{name}` has {blocks} blocks, and {len(stage)} are asked for.")
    here, there = result.state_dict(), wanted.state_dict()
    for key in sorted(set(here) ^ set(there)):
        if "downsample" in key and key in here:
            fail(
                f"`{key}` should not exist: a new block keeps the shape it gets, so its shortcut "
                "is the identity, without a projection."
            )
        what = "is missing" if key in there else "should not exist"
        fail(f"`{key}` {what}: name for name, the network should be as `helpers.resnet` builds it.")
    for key, value in here.items():
        if value.shape != there[key].shape:
            fail(
                f"`{key}` should have shape {tuple(there[key].shape)}, and has "
                f"{tuple(value.shape)}. A new block keeps the shape it gets: stride 1, and as "
                "many channels in as out."
            )
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    owners: dict[int, str] = {}
    for key, value in here.items():
        if value.data_ptr() in theirs:
            fail(
                f"`{key}` is the given network's own tensor: training the deep network would "
                "change the given one. Copy it."
            )
        if value.data_ptr() in owners:
            fail(
                f"`{owners[value.data_ptr()]}` and `{key}` are one and the same tensor: the same "
                "block stands there twice. Make a new one for each place."
            )
        owners[value.data_ptr()] = key


def kept_as_it_was(result: nn.Module, model: nn.Module, but: set[str]) -> None:
    """Fails where a trained tensor, apart from those in `but`, did not come along."""
    here, buffers = result.state_dict(), dict(model.named_buffers())
    for key, value in model.state_dict().items():
        if key in but or torch.equal(here[key], value):
            continue
        if key in buffers:
            fail(
                f"`{key}` is not as it was trained: BatchNorm's buffers belong to the network's "
                "function, too. Copy them along."
            )
        if key.endswith("weight") and not here[key].any():
            fail(
                f"`{key}`, γ of a *trained* block, is 0 now. Only the new blocks start with γ = 0."
            )
        fail(f"`{key}` is not as it was trained. Copy every weight of the given network.")


def new_blocks(result: nn.Module, model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks that the given network lacks, with their names."""
    found = []
    for name, stage in stages_of(model).items():
        blocks = getattr(result, name)
        found += [(f"{name}.{i}", blocks[i]) for i in range(len(stage), len(blocks))]
    return found


def check_silent(name: str, block: nn.Module) -> None:
    """Fails unless the last BatchNorm of a new block, and no other, has γ = 0; and β = 0."""
    norms = {key: part for key, part in block.named_children() if key.startswith("bn")}
    last = last_norm_name(block)
    zero = [key for key, part in norms.items() if not part.weight.any()]
    if last not in zero:
        where = f"`{name}.{zero[0]}` has γ = 0" if zero else f"γ of `{name}.{last}` is not 0"
        fail(
            f"{where}. It belongs to the *last* BatchNorm of each new block, whose output is added "
            "to the shortcut."
        )
    if len(zero) > 1:
        fail(
            f"`{name}` has γ = 0 in {' and '.join(zero)}: behind a zero nothing arrives at the "
            "last one, and then γ itself gets no gradient. Only the last is 0."
        )
    if norms[last].bias.any():
        fail(
            f"β of `{name}.{last}` is not 0: with γ = 0 the block still adds β. (A copy of a "
            "trained block brings its β along.)"
        )


def check_same_function(result: nn.Module, model: nn.Module, x: Tensor) -> None:
    """Fails unless both compute the same, in eval and in train mode, which moves the buffers."""
    for mode in ("eval", "train"):
        with torch.no_grad():
            right = model.train(mode == "train")(x)
            given = attempt(result.train(mode == "train"), x)
        if not same(given, right, 1e-5):
            fail(
                f"in {mode} mode the deep network's outputs differ from the given one's, by up to "
                f"{(given - right).abs().max():.3g}."
            )


def gradients_by_name(model: nn.Module, x: Tensor) -> dict[str, bool]:
    """Which parameters get a gradient that is not 0, in train mode."""
    model.train().zero_grad()
    logits = model(x)
    F.cross_entropy(logits, torch.arange(len(x)) % logits.shape[1]).backward()
    found = {}
    for name, parameter in model.named_parameters():
        found[name] = parameter.grad is not None and bool(parameter.grad.any())
    return found


def check_learns(result: nn.Module, blocks: list[tuple[str, nn.Module]], x: Tensor) -> None:
    """Fails unless new blocks wake up: γ and β in the first step, everything in the second."""
    frozen = [name for name, value in result.named_parameters() if not value.requires_grad]
    if frozen:
        fail(f"`{frozen[0]}` is frozen (`requires_grad` is False): it would never learn.")
    first = gradients_by_name(result, x)
    for name, block in blocks:
        last = f"{name}.{last_norm_name(block)}"
        learning = [key for key, any_ in first.items() if key.startswith(f"{name}.") and any_]
        if set(learning) != {f"{last}.weight", f"{last}.bias"}:
            got = ", ".join(key.removeprefix(f"{name}.") for key in learning) or "none"
            fail(
                f"in the first step γ and β of `{last}` should get a gradient, and nothing else "
                f"of this block; here get one: {got}."
            )
    with torch.no_grad():
        for parameter in result.parameters():
            parameter -= 0.1 * parameter.grad
    second = gradients_by_name(result, x)
    for name, _ in blocks:
        asleep = [key for key, any_ in second.items() if key.startswith(f"{name}.") and not any_]
        if asleep:
            fail(
                f"`{asleep[0]}` has no gradient in the second step either: the block does not wake "
                "up. Are weights in it 0 that should be random?"
            )


def check_is_residual(result: nn.Module, wanted: nn.Module, x: Tensor) -> None:
    """Fails unless the new blocks, once γ is not 0, compute what those of helpers.resnet do."""
    wanted.load_state_dict(randomize(result).state_dict())
    with torch.no_grad():
        given, right = attempt(result.eval(), x), wanted.eval()(x)
    if not same(given, right, 1e-4):
        fail(
            "at the start the function is right, but once γ has moved, the new blocks are not "
            "residual blocks as `helpers.resnet` builds them."
        )


def copied_state(model: nn.Module, depths: tuple[int, ...]) -> tuple[dict, set[str], set[str]]:
    """What copies hold: (right values by key, keys of γ and β that share, stages of copies)."""
    right, shared, stages = {}, set(), set()
    for (name, stage), depth in zip(stages_of(model).items(), depths, strict=True):
        source, count = stage[-1], depth - len(stage) + 1
        if count == 1 or source.downsample is not None:
            continue
        stages.add(name)
        last = last_norm_name(source)
        for i in range(len(stage) - 1, depth):
            for key, value in source.state_dict().items():
                if key in (f"{last}.weight", f"{last}.bias"):
                    value = value / count
                    shared.add(f"{name}.{i}.{key}")
                right[f"{name}.{i}.{key}"] = value
    return right, shared, stages


def check_copies(result: nn.Module, model: nn.Module, depths: tuple[int, ...]) -> set[str]:
    """Fails unless copies share their strength; returns the stages that hold them."""
    right, shared, stages = copied_state(model, depths)
    kept_as_it_was(result, model, but=shared)
    for name, block in new_blocks(result, model):
        if name.partition(".")[0] in stages and not last_norm(block).weight.any():
            fail(
                f"copies are asked for, and `{name}` starts with γ = 0. The block before it keeps "
                "its shape, so it can follow itself."
            )
    here, buffers = result.state_dict(), dict(result.named_buffers())
    for key, value in right.items():
        if key not in shared and not torch.equal(here[key], value):
            what = "BatchNorm's buffers" if key in buffers else "its weights"
            fail(f"`{key}` is not that of the block before it: a copy takes {what} along.")
    for name in sorted(stages):
        old, new = len(getattr(model, name)), len(getattr(result, name))
        count, last = new - old + 1, last_norm_name(getattr(model, name)[0])
        for kind, letter in (("weight", "γ"), ("bias", "β")):
            source = model.state_dict()[f"{name}.{old - 1}.{last}.{kind}"]
            factors = []
            for i in range(old - 1, new):
                value = here[f"{name}.{i}.{last}.{kind}"]
                factors.append(((value * source).sum() / source.square().sum()).item())
            exact = all(
                same(here[f"{name}.{i}.{last}.{kind}"], source / count, 1e-4)
                for i in range(old - 1, new)
            )
            if exact:
                continue
            hint = f"{count} blocks stand for one now, and share its strength"
            if abs(factors[0] - 1) < 1e-3 and abs(factors[1] - 1) > 1e-3:
                hint += ": the block that was copied, too"
            numbers = ", ".join(f"{factor:.3g}" for factor in factors)
            fail(
                f"`{name}`, {letter} of `{last}`: {numbers} times the trained values, and each "
                f"should be 1/{count}: {hint}."
            )
    return stages


@exercise("9.2", "grow a network")
def check_grown(grown):
    refuse_ready_made(grown)
    for model, depths, wanted, x in given_and_wanted():
        for copies in (False, True):
            before = copy.deepcopy(model)
            try:
                result = attempt(grown, model, depths, copies)
                check_new(result, model, before, depths, wanted)
                blocks = new_blocks(result, model)
                if copies:
                    stages = check_copies(result, model, depths)
                    blocks = [
                        (name, block)
                        for name, block in blocks
                        if name.partition(".")[0] not in stages
                    ]
                else:
                    kept_as_it_was(result, model, but=set())
                for name, block in blocks:
                    check_silent(name, block)
                if not copies:
                    check_same_function(result, before, x)
                    check_learns(result, blocks, x)
                check_is_residual(result, wanted, x)
            except CheckFailed as failure:
                text = f"{failure}\nIn the case {place_of(before, depths, copies)}"
                raise CheckFailed(text) from failure.__cause__
    check_refused(grown)


def check_refused(grown) -> None:
    """Fails unless what cannot be grown raises ValueError."""
    plain = CifarResNet(BasicBlock, (1, 1, 1), width=4, shortcut=None)
    larger = ResNet(Bottleneck, (1, 1, 1, 1), width=4, shortcut=None)
    small = ResNet(BasicBlock, (2, 1, 2, 1), width=4)
    cases = (
        (plain, (2, 1, 1), "a plain network: no scale makes its blocks the identity"),
        (larger, (1, 2, 1, 1), "a plain network: no scale makes its blocks the identity"),
        (small, (1, 2, 3, 4), "depths that are smaller than the given ones"),
        (small, (3, 3, 3), "three depths for four stages"),
    )
    for i, (model, depths, what) in enumerate(cases):
        result = outcome(grown, (model, depths, i % 2 == 1))
        if isinstance(result, ValueError):
            continue
        got = f"{type(result).__name__}: {result}" if isinstance(result, Exception) else ""
        got = got or f"you return {shown(result)}"
        fail(f"ValueError is asked for {what}. Instead: {got}")
