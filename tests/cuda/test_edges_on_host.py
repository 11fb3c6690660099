"""The CUDA kernels' own source, run on the CPU: awkward locations, sizes and addresses."""

from __future__ import annotations

import subprocess

import host_kernels
import pytest
import torch
from cuda_cases import (
    assert_same,
    check,
    deformable_inputs,
    key_aware_inputs,
    plain_deformable,
    plain_key_aware,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("awkward", [torch.nan, torch.inf, -torch.inf, 1e30, -3e9, 2.0**31])
def test_far_and_non_finite_locations_sample_zeros_and_get_no_gradient(kernels, awkward):
    def harmless(tensor):
        return torch.where(tensor == tensor.clamp(-100, 100), tensor, 1e6)

    value, points, offsets, logits = inputs = deformable_inputs(coordinates=4)
    offsets[:, ::3, :, 1, 2, 0] = awkward
    offsets[:, 1::3, :, 2, 0, 1] = awkward
    far = [value, points, harmless(offsets), logits]
    results = check(kernels.deformable_attention, plain_deformable, inputs, plain_inputs=far)
    assert not results[3][:, ::3, :, 1, 2].any()

    *features, locations = inputs = key_aware_inputs()
    locations[:, ::3, :, 1, 2, 0] = awkward
    far = [*features, harmless(locations)]
    check(kernels.key_aware_attention, plain_key_aware, inputs, plain_inputs=far)


def test_sharp_and_broken_weights(kernels):
    """Logits of +-1e4 do not overflow; a NaN logit spoils its own query and head only."""
    value, points, offsets, logits = inputs = deformable_inputs()
    logits *= 5000
    (got,) = kernels.deformable_attention(inputs)
    assert_same([got], [plain_deformable(value.double(), points, offsets, logits)])
    logits[0, 5, 1, 2, 3] = torch.nan
    (broken,) = kernels.deformable_attention(inputs)
    spoilt = broken.isnan()
    assert spoilt[0, 5, 32:64].all() and spoilt.sum() == 32
    assert torch.equal(broken[~spoilt], got[~spoilt])

    query, key, value, locations = key_aware_inputs()
    below = [-200 * query.abs() - 200, key.abs() + 1, value, locations.clamp(0.3, 0.7)]
    for inputs, close in (
        ([query * 1000, key, value, locations], 1e-4),  # scores of some thousands keep 3 decimals
        (below, 1e-3),  # all scores far below zero
    ):
        expected = plain_key_aware(*(tensor.double() for tensor in inputs[:3]), inputs[3])
        assert_same(kernels.key_aware_attention(inputs), [expected], close)


def test_tensors_off_a_16_byte_boundary(kernels):
    """A contiguous view may start anywhere: one element at a time then, same numbers."""
    value, *others = inputs = deformable_inputs()
    shifted = torch.cat([torch.zeros(1), value.flatten()])[1:].view_as(value)
    assert shifted.is_contiguous() and shifted.data_ptr() % 16 != 0
    got = kernels.deformable_attention([shifted, *others])
    assert_same(got, kernels.deformable_attention(inputs))


def test_nothing_to_do_launches_nothing(kernels):
    before = kernels.library.count_launches()
    for sizes in ({"queries": 0}, {"batch": 0}, {"heads": 0}, {"channels": 0}):
        inputs = deformable_inputs(**sizes)
        (output,) = kernels.deformable_attention(inputs)
        _, grad_value, *_ = kernels.deformable_attention(inputs, output)
        assert output.numel() == 0 and not grad_value.any()
    assert kernels.library.count_launches() == before


def test_maps_without_tokens_give_zeros(kernels):
    shapes = ((0, 5), (3, 0))
    inputs = deformable_inputs(shapes=shapes)
    assert inputs[0].shape[1] == 0
    results = kernels.deformable_attention(inputs, torch.zeros(2, 37, 96), shapes)
    assert not any(result.any() for result in results)


@pytest.mark.parametrize(
    ("counts", "shapes", "fault"),
    [
        ((1, 17, 1, 8, 1, 1, 17), [(1, 1)] * 17, "1 to 16 levels"),
        ((1, 0, 1, 8, 1, 1, 0), [], "1 to 16 levels"),
        ((1, 4, 1, 8, 1, 1001, 1), [(2, 2)], "at most 1000 sampling locations"),
        ((1, 4, 1, 8, 1, 0, 1), [(2, 2)], "at least one point"),
        ((1, 5, 1, 8, 1, 4, 1), [(2, 2)], "add up to the number of tokens"),
        ((1, 4, 1, 8, 1, 4, 1), [(-2, -2)], "negative side"),
        ((1, 4, 1, 8, 1, 4, 1), [(2**24, 2)], "more than 2^24 tokens"),
        ((1, 0, 1, 8, 1, 4, 1), [(2**40, 0)], "more than 2^24 tokens"),
        ((1, 4, 1, 8, 2**31, 4, 1), [(2, 2)], "less than 2^31"),
    ],
)
def test_limits_are_checked_before_the_launch(kernels, counts, shapes, fault):
    assert fault in kernels.find_fault(counts, shapes)


def test_accepted_sizes_have_no_fault(kernels):
    assert kernels.find_fault((2, 4, 8, 32, 100, 1000, 1), [(2, 2)]) is None
    assert kernels.find_fault((2, 16, 8, 32, 0, 62, 16), [(1, 1)] * 16) is None


def test_no_wild_reads_or_writes(build_folder):
    """Random sizes and locations under the address and undefined-behaviour sanitizers."""
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    plain = build_folder / "probe.cpp"
    plain.write_text("int main() { return 0; }\n")
    probe = [host_kernels.find_compiler(), *flags, str(plain), "-o", str(build_folder / "probe")]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this compiler has no address and undefined-behaviour sanitizers")
    options = ("-O0", "-g1", *flags)
    program = host_kernels.compile_for_host("fuzz_driver.cpp", build_folder / "fuzz", *options)
    done = subprocess.run([program, "15"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "15 rounds" in done.stdout
