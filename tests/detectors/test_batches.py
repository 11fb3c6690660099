"""Sizes and annotations of MMDetection's data samples."""

import pytest
import torch

from sparse_encoders.detectors.batches import annotations_of, sizes_of
from tiny import samples


def test_annotations_are_scaled_like_their_image():
    (sample,) = samples([(50, 80)], (64, 96), boxes=(2,))
    original = sample.gt_instances.bboxes
    sample.set_metainfo(dict(scale_factor=(0.5, 2.0)))
    (boxes,) = annotations_of([sample]).boxes
    assert torch.equal(boxes, original * torch.tensor([0.5, 2.0, 0.5, 2.0]))
    assert sizes_of([sample]) == ((64, 96), [(50, 80)])
    del sample.gt_instances
    with pytest.raises(ValueError, match="keep LoadAnnotations in the test pipeline"):
        annotations_of([sample])
    with pytest.raises(ValueError, match="needs data samples"):
        sizes_of(None)
