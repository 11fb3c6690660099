"""The page's example: short, complete, and it trains and predicts under every encoder."""

import importlib
import sys

import pytest
import torch
from mmengine.config import Config

from sparse_encoders.contracts import Targets
from sparse_encoders.selectors import Selection
from sparse_encoders.tokens import TokenGrid
from tiny import build, samples, total
from tiny_detectors import detector_config


@pytest.fixture(scope="module")
def examples(request):
    return request.config.rootpath / "docs/examples"


@pytest.fixture(scope="module", autouse=True)
def selector(examples):
    """The example's class, registered."""
    sys.path.insert(0, str(examples))
    yield importlib.import_module("my_selector").InsideBoxSelector
    sys.path.remove(str(examples))


def test_it_is_short_and_its_config_builds(examples):
    assert len((examples / "my_selector.py").read_text().splitlines()) <= 40
    config = Config.fromfile(examples / "dino_my_selector.py")
    assert config.model.encoder.selector.type == "InsideBoxSelector"
    assert config.model.encoder.num_layers == 6


@pytest.mark.parametrize(
    "encoder",
    [
        dict(type="DualAttentionEncoder", num_object_tokens=8),
        dict(type="SparseDETREncoder"),
        dict(type="LiteDETREncoder", blocks=1),
    ],
    ids=lambda encoder: encoder["type"],
)
@pytest.mark.parametrize("detector", ["DeformableDETR", "DINO"])
def test_it_trains_and_predicts(detector, encoder):
    settings = dict(type="InsideBoxSelector", keep_ratio=0.3, cascade=True)
    model = build(detector_config(detector, {**encoder, "selector": settings}))
    batch = samples([(96, 96), (64, 80)], (96, 96), [3, 0])
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(model.encoder.selector.parameters(), lr=1e-3)
    history = []
    for _ in range(3):
        losses = model.loss(images, batch)
        history.append(float(losses["loss_inside_box"].detach()))
        optimiser.zero_grad()
        total(losses).backward()
        optimiser.step()
    assert history[2] < history[1] < history[0]
    with torch.no_grad():
        actual = model.eval().predict(images, batch)
    assert len(actual) == 2 and torch.isfinite(actual[0].pred_instances.scores).all()


def test_its_labels_are_the_tokens_inside_a_box(selector):
    features = torch.zeros(1, 16, 8)
    tokens = TokenGrid(features, features, None, ((4, 4),), torch.ones(1, 1, 2), (32, 32))
    expected = torch.zeros(4, 4)
    expected[1:3, 2:4] = 1  # centres 12, 20 down and 20, 28 across
    logits = (expected * 40 - 20).flatten()[None]
    boxes = [torch.tensor([[17.0, 9, 31, 23]])]
    loss = selector(1, 1, 8).loss(Selection((), logits, logits), tokens, Targets(boxes, []))
    assert loss["loss_inside_box"] < 1e-6
