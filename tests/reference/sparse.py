"""Checks of the Sparse DETR fixtures: its encoder with its selector, and the decoder's map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.checks import Check, Fixture, checks, close, equal, same_sets
from reference.focus import fixture_tokens
from reference.seeded import seeded_state
from sparse_encoders.checkpoints.names import SPARSE_ENCODER, rename, under
from sparse_encoders.contracts import DetectorParts
from sparse_encoders.encoders import EncoderOutput, SparseDETREncoder
from sparse_encoders.selectors.projection import TokenProjection
from sparse_encoders.supervision.decoder_attention import (
    attention_labels,
    attention_share,
    decoder_attention_map,
    token_selection_loss,
)


@checks("sparse_encoder")
def check_sparse_encoder(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Token scores, kept tokens, memory and auxiliary predictions of the released encoder."""
    released = _released_state(fixture, config)
    state, _ = rename(released, SPARSE_ENCODER)
    encoder = _encoder(config)
    encoder.load_state_dict(under(state, "encoder."))
    projection = TokenProjection(config["embed_dim"])
    projection.fc.load_state_dict(under(state, "memory_trans_fc."))
    projection.norm.load_state_dict(under(state, "memory_trans_norm."))

    tokens = fixture_tokens(config, state["level_embed"])
    refined: list[Tensor] = []
    for layer in encoder.layers:  # kept by the encoder itself in training only
        layer.register_forward_hook(lambda module, args, output: refined.append(output))
    output = encoder(tokens, DetectorParts(projection))
    assert output.selection is not None
    expected = torch.from_numpy(fixture["num_kept"]).long()
    # at ratio 1 the released count is one more than there are tokens
    counts = torch.minimum(expected, tokens.num_valid())
    results = [
        close("score", output.selection.scores, fixture["score"]),
        equal("num_kept", output.selection.groups[0].num_foreground, counts.numpy()),
        same_sets(
            "kept_index",
            output.layers[0].indices,
            fixture["kept_index"],
            output.selection.scores,
        ),
        _same_memory(output, fixture, expected),
    ]
    if encoder.auxiliary is not None and "aux_cls_logits" in fixture:
        predicted = encoder.auxiliary(refined, output.layers, tokens)
        results += _same_auxiliary(output, fixture, predicted)
    return results


def _encoder(config: dict[str, Any]) -> SparseDETREncoder:
    dims = config["embed_dim"]
    return SparseDETREncoder(
        num_layers=config["num_layers"],
        num_levels=len(config["spatial_shapes"]),
        layer_cfg=dict(
            self_attn_cfg=dict(
                embed_dims=dims, num_heads=config["num_heads"], num_points=config["num_points"]
            ),
            ffn_cfg=dict(embed_dims=dims, feedforward_channels=config["ffn_dim"]),
        ),
        num_classes=config["num_classes"],
        selector=dict(keep_ratio=config["keep_ratio"], test_count="batch"),
    ).eval()


def _released_state(fixture: Fixture, config: dict[str, Any]) -> dict[str, Tensor]:
    """The released state dict; the encoder's heads are the last ones of the detector's list.

    A fixture without ``aliases`` gave shared parameters the value of their last name.
    """
    shapes = json.loads(str(fixture["param_shapes"]))
    if "aliases" in fixture:
        return seeded_state(shapes, config["seed"], json.loads(str(fixture["aliases"])))
    aliases = {}
    for kind in ("class_embed", "bbox_embed"):
        heads = len({name.split(".")[1] for name in shapes if name.startswith(f"{kind}.")})
        for name in shapes:
            prefix, own, rest = name.partition(f"transformer.encoder.{kind}.")
            if own and not prefix and heads:
                index, _, part = rest.partition(".")
                aliases[name] = f"{kind}.{heads - config['num_layers'] + 1 + int(index)}.{part}"
    return seeded_state(shapes, config["seed"], aliases)


def _same_memory(output: EncoderOutput, fixture: Fixture, released_counts: Tensor) -> Check:
    index = torch.from_numpy(fixture["memory_token_index"])
    memory, expected = output.memory[:, index], torch.from_numpy(fixture["memory"])
    padding = output.tokens.padding_mask
    if padding is not None and memory.shape == expected.shape:
        # a count beyond the valid tokens made the released code write into padding
        beyond = released_counts > output.tokens.num_valid()
        skip = (padding[:, index] & beyond.unsqueeze(1)).unsqueeze(-1)
        memory = torch.where(skip, expected, memory)
    return close("memory", memory, fixture["memory"])


def _same_auxiliary(
    output: EncoderOutput, fixture: Fixture, predicted: Sequence[tuple[Tensor, Tensor]]
) -> list[Check]:
    """Predictions of every auxiliary head, for tokens in the order of their scores.

    Padding ties with the last token, so an image with fewer valid tokens than
    are carried along has no order from there on; that part is left out.
    """
    rank = torch.from_numpy(fixture["aux_token_rank"])
    names, carried = ("aux_cls_logits", "aux_boxes"), predicted[0][0].shape[1]
    if rank.numel() and int(rank.max()) >= carried:
        detail = f"rank {int(rank.max())} was compared, {carried} tokens are kept"
        return [Check(name, False, detail) for name in names]
    valid = output.tokens.num_valid().unsqueeze(1)
    ordered = (rank < valid - 1) | (carried <= valid)
    results = []
    for index, name in enumerate(names):
        ours = torch.stack([parts[index][:, rank] for parts in predicted])
        expected = torch.from_numpy(fixture[name])
        if ours.shape == expected.shape:
            ours = torch.where(ordered[None, :, :, None], ours, expected)
        results.append(close(name, ours, fixture[name]))
    return results


@checks("decoder_attention_map")
def check_decoder_attention_map(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """The map, the pseudo label, the loss, and Corr of each image."""
    shapes = tuple((h, w) for h, w in config["spatial_shapes"])
    locations = torch.from_numpy(fixture["sampling_locations"])
    weights = torch.from_numpy(fixture["attention_weights"])
    padding = torch.from_numpy(fixture["padding_mask"])
    counts = torch.from_numpy(fixture["num_kept"]).long()
    attention = decoder_attention_map(locations, weights, shapes)
    labels = attention_labels(attention, counts, int(counts.max()), padding)
    reference = torch.from_numpy(fixture["target"])
    agree = _same_labels(labels, reference, attention)
    logits = torch.from_numpy(fixture["score"])
    # tokens that nobody looked at tie: the loss is that of the reference's choice among them
    loss = token_selection_loss(logits, reference if agree.passed else labels, padding)
    # the released Corr also counts tokens that a smaller image only carries along
    carried = torch.zeros_like(padding).scatter(1, torch.from_numpy(fixture["kept_index"]), True)
    corr = attention_share(attention, carried, shapes).T
    return [
        close("dam", attention, fixture["dam"]),
        agree,
        close("loss", loss, fixture["loss"]),
        # nan: a level that nobody looked at
        close("corr", corr.nan_to_num(), np.nan_to_num(fixture["corr"])),
    ]


def _same_labels(ours: Tensor, reference: Tensor, attention: Tensor, tie: float = 1e-6) -> Check:
    """(B, N) labels that agree, but for tokens as much attended as an image's last positive."""
    if ours.shape != reference.shape:
        return Check(
            "target", False, f"shape {tuple(ours.shape)}, expected {tuple(reference.shape)}"
        )
    odd = ours != reference
    last = attention.masked_fill(~reference.bool(), torch.inf).amin(1, keepdim=True)
    slack = tie * attention.amax(1, keepdim=True)
    wrong = int((odd & ((attention - last).abs() > slack)).sum())
    same_count = torch.equal(ours.sum(1), reference.long().sum(1))
    detail = f"{int(odd.sum())} of {odd.numel()} differ, {wrong} of them not by a tie"
    return Check("target", wrong == 0 and same_count, detail)
