"""A detector with its weights, from a config and a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import Tensor, nn

from sparse_encoders.loading.configs import read_config
from sparse_encoders.loading.reading import read_checkpoint

#: state of batch norms that some releases leave out
COUNTERS = "num_batches_tracked"


def load_detector(
    config: str | Path | Config, checkpoint: str | Path | None, device: str = "cpu"
) -> Any:
    """Build a detector and load its weights, read weights-only.

    Args:
        config: see :func:`sparse_encoders.loading.configs.read_config`; its data need not exist.
        checkpoint: its weights, as MMEngine's runner or ``tools/convert_checkpoint.py`` saves
            them; the number of classes follows from the class names in it, if it has any. None:
            random weights, the same in every call.
        device: such as 'cpu' or 'cuda:0'.

    Returns:
        MMDetection's detector in evaluation mode.

    Raises:
        ValueError: a file is missing or cannot be read, or the checkpoint belongs to another
            model.
    """
    from mmdet.apis import init_detector  # imports every data set and metric

    settings = read_config(config)
    register_all_modules(init_default_scope=True)
    if checkpoint is None:
        return _with_random_weights(settings).to(device)
    file = read_checkpoint(checkpoint)
    if file.classes is not None:
        settings.model.bbox_head.num_classes = len(file.classes)
    check_fit(MODELS.build(copy.deepcopy(settings.model)), file.state, f"checkpoint {checkpoint}")
    return init_detector(settings, str(checkpoint), device=device, palette="random")


def _with_random_weights(config: Config) -> Any:
    """A detector in evaluation mode with random weights, chosen such that its scores differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        # with MMDetection's initial weights all proposals have almost the same score
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_uniform_(parameter, a=1)  # variance 1 / fan_in
    if model.as_two_stage and hasattr(model, "query_embedding"):
        # equal queries, because the order of proposals with equal scores is not defined
        queries = model.query_embedding.weight
        queries.data = queries.data[:1].repeat(len(queries), 1)
    return model.eval()


def check_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Check that ``state`` has exactly the parameters and buffers of a model.

    Args:
        model: the model.
        state: tensors by name; counters of batch norms may be missing.
        source: where the tensors come from, for the error message.

    Raises:
        ValueError: a missing tensor, an additional one, or one of another shape.
    """
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items() if COUNTERS not in k}
    given = {k: tuple(v.shape) for k, v in state.items() if COUNTERS not in k}
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    shapes = [
        f"{k} is {given[k]}, expected {expected[k]}"
        for k in sorted(expected.keys() & given.keys())
        if expected[k] != given[k]
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"{source} belongs to another model: missing: {len(missing)} {missing[:4]}, unknown: "
            f"{len(unexpected)} {unexpected[:4]}, of another shape: {len(shapes)} {shapes[:4]}"
        )
