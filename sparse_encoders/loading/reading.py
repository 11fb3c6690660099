"""Reading a checkpoint, released or MMEngine's, without running anything that is in it."""

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

# where releases keep their weights, in the order in which they are looked for
WEIGHTS = ("model", "state_dict", "model_state", "module")
AVERAGED = ("ema_model", "ema_state", "model_ema", "state_dict_ema", "ema")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_REFUSED = re.compile(r"GLOBAL (\S+)|(?:class|function|global) ['\"]?([\w.]+\.[\w.]+)")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        state: parameter names to tensors, without what wrapped the model.
        place: key of the file under which they stood; '' where the file is the state.
        args: the training's settings, where the file has them.
        others: further weights in the file, which were not taken.
        not_tensors: entries of the state that are no tensors.
        classes: names of the classes that it was trained on, where MMEngine's meta says so.
        meta: what MMEngine's runner says of the training: epoch, iter, cfg (a config's text), ...
    """

    state: dict[str, Tensor]
    place: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    not_tensors: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path, averaged: bool = False) -> Checkpoint:
    """Read a checkpoint with torch's weights-only loader.

    Beside tensors and plain Python values only ``argparse.Namespace``, which releases keep
    their settings in, and MMEngine's own types (:mod:`sparse_encoders.compat`) are let through.

    Args:
        path: the file.
        averaged: take the averaged weights (EMA) of a released file that has both; MMEngine
            saves them as its ``state_dict``.

    Raises:
        ValueError: no such file, a truncated one, one that holds other objects, or one
            without weights; says what was found.
    """
    content = _load(Path(path))
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, no dictionary of weights")
    places = [key for key in (*WEIGHTS, *AVERAGED) if isinstance(content.get(key), Mapping)]
    wanted = AVERAGED if averaged else WEIGHTS
    place = next((key for key in places if key in wanted), None)
    if averaged and place is None:
        raise ValueError(f"{path} has no averaged weights; keys: {_listed(content)}")
    if place is None and places:
        place = places[0]
    state = content if place is None else content[place]
    if place in AVERAGED and isinstance(state.get("module"), Mapping):
        state = state["module"]
    tensors = {str(k): _tensor(v) for k, v in state.items() if isinstance(v, Tensor | np.ndarray)}
    if not tensors:
        raise ValueError(f"{path} holds no weights; keys: {_listed(content)}")
    args = content.get("args") if place is not None else None
    meta = content.get("meta") if place is not None else None
    return Checkpoint(
        state=_unwrapped(tensors),
        place=place or "",
        args=dict(vars(args) if isinstance(args, Namespace) else args or {})
        if isinstance(args, Namespace | Mapping)
        else {},
        others=tuple(key for key in places if key != place),
        not_tensors=tuple(str(k) for k in state if str(k) not in tensors),
        classes=_classes(meta),
        meta=meta if isinstance(meta, Mapping) else {},
    )


def _classes(meta: Any) -> tuple[str, ...] | None:
    """Class names in the ``meta`` of MMEngine's runner."""
    data = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    names = data.get("classes") if isinstance(data, Mapping) else None
    return None if names is None else tuple(names)


def _load(path: Path) -> Any:
    """The file's content.

    Raises:
        ValueError: see :func:`read_checkpoint`.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint file {path}")
    try:
        return load_weights(path, [Namespace])
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise ValueError(f"{path} is no checkpoint of torch, or is damaged: {error}") from error
        raise ValueError(
            f"{path} holds an object of {refused[1] or refused[2]}, which is not loaded: it could "
            "run code. Save the weights alone where that code is at home: "
            "torch.save({'model': checkpoint['model']}, FILE)"
        ) from error
    except Exception as error:  # what a damaged file makes the reader stumble over
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) is truncated or no checkpoint of torch: {error}"
        ) from error


def _tensor(value: Tensor | np.ndarray[Any, Any]) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes of what wrapped the model."""
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def _listed(content: Mapping[str, Any]) -> str:
    names = [str(key) for key in content]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
