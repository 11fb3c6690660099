"""Check of fixture kind ``key_aware_attention``: one attention in float64, with its gradients."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from reference.checks import Check, Fixture, close
from reference.parts import released_state
from reference.seeded import uniform
from sparse_encoders.attention import KeyAwareDeformableAttention

_TOLERANCE = 1e-9  # relative, of what the fixture holds in float64
_TOLERANCE_STORED = 1e-6  # of what it holds in float32


def check_key_aware_attention(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Output and gradients of a seeded :class:`KeyAwareDeformableAttention`."""
    attention = KeyAwareDeformableAttention(
        embed_dims=config["embed_dim"],
        num_heads=config["num_heads"],
        num_levels=len(config["spatial_shapes"]),
        num_points=config["num_points"],
        same_locations_on_every_level=config["same_locations_on_every_level"],
        separate_key_projection=config["separate_key_projection"],
    )
    attention.load_state_dict(released_state(fixture, config))
    attention.double().eval()
    query, source, reference_points, grad = _inputs(config)
    with torch.enable_grad():
        query.requires_grad_()
        source.requires_grad_()
        output = attention(
            query,
            value=source,
            identity=torch.zeros_like(query),
            key_padding_mask=_padding(config, source),
            reference_points=reference_points,
            spatial_shapes=tuple(map(tuple, config["spatial_shapes"])),
        )
        output.backward(grad)
    actual: dict[str, Tensor | None] = {"output": output.detach(), "grad_query": query.grad}
    if source.grad is not None and "grad_input_token_index" in fixture:
        actual["grad_input"] = source.grad[:, torch.from_numpy(fixture["grad_input_token_index"])]
    actual |= {f"grad.{name}": weight.grad for name, weight in attention.named_parameters()}
    results = []
    for name, ours in actual.items():
        if name not in fixture:
            continue
        tolerance = _TOLERANCE if fixture[name].dtype.itemsize == 8 else _TOLERANCE_STORED
        if ours is None:
            results.append(Check(name, False, "no gradient arrived"))
        else:
            results.append(close(name, ours, fixture[name], tolerance))
    return results


def _inputs(config: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, tokens, reference points and the gradient of the output; float32 values in float64."""
    batch, queries, channels = config["batch"], config["num_queries"], config["embed_dim"]
    levels = config["spatial_shapes"]
    tokens = sum(height * width for height, width in levels)

    def draw(name: str, shape: tuple[int, ...], low: float) -> Tensor:
        values = low + (1 - low) * uniform(name, shape, config["seed"])
        return torch.from_numpy(values).float().double()

    return (
        draw("query", (batch, queries, channels), -1.0),
        draw("input", (batch, tokens, channels), -1.0),
        draw("ref", (batch, queries, len(levels), 2), 0.0),
        draw("grad", (batch, queries, channels), -1.0),
    )


def _padding(config: dict[str, Any], source: Tensor) -> Tensor | None:
    """(B, N) padding mask from words such as 'image 1, every 9th token'; None without any."""
    text = str(config.get("padding") or "none")
    if text == "none":
        return None
    actual = re.fullmatch(r"image (\d+), every (\d+)(?:st|nd|rd|th) token", text)
    if actual is None or int(actual[1]) >= source.shape[0]:
        raise ValueError(f"padding must be 'none' or 'image I, every Nth token', got {text!r}")
    mask = torch.zeros(source.shape[:2], dtype=torch.bool)
    mask[int(actual[1]), :: int(actual[2])] = True
    return mask
