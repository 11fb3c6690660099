"""Check of whole detectors: image to boxes, with the released checkpoint's own names."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from reference.checks import Check, Fixture
from reference.parts import released_state
from reference.seeded import seeded_input, uniform
from reference.ties import FirstStageScores
from sparse_encoders.checkpoints.conversion import convert, load_converted
from sparse_encoders.checkpoints.released import model_config
from sparse_encoders.checkpoints.settings import DEFAULTS
from sparse_encoders.detectors.dino import DINO
from sparse_encoders.selectors.keep import KeepSchedule

PIXELS, SCORE, SHARE = 0.5, 1e-3, 0.97
FAR = 10.0  # tolerances beyond which a detection is another one
MOST_TIES = 24  # pairs to try, nearest first


def check_model(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Detections of each image: 97% within half a pixel and 1e-3 of the score.

    Where fewer agree, two-stage proposals that only rounding ranks may stand in the
    other order. The detail then says how many agree as computed, and how many with
    which proposals swapped.
    """
    released = released_state(fixture, {"seed": int(fixture["seed"].item())})
    shapes = json.loads(str(fixture["param_shapes"]))
    model = released_model(str(fixture["family"]), config, shapes, released)
    return compare_detections(model, fixture, config)


def compare_detections(model: Any, fixture: Fixture, config: Mapping[str, Any]) -> list[Check]:
    """Detections of a built model in eval mode beside a fixture's, see :func:`check_model`."""
    batch, samples = fixture_images(config, int(fixture["seed"].item()))
    features = model.extract_feat(batch)

    def compare() -> list[Agreement]:
        fed = copy.deepcopy(samples)
        head = model.bbox_head.predict(
            **model.forward_transformer(features, fed), batch_data_samples=fed, rescale=True
        )
        actual = model.add_pred_to_datasample(fed, head)
        return [agreement(sample, fixture, image) for image, sample in enumerate(actual)]

    if not model.as_two_stage:
        return [result.check(index) for index, result in enumerate(compare())]
    # Deformable DETR's first stage ranks by its first class, which stands for any object
    by_class = isinstance(model, DINO) or getattr(model, "class_specific_first_stage", False)
    scores = FirstStageScores(model.bbox_head.cls_branches[-1], by_class)
    with scores.watching():
        computed = compare()
    results, swapped = computed, []
    for image in range(len(results)):
        results, gaps = settle_ties(image, results, compare, scores, model.num_queries)
        swapped.append(gaps)
    return [raw.check(i, results[i], swapped[i]) for i, raw in enumerate(computed)]


def settle_ties(
    image: int,
    results: list[Agreement],
    compare: Callable[[], list[Agreement]],
    scores: FirstStageScores,
    num_queries: int,
) -> tuple[list[Agreement], list[str]]:
    """All images' results with proposals swapped that only rounding ranks, while that helps.

    A swap moves every detection a little, as all queries attend to each other: what a
    swap is worth shows in the distance of all detections, not in how many agree.

    Args:
        image: the one to settle; if it passes, nothing is swapped.
        results: with the swaps made so far.
        compare: compares all images again.
        scores: of the first stage; keeps the swaps that helped.
        num_queries: proposals that are kept.

    Returns:
        The results, and the gaps of the proposals that were swapped.
    """
    swapped: list[str] = []
    if results[image].passed:
        return results, swapped
    for token, nudge in scores.ties(image, num_queries)[:MOST_TIES]:
        before = dict(scores.nudges)
        scores.nudges[token] = nudge
        with scores.watching():
            retried = compare()
        if retried[image].distance >= results[image].distance:
            scores.nudges = before
            continue
        swapped.append(f"{nudge / 1.5:.0e}")
        results = retried
        if results[image].passed:
            break
    return results, swapped


def released_model(
    family: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    released: Mapping[str, Tensor],
) -> Any:
    """A detector with released weights, in eval mode; ValueError if they do not fit."""
    settings = model_config(family, {**DEFAULTS[family], **config}, shapes)
    model = load_converted(settings, convert(released, family, settings).state)
    if family == "focus_dino":
        # exactly as released, also where the first layer's factor is not 1
        schedule = KeepSchedule(config["keep_ratio"], tuple(config["cascade"]))
        model.encoder.selector.schedule = schedule
    return model


def fixture_images(config: Mapping[str, Any], seed: int) -> tuple[Tensor, list[DetDataSample]]:
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
    common = dict(batch_input_shape=(height, width), scale_factor=(1.0, 1.0))
    samples = [
        DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, **common))
        for shape in image_shapes
    ]
    return batch, samples


@dataclass(frozen=True)
class Agreement:
    """How one image's detections agree with the reference's.

    Attributes:
        matched: reference detections that are ours, too; each of ours counts once.
        expected: reference detections.
        actual: our detections.
        distance: sum over the reference's detections of the distance to our nearest one,
            in tolerances, at most ``FAR`` each.
    """

    matched: int
    expected: int
    actual: int
    distance: float

    @property
    def passed(self) -> bool:
        """Whether enough agree, and there are as many."""
        return self.matched >= SHARE * self.expected and self.actual == self.expected

    def check(
        self, image: int, after: Agreement | None = None, swapped: Sequence[str] = ()
    ) -> Check:
        """The image's line of the report; ``self`` is what was computed, with nothing swapped.

        Args:
            image: index of the image.
            after: the agreement with tied proposals swapped, which decides.
            swapped: the gaps of the proposals that were.
        """
        final = after or self
        raw = f"{self.matched} of {self.expected} detections"
        detail = f"{raw} agree as computed ({self.actual} detected)"
        if swapped:
            detail += (
                f"; {final.matched} of {final.expected} ({final.actual} detected) with tied "
                f"proposals swapped, {', '.join(swapped)} apart"
            )
        return Check(f"image {image}", final.passed, detail)


def agreement(actual: DetDataSample, fixture: Fixture, image: int) -> Agreement:
    """Compare an image's detections with the reference's, see :class:`Agreement`."""
    boxes, scores, labels = (
        torch.from_numpy(np.asarray(fixture[f"{name}_image{image}"]))
        for name in ("boxes", "scores", "labels")
    )
    ours = actual.pred_instances
    height, width = actual.img_shape
    limit = torch.tensor([width, height, width, height])
    # MMDetection clips boxes to the image, some releases do not
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    apart = (ours.bboxes[None] - boxes[:, None]).abs().amax(-1) / PIXELS
    apart = apart.maximum((ours.scores[None] - scores[:, None]).abs() / SCORE)
    apart = apart.masked_fill(ours.labels[None] != labels[:, None], FAR)
    near, matched = apart <= 1, 0
    for row in near:
        candidates = row.nonzero().flatten()
        if len(candidates):
            matched += 1
            near[:, candidates[0]] = False
    distance = apart.amin(1).clamp(max=FAR).sum() if len(ours) else torch.tensor(0.0)
    return Agreement(matched, len(boxes), len(ours), float(distance))
