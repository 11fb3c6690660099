"""csrc/cuda/glue.cpp through torch's dispatcher, on the CPU over the host emulation.

The schemas are taken from csrc/ops.cpp, so that both sides are held to the same ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import host_kernels
import pytest
import torch
from cuda_cases import (
    SHAPES,
    assert_same,
    deformable_inputs,
    key_aware_inputs,
    plain_deformable,
    plain_key_aware,
    truth,
)

pytestmark = pytest.mark.slow
LIBRARY = "sparse_encoders_on_host"
FLAT = [side for shape in SHAPES for side in shape]


def read_schemas() -> list[str]:
    """The operators' schemas in csrc/ops.cpp, whose string literals are put together again."""
    source = (host_kernels.CUDA_SOURCES.parent / "ops.cpp").read_text()
    calls = re.findall(r'm\.def\(\s*((?:"[^"]*"\s*)+)\)', source)
    return ["".join(re.findall(r'"([^"]*)"', call)) for call in calls]


@pytest.fixture(scope="module")
def ops(build_folder: Path):
    if host_kernels.find_compiler() is None:
        pytest.skip("no C++ compiler (g++ or clang++) was found")
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
    names = [schema.split("(")[0] for schema in schemas]
    yield SimpleNamespace(
        **{name: getattr(torch.ops.sparse_encoders_on_host, name) for name in names}
    )
    if hasattr(definitions, "_destroy"):
        definitions._destroy()  # an older torch does this when the last reference is gone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("others", [torch.float32, torch.float64, torch.float16])
def test_deformable_attention_of_any_mixture(ops, dtype, others):
    value, *rest = deformable_inputs(32, 4)
    inputs = [value.to(dtype), *(tensor.to(others) for tensor in rest)]
    grad = torch.randn(2, 37, 96).to(dtype)
    output = ops.deformable_attention(inputs[0], FLAT, *inputs[1:])
    grads = ops.deformable_attention_backward(grad, inputs[0], FLAT, *inputs[1:])
    assert output.dtype == dtype
    assert [tensor.dtype for tensor in grads] == [dtype, others, others, others]
    close = 8e-3 if torch.bfloat16 in (dtype, others) else 1e-3
    assert_same([output, *grads], truth(plain_deformable, inputs, grad), close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_key_aware_attention(ops, dtype):
    *features, locations = key_aware_inputs()
    query, key, value = (tensor.to(dtype) for tensor in features)
    locations = locations[:, :, :, :1].expand(-1, -1, -1, len(SHAPES), -1, -1).double()
    grad = torch.randn(2, 37, 96).to(dtype)
    output = ops.key_aware_attention(query, key, value, FLAT, locations)
    grads = ops.key_aware_attention_backward(grad, query, key, value, FLAT, locations)
    assert [tensor.dtype for tensor in (output, *grads)] == [dtype] * 4 + [torch.float64]
    expected = truth(plain_key_aware, [query, key, value, locations.contiguous()], grad)
    assert_same([output, *grads], expected, 1e-3)


def test_strided_inputs(ops):
    inputs = deformable_inputs()
    grad = torch.randn(2, 37, 1).expand(-1, -1, 96)
    strided = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in inputs]
    assert not any(tensor.is_contiguous() for tensor in strided)
    got = ops.deformable_attention(strided[0], FLAT, *strided[1:])
    grads = ops.deformable_attention_backward(grad, strided[0], FLAT, *strided[1:])
    assert_same([got, *grads], truth(plain_deformable, inputs, grad))
    inputs = key_aware_inputs()
    strided = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in inputs]
    got = ops.key_aware_attention(*strided[:3], FLAT, strided[3])
    assert_same([got], [plain_key_aware(*(tensor.double() for tensor in inputs))])


def test_no_queries(ops):
    value, *others = deformable_inputs(queries=0)
    output = ops.deformable_attention(value, FLAT, *others)
    grads = ops.deformable_attention_backward(output, value, FLAT, *others)
    assert output.shape == (2, 0, 96) and not grads[0].any()
    query, key, value, locations = key_aware_inputs(queries=0)
    output = ops.key_aware_attention(query, key, value, FLAT, locations)
    grads = ops.key_aware_attention_backward(output, query, key, value, FLAT, locations)
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
