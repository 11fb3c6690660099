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
            them, whose classes count where it names them; None: made-up weights, the same each
            time.
        device: such as 'cpu' or 'cuda:0'.

    Returns:
        MMDetection's detector in evaluation mode.

    Raises:
        ValueError: a file is missing or cannot be read, or the checkpoint belongs to another
            model.
    """
    from mmdet.apis import init_detector  # brings in every data set and metric

    settings = read_config(config)
    register_all_modules(init_default_scope=True)
    if checkpoint is None:
        return _with_made_up_weights(settings).to(device)
    file = read_checkpoint(checkpoint)
    if file.classes is not None:
        settings.model.bbox_head.num_classes = len(file.classes)
    check_fit(MODELS.build(copy.deepcopy(settings.model)), file.state, f"checkpoint {checkpoint}")
    return init_detector(settings, str(checkpoint), device=device, palette="random")


def _with_made_up_weights(config: Config) -> Any:
    """A detector in evaluation mode whose scores differ, as a trained one's do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        # fresh weights would give all proposals almost the same score
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_uniform_(parameter, a=1)  # variance 1 / fan_in
    if model.as_two_stage and hasattr(model, "query_embedding"):
        # proposals of equal scores stand in any order: which query they get must not matter
        queries = model.query_embedding.weight
        queries.data = queries.data[:1].repeat(len(queries), 1)
    return model.eval()


def check_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Whether ``state`` fills a model: all of it, and nothing else.

    Args:
        model: the model.
        state: parameter and buffer names to tensors; batch counters may be left out.
        source: where they are from, for the error.

    Raises:
        ValueError: a tensor too few, too many, or of another shape.
    """
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items() if COUNTERS not in k}
    found = {k: tuple(v.shape) for k, v in state.items() if COUNTERS not in k}
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    shapes = [
        f"{k} is {found[k]}, wanted {wanted[k]}"
        for k in sorted(wanted.keys() & found.keys())
        if wanted[k] != found[k]
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"{source} belongs to another model: missing: {len(missing)} {missing[:4]}, unknown: "
            f"{len(unexpected)} {unexpected[:4]}, of another shape: {len(shapes)} {shapes[:4]}"
        )
