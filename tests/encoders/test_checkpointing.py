"""Gradient checkpointing: the same gradients bit for bit, and less memory held."""

from functools import partial

import pytest
import torch

from sparse_encoders.encoders import DenseEncoder, HybridEncoder, LiteDETREncoder
from tiny import build, samples, total
from tiny_detectors import detector_config

SIZE = (64, 96)
ENCODERS = {
    "dense": dict(type="DenseEncoder"),
    "sparse": dict(type="SparseDETREncoder"),
    "focus": dict(type="DualAttentionEncoder", values="updated"),
    "dual-sparse": dict(
        type="DualAttentionEncoder", selector=dict(type="DecoderAttentionSelector")
    ),
    "salience": dict(
        type="DualAttentionEncoder",
        background_embedding="released",
        selector=dict(type="SalienceTokenSelector"),
    ),
    "hybrid": dict(type="HybridEncoder", feedforward_channels=64),
    "lite": dict(type="LiteDETREncoder", blocks=1, small_low_level_ffn=True),
    "lite-key-aware": dict(type="LiteDETREncoder", blocks=1, attention="key_aware"),
    "lite-focus": dict(type="LiteDETREncoder", blocks=1, selector=dict(type="FocusTokenSelector")),
}


@pytest.fixture(scope="module")
def batch():
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return images, samples([SIZE, (50, 70)], SIZE, boxes=(3, 2))


def step(model, batch):
    """Losses and gradients of one step, and how many bytes the encoder's forward kept for it."""
    held = {}

    def keep(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    run = type(model.encoder).forward

    def forward(*args):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return run(model.encoder, *args)

    model.encoder.forward = forward
    model.zero_grad()
    torch.manual_seed(3)  # of the dropout and the denoising queries
    losses = model(*batch, mode="loss")
    total(losses).backward()
    gradients = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, sum(held.values())


@pytest.mark.parametrize("name", ENCODERS)
def test_same_gradients_and_less_memory(name, batch):
    model = build(detector_config("DINO", ENCODERS[name])).train()
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    layers = model.encoder.num_layers
    runs = [0] * layers
    for index, part in enumerate(part_of_each_layer(model.encoder)):
        part.register_forward_hook(partial(_count, runs, index))
    results = []
    for num_cp in range(layers + 1):
        model.encoder.num_cp = num_cp
        runs[:] = [0] * layers
        results.append(step(model, batch))
        # a checkpointed layer runs again in the backward pass
        assert runs == [2 if index < num_cp else 1 for index in range(layers)]
    (losses, gradients, held), *checkpointed = results
    for other_losses, other_gradients, other_held in checkpointed:
        assert torch.equal(total(losses), total(other_losses))
        assert gradients.keys() == other_gradients.keys()
        for key, gradient in gradients.items():
            assert torch.equal(gradient, other_gradients[key]), key
        assert other_held < held
        held = other_held


def part_of_each_layer(encoder):
    """A module of every layer that runs once in it, and not at its end: there it may stop early."""
    if isinstance(encoder, HybridEncoder):
        fusion = encoder.fusion
        return encoder.attention.layer.ffn, fusion.top_down[0].deep, fusion.bottom_up[0].deep
    return [layer.ffn for layer in encoder.layers]


def _count(runs, index, *_):
    runs[index] += 1


def test_nothing_runs_again_without_gradients(batch, monkeypatch):
    model = build(detector_config("DINO", dict(num_cp=2)))
    assert model.encoder.num_cp == 2

    def refuse(*args, **kwargs):
        raise AssertionError("checkpointed without a gradient")

    monkeypatch.setattr("sparse_encoders.encoders.base.checkpoint", refuse)
    with torch.no_grad():
        model.eval().predict(*batch)


def test_bfloat16_autocast(batch):
    """The layers run again in the precision that they ran in."""
    model = build(detector_config("DINO", ENCODERS["lite"])).train()
    results = []
    for num_cp in (0, 2):
        model.encoder.num_cp = num_cp
        with torch.autocast("cpu", torch.bfloat16):
            results.append(step(model, batch)[1])
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("num_cp", [7, -2, 1.0, "all", True, None])
def test_bad_values(num_cp):
    with pytest.raises(ValueError, match=r"encoder\.num_cp must be .* an integer .*=6, got"):
        DenseEncoder(num_cp=num_cp)


def test_named_schedules_count_their_layers():
    assert LiteDETREncoder(schedule="H3L1-(3+1)x2", num_cp=6).num_cp == 6
    with pytest.raises(ValueError, match=r"encoder\.num_layers=2, got 3"):
        LiteDETREncoder(num_layers=2, blocks=1, num_cp=3)
    assert DenseEncoder(num_cp=-1).num_cp == -1
