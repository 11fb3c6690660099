"""Gradient checkpointing: the same gradients bit for bit, and less memory held."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from grids import ENCODERS, PADDED, lent, small_encoder, small_grid
from sparse_encoders.encoders import HybridEncoder
from tiny import batch, build
from tiny_detectors import detector_config

CASES = {
    **ENCODERS,
    "dual-sparse": dict(selector=dict(type="DecoderAttentionSelector")),
    "focus, updated": dict(values="updated"),
    # the attention holds more than the map of few cells that it reads
    "hybrid": dict(encoder=HybridEncoder, feedforward_channels=512),
}
CASES.pop("none")


def step(encoder, tokens, parts):
    """Memory and gradients of one step, and how many bytes the forward kept for it."""
    held = {}

    def keep(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    encoder.zero_grad()
    torch.manual_seed(3)  # of the dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = encoder(tokens, parts)
    logits = 0 if output.selection is None else output.selection.logits.square().mean()
    (output.memory.square().mean() + logits).backward()
    gradients = {k: p.grad.clone() for k, p in encoder.named_parameters() if p.grad is not None}
    return {"memory": output.memory, **gradients}, sum(held.values())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_same_gradients_and_less_memory(name, half):
    """The layers run again in the precision that they ran in."""
    encoder, tokens, parts = small_encoder(**CASES[name]).train(), small_grid(PADDED), lent()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    layers = encoder.num_layers
    runs = [0] * layers
    for index, part in enumerate(part_of_each_layer(encoder)):
        part.register_forward_hook(partial(_count, runs, index))
    results = []
    for num_cp in range(layers + 1):
        encoder.num_cp = num_cp
        runs[:] = [0] * layers
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            results.append(step(encoder, tokens, parts))
        # a checkpointed layer runs again in the backward pass
        assert runs == [2 if index < num_cp else 1 for index in range(layers)]
    (expected, held), *checkpointed = results
    assert all(tensor.isfinite().all() for tensor in expected.values())
    # tokens that are not kept stay as they came
    assert name == "hybrid" or expected["memory"].dtype == tokens.features.dtype
    for actual, other_held in checkpointed:
        assert actual.keys() == expected.keys()
        assert [key for key in actual if not torch.equal(actual[key], expected[key])] == []
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


def test_layers_run_again_in_training_only(monkeypatch):
    selector = dict(type="SalienceTokenSelector")
    encoder = dict(type="SparseDETREncoder", num_cp=1, selector=selector)
    model, calls = build(detector_config("DINO", encoder)), []

    def counted(*args, **kwargs):
        calls.append(args[0])
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr("sparse_encoders.encoders.base.checkpoint", counted)
    model.train()(**batch(), mode="loss")
    with torch.no_grad():
        model.eval()(**batch(), mode="predict")
    assert calls == [model.encoder.layers[0]]
