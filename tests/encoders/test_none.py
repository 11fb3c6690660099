"""No encoder: tokens pass, and a level embedding that nobody reads has a gradient all the same."""

from __future__ import annotations

import torch

from grids import small_grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.detectors.batches import token_reports
from sparse_encoders.encoders import NoEncoder
from tiny import build, ours


def test_tokens_pass_as_they_are():
    tokens, encoder = small_grid([(1.0, 1.0), (0.5, 0.6)]), NoEncoder()
    assert encoder.eval()(tokens, DetectorParts()).memory is tokens.features
    assert torch.equal(encoder.train()(tokens, DetectorParts()).memory, tokens.features)
    assert list(encoder.parameters()) == [] and list(encoder.refined_levels(0)) == []


def test_positions_have_a_gradient_of_zero():
    tokens = small_grid()
    embedding = torch.zeros(32, requires_grad=True)
    object.__setattr__(tokens, "pos_embed", tokens.pos_embed + embedding)
    memory = NoEncoder().train()(tokens, DetectorParts()).memory
    memory.sum().backward()
    assert torch.equal(embedding.grad, torch.zeros(32))


def test_what_it_keeps_is_nothing():
    tokens = small_grid([(1.0, 1.0), (0.5, 0.6)])
    output = NoEncoder().eval()(tokens, DetectorParts())
    for report in token_reports(output, torch.rand(2, tokens.num_tokens)):
        assert report.kept.shape == (1, tokens.num_tokens) and not report.kept.any()


def test_a_config_of_another_encoder_swaps_to_it():
    """DINO's own encoder settings say layers, which it does not have."""
    model = build(ours(encoder=dict(type="NoEncoder")))
    assert isinstance(model.encoder, NoEncoder)
    assert not [name for name in model.state_dict() if name.startswith("encoder.")]
