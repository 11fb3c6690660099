"""Tiny detectors and batches for the tests: real MMDetection parts, few channels and layers."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

import sparse_encoders  # noqa: F401  (registers the package)

NUM_CLASSES = 5
MMDET_CONFIGS = {
    "DINO": "dino/dino-4scale_r50_8xb2-12e_coco.py",
    "one-stage": "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "refine": "deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py",
    "two-stage": "deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py",
}


def mmdet_config(kind: str = "DINO", **changes: Any) -> ConfigDict:
    """MMDetection's own model with a small backbone, two layers and few queries.

    Args:
        kind: one of MMDET_CONFIGS.
        **changes: settings of the model, merged over MMDetection's.
    """
    init_default_scope("mmdet")
    model = copy.deepcopy(_mmdet_model(MMDET_CONFIGS[kind]))
    model.backbone = dict(
        type="ResNet",
        depth=18,
        num_stages=4,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True,
    )
    model.neck.in_channels = [128, 256, 512]
    model.num_queries = 80
    for part in ("encoder", "decoder"):
        model[part].num_layers = 2
        model[part].layer_cfg.ffn_cfg.feedforward_channels = 64
    model.bbox_head.num_classes = NUM_CLASSES
    config = Config(dict(model=model))
    config.merge_from_dict(dict(model=changes))
    return config.model


def ours(kind: str = "DINO", **changes: Any) -> ConfigDict:
    """The same as this package's detector."""
    config = mmdet_config(kind, **changes)
    config.type = f"sparse_encoders.{config.type}"
    return config


def build(model: Config, seed: int = 0) -> nn.Module:
    """A detector with reproducible initial weights."""
    torch.manual_seed(seed)
    built = MODELS.build(copy.deepcopy(model))
    built.init_weights()
    return built


def samples(
    image_shapes: Sequence[tuple[int, int]],
    input_shape: tuple[int, int],
    boxes: Sequence[int],
    seed: int = 0,
) -> list[DetDataSample]:
    """Data samples with ``boxes[i]`` random boxes on image i."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for (h, w), count in zip(image_shapes, boxes, strict=True):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([w, h]) * 0.6
        size = torch.rand(count, 2, generator=generator) * torch.tensor([w, h]) * 0.35 + 3
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(h, w),
                ori_shape=(h, w),
                batch_input_shape=input_shape,
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + size], 1),
            labels=torch.randint(0, NUM_CLASSES, (count,), generator=generator),
        )
        out.append(sample)
    return out


def batch(
    boxes: Sequence[int] = (3, 2),
    shapes: Sequence[tuple[int, int]] = ((64, 96), (50, 80)),
    seed: int = 0,
) -> dict[str, Any]:
    """Random images and their data samples, as a detector takes them; the first image fills all."""
    shapes = shapes[: len(boxes)]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(boxes), 3, *shapes[0], generator=generator)
    return dict(inputs=images, data_samples=samples(shapes, shapes[0], boxes, seed))


def flat(losses: dict[str, Any]) -> dict[str, Tensor]:
    """A loss dict with sums in place of lists."""
    return {name: sum(loss) if isinstance(loss, list) else loss for name, loss in losses.items()}


def total(losses: dict[str, Any]) -> Tensor:
    """Sum of a loss dict, as the optimiser sees it."""
    return sum(loss.sum() for name, loss in flat(losses).items() if "loss" in name)


def without_gradient(model: nn.Module) -> list[str]:
    """Parameters that should learn and got no gradient: distributed training waits for them."""
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@functools.cache
def _mmdet_model(name: str) -> ConfigDict:
    """The model of one of MMDetection's configs, read once; nobody may change it."""
    import mmdet

    return Config.fromfile(f"{mmdet.__path__[0]}/.mim/configs/{name}").model
