"""Check of whole detectors: image to boxes, with the released checkpoint's own names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from sparse_encoders.checkpoints.names_detectors import convert
from sparse_encoders.checkpoints.reference import Check, Fixture, checks
from sparse_encoders.checkpoints.released import model_config
from sparse_encoders.checkpoints.seeded import seeded_input, seeded_state, uniform

PIXELS, SCORE, SHARE = 0.5, 1e-3, 0.97


@checks("model")
def check_model(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Detections of each image: 97% within half a pixel and 1e-3 of the score."""
    family, seed = str(fixture["family"]), int(fixture["seed"].item())
    shapes = json.loads(str(fixture["param_shapes"]))
    released = seeded_state(shapes, seed, json.loads(str(fixture["aliases"])))
    model = released_model(family, config, shapes, released)
    results = []
    for index, found in enumerate(model(*_inputs(config, seed), mode="predict")):
        wanted = {
            name: torch.from_numpy(np.asarray(fixture[f"{name}_image{index}"]))
            for name in ("boxes", "scores", "labels")
        }
        results.append(_agreement(index, found, wanted))
    return results


def released_model(
    family: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    released: Mapping[str, Tensor],
) -> nn.Module:
    """A detector with released weights, in eval mode.

    Raises:
        ValueError: an unknown family, or weights that do not fit the model.
    """
    settings = model_config(family, config, shapes)
    state, _ = convert(
        released, family, settings["decoder"]["num_layers"], settings["bbox_head"]["num_classes"]
    )
    model: nn.Module = MODELS.build(settings)
    missing, unexpected = model.load_state_dict(state, strict=False)
    # frozen batch norms count nothing
    missing = [name for name in missing if not re.search(r"num_batches_tracked$", name)]
    if missing or unexpected:
        raise ValueError(
            f"the released names do not fill the {family} model: "
            f"missing {missing[:8]}, unexpected {unexpected[:8]}"
        )
    return model.eval()


def _inputs(config: Mapping[str, Any], seed: int) -> tuple[Tensor, list[DetDataSample]]:
    """The normalised, padded batch of a fixture."""
    height, width = config["height"], config["width"]
    image_shapes = [tuple(shape) for shape in config["image_shapes"]]
    if "already normalised" in config["image"]:
        full = seeded_input("image", (len(image_shapes), 3, height, width), seed, -2.0, 2.0)
        batch = torch.zeros_like(full)
        for image, (h, w) in enumerate(image_shapes):
            batch[image, :, :h, :w] = full[image, :, :h, :w]
    else:
        pixels = torch.from_numpy(255 * uniform("image", (3, height, width), seed)).float()
        mean, std = (torch.tensor(config[k]).view(3, 1, 1) for k in ("mean", "std"))
        batch = ((pixels - mean) / std).unsqueeze(0)
    samples = [
        DetDataSample(
            metainfo=dict(
                img_shape=shape,
                ori_shape=shape,
                batch_input_shape=(height, width),
                scale_factor=(1.0, 1.0),
            )
        )
        for shape in image_shapes
    ]
    return batch, samples


def _agreement(index: int, found: DetDataSample, wanted: Mapping[str, Tensor]) -> Check:
    """How many of the reference's detections are ours, too; each of ours counts once."""
    ours = found.pred_instances
    height, width = found.img_shape
    limit = torch.tensor([width, height, width, height])
    # MMDetection clips boxes to the image, some releases do not
    boxes = torch.minimum(wanted["boxes"].clamp(min=0), limit)
    near = (ours.bboxes[None] - boxes[:, None]).abs().amax(-1) <= PIXELS
    near &= (ours.scores[None] - wanted["scores"][:, None]).abs() <= SCORE
    near &= ours.labels[None] == wanted["labels"][:, None]
    matched = 0
    for row in near:
        candidates = row.nonzero().flatten()
        if len(candidates):
            matched += 1
            near[:, candidates[0]] = False
    share = matched / max(len(boxes), 1)
    passed = share >= SHARE and len(ours) == len(boxes)
    return Check(
        f"image {index}",
        passed,
        f"{matched} of {len(boxes)} detections agree ({len(ours)} found)",
    )
