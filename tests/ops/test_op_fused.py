"""The compiled operators against the plain ones: values, gradients, any shapes and strides."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from op_cases import (
    OPERATORS,
    SHAPES,
    deformable_inputs,
    key_aware_inputs,
    largest_errors,
    needs_extension,
    with_gradients,
)
from sparse_encoders.ops import deformable_attention, key_aware_attention

pytestmark = pytest.mark.skipif(bool(needs_extension), reason=needs_extension or "-")

sides = st.integers(1, 6)
cases = st.fixed_dictionaries(
    {
        "batch": st.integers(0, 3),
        "queries": st.integers(0, 9),
        "heads": st.integers(1, 4),
        "depth": st.sampled_from([1, 3, 8, 16, 20, 32, 64, 67]),
        "points": st.integers(1, 5),
        "shapes": st.lists(st.tuples(sides, sides), min_size=1, max_size=5).map(tuple),
        "seed": st.integers(0, 99),
    }
)


# settings of the inputs: reference points or boxes, locations for each level or shared
FORMS = pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("deformable", dict(reference=sides)) for sides in (2, 4)),
        *(("key_aware", dict(same_locations=same)) for same in (False, True)),
    ],
)


@FORMS
@settings(max_examples=20, deadline=None)
@given(case=cases, double=st.booleans())
def test_agrees_on_any_sizes(name, form, case, double):
    operator, make = OPERATORS[name]
    inputs = make(dtype=torch.float64 if double else torch.float32, **form, **case)
    actual, expected = (with_gradients(operator, inputs, b) for b in ("fused", "torch"))
    assert max(largest_errors(actual, expected)) < (1e-11 if double else 1e-3)


@FORMS
def test_gradcheck(name, form):
    operator, make = OPERATORS[name]
    inputs = make(queries=4, depth=3, **form)
    tensors = [x.contiguous().requires_grad_() for x in inputs if torch.is_tensor(x)]
    at = next(i for i, x in enumerate(inputs) if not torch.is_tensor(x))
    assert torch.autograd.gradcheck(
        lambda *x: operator(*x[:at], SHAPES, *x[at:], backend="fused"), tensors
    )


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("queries", [3, 700])  # below and above what lays heads out first
def test_strides_do_not_matter(name, queries):
    operator, make = OPERATORS[name]
    inputs = make(queries=queries, depth=32, dtype=torch.float32)
    strided = [torch.stack([x, x], -1)[..., 0] if torch.is_tensor(x) else x for x in inputs]
    assert not any(x.is_contiguous() for x in strided if torch.is_tensor(x))
    actual = with_gradients(operator, strided, "fused")
    expected = with_gradients(operator, inputs, "fused")
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_locations_shared_by_all_levels_are_read_in_place():
    inputs = key_aware_inputs(same_locations=True)
    assert inputs[-1].stride(3) == 0
    copied = (*inputs[:-1], inputs[-1].contiguous())
    actual = key_aware_attention(*inputs, backend="fused")
    assert torch.equal(actual, key_aware_attention(*copied, backend="fused"))


@pytest.mark.parametrize("name", OPERATORS)
def test_bfloat16_is_float32_rounded(name):
    operator, make = OPERATORS[name]
    half = make(depth=32, queries=50, dtype=torch.bfloat16)
    full = [x.float() if torch.is_tensor(x) else x for x in half]
    actual = with_gradients(operator, half, "fused")
    expected = with_gradients(operator, full, "fused")
    assert all(x.dtype == torch.bfloat16 for x in actual)
    assert max(largest_errors(actual, expected)) < 2e-2


def test_dtypes_may_be_mixed():
    value, shapes, *rest = deformable_inputs(dtype=torch.float32)
    mixed = [rest[0].double(), rest[1].bfloat16(), rest[2].bfloat16()]
    actual = with_gradients(deformable_attention, (value, shapes, *mixed), "fused")
    expected = with_gradients(deformable_attention, (value, shapes, *mixed), "torch")
    assert [x.dtype for x in actual[1:]] == [x.dtype for x in (value, *mixed)]
    assert max(largest_errors(actual, expected)) < 2e-2


@pytest.mark.parametrize("name", OPERATORS)
def test_same_bits_every_time(name):
    operator, make = OPERATORS[name]
    inputs = make(batch=1, heads=1, queries=900, depth=32, dtype=torch.float32)
    first = with_gradients(operator, inputs, "fused")
    for _ in range(5):
        again = with_gradients(operator, inputs, "fused")
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", OPERATORS)
def test_few_heads_spread_over_threads(name):
    operator, make = OPERATORS[name]
    inputs = make(batch=1, heads=1, queries=900)
    expected = with_gradients(operator, inputs, "torch")
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            assert max(largest_errors(with_gradients(operator, inputs, "fused"), expected)) < 1e-11
    finally:
        torch.set_num_threads(threads)


WILD = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e9, -3.0)


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize("wild", WILD)
def test_offsets_far_outside_sample_zeros(wild, backend):
    value, shapes, reference_points, offsets, logits = deformable_inputs(spread=0.3)
    moved = offsets.clone()
    moved[:, ::2, :, :, 0, 0] = wild * 1e3
    inputs = (value, shapes, reference_points, moved, logits)
    actual = with_gradients(deformable_attention, inputs, backend)
    assert all(bool(x.isfinite().all()) for x in actual)
    assert float(actual[3][:, ::2, :, :, 0].abs().max()) == 0.0
    far = offsets.clone()
    far[:, ::2, :, :, 0, 0] = -1e4
    expected = deformable_attention(value, shapes, reference_points, far, logits, backend=backend)
    assert torch.equal(actual[0], expected)


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize("wild", WILD)
def test_locations_far_outside_sample_zeros(wild, backend):
    *inputs, locations = key_aware_inputs()
    moved = locations.clone()
    moved[:, ::2, :, :, 0, 1] = wild
    actual = with_gradients(key_aware_attention, (*inputs, moved), backend)
    assert all(bool(x.isfinite().all()) for x in actual)
    moved[:, ::2, :, :, 0, 1] = -50.0
    expected = key_aware_attention(*inputs, moved, backend=backend)
    assert torch.equal(actual[0], expected)


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_nan_logits_reach_the_output(backend):
    value, shapes, reference_points, offsets, logits = deformable_inputs()
    logits[0, 3, 1, 0, 0] = float("nan")
    offsets[0, 3] = 1e6  # even where nothing is sampled
    actual = deformable_attention(
        value, shapes, reference_points, offsets, logits, backend=backend
    ).unflatten(-1, (2, -1))
    assert bool(actual[0, 3, 1].isnan().all())
    actual[0, 3, 1] = 0
    assert bool(actual.isfinite().all())


def test_values_outside_the_sampled_locations_stay_out():
    value, shapes, reference_points, offsets, logits = deformable_inputs(shapes=((4, 4), (3, 3)))
    offsets.zero_()
    reference_points[:] = 0.3
    reference_points[..., 1, :] = -9.0  # nothing of the second level
    value[:, 16:] = float("nan")
    value[:, 15] = float("inf")
    actual = deformable_attention(value, shapes, reference_points, offsets, logits, backend="fused")
    assert bool(actual.isfinite().all())


def test_inputs_stay_as_they_are():
    inputs = deformable_inputs(shapes=SHAPES)
    before = [x.clone() for x in inputs if torch.is_tensor(x)]
    with_gradients(deformable_attention, inputs, "fused")
    after = [x for x in inputs if torch.is_tensor(x)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
