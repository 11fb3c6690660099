"""Facts about a checkpoint's training, from the meta data of MMEngine's runner."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparse_encoders.analysis.compare.store import digest
from sparse_encoders.loading import read_checkpoint


def training_facts(path: Path) -> dict[str, Any]:
    """``epochs``, ``iterations``, ``batch`` (images) and ``schedule`` (a digest); None: unknown.

    The digest is of the settings of optimizer and learning rates.
    """
    meta = read_checkpoint(path).meta
    config = literal_settings(str(meta.get("cfg") or ""))
    schedule = [config.get(key) for key in ("optim_wrapper", "param_scheduler")]
    return {
        "epochs": meta.get("epoch"),
        "iterations": meta.get("iter"),
        "batch": (config.get("train_dataloader") or {}).get("batch_size"),
        "schedule": digest(schedule)[:8] if any(schedule) else None,
    }


def literal_settings(text: str) -> dict[str, Any]:
    """The settings of a config's text that are plain values; nothing in it is run."""
    try:
        lines = ast.parse(text).body
    except SyntaxError:
        return {}
    settings = {}
    for line in lines:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            try:
                settings[line.targets[0].id] = _value(line.value)
            except ValueError:
                continue
    return settings


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        positional: list[Mapping[str, Any]] = [_value(argument) for argument in node.args]
        named = {str(word.arg): _value(word.value) for word in node.keywords}
        return {**(positional[0] if positional else {}), **named}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) if key is not None else None for key in node.keys]
        return dict(zip(keys, map(_value, node.values), strict=True))
    return ast.literal_eval(node)
