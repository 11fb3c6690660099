"""Safe reading of checkpoints, released or MMEngine's: no code in a file is run."""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_encoders.compat import load_weights

# keys under which files have their weights, in the order of the search
WEIGHTS = ("model", "state_dict", "model_state", "module")
AVERAGED = ("ema_model", "ema_state", "model_ema", "state_dict_ema", "ema")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_REFUSED = re.compile(r"GLOBAL (\S+)|(?:class|function|global) ['\"]?([\w.]+\.[\w.]+)")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        state: tensors by parameter name, without the prefixes of wrappers of the model.
        key: key of the file that has them; '' if the file itself is the state.
        args: settings of the training, if the file has them.
        others: keys of further weights in the file, which are not used.
        not_tensors: entries of the state that are not tensors.
        classes: names of the training's classes, if MMEngine's meta has them.
        meta: MMEngine's record of the training: epoch, iter, cfg (a config's text), ...
    """

    state: dict[str, Tensor]
    key: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    not_tensors: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path, averaged: bool = False) -> Checkpoint:
    """Read a checkpoint with torch's weights-only loader.

    Tensors, plain Python values, ``argparse.Namespace`` (the settings of releases) and MMEngine's
    own types (:mod:`sparse_encoders.compat`) are allowed; other types are refused.

    Args:
        path: the file.
        averaged: use the averaged weights (EMA) of a released file that has both; MMEngine
            saves them as its ``state_dict``.

    Raises:
        ValueError: there is no such file, or it is truncated, has objects of other types, or
            has no weights.
    """
    content = _load(Path(path))
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, no dictionary of weights")
    keys = [key for key in (*WEIGHTS, *AVERAGED) if isinstance(content.get(key), Mapping)]
    wanted = [key for key in keys if key in (AVERAGED if averaged else WEIGHTS)]
    if averaged and not wanted:
        raise ValueError(f"{path} has no averaged weights; keys: {_listed(content)}")
    key = next(iter([*wanted, *keys]), "")
    state = content[key] if key else content
    if key in AVERAGED and isinstance(state.get("module"), Mapping):
        state = state["module"]
    tensors = {str(k): _tensor(v) for k, v in state.items() if isinstance(v, Tensor | np.ndarray)}
    if not tensors:
        raise ValueError(f"{path} holds no weights; keys: {_listed(content)}")
    beside = content if key else {}  # a bare state has parameters only
    args = beside.get("args")
    meta = _mapping(beside.get("meta"))
    classes = _mapping(meta.get("dataset_meta")).get("classes")
    return Checkpoint(
        state=_unwrapped(tensors),
        key=key,
        args=dict(_mapping(vars(args) if isinstance(args, Namespace) else args)),
        others=tuple(other for other in keys if other != key),
        not_tensors=tuple(str(k) for k in state if str(k) not in tensors),
        classes=None if classes is None else tuple(classes),
        meta=meta,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _load(path: Path) -> Any:
    """The file's content."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint file {path}")
    try:
        return load_weights(path, [Namespace])
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise ValueError(f"{path} is not a checkpoint or is damaged: {error}") from error
        raise ValueError(
            f"{path} holds an object of {refused[1] or refused[2]}, which is not loaded: it could "
            "run code. Where that type is installed, save the weights alone: "
            "torch.save({'model': checkpoint['model']}, FILE)"
        ) from error
    except Exception as error:  # a damaged file may cause any error
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) is truncated or not a checkpoint: {error}"
        ) from error


def _tensor(value: Tensor | np.ndarray[Any, Any]) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefixes of wrappers of the model."""
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def _listed(content: Mapping[str, Any]) -> str:
    names = [str(key) for key in content]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
