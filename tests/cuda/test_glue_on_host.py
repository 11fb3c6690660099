"""csrc/cuda/glue.cpp through torch's dispatcher, on the CPU over the host emulation.

The schemas are taken from csrc/ops.cpp, so that both sides are held to the same ones.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import host_kernels
import pytest
import torch
from cuda_cases import (
    FLAT,
    SHAPES,
    assert_same,
    check,
    deformable_inputs,
    key_aware_inputs,
    plain_deformable,
    plain_key_aware,
)

pytestmark = pytest.mark.slow
LIBRARY = "sparse_encoders_on_host"


def read_schemas() -> list[str]:
    """The operators' schemas in csrc/ops.cpp, whose string literals are put together again."""
    source = (host_kernels.CUDA_SOURCES.parent / "ops.cpp").read_text()
    calls = re.findall(r'm\.def\(\s*((?:"[^"]*"\s*)+)\)', source)
    return ["".join(re.findall(r'"([^"]*)"', call)) for call in calls]


@pytest.fixture(scope="module")
def ops(build_folder: Path):
    torch_folder = Path(torch.__file__).parent
    include = torch_folder / "include"
    options = [
        "-std=c++20", "-O1", "-Wno-unused-parameter", "-shared", "-fPIC",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{host_kernels.HERE / 'torch_without_cuda'}",
        f"-isystem{include}", f"-isystem{include / 'torch/csrc/api/include'}",
        f"-L{torch_folder / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu", "-lc10",
    ]  # fmt: skip
    library = host_kernels.compile_for_host(
        "glue_driver.cpp", build_folder / "libglue.so", *options
    )
    definitions = torch.library.Library(LIBRARY, "DEF")
    schemas = read_schemas()
    assert len(schemas) == 4
    for schema in schemas:
        definitions.define(schema)
    torch.ops.load_library(str(library))
    yield torch.ops.sparse_encoders_on_host
    if hasattr(definitions, "_destroy"):
        definitions._destroy()  # an older torch does this when the last reference is gone


def deformable(ops, inputs, grad):
    value, *others = inputs
    output = ops.deformable_attention(value, FLAT, *others)
    return [output, *ops.deformable_attention_backward(grad, value, FLAT, *others)]


def key_aware(ops, inputs, grad):
    *features, locations = inputs
    output = ops.key_aware_attention(*features, FLAT, locations)
    return [output, *ops.key_aware_attention_backward(grad, *features, FLAT, locations)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("others", [torch.float32, torch.float64, torch.float16])
def test_deformable_attention_of_any_mixture(ops, dtype, others):
    value, *rest = deformable_inputs(32, 4)
    inputs = [value.to(dtype), *(tensor.to(others) for tensor in rest)]
    close = 8e-3 if dtype == torch.bfloat16 else 1e-3
    results = check(partial(deformable, ops), plain_deformable, inputs, close)
    assert [tensor.dtype for tensor in results] == [dtype, dtype, others, others, others]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_key_aware_attention(ops, dtype):
    *features, locations = key_aware_inputs()
    locations = locations[:, :, :, :1].expand(-1, -1, -1, len(SHAPES), -1, -1).double()
    inputs = [*(tensor.to(dtype) for tensor in features), locations]
    results = check(partial(key_aware, ops), plain_key_aware, inputs, 1e-3)
    assert [tensor.dtype for tensor in results] == [dtype] * 4 + [torch.float64]


def test_strided_inputs(ops):
    def strided(tensor, *dims):
        found = tensor.transpose(*dims).contiguous().transpose(*dims)
        assert not found.is_contiguous()
        return found

    def deformable_strided(inputs, grad):
        grad = strided(grad, 0, 1)
        return deformable(ops, [strided(tensor, 0, 1) for tensor in inputs], grad)

    check(deformable_strided, plain_deformable, deformable_inputs())
    inputs = key_aware_inputs()
    *features, locations = [strided(tensor, 1, 2) for tensor in inputs]
    got = ops.key_aware_attention(*features, FLAT, locations)
    assert_same([got], [plain_key_aware(*(tensor.double() for tensor in inputs))])


def test_no_queries(ops):
    grad = torch.zeros(2, 0, 96)
    output, *grads = deformable(ops, deformable_inputs(queries=0), grad)
    assert output.shape == (2, 0, 96) and not grads[0].any()
    output, *grads = key_aware(ops, key_aware_inputs(queries=0), grad)
    assert output.shape == (2, 0, 96) and not grads[1].any() and not grads[2].any()


def test_errors_name_the_argument(ops):
    value, points, offsets, logits = deformable_inputs()
    call = ops.deformable_attention
    with pytest.raises(TypeError, match="value must be float32, float16 or bfloat16 on CUDA, got"):
        call(value.double(), FLAT, points, offsets, logits)
    with pytest.raises(ValueError, match=r"logits must be \(B, Q, M, L, P\) = .* got"):
        call(value, FLAT, points, offsets, logits[..., :3])
    with pytest.raises(ValueError, match="1 to 16 levels on CUDA; got shapes"):
        small = deformable_inputs(shapes=[(1, 1)] * 17)
        call(small[0], [1, 1] * 17, *small[1:])
    with pytest.raises(ValueError, match="at most 1000 sampling locations"):
        many = deformable_inputs(queries=1, points=251)
        call(many[0], FLAT, *many[1:])
    with pytest.raises(ValueError, match=r"grad must be \(B, Q, M \* D\)"):
        ops.deformable_attention_backward(
            torch.zeros(2, 37, 95), value, FLAT, points, offsets, logits
        )
    query, key, value, locations = key_aware_inputs()
    with pytest.raises(TypeError, match="query, key and value must have one dtype"):
        ops.key_aware_attention(query.half(), key, value, FLAT, locations)


def test_backward_says_that_it_is_not_deterministic(ops):
    value, *others = deformable_inputs()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deformable_attention_backward does not have a det"):
            ops.deformable_attention_backward(torch.zeros(2, 37, 96), value, FLAT, *others)
    finally:
        torch.use_deterministic_algorithms(False)
