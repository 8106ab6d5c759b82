"""The benchmark compares like with like, and its table shows what was written."""

import json

import pytest
import torch

from helpers.datasets.shapes import make_shapes
from tools import bench
from tools.run_lessons import bench_table


def test_everybody_has_a_turn_in_each_round_and_the_first_does_not_count():
    turns = []

    def contestant(name: str, seconds: list[float]):
        def measure() -> float:
            turns.append(name)
            return seconds[turns.count(name) - 1]

        return measure

    contestants = {"a": contestant("a", [99, 1, 2, 9]), "b": contestant("b", [99, 2, 8, 3])}
    results = bench.compare(contestants, rounds=3)
    assert turns == ["a", "b"] * 4
    assert results == {"a": [1, 2, 9], "b": [2, 8, 3]}
    assert bench.ratio(results, "a", "b") == pytest.approx(0.5)  # the median of 1/2, 1/4 and 3


def test_both_pipelines_do_the_same_work(monkeypatch):
    """Same shapes, and the same moments up to chance, at the edges too."""
    shapes = make_shapes(3000, 10, 10)
    passes = []

    def keep(batches) -> None:
        passes.append(torch.cat([images for images, _ in batches]))

    monkeypatch.setattr(bench, "seconds_per_image", keep)
    bench.our_pipeline(shapes, 500)()
    bench.peer_pipeline(shapes, 500, workers=0, size=3000)()
    ours, peer = passes
    assert ours.shape == peer.shape == (3000, 3, 32, 32)
    assert ours.dtype == peer.dtype == torch.float32
    for rows in (slice(None), slice(0, 2), slice(30, 32)):
        for moment in (torch.mean, torch.std):
            one = moment(ours[:, :, rows], dim=(0, 2, 3))
            other = moment(peer[:, :, rows], dim=(0, 2, 3))
            torch.testing.assert_close(one, other, rtol=0, atol=0.04)
    torch.testing.assert_close(ours.aminmax(), peer.aminmax(), rtol=0, atol=1e-3)


def test_both_steps_train_the_same_network():
    ours, peer = bench.resnet50(), bench.torchvision_resnet50()
    for one, other in zip(ours.parameters(), peer.parameters(), strict=True):
        assert one.shape == other.shape


class Small(torch.nn.Linear):
    """A stand-in for a network; keeps what it put out."""

    def __init__(self):
        super().__init__(3 * 32 * 32, 10)
        self.seen = []

    def forward(self, images):
        self.seen.append(super().forward(images.flatten(1)))
        return self.seen[-1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["torchvision_resnet50", "resnet50"])
def test_both_steps_learn_in_the_precision_asked_for(monkeypatch, name, precision):
    model = Small()
    monkeypatch.setattr(bench, name, lambda: model)
    make_step = bench.our_step if name == "resnet50" else bench.peer_step
    step = make_step(4, torch.device("cpu"), precision)
    assert step() > 0 and step() > 0
    first, second = model.seen
    assert first.dtype == second.dtype == getattr(torch, precision)
    assert not torch.equal(first, second)  # it learned


def test_the_bench_table_shows_what_was_written(tmp_path):
    environment = {"gpu": None, "processor": "Abacus", "threads": 2, "torch": "2.14"}
    environment |= {"date": "2026-11-21T00:00", "dataset": "shapes"}
    step = {"what": "a step", "ours": 0.5, "peer": 2.0, "ratio": 0.26, "unit": "s"}
    epoch = {"what": "an epoch", "ours": 2.7, "unit": "s", "tflops": 144.2, "share_of_floor": 0.48}
    report = {"environment": environment, "rows": [step, epoch]}
    (tmp_path / "abacus.json").write_text(json.dumps(report))
    table = bench_table(tmp_path)
    assert "Abacus, 2 thread(s), torch 2.14, 2026-11-21, on shapes" in table
    assert "| a step | 0.5 s | 2 s | 0.26 |" in table
    assert "| an epoch | 2.7 s | 144 TFLOP/s | 48% of the limit |" in table
