"""The CUDA kernels' own source, run on the CPU: awkward locations, sizes and addresses."""

from __future__ import annotations

import subprocess

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


@pytest.mark.parametrize("awkward", [torch.nan, torch.inf, -torch.inf, 1e30, -3e9, 2.0**31])
def test_far_and_non_finite_locations_sample_zeros_and_get_no_gradient(kernels, awkward):
    value, points, offsets, logits = deformable_inputs(coordinates=4)
    offsets[:, ::3, :, 1, 2, 0] = awkward
    offsets[:, 1::3, :, 2, 0, 1] = awkward
    grad = torch.randn(2, 37, 96)
    output = kernels.deformable_attention(value, SHAPES, points, offsets, logits)
    grads = kernels.deformable_attention_backward(grad, value, SHAPES, points, offsets, logits)
    harmless = torch.where(offsets == offsets.clamp(-100, 100), offsets, 1e6)
    expected = truth(plain_deformable, [value, points, harmless, logits], grad)
    assert_same([output, *grads], expected)
    assert not grads[2][:, ::3, :, 1, 2].any()

    query, key, value, locations = key_aware_inputs()
    locations[:, ::3, :, 1, 2, 0] = awkward
    output = kernels.key_aware_attention(query, key, value, SHAPES, locations)
    grads = kernels.key_aware_attention_backward(grad, query, key, value, SHAPES, locations)
    harmless = torch.where(locations == locations.clamp(-100, 100), locations, 1e6)
    expected = truth(plain_key_aware, [query, key, value, harmless], grad)
    assert_same([output, *grads], expected)


def test_sharp_and_broken_weights(kernels):
    """Logits of +-1e4 do not overflow; a NaN logit spoils its own query and head only."""
    value, points, offsets, logits = deformable_inputs()
    logits *= 5000
    got = kernels.deformable_attention(value, SHAPES, points, offsets, logits)
    assert_same([got], [plain_deformable(value.double(), points, offsets, logits)])
    logits[0, 5, 1, 2, 3] = torch.nan
    broken = kernels.deformable_attention(value, SHAPES, points, offsets, logits)
    spoilt = broken.isnan()
    assert spoilt[0, 5, 32:64].all() and spoilt.sum() == 32
    assert torch.equal(broken[~spoilt], got[~spoilt])

    query, key, value, locations = key_aware_inputs()
    got = kernels.key_aware_attention(query * 1000, key, value, SHAPES, locations)
    expected = plain_key_aware(query.double() * 1000, key.double(), value.double(), locations)
    assert_same([got], [expected], close=1e-4)  # scores of some thousands keep 3 decimals

    query, key, locations = -200 * query.abs() - 200, key.abs() + 1, locations.clamp(0.3, 0.7)
    got = kernels.key_aware_attention(query, key, value, SHAPES, locations)
    expected = plain_key_aware(query.double(), key.double(), value.double(), locations)
    assert_same([got], [expected], close=1e-3)  # all scores far below zero


def test_tensors_off_a_16_byte_boundary(kernels):
    """A contiguous view may start anywhere: one element at a time then, same numbers."""
    value, *others = deformable_inputs()
    shifted = torch.cat([torch.zeros(1), value.flatten()])[1:].view_as(value)
    assert shifted.is_contiguous() and shifted.data_ptr() % 16 != 0
    got = kernels.deformable_attention(shifted, SHAPES, *others)
    assert_same([got], [kernels.deformable_attention(value, SHAPES, *others)])


def test_nothing_to_do_launches_nothing(kernels):
    before = kernels.count_launches()
    for sizes in ({"queries": 0}, {"batch": 0}, {"heads": 0}, {"channels": 0}):
        value, *others = deformable_inputs(**sizes)
        output = kernels.deformable_attention(value, SHAPES, *others)
        grads = kernels.deformable_attention_backward(output, value, SHAPES, *others)
        assert output.numel() == 0 and not grads[0].any()
    assert kernels.count_launches() == before


def test_maps_without_tokens_give_zeros(kernels):
    shapes = ((0, 5), (3, 0))
    value, *others = deformable_inputs(shapes=shapes)
    assert value.shape[1] == 0
    output = kernels.deformable_attention(value, shapes, *others)
    grads = kernels.deformable_attention_backward(output, value, shapes, *others)
    assert not output.any() and not any(grad.any() for grad in grads)


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
    if host_kernels.find_compiler() is None:
        pytest.skip("no C++ compiler (g++ or clang++) was found")
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
