"""The CUDA kernels on the CPU: builds host_driver.cpp and calls it with tensors.

The functions below have the operators' arguments and results; see sparse_encoders/ops.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]
HERE = Path(__file__).resolve().parent
CUDA_SOURCES = HERE.parents[1] / "csrc" / "cuda"
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def find_compiler() -> str | None:
    """A C++ compiler of this machine, or None."""
    return shutil.which("g++") or shutil.which("clang++")


def compile_for_host(source: str, output: Path, *options: str) -> Path:
    """Compile a file of this folder, with the kernels, for the CPU."""
    compiler = find_compiler()
    assert compiler is not None
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command += [f"-I{HERE / 'emulation'}", f"-I{CUDA_SOURCES}", *options]
    done = subprocess.run(
        [*command, "-o", str(output), str(HERE / source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return output


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _numbers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


class HostKernels:
    """Launch functions of csrc/cuda/launch.h over CPU tensors, run by the host emulation."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.find_fault.restype = ctypes.c_char_p
        self.library.count_launches.restype = ctypes.c_longlong
        self.library.compare_locations.restype = ctypes.c_int64
        self.library.compare_locations.argtypes = [ctypes.c_int64]

    def set_descending_lanes(self, descending: bool) -> None:
        """Choose the order in which a warp's lanes run."""
        self.library.set_descending_lanes(int(descending))

    def count_launches(self) -> int:
        """Kernels launched since the library was loaded."""
        return self.library.count_launches()

    def find_fault(self, counts: Sequence[int], shapes: Shapes) -> str | None:
        """What of the sizes the kernels refuse."""
        fault = self.library.find_fault(_numbers(counts), _flat(shapes))
        return None if fault is None else fault.decode()

    def round_trip(self, wide: Tensor, narrow: Tensor, back: Tensor) -> None:
        """Round float32 numbers to the dtype of ``narrow``, and widen them again into ``back``."""
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (wide, narrow, back))
        self.library.round_trip(DTYPES[narrow.dtype], ctypes.c_int64(wide.numel()), *pointers)

    def deformable_attention(
        self, value: Tensor, shapes: Shapes, points: Tensor, offsets: Tensor, logits: Tensor
    ) -> Tensor:
        """As sparse_encoders.ops.deformable_attention."""
        batch, _, heads, channels = value.shape
        queries = offsets.shape[1]
        output = torch.full((batch, queries, heads * channels), torch.nan, dtype=value.dtype)
        counts = (*value.shape, queries, offsets.shape[4], len(shapes))
        inputs = (value, points, offsets, logits)
        assert all(tensor.is_contiguous() for tensor in inputs)
        _check(
            self.library.deformable_forward(
                DTYPES[value.dtype], DTYPES[offsets.dtype], _numbers(counts), _flat(shapes),
                points.shape[-1], _pointers(inputs), ctypes.c_void_p(output.data_ptr()),
            )
        )  # fmt: skip
        return output

    def deformable_attention_backward(
        self, grad: Tensor, value: Tensor, shapes: Shapes, points: Tensor, offsets: Tensor,
        logits: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Gradients of value and reference points (float32), offsets and logits."""
        counts = (*value.shape, offsets.shape[1], offsets.shape[4], len(shapes))
        results = (
            torch.zeros(value.shape), torch.zeros(points.shape),
            torch.full_like(offsets, torch.nan), torch.full_like(logits, torch.nan),
        )  # fmt: skip
        inputs = (value, points, offsets, logits)
        assert all(tensor.is_contiguous() for tensor in (grad, *inputs))
        _check(
            self.library.deformable_backward(
                DTYPES[value.dtype], DTYPES[offsets.dtype], _numbers(counts), _flat(shapes),
                points.shape[-1], _pointers(inputs), ctypes.c_void_p(grad.data_ptr()),
                _pointers(results),
            )
        )  # fmt: skip
        return results

    def key_aware_attention(
        self, query: Tensor, key: Tensor, value: Tensor, shapes: Shapes, locations: Tensor
    ) -> Tensor:
        """As sparse_encoders.ops.key_aware_attention."""
        batch, queries, heads, channels = query.shape
        output = torch.full((batch, queries, heads * channels), torch.nan, dtype=value.dtype)
        _check(
            self.library.key_aware_forward(
                DTYPES[value.dtype], DTYPES[locations.dtype],
                _key_aware_counts(query, value, locations), _flat(shapes),
                _numbers(locations.stride()), _pointers((query, key, value, locations)),
                ctypes.c_void_p(output.data_ptr()),
            )
        )  # fmt: skip
        return output

    def key_aware_attention_backward(
        self, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, shapes: Shapes,
        locations: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Gradients of query, key and value (float32), locations."""
        results = (
            torch.full_like(query, torch.nan), torch.zeros(key.shape), torch.zeros(value.shape),
            torch.full(locations.shape, torch.nan, dtype=locations.dtype),
        )  # fmt: skip
        _check(
            self.library.key_aware_backward(
                DTYPES[value.dtype], DTYPES[locations.dtype],
                _key_aware_counts(query, value, locations), _flat(shapes),
                _numbers(locations.stride()), _pointers((query, key, value, locations)),
                ctypes.c_void_p(grad.data_ptr()), _pointers(results),
            )
        )  # fmt: skip
        return results


def _key_aware_counts(
    query: Tensor, value: Tensor, locations: Tensor
) -> ctypes.Array[ctypes.c_int64]:
    batch, queries, heads, channels = query.shape
    levels, points = locations.shape[3:5]
    return _numbers((batch, value.shape[1], heads, channels, queries, points, levels))


def _flat(shapes: Shapes) -> ctypes.Array[ctypes.c_int64]:
    return _numbers([side for shape in shapes for side in shape])


def _check(error: int) -> None:
    if error:
        raise RuntimeError(f"the launcher answered with CUDA error {error}")
