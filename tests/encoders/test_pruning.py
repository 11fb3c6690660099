"""Encoders that prune: gather, refine, write back; what all of them have in common."""

from __future__ import annotations

import pytest
import torch

from grids import DIMS, ENCODERS, PADDED, lent, make_grid, small_encoder, small_grid
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.encoders import LiteDETREncoder
from sparse_encoders.encoders.layer import KeptTokensLayer
from sparse_encoders.encoders.memory import RankedMemory, TokenMemory
from sparse_encoders.encoders.pruning import PruningEncoder
from sparse_encoders.selectors import LayerSelection
from sparse_encoders.selectors.selection import TokenRange

PRUNING = ("sparse", "focus", "focus, paper", "salience", "lite + focus")


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


FOCUS = dict(type="FocusTokenSelector", keep_ratio=1.0)
BLOCKS = dict(encoder=LiteDETREncoder, num_layers=4, blocks=2, small_low_level_ffn=True)


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        (dict(ENCODERS["sparse"], selector=dict(keep_ratio=1.0)), ENCODERS["dense"]),
        (
            dict(values="updated", dual_attention=False, selector=dict(FOCUS, cascade=False)),
            ENCODERS["dense"],
        ),
        (dict(encoder=LiteDETREncoder, blocks=2), ENCODERS["dense"]),  # blocks of one layer
        (dict(BLOCKS, selector=FOCUS), BLOCKS),
    ],
)
@torch.no_grad()
def test_everything_kept_is_the_encoder_without_selection(settings, plain):
    """Only the order of queries differs."""
    tokens, parts = small_grid(PADDED), lent()
    whole, pruning = small_encoder(**plain), small_encoder(**settings)
    missing, unexpected = pruning.load_state_dict(whole.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(("selector.", "auxiliary.")) for name in missing)
    valid = ~tokens.padding_mask
    a, b = whole(tokens, parts).memory, pruning(tokens, parts).memory
    assert torch.allclose(a[valid], b[valid], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("values", ["input", "updated", "sparse"])
def test_values_are_the_input_or_what_earlier_layers_made(values):
    """What deformable attention samples: Algorithm 1, line 10, or the released code."""
    tokens = small_grid(PADDED)
    settings = ENCODERS["sparse"] if values == "sparse" else dict(values=values)
    selector = dict(type="FocusTokenSelector", keep_ratio=[0.6, 0.4, 0.2])
    encoder = small_encoder(**settings, num_layers=3, selector=selector)
    sampled, refined = [], []
    for layer in encoder.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: sampled.append(kwargs["value"]), with_kwargs=True
        )
        layer.register_forward_hook(lambda module, args, output: refined.append(output))
    layers = encoder(tokens, lent()).layers
    memory = tokens.features
    for value, new, chosen in zip(sampled, refined, layers, strict=True):
        assert torch.equal(value, tokens.features if values == "input" else memory)
        memory = chosen.scatter_kept(memory, new)
    assert not torch.equal(memory, tokens.features)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sparse", "focus", "focus, paper"])
def test_tokens_that_are_not_kept_stay_as_they_came(name):
    tokens, encoder = small_grid(PADDED), small_encoder(**ENCODERS[name])
    kept = []
    for ratio in (0.1, 0.5):
        encoder.set_keep_ratio(ratio)
        output = encoder(tokens, lent())
        touched = torch.stack([x.mask(tokens.num_tokens) for x in output.layers]).any(0)
        assert torch.equal((output.memory != tokens.features).any(-1), touched)
        kept.append(int(touched.sum()))
        if name == "sparse":  # all layers keep the same
            foreground = output.selection.groups[0].num_foreground
            assert [x.kept.sum(1).tolist() for x in output.layers] == [foreground.tolist()] * 2
    assert 0 < kept[0] < kept[1] < touched.numel()


@pytest.mark.parametrize("name", PRUNING)
def test_the_keep_ratio_changes_without_weights(name):
    encoder, tokens = small_encoder(**ENCODERS[name]), small_grid()
    state = {k: v.clone() for k, v in encoder.state_dict().items()}
    kept = []
    for ratio in (0.1, 0.5, [1.0, 0.5]):
        encoder.set_keep_ratio(ratio)
        kept.append(sum(int(layer.kept.sum()) for layer in encoder(tokens, lent()).layers))
    assert kept[0] < kept[1] < kept[2]
    assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())


def test_an_encoder_without_a_selector_has_no_loss_and_no_keep_ratio():
    dense = small_encoder(**ENCODERS["dense"])
    assert dense.loss(dense(small_grid(), lent()), Targets([], [])) == {}
    with pytest.raises(ValueError, match="DenseEncoder has no selector, so no keep ratio"):
        dense.set_keep_ratio(0.5)


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_levels_of_one_token(name):
    """Fewer tokens than object tokens, and than a layer would keep of a larger image."""
    tokens = make_grid(((2, 2), (1, 1), (1, 1), (1, 1)), channels=DIMS)
    assert small_encoder(**ENCODERS[name])(tokens, lent()).memory.isfinite().all()
