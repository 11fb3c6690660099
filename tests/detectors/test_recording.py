"""Recording the decoder's cross-attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparse_encoders.detectors.recording import record_cross_attention
from tiny import build, ours, samples

HW = (64, 96)


@pytest.fixture(scope="module", params=["plain", "key_aware"])
def model(request):
    built = build(ours(decoder_attention=request.param, attention_backend="torch"))
    with torch.no_grad():  # attention weights begin equal and offsets in a pattern
        for name, parameter in built.decoder.named_parameters():
            if "cross_attn" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return built


def run(model, **decode):
    """The decoder on random queries and memory."""
    torch.manual_seed(3)
    shapes = ((8, 12), (4, 6), (2, 3), (1, 2))
    tokens = sum(h * w for h, w in shapes)
    inputs = dict(
        query=torch.randn(2, 20, 256),
        memory=torch.randn(2, tokens, 256),
        memory_mask=None,
        reference_points=torch.rand(2, 20, 4) * 0.5 + 0.2,
        spatial_shapes=shapes,
        level_start_index=None,
        valid_ratios=torch.ones(2, 4, 2),
        dn_mask=None,
    )
    return inputs, model.eval().forward_decoder(**{**inputs, **decode})["hidden_states"]


def test_recorded_locations_and_weights_are_those_that_were_read(model):
    """Attention computed from the record is what the module gave."""
    outputs = []
    attention = model.decoder.layers[0].cross_attn
    handle = attention.output_proj.register_forward_pre_hook(
        lambda module, args: outputs.append(args[0])
    )
    with torch.no_grad(), record_cross_attention(model.decoder, slice(None)) as record:
        inputs, _ = run(model)
        value = attention.value_proj(inputs["memory"]).unflatten(-1, (8, 32))
        from sparse_encoders.ops.reference import sample

        sampled = sample(value, inputs["spatial_shapes"], record.locations[0])
        weights = record.weights[0].flatten(-2).transpose(1, 2)
        expected = (weights.unsqueeze(-1) * sampled).sum(-2).transpose(1, 2).flatten(2)
    handle.remove()
    assert len(record.locations) == len(model.decoder.layers)
    assert torch.allclose(outputs[0], expected, atol=1e-4)
    assert torch.allclose(record.weights[0].sum((-1, -2)), torch.ones(2, 20, 8))


def test_recording_changes_nothing_and_leaves_nothing_behind(model):
    with torch.no_grad():
        _, before = run(model)
        with record_cross_attention(model.decoder, slice(None)):
            _, during = run(model)
    assert torch.equal(before, during)
    assert not any(m._forward_pre_hooks for m in model.decoder.modules())


def test_hooks_are_removed_after_an_error(model):
    with pytest.raises(RuntimeError, match="stop"), record_cross_attention(model.decoder, slice(1)):
        raise RuntimeError("stop")
    assert not any(m._forward_pre_hooks for m in model.decoder.modules())


def test_denoising_queries_do_not_count(model):
    with torch.no_grad():
        with record_cross_attention(model.decoder, slice(-5, None)) as few:
            run(model)
        with record_cross_attention(model.decoder, slice(None)) as every:
            run(model)
    assert few.locations[0].shape[1] == 5
    assert torch.allclose(few.weights[1], every.weights[1][:, -5:], atol=1e-6)


def test_dino_records_its_matching_queries_only():
    model = build(ours(encoder=dict(type="SparseDETREncoder"))).train()
    seen = []
    original = model.encoder.loss

    def observe(output, targets, detector):
        seen.append(targets.attention_map)
        return original(output, targets, detector)

    model.encoder.loss = observe
    batch = samples([HW, HW], HW, (3, 1))
    losses = model(torch.randn(2, 3, *HW), batch, mode="loss")
    assert "loss_decoder_attention" in losses and "enc0.loss_iou" in losses
    # every layer, head and matching query has weight 1, some of it outside of the maps
    most = model.num_queries * len(model.decoder.layers) * 8
    assert (seen[0].sum(1) <= most + 1e-2).all() and (seen[0].sum(1) > 0.3 * most).all()


def test_a_decoder_without_deformable_attention():
    with (
        pytest.raises(ValueError, match="no deformable cross-attention"),
        record_cross_attention(nn.Linear(1, 1), slice(None)),
    ):
        pass
