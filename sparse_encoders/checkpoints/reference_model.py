"""Check of whole detectors: image to boxes, with the released checkpoint's own names."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch import Tensor

from sparse_encoders.checkpoints.names_detectors import convert
from sparse_encoders.checkpoints.reference import Check, Fixture, checks
from sparse_encoders.checkpoints.released import model_config
from sparse_encoders.checkpoints.seeded import seeded_input, seeded_state, uniform
from sparse_encoders.checkpoints.ties import FirstStageScores

PIXELS, SCORE, SHARE = 0.5, 1e-3, 0.97
MOST_TIES = 12  # pairs to try, nearest first


@checks("model")
def check_model(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Detections of each image: 97% within half a pixel and 1e-3 of the score.

    Where fewer agree, two-stage proposals that only rounding ranks may stand in the
    other order, which the detail then says.
    """
    family, seed = str(fixture["family"]), int(fixture["seed"].item())
    shapes = json.loads(str(fixture["param_shapes"]))
    released = seeded_state(shapes, seed, json.loads(str(fixture["aliases"])))
    model = released_model(family, config, shapes, released)
    wanted = [
        {
            name: torch.from_numpy(np.asarray(fixture[f"{name}_image{index}"]))
            for name in ("boxes", "scores", "labels")
        }
        for index in range(len(config["image_shapes"]))
    ]
    batch, samples = _inputs(config, seed)
    features = model.extract_feat(batch)

    def compare() -> list[Check]:
        fed = copy.deepcopy(samples)
        head = model.bbox_head.predict(
            **model.forward_transformer(features, fed), batch_data_samples=fed, rescale=True
        )
        found = model.add_pred_to_datasample(fed, head)
        return [_agreement(i, f, w) for i, (f, w) in enumerate(zip(found, wanted, strict=True))]

    if not model.as_two_stage:
        return compare()
    by_class = family != "h_deformable_detr"
    scores = FirstStageScores(model.bbox_head.cls_branches[-1], by_class)
    with scores.watching():
        results = compare()
    for image in range(len(results)):
        results = _settle_ties(image, results, compare, scores, config["num_queries"])
    return results


def _settle_ties(
    image: int,
    results: list[Check],
    compare: Callable[[], list[Check]],
    scores: FirstStageScores,
    num_queries: int,
) -> list[Check]:
    """The results again with proposals swapped that only rounding ranks, while that helps."""
    if results[image].passed:
        return results
    swapped = []
    for token, nudge in scores.ties(image, num_queries)[:MOST_TIES]:
        before = dict(scores.nudges)
        scores.nudges[token] = nudge
        with scores.watching():
            retried = compare()
        if _matched(retried[image]) <= _matched(results[image]):
            scores.nudges = before
            continue
        swapped.append(f"{nudge / 1.5:.0e}")
        results = retried
        if results[image].passed:
            break
    if swapped:
        said = f"{results[image].detail}; tied proposals swapped, {', '.join(swapped)} apart"
        results[image] = replace(results[image], detail=said)
    return results


def _matched(check: Check) -> int:
    return int(check.detail.split(" ", 1)[0])


def released_model(
    family: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    released: Mapping[str, Tensor],
) -> Any:
    """A detector with released weights, in eval mode.

    Raises:
        ValueError: an unknown family, or weights that do not fit the model.
    """
    settings = model_config(family, config, shapes)
    state, _ = convert(
        released, family, settings["decoder"]["num_layers"], settings["bbox_head"]["num_classes"]
    )
    model: Any = MODELS.build(settings)
    missing, unexpected = model.load_state_dict(state, strict=False)
    # frozen batch norms count nothing
    missing = [name for name in missing if not re.search(r"num_batches_tracked$", name)]
    if missing or unexpected:
        raise ValueError(
            f"the released names do not fill the {family} model: "
            f"missing {missing[:8]}, unexpected {unexpected[:8]}"
        )
    model.eval()
    return model


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
