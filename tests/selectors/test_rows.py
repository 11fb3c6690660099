"""Rows by index: the same as gather and scatter, forward and backward."""

import pytest
import torch

from sparse_encoders.selectors.rows import gather_rows, scatter_rows


@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_as_gather_and_scatter(batch):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, 9, 4, generator=generator).double().requires_grad_()
    rows = torch.randn(batch, 5, 4, generator=generator).double().requires_grad_()
    indices = torch.rand(batch, 9, generator=generator).argsort(1)[:, :5]
    wide = indices.unsqueeze(-1).expand(-1, -1, 4)
    assert torch.equal(gather_rows(tokens, indices), tokens.gather(1, wide))
    assert torch.equal(scatter_rows(tokens, indices, rows), tokens.scatter(1, wide, rows))
    assert torch.autograd.gradcheck(lambda x: gather_rows(x, indices), tokens)
    assert torch.autograd.gradcheck(lambda x, y: scatter_rows(x, indices, y), (tokens, rows))


def test_a_part_of_the_rows_of_a_part_of_the_tokens():
    tokens = torch.randn(2, 6, 8)[..., 2:5]
    rows = torch.randn(2, 4, 3)[:, :2]
    indices = torch.tensor([[5, 0], [1, 4]])
    changed = scatter_rows(tokens, indices, rows)
    assert torch.equal(gather_rows(changed, indices), rows)
    assert torch.equal(changed[0, 1:5], tokens[0, 1:5])
