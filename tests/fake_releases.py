"""Files as the methods' authors released them, with seeded values in place of trained ones."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.models import SwinTransformer
from torch import Tensor

from reference.seeded import seeded_state
from sparse_encoders.checkpoints.settings import DEFAULTS

Shapes = dict[str, list[int]]
MODELS = Path(__file__).parent / "fixtures" / "models"


def fixture(family: str) -> dict[str, Any]:
    """What the released model gave."""
    with np.load(MODELS / f"{family}_r50.npz") as archive:
        return {name: archive[name] for name in archive.files}


def config(family: str) -> dict[str, Any]:
    return {**DEFAULTS[family], **json.loads(str(fixture(family)["config"]))}


def shapes(family: str) -> Shapes:
    return json.loads(str(fixture(family)["param_shapes"]))


def seeded_release(family: str) -> dict[str, Tensor]:
    """A state dict with the fixture's values."""
    data = fixture(family)
    aliases = json.loads(str(data["aliases"]))
    return seeded_state(shapes(family), int(data["seed"]), aliases)


def hollow(released: Shapes) -> dict[str, Tensor]:
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


def with_layers(released: Shapes, encoder: int, decoder: int) -> Shapes:
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


def with_rows(released: Shapes, pattern: str, rows: int) -> Shapes:
    """The shapes with another first size of the tensors that a pattern finds."""
    return {n: [rows, *s[1:]] if re.search(pattern, n) else s for n, s in released.items()}


def without(released: Shapes, pattern: str) -> Shapes:
    """The shapes without the tensors that a pattern finds."""
    return {n: s for n, s in released.items() if not re.search(pattern, n)}


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    """A linear layer's shapes."""
    return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}


def in_each_layer(projection: str, outputs: int, decoder: bool = True) -> Shapes:
    """A projection of the deformable attention in six layers of encoder and decoder."""
    added: Shapes = {}
    for part in ("encoder.layers.{}.self_attn", "decoder.layers.{}.cross_attn")[: 1 + decoder]:
        for layer in range(6):
            added |= linear(f"transformer.{part.format(layer)}.{projection}", outputs, 256)
    return added


def official_dino() -> Shapes:
    """The shapes of DINO's own repository: Lite DETR's with Deformable DETR's attention."""
    shared = without(shapes("lite_dino"), r"linear[12]2\.|norm22\.|query_proj\.")
    return shared | in_each_layer("attention_weights", 128)


def official_deformable() -> Shapes:
    """What the two-stage detectors of Deformable DETR's repository share."""
    own = r"enc_mask_predictor|encoder\.(class|bbox)_embed"
    return with_layers(without(shapes("sparse_deformable_detr"), own), 1, 6)


def official_h_detr() -> Shapes:
    """H-Deformable-DETR's own repository."""
    norm = {f"transformer.pos_trans_norm.{part}": [512] for part in ("weight", "bias")}
    projection = linear("transformer.pos_trans", 512, 512)
    return official_deformable() | projection | norm | {"query_embed.weight": [1800, 256]}


def official_dn_detr() -> Shapes:
    """DN-DETR's own repository."""
    first_stage = r"transformer\.(enc_output|pos_trans)|(class|bbox)_embed\.6\."
    one_stage = without(official_deformable(), rf"{first_stage}|transformer\.decoder\.class_embed")
    for name, inputs in (
        ("ref_point_head.layers.0", 512),
        ("ref_point_head.layers.1", 256),
        ("query_scale.layers.0", 256),
        ("query_scale.layers.1", 256),
    ):
        one_stage |= linear(f"transformer.decoder.{name}", 256, inputs)
    learned = {"tgt_embed": [300, 255], "refpoint_embed": [300, 4], "label_enc": [92, 255]}
    return one_stage | {f"{name}.weight": shape for name, shape in learned.items()}


# MMDetection's names of parts of a Swin Transformer, and Microsoft's
SWIN_PARTS = {
    "stages.": "layers.",
    "attn.w_msa.": "attn.",
    "ffn.layers.0.0.": "mlp.fc1.",
    "ffn.layers.1.": "mlp.fc2.",
    "patch_embed.projection.": "patch_embed.proj.",
}


def swin(prefix: str, dims: int) -> Shapes:
    """The shapes of Microsoft's Swin Transformer with windows of 7 and three outputs."""
    depths, heads = (1, 1, 2, 1), (1, 2, 4, 8)
    model = SwinTransformer(embed_dims=dims, depths=depths, num_heads=heads, out_indices=(1, 2, 3))
    actual: Shapes = {}
    for name, value in model.state_dict().items():
        for ours, theirs in SWIN_PARTS.items():
            name = name.replace(ours, theirs)
        actual[prefix + name] = list(value.shape)
    return actual


def on_swin(released: Shapes, prefix: str, dims: int = 32) -> Shapes:
    """A model's shapes on a Swin Transformer instead of its ResNet."""
    rest = without(released, r"^backbone\.")
    projection = r"(?:input_proj\.(\d)\.0|neck\.(?:convs|extra_convs)\.(\d).*)\.weight"
    for name, shape in rest.items():
        match = re.fullmatch(projection, name)
        if match and len(shape) == 4:
            level = 2 if "extra" in name else min(int(match[1] or match[2]), 2)
            rest[name] = [shape[0], dims * 2 ** (level + 1), *shape[2:]]
    return swin(prefix, dims) | rest
