"""Any timm model with ``features_only`` as a backbone of an MMDetection detector."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparse_encoders.backbones.weights import fit_to_model, read_weights
from sparse_encoders.registry import MODELS

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Feature maps of a timm model (https://github.com/huggingface/pytorch-image-models).

    timm is imported when a backbone is built, not before. Weights are read when
    the runner initialises the model for training, so that testing with a
    checkpoint needs no weights file. The mean and standard deviation of the
    images are set in the config's ``data_preprocessor``; a model's own values are in
    ``timm.get_pretrained_cfg(name)``.

    Images of any size go through every convolutional model and most transformers
    with a pyramid (Swin, PVT, MViT, DaViT, Twins, ...). Some models take one size
    only (Hiera, CoAtNet, GC ViT): build those for it with
    ``model_args=dict(img_size=...)``. A plain ViT has one stride and no pyramid.

    Args:
        model_name: timm's name, such as 'tf_efficientnet_lite0'.
        out_indices: which of the model's features to return, counted from the
            finest (0). Exactly one of ``out_indices`` and ``out_strides``.
        out_strides: the same by stride in pixels; of several features with one
            stride the last is taken.
        weights: path of a local file, or 'efficientnet_lite0_pytorch' for the
            installed package's ImageNet weights; None leaves them random.
        pretrained: take timm's own weights, which timm downloads.
        frozen_stages: everything up to and including the module of this feature
            (counted as in ``out_indices``) is not trained and stays in eval mode;
            -1 trains all.
        norm_eval: keep batch norm at its running statistics while training.
        frozen_norms: do not train the scale and shift of norms.
        drop_path_rate: stochastic depth, in [0, 1); 0 leaves the model's default.
        size_divisor: pad images with zeros (right, bottom) to a multiple of this
            many pixels for the model, and cut its maps to ceil(size / stride).
            None does so where timm's model has patches of fixed size (Swin, ViT).
        model_args: further arguments of the timm model.
        init_cfg: not used; accepted because MMDetection's configs set it.

    Attributes:
        channels: channels of each output.
        strides: stride of each output in pixels.

    Raises:
        ValueError: an unknown model, one without such features, or a setting out
            of its range.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] | None = None,
        out_strides: Sequence[int] | None = None,
        weights: str | None = None,
        pretrained: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = True,
        frozen_norms: bool = False,
        drop_path_rate: float = 0.0,
        size_divisor: int | None = None,
        model_args: dict[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=None)
        if weights is not None and pretrained:
            raise ValueError("give weights (a local file) or pretrained=True, not both")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}")
        if size_divisor is not None and size_divisor < 1:
            raise ValueError(f"size_divisor must be at least 1 or None, got {size_divisor}")
        self.model_name, self.weights = model_name, weights
        self.norm_eval = norm_eval
        self._args = dict(model_args or {})
        if drop_path_rate:
            self._args["drop_path_rate"] = drop_path_rate
        patches = _allow_any_size(model_name, self._args)
        features = _features_of(model_name, self._args)
        indices = _choose(model_name, features, out_indices, out_strides)
        self.body = _create(
            model_name, self._args, features_only=True, out_indices=indices, pretrained=pretrained
        )
        self.out_indices = indices
        self.channels = tuple(int(features[i]["num_chs"]) for i in indices)
        self.strides = tuple(int(features[i]["reduction"]) for i in indices)
        self.size_divisor = size_divisor or (int(features[0]["reduction"]) if patches else 1)
        self._frozen: list[nn.Module] = []
        self._freeze(frozen_stages, [str(f["module"]) for f in features])
        if frozen_norms:
            for norm in (m for m in self.body.modules() if isinstance(m, _NORMS)):
                norm.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of (B, 3, H, W) images: (B, channels, H / stride, W / stride) each.

        Raises:
            ValueError: the model does not take images of this size.
        """
        height, width = images.shape[-2:]
        short = [-length % self.size_divisor for length in (height, width)]
        padded = nn.functional.pad(images, (0, short[1], 0, short[0])) if any(short) else images
        try:
            maps = self.body(padded)
        except (AssertionError, RuntimeError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            raise ValueError(
                f"timm's {self.model_name!r} cannot take images of {tuple(padded.shape)}: {error}. "
                "If it is their height and width, set size_divisor, or model_args="
                "dict(img_size=...) and resize all images to it, or take another model"
            ) from error
        if str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC"):
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        if any(short):
            sizes = [(-(-height // s), -(-width // s)) for s in self.strides]
            maps = [m[..., :h, :w] for m, (h, w) in zip(maps, sizes, strict=True)]
        return tuple(maps)

    def init_weights(self) -> None:
        """Load ``weights``; the runner calls this before training."""
        if self.weights is None:
            return
        whole = _create(self.model_name, self._args, num_classes=0)
        state = fit_to_model(read_weights(self.weights, self.model_name), whole, self.weights)
        log = logging.getLogger("timm.models._builder")
        level = log.level
        log.setLevel(logging.ERROR)  # it lists the head's weights, which are left out on purpose
        try:
            donor = _create(
                self.model_name,
                self._args,
                features_only=True,
                out_indices=self.out_indices,
                pretrained=True,
                pretrained_cfg_overlay={"state_dict": state},
            )
        finally:
            log.setLevel(level)
        self.body.load_state_dict(donor.state_dict())

    def train(self, mode: bool = True) -> TimmBackbone:
        """Switch the mode; frozen modules stay in eval mode, batch norm under ``norm_eval``."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        if mode and self.norm_eval:
            for norm in (m for m in self.body.modules() if isinstance(m, _BatchNorm)):
                norm.eval()
        return self

    def _freeze(self, stage: int, modules: list[str]) -> None:
        """Freeze every parameter up to and including those of feature ``stage``."""
        if not -1 <= stage < len(modules):
            raise ValueError(
                f"frozen_stages of {self.model_name!r} must be between -1 and "
                f"{len(modules) - 1}, got {stage}"
            )
        if stage == -1:
            return
        named = dict(self.body.named_modules())
        targets = _module_names(modules[stage], stage, len(modules), named)
        own = [index for index, name in enumerate(named) if _is_in(name, targets)]
        if not own:
            raise ValueError(
                f"frozen_stages={stage}: {self.model_name!r} has no module "
                f"{modules[stage]!r} of its own; freeze another stage or none (-1)"
            )
        for name, module in list(named.items())[: own[-1] + 1]:
            if _stage_of(name, len(modules), named) > stage:
                continue  # a later stage's part that is listed before: Twins' patch embeddings
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            self._frozen.append(module)
        self._frozen = [m for m in self._frozen if not any(p.requires_grad for p in m.parameters())]


def _module_names(
    reported: str, stage: int, stages: int, modules: dict[str, nn.Module]
) -> set[str]:
    """Names that a feature's module may have: timm flattens some and reports others wrongly."""
    forms = (reported, reported.replace(".", "_"))
    names = {f"{outer}{form}" for outer in ("", "model.") for form in forms}
    if any(_is_in(name, names) for name in modules):
        return names
    lists = [
        f"{outer}{kind}" for outer in ("", "model.") for kind in ("stages", "blocks", "layers")
    ]
    return {f"{name}.{stage}" for name in lists if stage < _length(modules.get(name)) <= stages}


def _is_in(name: str, outer: set[str]) -> bool:
    """Whether a module is one of ``outer`` or inside of one."""
    return name in outer or name.startswith(tuple(f"{n}." for n in outer))


def _stage_of(name: str, stages: int, modules: dict[str, nn.Module]) -> int:
    """Index of a module in a list with an entry for each stage (in use); -1 if in none."""
    match = re.match(r"((?:model\.)?[a-z_]+)\.(\d+)(?:\.|$)", name)
    return int(match[2]) if match and 1 < _length(modules.get(match[1])) <= stages else -1


def _length(module: nn.Module | None) -> int:
    return len(module) if isinstance(module, nn.ModuleList) else 0


def _allow_any_size(model_name: str, args: dict[str, Any]) -> bool:
    """Ask a transformer of patches for images of any size, in ``args``; False for other models."""
    for name, value in (("strict_img_size", False), ("dynamic_img_size", True)):
        if name in args:
            return True
        try:
            _features_of(model_name, {**args, name: value})
        except ValueError as error:
            if isinstance(error.__cause__, TypeError) and name in str(error.__cause__):
                continue  # this model has no such argument
            raise
        args[name] = value
        return True
    return False


def _create(model_name: str, args: dict[str, Any], **more: Any) -> nn.Module:
    """Build a timm model; ValueError for an unknown name or arguments that it does not take."""
    import timm

    name = model_name.split(".")[0]
    if name not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        raise ValueError(
            f"model_name {model_name!r} is not one of timm {timm.__version__}'s models"
            + (f"; similar: {', '.join(near)}" if near else "")
        )
    try:
        return timm.create_model(model_name, **{"pretrained": False, **args, **more})
    except (TypeError, RuntimeError, AssertionError, AttributeError) as error:
        raise ValueError(f"timm cannot build {model_name!r} with {args | more}: {error}") from error


def _features_of(model_name: str, args: dict[str, Any]) -> list[dict[str, Any]]:
    """The description by timm of the model's features, finest first: num_chs, reduction, module."""
    with torch.device("meta"):
        model = _create(model_name, args)
    features = getattr(model, "feature_info", None)
    if not features:
        raise ValueError(f"timm's {model_name!r} gives no intermediate features (features_only)")
    return list(features)


def _choose(
    model_name: str,
    features: list[dict[str, Any]],
    indices: Sequence[int] | None,
    strides: Sequence[int] | None,
) -> tuple[int, ...]:
    if (indices is None) == (strides is None):
        raise ValueError("give exactly one of out_indices and out_strides")
    have = [int(f["reduction"]) for f in features]
    if strides is not None:
        missing = [s for s in strides if s not in have]
        if missing:
            raise ValueError(
                f"out_strides: {model_name!r} has no feature of stride {missing}, "
                f"accepted are {sorted(set(have))}"
            )
        return tuple(len(have) - 1 - have[::-1].index(s) for s in strides)
    assert indices is not None
    chosen = tuple(int(i) for i in indices)
    in_range = chosen and min(chosen) >= 0 and max(chosen) < len(have)
    if not in_range or list(chosen) != sorted(set(chosen)):
        raise ValueError(
            f"out_indices of {model_name!r} must be increasing and between 0 and "
            f"{len(have) - 1} (strides {have}), got {chosen}"
        )
    return chosen
