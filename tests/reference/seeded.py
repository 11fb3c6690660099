"""Values by name: what a parameter or an input of a reference fixture holds.

Reference fixtures store no weights. Each parameter of the reference model held
a value that follows from its name, its shape and a seed alone, and is made
again here. The stream is PCG64's raw output, which NumPy keeps stable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uniform(name: str, shape: Sequence[int], seed: int) -> NDArray[np.float64]:
    """Float64 values in [0, 1) of ``shape``, fixed by ``seed`` and ``name``."""
    stream = np.random.PCG64(crc32(f"{seed}:{name}".encode()))
    raw = np.asarray(stream.random_raw(int(np.prod(shape, dtype=int))))
    # the upper 53 bits of each 64-bit word fill a float64's mantissa
    return ((raw >> np.uint64(11)) / 2.0**53).reshape(shape)


def seeded(name: str, shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Float32 stand-in for the trained parameter ``name``.

    Each kind of parameter has a range that keeps activations sane: running
    variances [0.5, 1.5), ``alpha`` [-0.3, 0.3), norm scales [0.8, 1.2), sampling
    offsets [-3, 3) pixels (bias) and [-0.02, 0.02) (weight), other biases
    [-0.1, 0.1), other weights the variance 1 / fan_in. Batch counters are int64 0.
    """
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    low, high = _range(name, shape)
    return (low + (high - low) * uniform(name, shape, seed)).astype(np.float32)


def _range(name: str, shape: Sequence[int]) -> tuple[float, float]:
    if name.endswith("running_var"):
        return 0.5, 1.5
    if name.rpartition(".")[2] == "alpha":
        return -0.3, 0.3
    if name.endswith("sampling_offsets.bias"):
        return -3.0, 3.0
    if name.endswith("sampling_offsets.weight"):
        return -0.02, 0.02
    if len(shape) <= 1:
        return (0.8, 1.2) if name.endswith("weight") else (-0.1, 0.1)
    bound = float(np.sqrt(3.0 / np.prod(shape[1:])))
    return -bound, bound


def seeded_state(
    shapes: Mapping[str, Sequence[int]],
    seed: int,
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """A released model's state dict; ``aliases``: a parameter to the one whose value it shares."""
    aliases, state = aliases or {}, {}
    for name, shape in shapes.items():
        values = np.atleast_1d(seeded(aliases.get(name, name), shape, seed))
        state[name] = torch.from_numpy(values).reshape(tuple(shape))
    return state


def seeded_input(
    name: str, shape: Sequence[int], seed: int, low: float = -1.0, high: float = 1.0
) -> Tensor:
    """Float32 input in [low, high)."""
    values = low + (high - low) * uniform(name, shape, seed)
    return torch.from_numpy(values.astype(np.float32))


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with ``prefix``, without it."""
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
