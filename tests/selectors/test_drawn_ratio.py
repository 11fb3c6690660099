"""A keep ratio drawn for each training step: the same everywhere, and after an interruption."""

from __future__ import annotations

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint

from grids import make_grid
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors.drawn_ratio import DrawnRatio
from sparse_encoders.selectors.learned import TokenProjection

SHAPES = ((16, 20), (8, 10), (4, 5), (2, 3))
RANGE = (0.2, 0.9)
SELECTORS = (
    "DecoderAttentionSelector",
    "FocusTokenSelector",
    "OracleSelector",
    "RandomSelector",
    "SalienceTokenSelector",
)


def make(kind="RandomSelector", **settings):
    settings = {"num_layers": 2, "embed_dims": 32, "train_keep_ratio": RANGE, **settings}
    return MODELS.build(dict(type=kind, **settings))


def step(selector, tokens=None):
    """Tokens that the layers keep in one training step."""
    tokens = make_grid(SHAPES, channels=32) if tokens is None else tokens
    boxes = Targets([torch.tensor([[8.0, 8.0, 60.0, 50.0]])], [torch.zeros(1)])
    selection = selector.select(tokens, DetectorParts(TokenProjection(32), targets=boxes))
    selector.note_training()
    return sum(int(layer.kept.sum()) for layer in selection.groups[0].layers)


@pytest.mark.parametrize("kind", SELECTORS)
def test_every_selector_keeps_what_was_drawn(kind):
    tokens, selector = make_grid(SHAPES, channels=32), make(kind, keep_ratio=0.5).train()
    ratios, kept = [], []
    for _ in range(6):
        ratios.append(selector.drawn.ratio)
        schedule = selector.active_schedule
        assert schedule.average == pytest.approx(ratios[-1], abs=1e-6)
        kept.append(step(selector, tokens))
    assert len(set(kept)) == 6
    assert sorted(range(6), key=ratios.__getitem__) == sorted(range(6), key=kept.__getitem__)
    assert selector.eval().active_schedule.average == pytest.approx(0.5)


def test_draws_fill_the_range_and_are_the_same_in_every_process():
    one, other = DrawnRatio(RANGE), DrawnRatio(RANGE)
    drawn = []
    for _ in range(400):
        drawn.append(one.ratio)
        assert one.ratio == drawn[-1] == other.ratio  # looking changes nothing
        torch.rand(3)  # nor does what else is drawn
        one.step += 1
        other.step += 1
    low, high = RANGE
    assert low <= min(drawn) < low + 0.02 and high - 0.02 < max(drawn) < high
    assert sum(drawn) / len(drawn) == pytest.approx((low + high) / 2, abs=0.03)
    assert len(set(drawn)) == 400


def test_a_resumed_run_draws_what_the_uninterrupted_one_does(tmp_path):
    whole, before = make().train(), make().train()
    counts = [step(whole) for _ in range(7)]
    assert [step(before) for _ in range(3)] == counts[:3]
    keys = set(make().state_dict())
    assert set(before.state_dict()) == keys  # no key is added
    save_checkpoint(dict(state_dict=before.state_dict()), str(tmp_path / "a.pth"))
    after = make().train()
    load_checkpoint(after, str(tmp_path / "a.pth"), strict=True)
    assert [step(after) for _ in range(4)] == counts[3:]
    assert after.trained_keep_range == RANGE and after.trained_keep_ratio is None


def test_only_training_steps_count():
    selector = make().train()
    tokens = make_grid(SHAPES, channels=32)
    first = selector.drawn.ratio
    selector.select(tokens, DetectorParts())
    selector.eval().select(tokens, DetectorParts())
    assert selector.drawn.ratio == first and selector.trained_keep_range is None
    step(selector.train(), tokens)
    assert selector.drawn.ratio != first


def test_the_note_of_a_checkpoint_is_a_range(monkeypatch):
    message = []
    log = "sparse_encoders.selectors.base.print_log"
    monkeypatch.setattr(log, lambda text, *args: message.append(text))
    trained = make().train()
    step(trained)
    inside, outside = (make(keep_ratio=ratio, train_keep_ratio=None) for ratio in (0.5, 0.1))
    inside.load_state_dict(trained.state_dict())
    assert inside.trained_keep_range == RANGE and message == []
    outside.load_state_dict(trained.state_dict())
    (text,) = message
    assert "trained at keep ratios drawn from 0.2 to 0.9, the model keeps (0.1, 0.1)" in text
    # passed on by a model that was loaded, and gone after training at one ratio
    again = make()
    again.load_state_dict(inside.state_dict())
    assert again.trained_keep_range == RANGE
    step(inside.train())
    assert inside.trained_keep_range is None
    assert inside.trained_keep_ratio == (0.5, 0.5)


@pytest.mark.parametrize(
    "given",
    [(0.3,), (0.1, 0.2, 0.3), (0.0, 0.5), (0.5, 0.5), (0.6, 0.2), (0.2, 1.1), 0.3, "ab", (True, 1)],
)
def test_bad_ranges(given):
    with pytest.raises(ValueError, match=r"train_keep_ratio must be \(low, high\) with 0 < low"):
        make(train_keep_ratio=given)
