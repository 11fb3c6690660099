"""Deformable DETR: MMDetection's numbers, Sparse DETR's variant, small images."""

from __future__ import annotations

import copy

import pytest
import torch

from tiny import NUM_CLASSES, build, deformable_config, our_deformable, samples, total

HW = (96, 128)
SHAPES = {"same size": [HW, HW], "padded": [HW, (70, 100)]}
EFFICIENT = dict(efficient_query_init=True, class_specific_first_stage=True)


@pytest.fixture(scope="module", params=["one-stage", "refine", "two-stage"])
def pair(request):
    theirs = build(deformable_config(request.param))
    ours = build(our_deformable(request.param, attention_backend="mmcv"))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_dense_is_mmdetections_bit_for_bit(pair, shapes):
    images, batch = torch.randn(2, 3, *HW), samples(shapes, HW, (3, 0))
    actual = []
    for model in pair:
        model.eval()
        with torch.no_grad():
            predicted = model(images, copy.deepcopy(batch), mode="predict")
        torch.manual_seed(1)  # dropout
        losses = model.train()(images, copy.deepcopy(batch), mode="loss")
        actual.append((predicted, losses))
    (theirs, their_losses), (ours, our_losses) = actual
    for a, b in zip(theirs, ours, strict=True):
        for field in ("scores", "bboxes", "labels"):
            assert torch.equal(a.pred_instances[field], b.pred_instances[field])
    assert their_losses.keys() == our_losses.keys()
    for name, value in their_losses.items():
        assert torch.equal(value, our_losses[name]), name


@pytest.fixture(scope="module")
def sparse():
    """Sparse DETR: two-stage, efficient query init, class-specific first stage."""
    return build(our_deformable("two-stage", encoder=dict(type="SparseDETREncoder"), **EFFICIENT))


def test_sparse_detr_trains_every_parameter(sparse):
    losses = sparse.train()(
        torch.randn(2, 3, *HW), samples(SHAPES["padded"], HW, (3, 0)), mode="loss"
    )
    assert {"loss_decoder_attention", "enc0.loss_cls", "enc_loss_cls", "d0.loss_bbox"} < set(losses)
    total(losses).backward()
    unused = [n for n, p in sparse.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    assert all(p.grad.isfinite().all() for p in sparse.parameters() if p.grad is not None)
    sparse.zero_grad()


@pytest.mark.parametrize("hw", [(32, 32), (33, 47)])
def test_images_with_fewer_tokens_than_queries(sparse, hw):
    batch = samples([hw], hw, (1,))
    with torch.no_grad():
        (actual,) = sparse.eval()(torch.randn(1, 3, *hw), batch, mode="predict")
    assert actual.pred_instances.scores.isfinite().all()
    losses = sparse.train()(torch.randn(1, 3, *hw), batch, mode="loss")
    assert total(losses).isfinite()


def test_class_specific_first_stage_learns_the_classes(sparse):
    """The loss of the first stage changes with the labels; Deformable DETR's does not."""
    plain = build(our_deformable("two-stage"))
    images, batch = torch.randn(1, 3, *HW), samples([HW], HW, (4,))
    other = copy.deepcopy(batch)
    other[0].gt_instances.labels = (other[0].gt_instances.labels + 1) % NUM_CLASSES
    for model, differs in ((sparse, True), (plain, False)):
        actual = []
        for given in (batch, other):
            torch.manual_seed(1)  # dropout
            losses = model.train()(images, copy.deepcopy(given), mode="loss")
            actual.append(losses["enc_loss_cls"])
        assert (actual[0] != actual[1]) == differs


def test_efficient_query_init_takes_content_from_the_memory(sparse):
    seen = {}
    handle = sparse.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        sparse.eval()(torch.randn(1, 3, *HW), samples([HW], HW, (1,)), mode="predict")
    handle.remove()
    memory, query = seen["value"][0], seen["query"][0]
    assert all((memory == content).all(1).any() for content in query[:10])


@pytest.mark.parametrize("option", EFFICIENT)
def test_options_need_two_stages(option):
    with pytest.raises(ValueError, match=rf"model\.{option}=True needs model\.as_two_stage=True"):
        build(our_deformable("one-stage", **{option: True}))


@pytest.mark.parametrize("kind", ["one-stage", "two-stage"])
def test_focus_selection(kind):
    """The selector has a projection of its own where the detector has no first stage."""
    model = build(our_deformable(kind, encoder=dict(type="DualAttentionEncoder"))).train()
    assert (model.encoder.selector.projection is None) == (kind == "two-stage")
    parts, branches = model.detector_parts(), model.bbox_head.cls_branches
    last = model.decoder.num_layers
    expected = [branches[last]] * 9 if kind == "two-stage" else [*branches, *[branches[-1]] * 7]
    assert all(parts.category_head(i) is expected[i] for i in range(9))
    losses = model(torch.randn(2, 3, *HW), samples(SHAPES["padded"], HW, (3, 0)), mode="loss")
    total(losses).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
