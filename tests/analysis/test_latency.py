"""Stages of a detector's pass, timed in turns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparse_encoders.analysis import latency
from sparse_encoders.analysis.latency import StagedCall, Timing, interleaved


class Part(nn.Module):
    """Lets time pass."""

    def __init__(self, now, seconds):
        super().__init__()
        self.now, self.seconds = now, seconds

    def forward(self):
        self.now[0] += self.seconds


class Model(nn.Sequential):
    """Parts that each take a known time on a clock that only they move."""

    def __init__(self, now, **parts):
        super().__init__()
        for name, seconds in parts.items():
            self.add_module(name, Part(now, seconds))

    def forward(self):
        for part in self:
            part()


@pytest.fixture
def now(monkeypatch):
    time = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: time[0])
    return time


def test_stages_add_up_and_preparing_is_not_timed(now):
    def prepare():
        now[0] += 100.0

    full = Model(now, backbone=4.0, neck=1.0, encoder=2.0, head=3.0)
    bare = Model(now, backbone=4.0, encoder=2.0, head=3.0)
    calls = {"full": StagedCall(full, full, prepare), "bare": StagedCall(bare, bare)}
    rounds = list(interleaved(calls, repeats=2, warmup=1))
    assert [number for number, _ in rounds] == [1, 2]
    timing = rounds[-1][1]["full"]
    assert timing.rounds == ((4.0, 1.0, 2.0, 3.0),) * 2
    assert timing.median == 10.0 and timing.stage("encoder").seconds == [2.0, 2.0]
    assert rounds[-1][1]["bare"].rounds[0] == (4.0, 0.0, 2.0, 3.0)

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        next(interleaved({"a": StagedCall(full, fail)}))
    assert not full.backbone._forward_hooks  # nothing is left behind


def test_candidates_take_turns():
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "ab"}
    rounds = list(interleaved(candidates, repeats=2, warmup=1))
    assert calls == ["a", "b"] * 3
    assert [number for number, _ in rounds] == [1, 2]
    assert all(len(t.seconds) == 2 for t in rounds[-1][1].values())


def test_ratios_are_taken_within_a_round():
    # a machine that slows down tenfold in the second round changes no ratio
    fast, slow = Timing(((1.0,), (10.0,), (1.0,))), Timing(((0.5, 1.5), (8.0, 12.0), (1.0, 1.0)))
    assert fast.ratios_to(slow) == [0.5, 0.5, 0.5] and fast.ratio_to(slow) == 0.5
    assert slow.median == 2.0 and slow.spread == (2.0, 20.0)


@pytest.mark.parametrize(
    ("calls", "settings"), [({}, {}), ({"a": 1}, dict(repeats=0)), ({"a": 1}, dict(warmup=-1))]
)
def test_nothing_to_time(calls, settings):
    with pytest.raises(ValueError, match="at least one candidate"):
        next(interleaved(calls, **settings))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_timed_by_events():
    x = torch.randn(2048, 2048, device="cuda")
    assert isinstance(latency._mark(x.device), torch.cuda.Event)
    calls = {"one": lambda: x @ x, "many": lambda: [x @ x for _ in range(20)]}
    *_, (_, actual) = interleaved(calls, repeats=3, warmup=2, device="cuda")
    assert actual["many"].median > 5 * actual["one"].median > 0
