"""No encoder: tokens pass, and a level embedding that nobody reads has a gradient all the same."""

from __future__ import annotations

from dataclasses import replace

import torch

from grids import DIMS, PADDED, small_grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.detectors.batches import token_reports
from sparse_encoders.encoders import NoEncoder
from tiny import build, ours


def test_tokens_pass_as_they_are_and_none_is_kept():
    tokens, encoder = small_grid(PADDED), NoEncoder().eval()
    output = encoder(tokens, DetectorParts())
    assert output.memory is tokens.features
    for report in token_reports(output, torch.rand(2, tokens.num_tokens)):
        assert report.kept.shape == (1, tokens.num_tokens) and not report.kept.any()
    assert list(encoder.parameters()) == [] and list(encoder.refined_levels(0)) == []


def test_positions_have_a_gradient_of_zero():
    tokens, embedding = small_grid(), torch.zeros(DIMS, requires_grad=True)
    tokens = replace(tokens, pos_embed=tokens.pos_embed + embedding)
    memory = NoEncoder().train()(tokens, DetectorParts()).memory
    assert torch.equal(memory, tokens.features)
    memory.sum().backward()
    assert torch.equal(embedding.grad, torch.zeros(DIMS))


def test_a_config_of_another_encoder_swaps_to_it():
    """DINO's own encoder settings say layers, which it does not have."""
    model = build(ours(encoder=dict(type="NoEncoder")))
    assert isinstance(model.encoder, NoEncoder)
    assert not [name for name in model.state_dict() if name.startswith("encoder.")]
