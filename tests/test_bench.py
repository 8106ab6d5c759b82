"""The benchmark compares like with like, and its table says what was measured."""

import json

import bench
import pytest
import torch
from lessons import bench_table

from helpers.data import make_shapes


def test_everybody_has_a_turn_in_each_round_and_the_first_does_not_count():
    turns = []

    def contestant(name: str, seconds: list[float]):
        return lambda: turns.append(name) or seconds[turns.count(name) - 1]

    results = bench.compare({"a": contestant("a", [99, 1, 2, 9]), "b": contestant("b", [99, 2, 8, 3])}, rounds=3)
    assert turns == ["a", "b"] * 4
    assert results == {"a": [1, 2, 9], "b": [2, 8, 3]}
    assert bench.ratio(results, "a", "b") == pytest.approx(0.5)  # the median of 1/2, 1/4 and 3


def test_both_pipelines_do_the_same_work(monkeypatch):
    """Same shapes, same range, same moments up to chance: mean and deviation of every channel, and of the edge pixels."""
    shapes = make_shapes(3000, 10, 10)
    steps = []
    monkeypatch.setattr(bench, "seconds_per_image", lambda batches: steps.append(torch.cat([images for images, _ in batches])))
    bench.our_pipeline(shapes, 500)()
    bench.peer_pipeline(shapes, 500, 0, 3000)()
    ours, peer = steps
    assert ours.shape == peer.shape == (3000, 3, 32, 32) and ours.dtype == peer.dtype == torch.float32
    for part in (slice(None), slice(0, 2), slice(30, 32)):
        for moment in (torch.mean, torch.std):
            one, other = (moment(images[:, :, part], dim=(0, 2, 3)) for images in (ours, peer))
            torch.testing.assert_close(one, other, rtol=0, atol=0.04)
    assert [ours.amin().item(), ours.amax().item()] == pytest.approx([peer.amin().item(), peer.amax().item()], abs=1e-3)


def test_both_steps_train_the_same_network():
    ours, peer = bench.resnet50(), bench.torchvision_resnet50()
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in peer.parameters()]


def test_the_peer_trains_with_autocast_where_asked(monkeypatch):
    seen = []

    class Small(torch.nn.Linear):
        def forward(self, images):
            seen.append(super().forward(images.flatten(1)))
            return seen[-1]

    monkeypatch.setattr(bench, "torchvision_resnet50", lambda: Small(3 * 32 * 32, 10))
    for precision in ("float32", "bfloat16"):
        step = bench.peer_step(4, torch.device("cpu"), precision)
        assert step() > 0 and step() > 0
        assert seen[-1].dtype == getattr(torch, precision)
        assert not torch.equal(seen[-1], seen[-2])  # it learned


def test_the_table_shows_what_was_written(tmp_path):
    environment = {
        "gpu": None,
        "processor": "Abacus",
        "threads": 2,
        "torch": "2.14",
        "date": "2026-11-21T00:00",
        "dataset": "shapes",
    }
    environment["dataset"] = "shapes"
    rows = [
        {"what": "a step", "ours": 0.5, "peer": 2.0, "ratio": 0.26, "unit": "s"},
        {"what": "an epoch", "ours": 2.7, "unit": "s", "images_per_second": 18519, "tflops": 144.2, "share_of_floor": 0.48},
    ]
    (tmp_path / "abacus.json").write_text(json.dumps({"environment": environment, "rows": rows}))
    table = bench_table(tmp_path)
    assert "Abacus, 2 thread(s), torch 2.14, 2026-11-21, on shapes" in table
    assert "| a step | 0.5 s | 2 s | 0.26 |" in table
    assert "| an epoch | 2.7 s | 144 TFLOP/s | 48% of the limit |" in table
