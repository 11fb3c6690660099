"""LiteDETREncoder: schedules, what each layer refines, selection, settings refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grids import DIMS, PADDED, SHAPES, lent, make_grid, small_encoder
from sparse_encoders.contracts import Targets
from sparse_encoders.encoders import DenseEncoder, LiteDETREncoder
from sparse_encoders.encoders.schedule import SCHEDULES
from sparse_encoders.selectors.ranking import best_first
from sparse_encoders.tokens import TokenGrid

ALL_SHAPES = ((16, 20), *SHAPES)


def lite(**settings: Any) -> Any:
    return small_encoder(LiteDETREncoder, **{"blocks": 1, **settings})


def focus(keep_ratio: Any, **settings: Any) -> dict[str, Any]:
    return dict(type="FocusTokenSelector", keep_ratio=keep_ratio, **settings)


def grid(levels: int = 4, padded: bool = True) -> TokenGrid:
    return make_grid(ALL_SHAPES[:levels], PADDED if padded else None, DIMS)


@pytest.mark.parametrize(
    ("name", "layers", "blocks", "high"),
    list(zip(SCHEDULES, (6, 6, 6, 6), (3, 2, 1, 3), (3, 3, 3, 2), strict=True)),
)
def test_names_and_numbers_are_the_same_schedule(
    name: str, layers: int, blocks: int, high: int
) -> None:
    named = LiteDETREncoder(schedule=name, high_levels=high)
    numbered = LiteDETREncoder(num_layers=layers, blocks=blocks, high_levels=high)
    assert named.schedule == numbered.schedule
    block = [range(4 - high, 4)] * (layers // blocks - 1) + [range(4)]
    assert [named.refined_levels(layer) for layer in range(layers)] == block * blocks


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("attention", ["plain", "key_aware"])
@pytest.mark.parametrize("small", [False, True])
def test_any_number_of_levels(levels: int, attention: str, small: bool) -> None:
    encoder = lite(num_levels=levels, attention=attention, small_low_level_ffn=small)
    tokens = grid(levels)
    memory = encoder(tokens, lent()).memory
    assert memory.shape == tokens.features.shape
    memory.square().mean().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_only_a_blocks_last_layer_refines_low_levels() -> None:
    encoder, tokens = lite(num_layers=3, high_levels=2), grid()
    low = tokens.level_slices[2].start
    seen: list[int] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[1]))
    encoder(tokens, lent())
    assert seen == [tokens.num_tokens - low, tokens.num_tokens - low, tokens.num_tokens]
    assert small_encoder(DenseEncoder, num_levels=3).refined_levels(0) == range(3)


def test_small_ffn_touches_low_levels_only() -> None:
    encoder, tokens = lite(small_low_level_ffn=True), grid()
    assert encoder.layers[0].low_level_ffn is None
    low = tokens.level_slices[1].start
    before = encoder(tokens, lent()).memory
    with torch.no_grad():
        encoder.layers[1].low_level_norm.bias.add_(1.0)
    after = encoder(tokens, lent()).memory
    torch.testing.assert_close(after[:, :low], before[:, :low] + 1.0)
    assert torch.equal(after[:, low:], before[:, low:])


@pytest.mark.parametrize("prune_high", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_selection_limits_the_fine_updates(prune_high: bool, padded: bool) -> None:
    encoder = lite(
        selector=focus(0.3, cascade=False), prune_high_levels=prune_high, small_low_level_ffn=True
    )
    tokens = grid(padded=padded)
    low, mask = tokens.level_slices[1].start, tokens.padding_mask
    output = encoder(tokens, lent())
    early, kept = (layer.mask(tokens.num_tokens) for layer in output.layers)
    assert [group.levels for group in output.selection.groups] == [range(1), range(1, 4)]
    changed = (output.memory != tokens.features).any(-1)
    assert torch.equal(changed[:, :low], kept[:, :low]) and changed[kept].all()
    assert mask is None or not (kept & mask).any()
    assert ((kept.sum(1) - tokens.num_valid() * 0.3).abs() <= 2).all()
    assert not early[:, :low].any()
    high = torch.ones_like(early[:, low:]) if mask is None else ~mask[:, low:]
    assert torch.equal(early[:, low:], high) != prune_high


@pytest.mark.parametrize("high", [2, 3])
def test_low_and_high_levels_are_ranked_once_each(
    high: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in each block the small FFN takes the low-level tokens that its own layer keeps."""
    rankings: list[int] = []
    taken: list[int] = []

    def counted(scores: Tensor, *args: Any) -> Tensor:
        rankings.append(scores.shape[1])
        return best_first(scores, *args)

    monkeypatch.setattr("sparse_encoders.selectors.base.best_first", counted)
    cut = dict(selector=focus([0.9, 0.7, 0.5, 0.3]), small_low_level_ffn=True)
    encoder, tokens = lite(num_layers=4, blocks=2, high_levels=high, **cut), grid()
    for index in (1, 3):
        ffn = encoder.layers[index].low_level_ffn
        ffn.register_forward_pre_hook(lambda m, args: taken.append(args[0].shape[1]))
    output = encoder(tokens, lent())
    low = tokens.level_slices[4 - high].start
    assert rankings == [low, tokens.num_tokens - low]
    groups = output.selection.groups
    assert [group.levels for group in groups] == [range(4 - high), range(4 - high, 4)]
    first, last = (groups[0].layers[index].size for index in (1, 3))
    assert taken == [first, last] and first > last


@pytest.mark.parametrize("padded", [False, True])
def test_the_decoder_teaches_what_is_pruned(padded: bool) -> None:
    """Positives of Sparse DETR's loss: in each group the most attended, as many as are kept."""
    encoder = lite(selector=dict(type="DecoderAttentionSelector", keep_ratio=0.3)).train()
    tokens = grid(padded=padded)
    output = encoder(tokens, lent())
    low = tokens.level_slices[1].start
    attention = torch.rand(len(tokens.features), tokens.num_tokens)
    attention[:, :low] += 1  # over all levels only low-level tokens would be positive
    logits = output.selection.logits.detach()
    expected = 0.0
    for part in (slice(0, low), slice(low, None)):
        rows, looked = logits[:, part].clone(), attention[:, part].clone()
        labels, size = torch.zeros_like(rows), rows.shape[1]
        for image in range(len(rows)):
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
    tokens, settings = grid(padded=False), dict(num_layers=6, selector=focus(ratio))
    both, pruned = (
        sum(layer.size for layer in encoder(tokens, lent()).layers)
        for encoder in (
            lite(blocks=3, prune_high_levels=True, **settings),
            small_encoder(**settings),
        )
    )
    interleaved = 3 * (tokens.num_tokens + sum(tokens.level_sizes[1:]))
    assert both < min(interleaved, pruned)


def test_refused_levels() -> None:
    with pytest.raises(ValueError, match=r"encoder.num_levels is 4, got 3 feature levels"):
        lite()(grid(3), lent())
