"""The counter against hand counts, against a real run, between backends, and its bad input."""

import copy
import json
from contextlib import nullcontext

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from quick import pairs
from sparse_encoders.analysis.complexity import PARTS, Part, count_complexity, model_of_config
from sparse_encoders.analysis.complexity import counter as counter_module
from sparse_encoders.analysis.complexity.formulas import FORMULAS
from sparse_encoders.analysis.inputs import random_batch
from sparse_encoders.ops import deformable_attention, has_extension, key_aware_attention
from tiny import ours
from tiny_detectors import DETECTORS, detector_config

SIZE = (96, 140)
SHAPES = ((12, 18), (6, 9), (3, 5), (2, 3))  # of SIZE at strides 8, 16, 32 and 64
N = sum(h * w for h, w in SHAPES)
C, HIDDEN, LAYERS, QUERIES, CLASSES = 256, 64, 2, 80, 5
HEADS, POINTS = 8, 4 * 4  # levels times points
FOCUS = dict(type="DualAttentionEncoder", selector=dict(type="FocusTokenSelector", keep_ratio=0.4))
LITE = dict(type="LiteDETREncoder", blocks=1, small_low_level_ffn=True)
HYBRID = dict(type="HybridEncoder")
ENCODERS = {"dense": {}, "focus": FOCUS, "lite": LITE, "hybrid": HYBRID}


def build(config):
    """The detector, with whatever weights."""
    return MODELS.build(copy.deepcopy(config))


def counted(config, size=SIZE, **settings):
    return count_complexity(build(config), size, **settings)


def madds_of(complexity):
    return {name: part.madds for name, part in complexity.parts.items()}


def deformable_layers(queries: int) -> dict[str, int]:
    """Multiply-adds of all layers' deformable attention and FFN on so many queries."""
    return {
        "encoder.values": LAYERS * N * C * C,
        "encoder.sampling": LAYERS * queries * POINTS * C * 5,
        # locations (x, y), weights, output
        "encoder.attention": LAYERS * queries * C * (3 * HEADS * POINTS + C),
        "encoder.ffn": LAYERS * queries * 2 * C * HIDDEN,
    }


def test_dense_by_hand():
    dense = counted(ours())
    actual = madds_of(dense)
    assert actual.items() >= deformable_layers(N).items()
    assert actual["encoder.other"] == actual["encoder.selector"] == 0
    assert actual["first_stage.projection"] == N * C * C
    box = 2 * C * C + 4 * C
    assert actual["first_stage.heads"] == N * (CLASSES * C + box)
    assert actual["head"] == LAYERS * QUERIES * (CLASSES * C + box)
    per_query = (
        4 * C * C + 2 * QUERIES * C  # self-attention
        + C * (3 * HEADS * POINTS + C) + POINTS * C * 5  # cross-attention
        + 2 * C * HIDDEN
        + 3 * C * C  # position of the query: 2 C to C, C to C
    )  # fmt: skip
    refinement = box  # of the boxes, by every layer
    assert actual["decoder"] == LAYERS * (QUERIES * (per_query + refinement) + N * C * C)
    # a convolution to C channels at each of four levels, of 128, 256, 512 and (3 x 3) 512
    neck = sum(h * w * i for (h, w), i in zip(SHAPES, (128, 256, 512, 9 * 512), strict=True))
    assert actual["neck"] == neck * C
    assert dense.parts["neck"].parameters == (128 + 256 + 512 + 9 * 512) * C + 8 * C
    assert dense.parts["encoder.ffn"].parameters == LAYERS * (2 * C * HIDDEN + C + HIDDEN)
    bare = counted(ours(encoder=dict(type="NoEncoder")))
    assert bare.group("encoder") == Part()
    assert bare.madds == dense.madds - dense.group("encoder").madds


def test_sparse_by_hand():
    sparse = counted(ours(encoder=dict(type="SparseDETREncoder")))
    actual = madds_of(sparse)
    kept = int(N * 0.3) + 1
    assert actual.items() >= deformable_layers(kept).items()
    # the mean's half of the second layer runs once
    mlp = N * (C * C + C // 2 * C // 2 + C // 2 * C // 4 + C // 4) + C // 2 * C // 2
    assert actual["encoder.selector"] == mlp + N * C * C
    assert actual["encoder.auxiliary"] == 0 < sparse.parts["encoder.auxiliary"].parameters
    with_heads = counted(ours(encoder=dict(type="SparseDETREncoder")), auxiliary_heads=True)
    expected = (LAYERS - 1) * kept * C * (CLASSES + 2 * C + 4)
    assert with_heads.parts["encoder.auxiliary"].madds == expected
    assert with_heads.madds == sparse.madds + expected


def test_focus_by_hand():
    actual = madds_of(counted(ours(encoder=dict(FOCUS, selector=dict(keep_ratio=[0.4, 0.2])))))
    kept = [int(N * 0.4) + 1, (int(N * 0.4) + 1) // 2]
    assert actual["encoder.ffn"] == sum(kept) * 2 * C * HIDDEN
    # category scores of the kept tokens, and attention among them (fewer than 300)
    expected = sum(k * C * CLASSES + 4 * k * C * C + 2 * k * k * C for k in kept)
    assert actual["encoder.dual_attention"] == expected


def test_lite_by_hand():
    actual = madds_of(counted(ours(encoder=dict(LITE, attention="key_aware"))))
    low = SHAPES[0][0] * SHAPES[0][1]
    queries = N - low + N  # the high levels, then all
    assert actual["encoder.ffn"] == 2 * C * (HIDDEN * 2 * (N - low) + C * low)
    assert actual["encoder.sampling"] == queries * POINTS * C * 10
    # locations on one level's worth of points, query projection, output projection
    assert actual["encoder.attention"] == queries * C * (2 * HEADS * 4 + 2 * C)


def test_hybrid_by_hand():
    hybrid = dict(HYBRID, feedforward_channels=HIDDEN, expansion=0.5)
    actual = madds_of(counted(ours(encoder=hybrid)))
    sizes = [h * w for h, w in SHAPES]
    coarsest, wide = sizes[-1], C // 2
    assert actual["encoder.attention"] == 4 * coarsest * C * C + 2 * coarsest * coarsest * C
    assert actual["encoder.ffn"] == 2 * coarsest * C * HIDDEN
    # two 1 x 1 from 2 C, three blocks of 3 x 3 beside 1 x 1, 1 x 1 to C: down to all levels but
    # the coarsest, up to all but the finest
    block = 2 * 2 * C * wide + 3 * (9 + 1) * wide * wide + wide * C
    expected = (sum(sizes[:-1]) + sum(sizes[1:])) * block
    expected += sum(sizes[1:]) * (C * C + 9 * C * C)  # laterals, and convolutions of stride 2
    assert actual["encoder.convolutions"] == expected
    assert actual["encoder.values"] == actual["encoder.sampling"] == 0


@pytest.mark.parametrize(
    ("detector", "encoder"),
    pairs(DETECTORS, ENCODERS, quick=("DeformableDETR", "DINO"), each="focus"),
)
def test_sums_and_a_real_run(detector, encoder, monkeypatch):
    """Parts sum up to what torch's counter finds when everything really runs."""
    model = build(detector_config(detector, ENCODERS[encoder]))
    actual = count_complexity(model, (64, 100))
    assert list(actual.parts) == list(PARTS) and model.training
    model.requires_grad_(False)  # torch's counter hooks what has a gradient
    assert actual.parts["other"].madds == actual.parts["encoder.other"].madds == 0
    assert actual.parameters == sum(p.numel() for p in model.parameters())
    assert sum((p for p in actual.parts.values()), Part()) == actual.total
    model.eval()
    real = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with torch.no_grad(), real:
        model(*random_batch((64, 100), "cpu", boxes=0), mode="tensor")
    assert actual.madds * 2 == real.get_total_flops() > 0
    monkeypatch.setattr(counter_module, "ShapesOnly", nullcontext)
    assert count_complexity(model, (64, 100)) == actual


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["plain", "key_aware"])
def test_backends_agree(attention):
    lite = dict(LITE, attention=attention)
    model = build(detector_config("DINO", lite, decoder_attention=attention))
    modules = [module for module in model.modules() if hasattr(module, "backend")]
    assert len(modules) == 4
    counts = []
    for backend in ("auto", "torch", *(["mmcv"] if attention == "plain" else [])):
        for module in modules:
            module.backend = backend
        counts.append(count_complexity(model, (64, 100)))
    assert all(count == counts[0] for count in counts)


@pytest.mark.skipif(not has_extension(), reason="needs the compiled operators")
def test_any_flop_counter_knows_the_operators():
    value, query = torch.randn(2, 20, 4, 8), torch.randn(2, 3, 4, 8)
    points = torch.rand(2, 3, 2, 2)
    offsets, logits = torch.randn(2, 3, 4, 2, 5, 2), torch.randn(2, 3, 4, 2, 5)
    levels = ((4, 4), (2, 2))
    with FlopCounterMode(display=False) as counter:
        deformable_attention(value, levels, points, offsets, logits, backend="fused")
    sampled = 2 * 3 * 4 * (2 * 5) * 8
    assert counter.get_total_flops() == 2 * 5 * sampled
    with FlopCounterMode(display=False) as counter:
        key_aware_attention(query, value, value, levels, offsets, backend="fused")
    assert counter.get_total_flops() == 2 * 10 * sampled


def test_attention_of_a_backbone_counts():
    q = torch.randn(2, 4, 6, 8)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        F.scaled_dot_product_attention(q, q, q)
    assert counter.get_total_flops() == 2 * (2 * 4 * 6 * 6 * 8) * 2


def test_mmdetections_own_detector_counts_the_same():
    config = detector_config("DeformableDETR")  # the DINO of MMDetection's fork is another one
    expected = counted(config)
    config.type = "DeformableDETR"
    assert counted(config).parts == expected.parts


@pytest.mark.slow
def test_padding():
    config = ours("two-stage")
    config.data_preprocessor.pad_size_divisor = 64
    padded = counted(config, (90, 100))
    assert padded.image_hw == (90, 100) and padded.padded_hw == (128, 128)
    config.data_preprocessor.pad_size_divisor = 1
    assert padded.parts == counted(config, (128, 128)).parts
    # a selector keeps a share of what is not padding
    config = ours(encoder=dict(type="SparseDETREncoder"))
    config.data_preprocessor.pad_size_divisor = 64
    part, whole = counted(config, (65, 65)), counted(config, (128, 128))
    assert part.parts["backbone"] == whole.parts["backbone"]
    assert part.parts["encoder.ffn"].madds < 0.6 * whole.parts["encoder.ffn"].madds


def test_smallest_image_and_records():
    actual = counted(detector_config("DINO", dict(type="SparseDETREncoder")), (1, 1))
    record = json.loads(json.dumps(actual.as_record()))
    groups, parts = record["groups"], record["parts"]
    assert record["total"]["madds"] == sum(part["madds"] for part in parts.values()) > 0
    assert record["image_hw"] == [1, 1]
    selector = parts["encoder.selector"]["parameters"]
    without = groups["encoder without selector"]["parameters"]
    assert groups["encoder"]["parameters"] - without == selector > 0
    heads = ("decoder", "head", "first_stage.heads")
    assert groups["decoder with heads"]["madds"] == sum(parts[name]["madds"] for name in heads)
    assert actual.group("encoder").parameters == sum(
        p.parameters for n, p in actual.parts.items() if n.startswith("encoder.")
    )
    assert "| total |" in actual.as_table() and "encoder.dual_attention" not in actual.as_table()
    with pytest.raises(ValueError, match=r"part must be one of backbone.*got 'enc'"):
        actual.group("enc")


def test_bad_size_and_other_models():
    model = build(ours())
    for size in ((0, 5), (5, -1), (5,), (5, 6, 7), 800, ("8", 9), (8.0, 9), None):
        with pytest.raises(ValueError, match="two integers above 0, got"):
            count_complexity(model, size)
    with pytest.raises(TypeError, match=r"must be a DETR detector of MMDetection.*got Linear"):
        count_complexity(torch.nn.Linear(3, 3), SIZE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(type='Yolo99')", "Yolo99 is not in"),
        ("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'", "which is not a DETR"),
        ("lr = 1", "has no model"),
        ("model = dict(", "cannot be read"),
    ],
)
def test_bad_config(tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        model_of_config(tmp_path / "c.py")


@pytest.mark.slow
def test_published_names():
    name = "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
    assert type(model_of_config(f"mmdet::{name}")).__name__ == "DeformableDETR"
    ours = model_of_config("sparse_encoders::dino/dino_lite0_focus_shapes.py")
    assert type(ours.encoder).__name__ == "DualAttentionEncoder"
    for missing in ("mmdet::nowhere/x.py", "sparse_encoders::nowhere/x.py", "nowhere.py"):
        with pytest.raises(ValueError, match="there is no config"):
            model_of_config(missing)


def test_config_in_memory_stays_as_it_is():
    config = Config(dict(model=ours()))
    model = model_of_config(config, {"model.num_queries": 90})
    assert model.num_queries == 90 and not model.training
    assert config.model.num_queries == QUERIES
