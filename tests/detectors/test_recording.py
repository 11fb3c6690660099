"""Recording the decoder's cross-attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparse_encoders.detectors.recording import record_cross_attention
from sparse_encoders.ops.reference import sample
from tiny import batch, build, ours
from tiny_detectors import ENCODERS, QUERIES, detector_config

SHAPES = ((8, 12), (4, 6), (2, 3), (1, 2))


@pytest.mark.parametrize("attention", ["plain", "key_aware"])
def test_the_record_is_what_was_read(attention):
    """Attention computed from the record is what the module gave, and nothing has changed."""
    model = build(ours(decoder_attention=attention, attention_backend="torch")).eval()
    module, outputs = model.decoder.layers[0].cross_attn, []
    with torch.no_grad():  # attention weights begin equal and offsets in a pattern
        for name, parameter in model.decoder.named_parameters():
            if "cross_attn" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    inputs = dict(
        query=torch.randn(2, 20, 256),
        memory=torch.randn(2, sum(h * w for h, w in SHAPES), 256),
        memory_mask=None,
        reference_points=torch.rand(2, 20, 4) * 0.5 + 0.2,
        spatial_shapes=SHAPES,
        level_start_index=None,
        valid_ratios=torch.ones(2, 4, 2),
        dn_mask=None,
    )
    handle = module.output_proj.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
    with torch.no_grad():
        before = model.forward_decoder(**inputs)["hidden_states"]
        with record_cross_attention(model.decoder, slice(None)) as record:
            during = model.forward_decoder(**inputs)["hidden_states"]
        with record_cross_attention(model.decoder, slice(-5, None)) as few:
            model.forward_decoder(**inputs)
        value = module.value_proj(inputs["memory"]).unflatten(-1, (8, 32))
    assert torch.equal(before, during)
    sampled = sample(value, SHAPES, record.locations[0])
    weights = record.weights[0].flatten(-2).transpose(1, 2)
    expected = (weights.unsqueeze(-1) * sampled).sum(-2).transpose(1, 2).flatten(2)
    assert len(record.locations) == len(model.decoder.layers)
    assert torch.allclose(outputs[0], expected, atol=1e-4)
    assert torch.allclose(record.weights[0].sum((-1, -2)), torch.ones(2, 20, 8))
    assert few.locations[0].shape[1] == 5
    assert torch.allclose(few.weights[1], record.weights[1][:, -5:], atol=1e-6)
    with pytest.raises(RuntimeError, match="stop"), record_cross_attention(model.decoder, slice(1)):
        raise RuntimeError("stop")
    handle.remove()
    assert not any(m._forward_pre_hooks for m in model.decoder.modules())


@pytest.mark.parametrize("detector", ["DINO", "DDQDETR"])
def test_only_matching_queries_are_recorded(detector):
    """The selector that learns from the decoder sees neither denoising nor dense queries."""
    model, given, seen = build(detector_config(detector, ENCODERS["sparse"])).train(), batch(), []
    original = model.encoder.loss

    def observe(output, targets, detection_loss):
        seen.append(targets.attention_map)
        return original(output, targets, detection_loss)

    model.encoder.loss = observe
    losses = model(**given, mode="loss")
    assert losses["loss_decoder_attention"].isfinite() and "enc0.loss_iou" in losses
    # every layer, head and matching query has weight 1, some of it outside of the maps
    most = QUERIES * len(model.decoder.layers) * 8
    assert (seen[0].sum(1) <= most + 1e-2).all() and (seen[0].sum(1) > 0.3 * most).all()
    with torch.no_grad():
        encoded = model.encode(model.extract_feat(given["inputs"]), (64, 96), [(64, 96), (50, 80)])
        queries = model.prepare_queries(encoded, given["data_samples"])
    chosen, denoising = model.matching_queries(queries), queries.denoising["num_denoising_queries"]
    assert denoising > 0
    assert (chosen.start, chosen.stop) == (denoising, denoising + QUERIES)
    dense = queries.content.shape[1] - chosen.stop  # stand behind
    assert (dense > 0) == (detector == "DDQDETR")


def test_a_decoder_without_deformable_attention():
    with (
        pytest.raises(ValueError, match="no deformable cross-attention"),
        record_cross_attention(nn.Linear(1, 1), slice(None)),
    ):
        pass
