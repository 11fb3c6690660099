"""Sparse DETR's variant of Deformable DETR, and what a detector lends to its selector."""

from __future__ import annotations

import copy

import pytest
import torch

from tiny import NUM_CLASSES, batch, build
from tiny_detectors import ENCODERS, SPARSE_DETR, detector_config

TWO_STAGE = "two-stage DeformableDETR"


@pytest.fixture(scope="module")
def sparse():
    return build(detector_config(SPARSE_DETR, ENCODERS["sparse"]))


def test_class_specific_first_stage_learns_the_classes(sparse):
    """The loss of the first stage changes with the labels; Deformable DETR's does not."""
    plain, given = build(detector_config(TWO_STAGE)), batch((4,))
    other = copy.deepcopy(given)
    instances = other["data_samples"][0].gt_instances
    instances.labels = (instances.labels + 1) % NUM_CLASSES
    for model, differs in ((sparse, True), (plain, False)):
        actual = []
        for each in (given, other):
            torch.manual_seed(1)  # dropout
            actual.append(model.train()(**copy.deepcopy(each), mode="loss")["enc_loss_cls"])
        assert (actual[0] != actual[1]) == differs


def test_efficient_query_init_takes_content_from_the_memory(sparse):
    given = batch((1,))
    with torch.no_grad():
        encoded = sparse.eval().encode(sparse.extract_feat(given["inputs"]), (64, 96))
        content = sparse.prepare_queries(encoded).content[0]
    assert all((encoded.memory[0] == query).all(1).any() for query in content[:10])


@pytest.mark.parametrize("kind", ["DeformableDETR", TWO_STAGE])
def test_what_is_lent_to_the_selector(kind):
    """The selector has a projection of its own where the detector has no first stage."""
    model = build(detector_config(kind, ENCODERS["focus"]))
    assert (model.encoder.selector.projection is None) == (kind == TWO_STAGE)
    parts, branches = model.detector_parts(), model.bbox_head.cls_branches
    last = model.decoder.num_layers
    expected = [branches[last]] * 9 if kind == TWO_STAGE else [*branches, *[branches[-1]] * 7]
    assert all(parts.category_head(i) is expected[i] for i in range(9))
