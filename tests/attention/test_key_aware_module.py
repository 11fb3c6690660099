"""KeyAwareDeformableAttention: the reference fixture, and the module around the operator."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from reference.checks import verify
from sparse_encoders.attention import KeyAwareDeformableAttention

FIXTURE = Path(__file__).parents[1] / "fixtures" / "key_aware_attention.npz"
SHAPES = ((8, 10), (4, 5), (2, 3))
TOKENS = 106


def make(**settings):
    defaults = {"embed_dims": 32, "num_heads": 4, "num_levels": 3, "num_points": 2}
    module = KeyAwareDeformableAttention(**(defaults | settings))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def call(module, query, reference=2, **more):
    queries = query.shape[1]
    draw = torch.Generator().manual_seed(2)
    value = torch.randn(2, TOKENS, 32, generator=draw)
    points = torch.rand(2, queries, 3, reference, generator=draw)
    return module(query, value=value, reference_points=points, spatial_shapes=SHAPES, **more)


def test_fixture():
    results = verify(FIXTURE)
    assert len(results) == 8
    assert [check for check in results if not check.passed] == []


@pytest.mark.parametrize("name", ["output", "grad_query", "grad_input", "grad.key_proj.bias"])
def test_a_difference_from_the_fixture_is_seen(name, tmp_path):
    with np.load(FIXTURE) as archive:
        data = {k: archive[k] for k in archive.files}
    data[name] = data[name] * 1.00001
    path = tmp_path / "changed.npz"
    np.savez(path, **data)
    assert [check.name for check in verify(path) if not check.passed] == [name]


@pytest.mark.parametrize("reference", [2, 4])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("separate", [True, False])
def test_backends_agree(reference, same, separate):
    module = make(same_locations_on_every_level=same, separate_key_projection=separate)
    query = torch.randn(2, 9, 32)
    mask = torch.zeros(2, TOKENS, dtype=torch.bool)
    mask[1, ::3] = True
    outputs = []
    for backend in ("auto", "torch"):
        module.backend = backend
        outputs.append(call(module, query, reference, key_padding_mask=mask))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_one_set_of_locations_is_every_level_repeated():
    shared = make(same_locations_on_every_level=True)
    each = make(same_locations_on_every_level=False)
    state = shared.state_dict()
    for name in ("sampling_offsets.weight", "sampling_offsets.bias"):
        sets = state[name].unflatten(0, (4, 1, 4))  # heads, levels, points * 2
        state[name] = sets.expand(-1, 3, *sets.shape[2:]).flatten(0, 2)
    each.load_state_dict(state)
    query = torch.randn(2, 9, 32)
    torch.testing.assert_close(call(shared, query), call(each, query))


def test_parameters():
    names = {name.split(".")[0] for name, _ in make().named_parameters()}
    assert names == {"sampling_offsets", "value_proj", "query_proj", "output_proj"}
    separate = {
        name.split(".")[0] for name, _ in make(separate_key_projection=True).named_parameters()
    }
    assert separate == names | {"key_proj"}
    assert make().sampling_offsets.out_features == 4 * 1 * 2 * 2
    assert make(same_locations_on_every_level=False).sampling_offsets.out_features == 4 * 3 * 2 * 2


def test_first_offsets_look_along_the_heads_directions():
    bias = KeyAwareDeformableAttention(num_heads=4, num_points=2).sampling_offsets.bias
    first = bias.view(4, 1, 2, 2)[:, 0]
    right, down = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(first[0], torch.stack([right, 2 * right]))
    torch.testing.assert_close(first[1], torch.stack([down, 2 * down]), atol=1e-6, rtol=0)


def test_every_parameter_gets_a_gradient():
    module = make(separate_key_projection=True, same_locations_on_every_level=False)
    call(module, torch.randn(2, 9, 32)).square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in module.parameters())


def test_queries_first():
    module = make()
    query = torch.randn(2, 9, 32)
    expected = call(module, query)
    module.batch_first = False
    draw = torch.Generator().manual_seed(2)
    value = torch.randn(2, TOKENS, 32, generator=draw)
    points = torch.rand(2, 9, 3, 2, generator=draw)
    actual = module(
        query.transpose(0, 1),
        value=value.transpose(0, 1),
        reference_points=points,
        spatial_shapes=torch.tensor(SHAPES),
    )
    torch.testing.assert_close(actual.transpose(0, 1), expected)


def test_autocast_and_half_precision():
    module = make()
    query = torch.randn(2, 9, 32)
    expected = call(module, query)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = call(module, query)
    torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=0.1)


def test_registered_and_refused():
    built = MODELS.build(dict(type="KeyAwareDeformableAttention", embed_dims=32, num_heads=4))
    assert type(built) is KeyAwareDeformableAttention
    with pytest.raises(ValueError, match="embed_dims must be divisible by num_heads, got 30 and 4"):
        make(embed_dims=30)
    with pytest.raises(ValueError, match=r"auto, fused, torch for key_aware.*'mmcv'"):
        make(backend="mmcv")
    with pytest.raises(TypeError, match="needs reference_points and spatial_shapes"):
        make()(torch.randn(2, TOKENS, 32))
