"""The FFN in slices: the same numbers, cut where no gradient or graph is wanted."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks.transformer import FFN

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
    x, other = torch.randn(2, images, 8, tokens).transpose(-1, -2)
    with torch.no_grad():
        torch.testing.assert_close(sliced(x), whole(x))
        assert sum(rows) == images * tokens and max(rows) <= (size or images * tokens)
        assert torch.equal(sliced(x, other), whole(x, other))  # an identity of its own


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
