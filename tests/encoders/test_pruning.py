"""The base of encoders that prune: gather, refine, write back."""

from __future__ import annotations

import pytest
import torch

from grids import DIMS, small_encoder, small_grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders.layer import KeptTokensLayer
from sparse_encoders.encoders.memory import RankedMemory, TokenMemory
from sparse_encoders.encoders.pruning import PruningEncoder
from sparse_encoders.selectors import LayerSelection
from sparse_encoders.selectors.selection import TokenRange

PADDED = [(1.0, 1.0), (0.5, 0.7)]


class FewTokens(PruningEncoder):
    """The shortest encoder that prunes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.layers = self.build_layers(KeptTokensLayer)
        self.selector = self.build_selector(dict(type="RandomSelector", keep_ratio=[0.5, 0.25]))


def layers_of(tokens, sizes):
    """Layers that keep the head of one random ranking; a smaller image keeps half of it."""
    batch = len(tokens.features)
    ranked = torch.rand(batch, tokens.num_tokens).argsort(1)
    limits = [torch.tensor([size, size // 2][:batch]) for size in sizes]
    return LayerSelection.from_ranking(ranked, sizes, limits, limits[0], all_kept=batch == 1)


@pytest.mark.parametrize("valid", [None, PADDED])
def test_rows_of_one_ranking_are_gathered_once_with_the_same_result(valid):
    tokens = small_grid(valid)
    layers = layers_of(tokens, (40, 40, 12))
    memories = TokenMemory(tokens, layers), RankedMemory(tokens, layers)
    for index, layer in enumerate(layers):
        plain, ranked = (memory.rows(index) for memory in memories)
        assert torch.equal(plain.memory, ranked.memory)
        assert torch.equal(plain.pos_embed, layer.gather(tokens.pos_embed))
        assert torch.equal(plain.pos_embed, ranked.pos_embed)
        assert torch.equal(plain.reference_points, ranked.reference_points)
        refined = torch.randn_like(plain.query)
        for memory in memories:
            memory.write(index, refined)
        assert torch.equal(memories[0].all_tokens(), memories[1].all_tokens())
    changed = (memories[1].all_tokens() != tokens.features).any(-1)
    assert torch.equal(changed, layers[0].mask(tokens.num_tokens))


def test_what_a_layer_does_not_keep_goes_on_as_a_query_but_is_not_written():
    tokens = small_grid(PADDED)
    layers = layers_of(tokens, (40, 40))
    memory, refined = RankedMemory(tokens, layers), torch.randn(2, 40, DIMS)
    memory.write(0, refined)
    rows = memory.rows(1)
    assert torch.equal(rows.query, refined)
    assert torch.equal(rows.memory[1, :20], refined[1, :20])
    assert torch.equal(rows.memory[1, 20:], layers[0].gather(tokens.features)[1, 20:])


def test_a_range_of_tokens_is_no_copy_and_keeps_no_padding():
    tokens = small_grid(PADDED)
    high = TokenRange.of(tokens, 80)
    assert high.gather(tokens.features).data_ptr() == tokens.features[:, 80:].data_ptr()
    assert torch.equal(high.mask(tokens.num_tokens)[:, 80:], ~tokens.padding_mask[:, 80:])
    written = high.scatter_kept(tokens.features, torch.zeros(2, high.size, DIMS))
    assert torch.equal(written[:, :80], tokens.features[:, :80]) and not written[:, 80:].any()


def test_a_subclass_says_only_what_differs():
    tokens, encoder = small_grid(), small_encoder(FewTokens)
    output = encoder(tokens, DetectorParts())
    assert [layer.size for layer in output.layers] == [55, 27]
    changed = (output.memory != tokens.features).any(-1)
    assert torch.equal(changed, output.layers[0].mask(tokens.num_tokens))
    assert output.refined == output.objects == ()
