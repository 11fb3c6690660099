"""Peak memory is what the call's tensors need, whatever the process held before."""

import torch

from sparse_encoders.analysis.memory import MIB, peak_memory


def floats(mib):
    return torch.zeros(mib * MIB // 4)


def small():
    return floats(1) + 1


def large():
    first = floats(8)
    second = first + 1  # 16 MiB are held here
    del first
    return floats(4) + second.sum()


def test_the_peak_is_what_is_held_at_once():
    assert peak_memory(lambda: floats(4)) == 4 * MIB
    assert 16 * MIB <= peak_memory(large) < 16.1 * MIB
    assert 2 * MIB <= peak_memory(small) < 2.1 * MIB


def test_the_order_of_measuring_does_not_matter():
    one_way = [peak_memory(small), peak_memory(large)]
    kept = floats(32)  # nor does what the process holds
    other_way = [peak_memory(large), peak_memory(small)]
    assert one_way == other_way[::-1] and len(kept)


def test_freeing_what_was_there_before_does_not_count():
    held = [floats(8)]

    def call():
        held.clear()
        return floats(2)

    assert peak_memory(call) == 2 * MIB
