"""Where the compiled operators find no memory, Python gets an exception and goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from op_cases import needs_extension

ROOT = Path(__file__).parents[2]

# A query with very many points needs more memory for the kernels' working arrays than its tensors
# take. The limit leaves room for results and small things, but not for the arrays.
PROGRAM = """
import resource, torch
from sparse_encoders.ops import deformable_attention, key_aware_attention

def limit_memory(more):
    in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if more is None else in_use + more, most))

def prepare(name, direction, points):
    draw = torch.Generator().manual_seed(0)
    value = torch.randn(1, 12, 4, 8, generator=draw).requires_grad_(direction == "backward")
    locations = torch.rand(1, 1, 4, 1, points, 2, generator=draw)
    logits, reference = locations[..., 0].contiguous(), torch.full((1, 1, 1, 2), 0.5)
    query = torch.randn(1, 1, 4, 8, generator=draw)

    def forward():
        if name == "deformable":
            inputs = value, [(3, 4)], reference, locations, logits
            return deformable_attention(*inputs, backend="fused")
        return key_aware_attention(query, value, value, [(3, 4)], locations, backend="fused")

    if direction == "forward":
        return forward
    output = forward().sum()
    return lambda: torch.autograd.grad(output, value, retain_graph=True)[0]

for threads in (1, 2):
    torch.set_num_threads(threads)
    for name in ("deformable", "key_aware"):
        for direction in ("forward", "backward"):
            few, many = (prepare(name, direction, points) for points in (3, 1 << 20))
            wanted = few()  # the threads and what they need are there before the limit
            limit_memory(96 << 20)
            try:
                many()
            except (MemoryError, RuntimeError) as error:
                print(threads, name, direction, type(error).__name__, error, flush=True)
            limit_memory(None)
            assert torch.equal(few(), wanted)
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(needs_extension), reason=needs_extension or "-")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_python_outlives_a_failed_allocation():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    refused = [line for line in done.stdout.splitlines() if "not enough memory for" in line]
    assert len(refused) == 8, done.stdout
    assert all("sparse_encoders: not enough memory" in line for line in refused), done.stdout
