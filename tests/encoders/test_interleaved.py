"""LiteDETREncoder: schedules, what each layer refines, selection, settings refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.encoders import DenseEncoder, DualAttentionEncoder, LiteDETREncoder
from sparse_encoders.encoders.schedule import SCHEDULES
from sparse_encoders.selectors.ranking import best_first
from sparse_encoders.tokens import TokenGrid

DIMS = 32
SHAPES = ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2))
FOCUS = dict(type="FocusTokenSelector", strides=None)


def layer_cfg() -> dict[str, Any]:
    return dict(
        self_attn_cfg=dict(embed_dims=DIMS, num_heads=4, num_points=2, dropout=0.0),
        ffn_cfg=dict(embed_dims=DIMS, feedforward_channels=48),
    )


def lite(seed: int = 0, **settings: Any) -> LiteDETREncoder:
    torch.manual_seed(seed)
    settings = {"num_levels": 4, "attention_backend": "torch", **settings}
    encoder = LiteDETREncoder(layer_cfg=layer_cfg(), **settings)
    for layer in encoder.layers:  # offsets that depend on the query
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.2)
    return encoder


def grid(levels: int = 4, padded: bool = True) -> TokenGrid:
    generator = torch.Generator().manual_seed(1)
    shapes = SHAPES[:levels]
    features = [torch.randn(2, DIMS, h, w, generator=generator) for h, w in shapes]
    pos_embed = [torch.randn(2, DIMS, h, w, generator=generator) for h, w in shapes]
    masks = [torch.zeros(2, h, w, dtype=torch.bool) for h, w in shapes]
    for mask in masks:
        mask[1, (mask.shape[1] + 1) // 2 :] = True
    return TokenGrid.from_maps(features, pos_embed, masks if padded else None)


def parts() -> DetectorParts:
    torch.manual_seed(3)
    return DetectorParts(projection=torch.nn.Linear(DIMS, DIMS))


@pytest.mark.parametrize(
    ("name", "layers", "blocks", "high"),
    list(zip(SCHEDULES, (6, 6, 6, 6), (3, 2, 1, 3), (3, 3, 3, 2), strict=True)),
)
def test_names_and_numbers_are_the_same_schedule(
    name: str, layers: int, blocks: int, high: int
) -> None:
    named = LiteDETREncoder(schedule=name)
    numbered = LiteDETREncoder(num_layers=layers, blocks=blocks, high_levels=high)
    assert named.schedule == numbered.schedule
    assert sum(named.schedule.refines_all(i) for i in range(layers)) == blocks
    assert named.schedule.refines_all(layers - 1)


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("attention", ["plain", "key_aware"])
@pytest.mark.parametrize("small", [False, True])
def test_any_number_of_levels(levels: int, attention: str, small: bool) -> None:
    encoder = lite(num_levels=levels, attention=attention, small_low_level_ffn=small)
    tokens = grid(levels)
    memory = encoder(tokens, DetectorParts()).memory
    assert memory.shape == tokens.features.shape
    memory.square().mean().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_one_layer_blocks_are_the_dense_encoder() -> None:
    encoder = lite(num_layers=2, blocks=2)
    dense = DenseEncoder(2, 4, layer_cfg(), "torch")
    dense.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(
        encoder(grid(), DetectorParts()).memory, dense(grid(), DetectorParts()).memory
    )


def test_only_a_blocks_last_layer_refines_low_levels() -> None:
    encoder = lite(num_layers=3, blocks=1, high_levels=2)
    tokens = grid()
    low = tokens.level_slices[2].start
    seen = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[1]))
    encoder(tokens, DetectorParts())
    assert seen == [tokens.num_tokens - low, tokens.num_tokens - low, tokens.num_tokens]


def test_refined_levels_say_what_a_layer_refines() -> None:
    encoder = lite(schedule="H2L2-(2+1)x3")
    levels = [list(encoder.refined_levels(layer)) for layer in range(encoder.num_layers)]
    assert levels == [[2, 3], [0, 1, 2, 3]] * 3
    dense = DenseEncoder(num_layers=2, num_levels=3, layer_cfg=layer_cfg())
    assert list(dense.refined_levels(0)) == [0, 1, 2]


def test_small_ffn_touches_low_levels_only() -> None:
    encoder = lite(num_layers=2, blocks=1, small_low_level_ffn=True)
    assert encoder.layers[0].low_level_ffn is None
    tokens = grid()
    low = tokens.level_slices[1].start
    before = encoder(tokens, DetectorParts()).memory
    with torch.no_grad():
        encoder.layers[1].low_level_norm.bias.add_(1.0)
    after = encoder(tokens, DetectorParts()).memory
    torch.testing.assert_close(after[:, :low], before[:, :low] + 1.0)
    assert torch.equal(after[:, low:], before[:, low:])


@pytest.mark.parametrize("prune_high", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_selection_limits_the_fine_updates(prune_high: bool, padded: bool) -> None:
    encoder = lite(
        num_layers=2,
        blocks=1,
        selector=dict(type="FocusTokenSelector", keep_ratio=0.3, cascade=False),
        prune_high_levels=prune_high,
        small_low_level_ffn=True,
    )
    tokens = grid(padded=padded)
    low = tokens.level_slices[1].start
    output = encoder(tokens, parts())
    assert output.selection is not None
    first, last = output.layers
    kept = last.mask(tokens.num_tokens)
    untouched = (output.memory == tokens.features).all(-1)
    assert untouched[:, :low][~kept[:, :low]].all()
    assert not untouched[kept].any()
    if tokens.padding_mask is not None:
        assert not (kept & tokens.padding_mask).any()
    valid = tokens.num_valid()
    assert (kept.sum(1) <= valid * 0.3 + 2).all()
    assert (kept.sum(1) >= valid * 0.3 - 2).all()
    early = first.mask(tokens.num_tokens)
    assert not early[:, :low].any()
    mask = tokens.padding_mask
    high = torch.ones_like(early[:, low:]) if mask is None else ~mask[:, low:]
    assert torch.equal(early[:, low:], high) != prune_high


def test_all_kept_is_no_selection() -> None:
    settings: dict[str, Any] = dict(num_layers=4, blocks=2, small_low_level_ffn=True)
    pruned = lite(selector=dict(type="FocusTokenSelector", keep_ratio=1.0), **settings)
    plain = lite(**settings)
    plain.load_state_dict({k: v for k, v in pruned.state_dict().items() if "selector" not in k})
    tokens = grid(padded=False)
    torch.testing.assert_close(
        pruned(tokens, parts()).memory, plain(tokens, parts()).memory, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("high", [2, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_low_and_high_levels_are_ranked_once_each(
    high: int, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a group the tokens of a layer begin those of the layer before: the contract."""
    rankings = []

    def counted(scores: Tensor, *args: Any) -> Tensor:
        rankings.append(scores.shape[1])
        return best_first(scores, *args)

    monkeypatch.setattr("sparse_encoders.selectors.base.best_first", counted)
    selector = dict(type="FocusTokenSelector", keep_ratio=[0.9, 0.7, 0.5, 0.3], strides=None)
    encoder = lite(num_layers=4, blocks=2, high_levels=high, selector=selector)
    tokens = grid(padded=padded)
    output = encoder(tokens, parts())
    low = tokens.level_slices[4 - high].start
    assert rankings == [low, tokens.num_tokens - low]
    groups = output.selection.groups
    assert [group.levels for group in groups] == [range(4 - high), range(4 - high, 4)]
    for group in groups:
        for before, after in pairwise(group.layers):
            assert torch.equal(after.indices, before.indices[:, : after.size])
            assert after.size < before.size
    for index in (1, 3):
        of_groups = [group.layers[index].mask(tokens.num_tokens) for group in groups]
        assert torch.equal(
            output.layers[index].mask(tokens.num_tokens), torch.stack(of_groups).any(0)
        )


@pytest.mark.parametrize("padded", [False, True])
def test_the_decoder_teaches_what_is_pruned(padded: bool) -> None:
    """Positives of Sparse DETR's loss: in each group the most attended, as many as are kept."""
    encoder = lite(
        num_layers=2, blocks=1, selector=dict(type="DecoderAttentionSelector", keep_ratio=0.3)
    ).train()
    tokens = grid(padded=padded)
    output = encoder(tokens, parts())
    low = tokens.level_slices[1].start
    attention = torch.rand(2, tokens.num_tokens)
    attention[:, :low] += 1  # over all levels only low-level tokens would be positive
    logits = output.selection.logits.detach()
    expected = 0.0
    for part in (slice(0, low), slice(low, None)):
        rows, looked = logits[:, part].clone(), attention[:, part].clone()
        labels, size = torch.zeros_like(rows), rows.shape[1]
        for image in range(2):
            kept = output.layers[1].mask(tokens.num_tokens)[image, part].sum()
            if padded:
                padding = tokens.padding_mask[image, part]
                rows[image, padding] = logits[:, part].min()
                looked[image, padding] = -1
            best = sorted(range(size), key=lambda i, row=looked[image]: -row[i].item())
            labels[image, best[:kept]] = 1
        loss = torch.nn.functional.multilabel_soft_margin_loss(rows, labels)
        expected = expected + loss * size / tokens.num_tokens
    targets = Targets([], [], attention)
    actual = encoder.selector.loss(output.selection, tokens, targets)["loss_decoder_attention"]
    torch.testing.assert_close(actual.detach(), expected)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_composition_refines_fewer_tokens_than_its_parts(ratio: float) -> None:
    selector = dict(type="FocusTokenSelector", keep_ratio=ratio)
    both = lite(selector=selector, prune_high_levels=True)
    alone = lite()
    pruned = DualAttentionEncoder(6, 4, layer_cfg(), "torch", selector=selector)
    tokens, refined = grid(padded=False), {}
    for name, encoder in (("both", both), ("lite", alone), ("focus", pruned)):
        seen: list[int] = []
        for layer in encoder.layers:
            layer.self_attn.register_forward_hook(
                lambda m, args, kwargs, out, seen=seen: seen.append(kwargs["query"].shape[1]),
                with_kwargs=True,
            )
        head = torch.nn.Linear(DIMS, 3)
        encoder(tokens, DetectorParts(parts().projection, lambda layer, head=head: head))
        refined[name] = sum(seen)
    assert refined["both"] < min(refined["lite"], refined["focus"])


def test_keep_ratio_changes_without_weights() -> None:
    encoder = lite(num_layers=2, blocks=1, selector=dict(type="FocusTokenSelector"))
    tokens = grid()
    sizes = []
    for ratio in (0.1, 0.5):
        encoder.set_keep_ratio(ratio)
        sizes.append(encoder(tokens, parts()).layers[-1].size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(blocks=4), "encoder.blocks must divide encoder.num_layers, got 4 blocks and 6"),
        (dict(blocks=0), "encoder.blocks must divide"),
        (dict(high_levels=4), r"encoder.high_levels must lie in \[1, 3\]"),
        (dict(high_levels=0), "encoder.high_levels must lie in"),
        (dict(schedule="H3L1"), r"encoder.schedule must be named like H3L1-\(2\+1\)x3"),
        (dict(schedule="H2L1-(2+1)x3"), "is for 3 feature levels, the detector has 4"),
        (dict(schedule="H3L1-(2+1)x3", blocks=2), "means blocks=3, but encoder.blocks is 2"),
        (dict(attention="linear"), r"attention must be one of \('plain', 'key_aware'\)"),
        (dict(key_aware=dict(separate_key_projection=True)), "but encoder.attention is 'plain'"),
        (dict(attention="key_aware", key_aware=dict(heads=1)), "key_aware accepts same_loc"),
        (dict(prune_high_levels=True), "prune_high_levels needs encoder.selector"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LiteDETREncoder(**settings)


def test_refused_levels() -> None:
    with pytest.raises(ValueError, match=r"encoder.num_levels is 4, got 3 feature levels"):
        lite()(grid(3), DetectorParts())
