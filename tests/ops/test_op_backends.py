"""Which backend computes a call, what is refused before, and the vectors that are chosen."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from op_cases import OPERATORS, deformable_inputs, key_aware_inputs, largest_errors, needs_extension
from sparse_encoders.ops import (
    deformable_attention,
    extension,
    key_aware_attention,
)

PACKAGE = Path(extension.__file__).parents[1]
CASES = Path(__file__).parents[1]
with_extension = pytest.mark.skipif(bool(needs_extension), reason=needs_extension or "-")


def test_mmcv_agrees():
    for reference in (2, 4):
        inputs = deformable_inputs(reference=reference)
        actual = deformable_attention(*inputs, backend="mmcv")
        expected = deformable_attention(*inputs, backend="torch")
        assert largest_errors([actual], [expected])[0] < 1e-12


def test_without_extension_it_warns_once_and_says_how_to_build(monkeypatch):
    monkeypatch.setattr(extension, "_why_no_extension", extension._HOW_TO_BUILD)
    monkeypatch.setattr(extension, "_warned", set())
    inputs = deformable_inputs()
    with pytest.warns(UserWarning, match=r"plain PyTorch.*build_ext --inplace"):
        actual = deformable_attention(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(actual, deformable_attention(*inputs))
    assert torch.equal(actual, deformable_attention(*inputs, backend="torch"))
    with pytest.raises(ValueError, match=r"'fused' cannot be used here: .*build_ext"):
        deformable_attention(*inputs, backend="fused")


def test_what_the_cpu_kernels_do_not_take_runs_in_pytorch():
    inputs = deformable_inputs(dtype=torch.float16)
    with pytest.raises(ValueError, match=r"'fused' cannot be used here"):
        deformable_attention(*inputs, backend="fused")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert deformable_attention(*inputs).dtype == torch.float16


BAD = [
    ("deformable", 0, lambda x: x.long(), "value must be"),
    ("deformable", 0, lambda x: x[0], "value must be"),
    ("deformable", 0, lambda x: x[:, 1:], "90.*89"),
    ("deformable", 1, lambda x: (), "shapes"),
    ("deformable", 1, lambda x: ((0, 5), *x), "at least 1 x 1"),
    ("deformable", 2, lambda x: x[..., :1], "reference_points must be"),
    ("deformable", 2, lambda x: x[:, 1:], "reference_points must be"),
    ("deformable", 3, lambda x: x[:, :, 1:], "offsets must be"),
    ("deformable", 3, lambda x: x[..., 0], "offsets must be"),
    ("deformable", 4, lambda x: x[:1], "logits must be"),
    ("key_aware", 0, lambda x: x[..., 1:], "query must be"),
    ("key_aware", 0, lambda x: x.float(), "must have one dtype"),
    ("key_aware", 1, lambda x: x[:, 1:], "key must be"),
    ("key_aware", 4, lambda x: x[0], "locations must be"),
]


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize(("name", "index", "change", "text"), BAD)
def test_bad_arguments_are_refused(name, index, change, text, backend):
    """By the compiled operator, and by what checks for plain PyTorch."""
    operator, make = OPERATORS[name]
    inputs = list(make())
    inputs[index] = change(inputs[index])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a dtype that the compiled operator does not take
        with pytest.raises((TypeError, ValueError), match=text):
            operator(*inputs, backend=backend)


def test_devices_are_checked_in_plain_pytorch():
    *inputs, logits = deformable_inputs()
    with pytest.raises(ValueError, match="logits must be on cpu as value, got meta"):
        deformable_attention(*inputs, logits.to("meta"), backend="torch")


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match=r"one of auto, fused, mmcv, torch .*got 'fast'"):
        deformable_attention(*deformable_inputs(), backend="fast")
    with pytest.raises(ValueError, match=r"one of auto, fused, torch .*got 'mmcv'"):
        key_aware_attention(*key_aware_inputs(), backend="mmcv")


# the operators alone: all of the package imports MMDetection, which takes seconds
PROGRAM = f"""
import importlib.machinery, sys, types
package = sys.modules["sparse_encoders"] = types.ModuleType("sparse_encoders")
package.__spec__ = importlib.machinery.ModuleSpec("sparse_encoders", None, is_package=True)
package.__path__ = [{str(PACKAGE)!r}]
import torch
from sparse_encoders.ops import deformable_attention, key_aware_attention
from op_cases import *
print(torch.ops.sparse_encoders.cpu_capability())
for operator, make in OPERATORS.values():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for depth in (32, 37):
            inputs = make(depth=depth, dtype=dtype, points=4)
            wide = [x.double() if torch.is_tensor(x) else x for x in inputs]
            found = with_gradients(operator, inputs, "fused")[:2]
            errors = largest_errors(found, with_gradients(operator, wide, "torch")[:2])
            limit = {{4: 1e-4, 8: 1e-11, 2: 2e-2}}[dtype.itemsize]
            assert max(errors) < limit, (dtype, errors)
"""


@with_extension
@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512", "sse9"])
def test_forced_vectors_agree(capability):
    environment = {**os.environ, "SPARSE_ENCODERS_CPU_CAPABILITY": capability}
    environment["PYTHONPATH"] = str(CASES)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    if capability == "sse9":
        assert "it must be default, avx2 or avx512" in done.stderr
        return
    if "does not run the vectors" in done.stderr:
        pytest.skip(f"this machine does not run {capability}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [capability]


CUDA = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", CUDA)
def test_mmcv_on_cuda_agrees(dtype):
    if not extension.mmcv_has_cuda():
        pytest.skip("MMCV was built without CUDA")
    inputs = deformable_inputs(depth=32, dtype=dtype, device="cuda")
    actual = deformable_attention(*inputs, backend="mmcv")
    expected = deformable_attention(*inputs, backend="torch")
    assert largest_errors([actual], [expected])[0] < (1e-4 if dtype == torch.float32 else 3e-2)
