"""The compiled operators on a GPU. Skipped where there is none, or no CUDA kernels were built."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from cuda_cases import (
    CHANNELS,
    FLAT,
    SHAPES,
    assert_same,
    check,
    deformable_inputs,
    key_aware_inputs,
    plain_deformable,
    plain_key_aware,
)
from torch import Tensor

from sparse_encoders.ops import deformable_attention, key_aware_attention
from sparse_encoders.ops.extension import mmcv_has_cuda, why_not_fused


def why_skip() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return why_not_fused("deformable_attention", torch.device("cuda"), torch.float32)


REASON = why_skip()
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def deformable(inputs: Sequence[Tensor], grad: Tensor, backend: str = "fused") -> list[Tensor]:
    """Output and gradients, on the CPU."""
    value, *others = leaves = [tensor.cuda().requires_grad_() for tensor in inputs]
    output = deformable_attention(value, SHAPES, *others, backend=backend)
    grads = torch.autograd.grad(output, leaves, grad.cuda())
    return [tensor.detach().cpu() for tensor in (output, *grads)]


def key_aware(inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """The same of query, key, value and locations; without a key, the value is the key."""
    query, *others = leaves = [tensor.cuda().requires_grad_() for tensor in inputs]
    key, value, locations = others[0], *others[-2:]
    output = key_aware_attention(query, key, value, SHAPES, locations, backend="fused")
    grads = torch.autograd.grad(output, leaves, grad.cuda())
    return [tensor.detach().cpu() for tensor in (output, *grads)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("channels", CHANNELS)
def test_deformable_attention(channels, coordinates, dtype):
    value, *others = deformable_inputs(channels, coordinates)
    check(deformable, plain_deformable, [value.to(dtype), *others])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key_is_value", [False, True])
@pytest.mark.parametrize("channels", CHANNELS)
def test_key_aware_attention(channels, key_is_value, dtype):
    *features, locations = key_aware_inputs(channels)
    query, key, value = (tensor.to(dtype) for tensor in features)
    check(key_aware, plain_key_aware, [query, *[key] * (not key_is_value), value, locations])


@pytest.mark.parametrize("points", [1, 40, 250])
def test_few_and_many_locations(points):
    check(deformable, plain_deformable, deformable_inputs(queries=3, points=points))


@pytest.mark.parametrize("awkward", [torch.nan, torch.inf, -1e30, 2.0**31])
def test_far_and_non_finite_locations_sample_zeros(awkward):
    value, points, offsets, logits = inputs = deformable_inputs()
    offsets[:, ::3, :, 1, 2, 0] = awkward
    expected = plain_deformable(value.double(), points, offsets, logits)
    output, *grads = deformable(inputs, torch.ones(2, 37, 96))
    assert_same([output], [expected])
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.skipif(not mmcv_has_cuda(), reason="MMCV was built without its CUDA operators")
@pytest.mark.parametrize("coordinates", [2, 4])
def test_mmcv_s_operator_gives_the_same(coordinates):
    inputs, grad = deformable_inputs(32, coordinates), torch.randn(2, 37, 96)
    assert_same(deformable(inputs, grad), deformable(inputs, grad, "mmcv"), close=1e-5)


def on_gpu() -> list[Tensor]:
    """Inputs of deformable attention, as leaves on the GPU."""
    return [tensor.cuda().requires_grad_() for tensor in deformable_inputs()]


def test_opcheck():
    operators = torch.ops.sparse_encoders
    value, *others = on_gpu()
    query, key, features, locations = (tensor.cuda() for tensor in key_aware_inputs())
    torch.library.opcheck(operators.deformable_attention.default, (value, FLAT, *others))
    sample = (query.requires_grad_(), key, features, FLAT, locations)
    torch.library.opcheck(operators.key_aware_attention.default, sample)


def test_compile_fullgraph():
    value, *others = on_gpu()

    def double(*tensors: Tensor) -> Tensor:
        return deformable_attention(tensors[0], SHAPES, *tensors[1:], backend="fused") * 2

    compiled = torch.compile(double, fullgraph=True)
    torch.testing.assert_close(compiled(value, *others), double(value, *others))


def test_autocast_leaves_locations_in_float32():
    value, *others = on_gpu()
    value = value.bfloat16()
    with torch.autocast("cuda", torch.bfloat16):
        output = deformable_attention(value, SHAPES, *others, backend="fused")
    assert output.dtype == torch.bfloat16
    expected = plain_deformable(*(tensor.cpu().double() for tensor in (value, *others)))
    assert_same([output.detach().cpu()], [expected.detach()])


def test_runs_on_the_current_stream():
    value, *others = (tensor.cuda() for tensor in deformable_inputs())
    expected = deformable_attention(value, SHAPES, *others, backend="fused")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles: a kernel on another stream would read too early
        late = value.clone()
        output = deformable_attention(late, SHAPES, *others, backend="fused")
    torch.cuda.synchronize()
    assert torch.equal(output, expected)


def test_forward_gives_the_same_bits_every_time():
    value, *others = (tensor.cuda() for tensor in deformable_inputs(queries=2000))
    first = deformable_attention(value, SHAPES, *others, backend="fused")
    for _ in range(5):
        assert torch.equal(first, deformable_attention(value, SHAPES, *others, backend="fused"))


def test_key_aware_attention_holds_no_sampled_keys():
    """17,821 tokens; the sampled keys alone would take 292 MB, the output takes 18 MB."""
    shapes = ((100, 134), (50, 67), (25, 34), (13, 17))
    tokens = sum(h * w for h, w in shapes)
    query, key, value = (torch.randn(1, tokens, 8, 32, device="cuda") for _ in range(3))
    locations = torch.rand(1, tokens, 8, 1, 4, 2, device="cuda").expand(-1, -1, -1, 4, -1, -1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = key_aware_attention(query, key, value, shapes, locations, backend="fused")
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 1.1 * output.numel() * 4


@pytest.mark.slow
def test_values_of_more_than_two_to_the_31_elements():
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GB of free GPU memory")
    height, width = 2049, 4096
    value = torch.zeros(1, height * width, 8, 32, dtype=torch.bfloat16, device="cuda")
    assert value.numel() > 2**31
    value[0, -width:] = 3.0  # the last row, past element 2^31
    locations = torch.rand(1, 64, 1, 2, device="cuda") * 0.9 + 0.05
    locations[..., 1] = (height - 0.5) / height
    offsets = torch.zeros(1, 64, 8, 1, 4, 2, device="cuda")
    logits = torch.randn(1, 64, 8, 1, 4, device="cuda")
    shapes = ((height, width),)
    output = deformable_attention(value, shapes, locations, offsets, logits, backend="fused")
    torch.testing.assert_close(output, torch.full_like(output, 3.0), rtol=1e-2, atol=0)
