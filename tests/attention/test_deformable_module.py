"""DeformableAttention against MMCV's own module."""

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.registry import MODELS

from op_cases import needs_extension
from sparse_encoders.attention import DeformableAttention

SHAPES = ((8, 10), (4, 5), (2, 3))
TOKENS = 106


def modules(backend, **settings):
    """(ours, MMCV's) with the same random weights."""
    settings = {"embed_dims": 32, "num_heads": 4, "num_levels": 3, "dropout": 0.0} | settings
    ours = DeformableAttention(backend=backend, **settings)
    theirs = MultiScaleDeformableAttention(**settings)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def call(module, batch_first=True, reference=2, shapes=None, padded=True, queries=13):
    torch.manual_seed(1)
    query, position, value = torch.randn(3, 2, max(queries, TOKENS), 32)
    points = torch.rand(2, queries, 3, reference)
    mask = torch.zeros(2, TOKENS, dtype=torch.bool)
    mask[1, ::3] = True
    inputs = [query[:, :queries], position[:, :queries], value[:, :TOKENS]]
    inputs = [x if batch_first else x.transpose(0, 1) for x in inputs]
    query, position, value = (x.clone().requires_grad_() for x in inputs)
    sizes = torch.tensor(SHAPES)
    output = module(
        query,
        value=value,
        query_pos=position,
        key_padding_mask=mask if padded else None,
        reference_points=points,
        spatial_shapes=sizes if shapes is None else shapes,
        level_start_index=torch.tensor([0, 80, 100]) if shapes is None else None,
    )
    output.square().sum().backward()
    weights = [p.grad for p in module.parameters()]
    return [output.detach(), query.grad, value.grad, *weights]


@pytest.mark.parametrize("shapes", [None, SHAPES])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("reference", [2, 4])
def test_backend_mmcv_is_mmcv_bit_for_bit(shapes, batch_first, reference):
    ours, theirs = modules("mmcv", batch_first=batch_first)
    actual = call(ours, batch_first, reference, shapes)
    expected = call(theirs, batch_first, reference)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("reference", [2, 4])
@pytest.mark.parametrize("padded", [True, False])
def test_other_backends_agree(backend, batch_first, reference, padded):
    ours, theirs = modules(backend, batch_first=batch_first)
    actual = call(ours, batch_first, reference, SHAPES, padded)
    expected = call(theirs, batch_first, reference, None, padded)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_same_parameters_and_same_initial_values():
    torch.manual_seed(3)
    theirs = MultiScaleDeformableAttention().state_dict()
    torch.manual_seed(3)
    built = MODELS.build(dict(type="DeformableAttention"))
    assert type(built) is DeformableAttention
    ours = built.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_identity_and_value_default_to_the_query():
    ours, _ = modules("torch", batch_first=True)
    query = torch.randn(2, TOKENS, 32)
    points = torch.rand(2, TOKENS, 3, 2)
    at = dict(reference_points=points, spatial_shapes=SHAPES)
    plain = ours(query, **at)
    assert torch.equal(plain, ours(query, value=query, identity=query, **at))
    assert torch.allclose(plain - query, ours(query, identity=torch.zeros(1), **at), atol=1e-6)


def test_bad_arguments_are_refused():
    ours, _ = modules("auto", batch_first=True)
    query = torch.randn(2, TOKENS, 32)
    with pytest.raises(TypeError, match="needs reference_points and spatial_shapes"):
        ours(query)
    with pytest.raises(ValueError, match=r"110.*106"):
        ours(query, reference_points=torch.rand(2, TOKENS, 2, 2), spatial_shapes=((10, 11),))
    with pytest.raises(ValueError, match="backend must be one of auto, fused, mmcv, torch for"):
        DeformableAttention(backend="cuda")


@pytest.mark.skipif(bool(needs_extension), reason=needs_extension or "-")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_and_compile(dtype):
    ours, _ = modules("fused", batch_first=True)
    query = torch.randn(2, TOKENS, 32)
    at = dict(reference_points=torch.rand(2, TOKENS, 3, 2), spatial_shapes=SHAPES)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        actual = ours(query, **at)
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")(query, **at)
    torch.testing.assert_close(actual, compiled)
    torch.testing.assert_close(actual, ours(query, **at), rtol=5e-2, atol=5e-2)
