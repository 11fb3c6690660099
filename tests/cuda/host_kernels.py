"""The CUDA kernels on the CPU: builds host_driver.cpp and calls it with tensors.

Inputs, and the levels' shapes where none are given, are those of cuda_cases.py.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from cuda_cases import SHAPES, Shapes
from torch import Tensor

HERE = Path(__file__).resolve().parent
CUDA_SOURCES = HERE.parents[1] / "csrc" / "cuda"
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def find_compiler() -> str:
    """A C++ compiler of this machine; the test is skipped if there is none."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    return compiler or pytest.skip("no C++ compiler (g++ or clang++) was found")


def compile_for_host(source: str, output: Path, *options: str) -> Path:
    """Compile a file of this folder, with the kernels, for the CPU."""
    command = [find_compiler(), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
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

    def find_fault(self, counts: Sequence[int], shapes: Shapes) -> str | None:
        """What of the sizes the kernels refuse."""
        fault = self.library.find_fault(_numbers(counts), _flat(shapes))
        return None if fault is None else fault.decode()

    def round_trip(self, wide: Tensor, narrow: Tensor, back: Tensor) -> None:
        """Round float32 numbers to the dtype of ``narrow``, and widen them again into ``back``."""
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (wide, narrow, back))
        self.library.round_trip(DTYPES[narrow.dtype], ctypes.c_int64(wide.numel()), *pointers)

    def deformable_attention(
        self, inputs: Sequence[Tensor], grad: Tensor | None = None, shapes: Shapes = SHAPES
    ) -> list[Tensor]:
        """Output of sparse_encoders.ops.deformable_attention and, with its gradient, the inputs'.

        The gradients of value and reference points are float32.
        """
        value, points, offsets, logits = inputs
        batch, _, heads, channels = value.shape
        queries = offsets.shape[1]
        assert all(tensor.is_contiguous() for tensor in inputs)
        arguments = (
            DTYPES[value.dtype], DTYPES[offsets.dtype],
            _numbers((*value.shape, queries, offsets.shape[4], len(shapes))), _flat(shapes),
            points.shape[-1], _pointers(inputs),
        )  # fmt: skip
        output = torch.full((batch, queries, heads * channels), torch.nan, dtype=value.dtype)
        _check(self.library.deformable_forward(*arguments, ctypes.c_void_p(output.data_ptr())))
        if grad is None:
            return [output]
        grads = [
            torch.zeros(value.shape), torch.zeros(points.shape),
            torch.full_like(offsets, torch.nan), torch.full_like(logits, torch.nan),
        ]  # fmt: skip
        grad_pointer = ctypes.c_void_p(grad.data_ptr())
        _check(self.library.deformable_backward(*arguments, grad_pointer, _pointers(grads)))
        return [output, *grads]

    def key_aware_attention(
        self, inputs: Sequence[Tensor], grad: Tensor | None = None
    ) -> list[Tensor]:
        """Output of sparse_encoders.ops.key_aware_attention and, with its gradient, the inputs'.

        The gradients of key and value are float32.
        """
        query, key, value, locations = inputs
        batch, queries, heads, channels = query.shape
        levels, points = locations.shape[3:5]
        counts = (batch, value.shape[1], heads, channels, queries, points, levels)
        arguments = (
            DTYPES[value.dtype], DTYPES[locations.dtype], _numbers(counts), _flat(SHAPES),
            _numbers(locations.stride()), _pointers(inputs),
        )  # fmt: skip
        output = torch.full((batch, queries, heads * channels), torch.nan, dtype=value.dtype)
        _check(self.library.key_aware_forward(*arguments, ctypes.c_void_p(output.data_ptr())))
        if grad is None:
            return [output]
        grads = [
            torch.full_like(query, torch.nan), torch.zeros(key.shape), torch.zeros(value.shape),
            torch.full(locations.shape, torch.nan, dtype=locations.dtype),
        ]  # fmt: skip
        grad_pointer = ctypes.c_void_p(grad.data_ptr())
        _check(self.library.key_aware_backward(*arguments, grad_pointer, _pointers(grads)))
        return [output, *grads]


def _flat(shapes: Shapes) -> ctypes.Array[ctypes.c_int64]:
    return _numbers([side for shape in shapes for side in shape])


def _check(error: int) -> None:
    if error:
        raise RuntimeError(f"the launcher answered with CUDA error {error}")
