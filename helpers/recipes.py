"""The settings of a run, and recipes, which are named settings.

`python -m helpers.experiment NAME` trains with a recipe. Above each stand its command and what it
reached: test accuracy of the last epoch, number of seeds, minutes, machine. Every record is a
folder in results/.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

CHOICES = {
    "split": ("train", "train+val"),
    "optimizer": ("sgd", "adam"),
    "schedule": ("cosine", "linear", "steps", "constant"),
    "flip": ("random", "alternate", "none"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "products": ("auto", "on", "off"),
}


def setting(default: Any, help: str) -> Any:
    """A field of `TrainConfig`, with what the command line says of it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run. Raises ValueError for impossible values."""

    recipe: str = setting("custom", "the recipe that these settings started from")
    model: str = setting("resnet9", "a name in helpers/networks.py")
    dataset: str = setting("auto", "auto, or a name in helpers/datasets/")
    split: str = setting("train", "train, or train+val: the validation images too, for a final run")
    epochs: int = setting(10, "passes over the training images")
    batch_size: int = setting(256, "images per step")
    optimizer: str = setting("sgd", "sgd or adam")
    lr: float = setting(0.3, "the peak learning rate")
    warmup: float = setting(0.2, "fraction of all steps in which the rate rises linearly from 0")
    schedule: str = setting("cosine", "cosine or linear to 0, steps (/ 10 at 1/2, 3/4), constant")
    momentum: float = setting(0.9, "SGD's momentum, in Nesterov's form")
    weight_decay: float = setting(5e-4, "on weights, not on BatchNorm and biases")
    label_smoothing: float = setting(0.1, "probability moved from the label to all classes alike")
    crop: int = setting(4, "random shift in pixels, edges mirrored; 0 for none")
    flip: str = setting("random", "mirror: random half, alternate (every other epoch) or none")
    cutout: int = setting(0, "side in pixels of a square set to the mean colour; 0 for none")
    mixing: float = setting(0.0, "fraction of batches with CutMix or mixup; none in the last tenth")
    ema: float = setting(0.0, "decay of the average of weights that is evaluated; 0 for none")
    zero_gamma: bool = setting(False, "start every residual block as the identity")
    whiten: bool = setting(False, "compute the first filters from training images, and freeze them")
    sizes: str = setting("", "side of the images in pixels, as in '16 24@0.5 32@0.8'")
    grow: float = setting(0.0, "fraction of all epochs with only the first block of each stage")
    grow_gamma: float = setting(0.0, "BatchNorm's last scale in the blocks that then join")
    compile: bool = setting(False, "train with torch.compile")
    precision: str = setting("auto", "auto, float32, bfloat16 or float16")
    products: str = setting("auto", "deep convolutions as matrix products: auto, on or off")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps …")
    seed: int = setting(0, "of weights, order and augmentation")

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(allowed)}")
        for name in ("epochs", "batch_size", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("momentum", "weight_decay", "crop", "cutout", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("warmup", "label_smoothing", "ema", "grow"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0 … 1, below 1, got {getattr(self, name)}")
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"mixing must lie in 0 … 1, got {self.mixing}")
        parse_sizes(self.sizes)


def parse_sizes(sizes: str) -> list[tuple[float, int]]:
    """The phases in ``16 24@0.5``, [(0.0, 16), (0.5, 24)]: fractions of the epochs, and sides.

    Raises ValueError if it cannot be read so.
    """
    try:
        parts = [entry.partition("@") for entry in sizes.split()]
        phases = [(float(start) if at else 0.0, int(side)) for side, at, start in parts]
    except ValueError:
        phases = [(-1.0, 0)]
    starts = [start for start, _ in phases]
    in_order = starts == sorted(starts) and (not starts or starts[0] == 0 and starts[-1] < 1)
    if not in_order or any(side < 1 for _, side in phases):
        raise ValueError(f"sizes {sizes!r} cannot be read: write them like '16 24@0.5 32@0.8'")
    return phases


def first_epoch(fraction: float, config: TrainConfig) -> int:
    """The first epoch, counted from 0, after this fraction of all epochs."""
    return int(fraction * config.epochs + 1e-9)


def image_size(config: TrainConfig, epoch: int) -> int | None:
    """The side of the training images in this epoch; None: as they are."""
    sizes = [
        side for start, side in parse_sizes(config.sizes) if epoch >= first_epoch(start, config)
    ]
    return sizes[-1] if sizes else None


# every choice is made: such a run learns from all 50,000 images, validation images included
final = partial(TrainConfig, dataset="cifar10", split="train+val")

# python -m helpers.experiment laptop
# 92.84 ± 0.07 % (sd of 3 seeds), 23 minutes on average on one core of a Xeon with AMX
# `--epochs 48`: 93.84 % (1 seed), 79 minutes on two cores. Chosen on the validation images.
laptop = final(
    recipe="laptop", model="resnet9", epochs=16, flip="alternate", cutout=8, whiten=True
)  # fmt: skip

# python -m helpers.experiment resnet50-cpu
# 91.12 % (1 seed), 128 minutes on two cores of an EPYC with AVX-512's bfloat16; with
# `--split train` (45,000 images) 90.60 %, 120 minutes. Small images first; twelve blocks join
# early, with gamma = 0.25. An earlier form, in which they joined late with gamma = 0, is the record
# cifar10-resnet50-late.
resnet50_cpu = final(
    recipe="resnet50-cpu", model="resnet50", epochs=15, batch_size=128, lr=0.1, warmup=0.1,
    schedule="linear", flip="alternate", sizes="16 24@0.67 32@0.87", grow=0.2, grow_gamma=0.25,
)  # fmt: skip

# python -m helpers.experiment resnet50-night
# What two cores do overnight: twelve blocks join early, with gamma = 0.25. 92.01 % with `--split
# train` (45,000 images, 1 seed): 9.4 hours on two cores of an EPYC without bfloat16, in several
# sittings beside other work. It ran as two processes of one thread each:
# OMP_NUM_THREADS=1 torchrun --nproc-per-node=2 -m helpers.experiment resnet50-night
#     --split train --precision float32 --products on
resnet50_night = final(
    recipe="resnet50-night", model="resnet50", epochs=20, batch_size=128, lr=0.1, warmup=0.1,
    schedule="linear", flip="alternate", sizes="16 24@0.65 32@0.9", grow=0.2, grow_gamma=0.25,
)  # fmt: skip

# python -m helpers.experiment colab
# for a free T4 (float16 there, as `auto` resolves it); not measured yet
colab = final(
    recipe="colab", model="resnet50", epochs=30, batch_size=256, lr=0.3, warmup=0.15,
    schedule="linear", flip="alternate", cutout=8, sizes="16 24@0.5 32@0.8",
)  # fmt: skip

# python -m helpers.experiment resnet50-gpu
# 94.68 % with `--compile --split train` (45,000 images, 1 seed): 194 s of training on one H200,
# 37 s more when nothing has been compiled before. Not tuned.
resnet50_gpu = final(
    recipe="resnet50-gpu", model="resnet50", epochs=80, batch_size=512, lr=0.4, warmup=5 / 80,
    cutout=12, zero_gamma=True,
)  # fmt: skip

# python -m helpers.experiment resnet50-gpu-long
# for one large GPU; not measured yet (on an H200, compiled, an epoch takes 3 s)
resnet50_gpu_long = final(
    recipe="resnet50-gpu-long", model="resnet50", epochs=140, batch_size=512, lr=0.4,
    warmup=5 / 140, mixing=0.5, ema=0.999, zero_gamma=True,
)  # fmt: skip

# python -m helpers.experiment shapes
# 90.55 % on the embedded data set (1 seed), 8 minutes on one core of a Xeon, in float32
shapes = TrainConfig(
    recipe="shapes", model="resnet20", dataset="shapes", epochs=12, batch_size=64, lr=0.2
)  # fmt: skip

# python -m helpers.experiment paper [--model plain20]
# The paper's section 4.2 for ResNet-20 … 110 and their plain twins: 64k steps of 128 images.
# Unlike there: Nesterov's momentum, mirrored edges, and no warm-up for 110 unless asked for.
# ResNet-20 92.03 %, plain-20 91.28 % (1 seed each), 115 and 106 minutes on two cores, in bfloat16,
# with `--compile`
paper = final(
    recipe="paper", model="resnet20", epochs=164, batch_size=128, lr=0.1, warmup=0.0,
    schedule="steps", weight_decay=1e-4, label_smoothing=0.0,
)  # fmt: skip

# python -m helpers.experiment ablation --model resnet20-C
# The common footing of notebook 07's comparisons: up to 6 minutes on one core with AMX, 20 to 50 in
# float32.
ablation = TrainConfig(
    recipe="ablation", model="resnet20", dataset="cifar10", epochs=3, batch_size=128, lr=0.2,
    label_smoothing=0.0,
)  # fmt: skip

# python -m helpers.experiment ladder-0
# The notebook this course started from (75.55 % after 50 epochs, in TensorFlow), at 2 epochs.
ladder_0 = TrainConfig(
    recipe="ladder-0", model="resnet50-half", dataset="cifar10", epochs=2, batch_size=32,
    optimizer="adam", lr=1e-3, warmup=0.0, schedule="constant", weight_decay=0.0,
    label_smoothing=0.0, crop=0, flip="none", precision="float32",
)  # fmt: skip

# From that notebook to today's habits: each rung changes these settings and keeps all before it.
LADDER = (
    ("computing in bfloat16", {"precision": "bfloat16"}),
    ("a network for 32×32 images", {"model": "resnet9"}),
    ("SGD and a schedule", {
        "batch_size": 256, "optimizer": "sgd", "lr": 0.3, "warmup": 0.2, "schedule": "cosine",
        "weight_decay": 5e-4,
    }),
    ("a whitened stem", {"whiten": True}),
    ("label smoothing", {"label_smoothing": 0.1}),
    ("shifted and mirrored images", {"crop": 4, "flip": "alternate"}),
    ("a moving average of the weights", {"ema": 0.99}),  # over about 100 of some 350 steps
    ("images mixed of two", {"mixing": 0.5}),
)  # fmt: skip


def climb(start: TrainConfig) -> list[TrainConfig]:
    """The recipes ladder-1, ladder-2, … above `start`."""
    rungs = [start]
    for step, (_, changes) in enumerate(LADDER, start=1):
        rungs.append(replace(rungs[-1], recipe=f"ladder-{step}", **changes))
    return rungs[1:]


RECIPES = {
    config.recipe: config
    for config in (
        TrainConfig(), laptop, resnet50_cpu, resnet50_night, colab, resnet50_gpu, resnet50_gpu_long,
        shapes, paper, ablation, ladder_0, *climb(ladder_0),
    )
}  # fmt: skip
