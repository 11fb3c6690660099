"""Files as the methods' authors released them, with seeded values in place of trained ones."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.seeded import seeded_state

MODELS = Path(__file__).parent / "fixtures" / "models"
FAMILIES = sorted(path.stem.removesuffix("_r50") for path in MODELS.glob("*.npz"))


def fixture(family: str) -> dict[str, Any]:
    """What the released model gave."""
    with np.load(MODELS / f"{family}_r50.npz") as archive:
        return {name: archive[name] for name in archive.files}


def config(family: str) -> dict[str, Any]:
    return json.loads(str(fixture(family)["config"]))


def shapes(family: str) -> dict[str, list[int]]:
    return json.loads(str(fixture(family)["param_shapes"]))


def seeded_release(family: str) -> dict[str, Tensor]:
    """A state dict with the fixture's values."""
    data = fixture(family)
    aliases = json.loads(str(data["aliases"]))
    return seeded_state(shapes(family), int(data["seed"]), aliases)


def hollow(released: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict of these shapes that holds one number, and takes no memory."""
    return {name: torch.zeros(1).expand(tuple(shape)) for name, shape in released.items()}


def save(path: Path, state: dict[str, Tensor], **args: Any) -> Path:
    """Save as the releases do: the model beside its training's settings and state."""
    content = {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]},
        "lr_scheduler": {"step_size": 11, "last_epoch": 36},
        "epoch": 35,
        "args": Namespace(device="cuda", lr_drop_list=[33, 45], **args),
    }
    torch.save(content, path)
    return path


def with_layers(released: dict[str, list[int]], encoder: int, decoder: int) -> dict[str, list[int]]:
    """The shapes of a model of fewer layers, its heads moved up."""
    kept = {}
    for name, shape in released.items():
        match = re.match(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.", name)
        if match and int(match[2]) >= {"encoder": encoder, "decoder": decoder}[match[1]]:
            continue
        kept[_moved_head(name, encoder, decoder)] = shape
    kept.pop("", None)
    return kept


def _moved_head(name: str, encoder: int, decoder: int, full: int = 6) -> str:
    """The name that a head of a six-layer model has in a smaller one; '' where it has none."""
    head = re.match(
        r"(.*?)((?:class|bbox)_embed|enhance_MCSP|enhance_MCSP_layerlist)\.(\d+)\.", name
    )
    if head is None:
        return name
    index, rest = int(head[3]), name[head.end() :]
    if "enhance_MCSP" in head[2] or head[1] == "transformer.encoder.":
        limit = encoder if "enhance_MCSP" in head[2] else encoder - 1
        return name if index < limit else ""
    if index < full:  # of a decoder layer
        return name if index < decoder else ""
    if index > full and index - full - 1 >= encoder - 1:  # of an encoder layer
        return ""
    return f"{head[1]}{head[2]}.{index - full + decoder}.{rest}"


def with_rows(released: dict[str, list[int]], pattern: str, rows: int) -> dict[str, list[int]]:
    """The shapes with another first size of the tensors that a pattern finds."""
    return {n: [rows, *s[1:]] if re.search(pattern, n) else s for n, s in released.items()}


def without(released: dict[str, list[int]], pattern: str) -> dict[str, list[int]]:
    """The shapes without the tensors that a pattern finds."""
    return {n: s for n, s in released.items() if not re.search(pattern, n)}


def linear(name: str, outputs: int, inputs: int) -> dict[str, list[int]]:
    """A linear layer's shapes."""
    return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}


def official_dino() -> dict[str, list[int]]:
    """The shapes of DINO's own repository: Lite DETR's with Deformable DETR's attention."""
    shared = without(shapes("lite_dino"), r"linear[12]2\.|norm22\.|query_proj\.")
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        for layer in range(6):
            name = f"transformer.{part}.layers.{layer}.{attention}"
            shared |= linear(f"{name}.attention_weights", 128, 256)
    return shared


def official_deformable() -> dict[str, list[int]]:
    """What the two-stage detectors of Deformable DETR's repository share."""
    return with_layers(
        without(
            shapes("sparse_deformable_detr"), r"enc_mask_predictor|encoder\.(class|bbox)_embed"
        ),
        1,
        6,
    )


def official_h_detr() -> dict[str, list[int]]:
    """H-Deformable-DETR's own repository."""
    norm = {f"transformer.pos_trans_norm.{part}": [512] for part in ("weight", "bias")}
    return {
        **official_deformable(),
        **linear("transformer.pos_trans", 512, 512),
        **norm,
        "query_embed.weight": [1800, 256],
    }


def official_dn_detr() -> dict[str, list[int]]:
    """DN-DETR's own repository."""
    one_stage = without(
        official_deformable(), r"transformer\.(enc_output|pos_trans)|(class|bbox)_embed\.6\."
    )
    for name, inputs in (("ref_point_head.layers.0", 512), ("ref_point_head.layers.1", 256)):
        one_stage |= linear(f"transformer.decoder.{name}", 256, inputs)
    for layer in range(2):
        one_stage |= linear(f"transformer.decoder.query_scale.layers.{layer}", 256, 256)
    return {
        **without(one_stage, r"transformer\.decoder\.class_embed"),
        "tgt_embed.weight": [300, 255],
        "refpoint_embed.weight": [300, 4],
        "label_enc.weight": [92, 255],
    }


def swin(prefix: str, dims: int = 32, depths: tuple[int, ...] = (1, 1, 2, 1)) -> dict[str, Any]:
    """The shapes of Microsoft's Swin Transformer with windows of 7 and three outputs."""
    actual: dict[str, Any] = {
        f"{prefix}patch_embed.proj.weight": [dims, 3, 4, 4],
        f"{prefix}patch_embed.proj.bias": [dims],
    }
    norms = {f"{prefix}patch_embed.norm": dims}
    norms |= {f"{prefix}norm{stage}": dims * 2**stage for stage in (1, 2, 3)}
    for stage, depth in enumerate(depths):
        width, heads = dims * 2**stage, 2**stage
        for block in range(depth):
            name = f"{prefix}layers.{stage}.blocks.{block}"
            norms |= {f"{name}.norm1": width, f"{name}.norm2": width}
            actual |= linear(f"{name}.attn.qkv", 3 * width, width)
            actual |= linear(f"{name}.attn.proj", width, width)
            actual |= linear(f"{name}.mlp.fc1", 4 * width, width)
            actual |= linear(f"{name}.mlp.fc2", width, 4 * width)
            actual[f"{name}.attn.relative_position_bias_table"] = [169, heads]
            actual[f"{name}.attn.relative_position_index"] = [49, 49]
        if stage < 3:
            actual[f"{prefix}layers.{stage}.downsample.reduction.weight"] = [2 * width, 4 * width]
            norms[f"{prefix}layers.{stage}.downsample.norm"] = 4 * width
    for name, width in norms.items():
        actual |= {f"{name}.weight": [width], f"{name}.bias": [width]}
    return actual


def on_swin(released: dict[str, list[int]], prefix: str, dims: int = 32) -> dict[str, list[int]]:
    """A model's shapes on a Swin Transformer instead of its ResNet."""
    rest = without(released, r"^backbone\.")
    for name, shape in rest.items():
        match = re.fullmatch(
            r"(?:input_proj\.(\d)\.0|neck\.(?:convs|extra_convs)\.(\d).*)\.weight", name
        )
        if match and len(shape) == 4:
            level = 2 if "extra" in name else min(int(match[1] or match[2]), 2)
            rest[name] = [shape[0], dims * 2 ** (level + 1), *shape[2:]]
    return {**swin(prefix, dims), **rest}
