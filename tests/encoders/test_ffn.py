"""The FFN in slices: the same numbers, cut where no gradient or graph is wanted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks.transformer import FFN

from grids import small_encoder, small_grid
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import DenseEncoder, DualAttentionEncoder, LiteDETREncoder
from sparse_encoders.encoders.ffn import SlicedFFN

SETTINGS: dict[str, Any] = dict(embed_dims=8, feedforward_channels=12, ffn_drop=0.0)


def pair(slice_tokens: int) -> tuple[FFN, SlicedFFN, list[int]]:
    """MMCV's and ours with the same weights, and the rows of each pass of ours."""
    torch.manual_seed(0)
    whole, sliced = FFN(**SETTINGS), SlicedFFN(**SETTINGS, slice_tokens=slice_tokens)
    sliced.load_state_dict(whole.state_dict())
    rows: list[int] = []
    sliced.layers.register_forward_hook(lambda m, x, y: rows.append(x[0].shape[:-1].numel()))
    return whole, sliced, rows


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 17), st.integers(0, 20))
def test_slices_give_what_the_whole_gives(images: int, tokens: int, size: int) -> None:
    whole, sliced, rows = pair(size)
    x = torch.randn(images, tokens, 8)
    with torch.no_grad():
        torch.testing.assert_close(sliced(x), whole(x))
    assert sum(rows) == images * tokens and max(rows) <= (size or images * tokens)


def test_strides_and_half_precision() -> None:
    whole, sliced, rows = pair(4)
    x = torch.randn(2, 8, 9).transpose(1, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        actual, expected = sliced(x), whole(x)
    assert actual.dtype == expected.dtype and rows == [4, 4, 4, 4, 2]
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)


def test_training_and_graphs_are_not_cut() -> None:
    whole, sliced, rows = pair(4)
    x = torch.randn(1, 9, 8)
    sliced(x).sum().backward()
    whole(x).sum().backward()
    for ours, theirs in zip(sliced.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        traced = torch.jit.trace(sliced, x, check_trace=False)
        assert rows == [9] * len(rows)
        longer = torch.randn(1, 20, 8)  # a traced slice would have kept 9 tokens
        torch.testing.assert_close(traced(longer), whole(longer))


def test_an_own_identity_is_added_as_mmcv_does() -> None:
    whole, sliced, _ = pair(2)
    x, other = torch.randn(2, 1, 6, 8).unbind()
    with torch.no_grad():
        assert torch.equal(sliced(x, other), whole(x, other))


def slices(encoder: Any) -> set[int]:
    actual: set[int] = {m.slice_tokens for m in encoder.modules() if isinstance(m, SlicedFFN)}
    return actual


@pytest.mark.parametrize("encoder", [DenseEncoder, DualAttentionEncoder, LiteDETREncoder])
def test_dense_is_whole_and_what_prunes_is_cut_unless_told(encoder: Any) -> None:
    assert slices(encoder()) == {0 if encoder is DenseEncoder else 1024}
    assert slices(encoder(ffn_slice=7)) == {7}
    assert slices(encoder(ffn_slice=0)) == {0}


@pytest.mark.parametrize("wrong", [-1, 2.0, "all", True])
def test_bad_slices(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"encoder\.ffn_slice must be a number of tokens, 0"):
        DenseEncoder(ffn_slice=wrong)


def test_results_of_an_encoder_hardly_move() -> None:
    memories = []
    for size in (0, 3):
        torch.manual_seed(0)
        encoder = small_encoder(LiteDETREncoder, blocks=1, ffn_slice=size).eval()
        with torch.no_grad():
            memories.append(encoder(small_grid(), DetectorParts()).memory)
    torch.testing.assert_close(*memories)
