"""Batches of one image shape: nothing lost, nothing padded."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import DATA_SAMPLERS
from torch.utils.data import SequentialSampler

from sparse_encoders.datasets import SameShapeBatchSampler


class Images(list):
    """A data set of (width, height) pairs."""

    def get_data_info(self, index):
        return dict(zip(("width", "height"), self[index], strict=True))


class Sampler(SequentialSampler):
    def __init__(self, shapes):
        super().__init__(Images(shapes))
        self.dataset = self.data_source


SHAPES = st.lists(st.sampled_from([(16, 12), (12, 16), (16, 16)]), min_size=1, max_size=40)


@given(SHAPES, st.integers(1, 5))
def test_every_image_once_and_mixed_batches_only_at_the_end(shapes, size):
    sampler = SameShapeBatchSampler(Sampler(shapes), size)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(shapes)))
    assert len(batches) == len(sampler) == -(-len(shapes) // size)
    assert all(len(batch) == size for batch in batches[:-1])
    whole = sum(count // size for count in Counter(shapes).values())
    assert all(len({shapes[i] for i in batch}) == 1 for batch in batches[:whole])
    assert list(sampler) == batches  # nothing is carried into the next epoch
    dropping = SameShapeBatchSampler(Sampler(shapes), size, drop_last=True)
    assert list(dropping) == [batch for batch in batches if len(batch) == size]
    assert len(dropping) == len(shapes) // size


def test_order_is_the_samplers():
    shapes = [(8, 8), (8, 4), (8, 4), (8, 8), (4, 8), (4, 8)]
    sampler = SameShapeBatchSampler(Sampler(shapes), 2)
    assert list(sampler) == [[1, 2], [0, 3], [4, 5]]


def test_configs_name_it():
    built = DATA_SAMPLERS.build(
        dict(type="SameShapeBatchSampler"),
        default_args=dict(sampler=Sampler([(8, 8)]), batch_size=2),
    )
    assert isinstance(built, SameShapeBatchSampler)
    with pytest.raises(ValueError, match="batch_size"):
        SameShapeBatchSampler(Sampler([(8, 8)]), 0)
