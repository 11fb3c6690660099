"""Checks of the Sparse DETR fixtures: its encoder with its selector, and the decoder's map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.checks import TIE, Check, Fixture, close, equal, same_sets
from reference.parts import (
    encoder_settings,
    fixture_tokens,
    lent_parts,
    released_state,
    same_memory,
)
from reference.seeded import under
from sparse_encoders.checkpoints.names import released_names, rename
from sparse_encoders.encoders import EncoderOutput, SparseDETREncoder
from sparse_encoders.supervision.decoder_attention import (
    attention_labels,
    attention_share,
    decoder_attention_map,
    token_selection_loss,
)


def check_sparse_encoder(fixture: Fixture, config: dict[str, Any]) -> list[Check]:
    """Token scores, kept tokens, memory and auxiliary predictions of the released encoder."""
    released = released_state({**_aliases(fixture, config), **fixture}, config)
    state = rename(released, released_names("sparse_deformable_detr", 6))
    encoder = SparseDETREncoder(
        **encoder_settings(config),
        num_classes=config["num_classes"],
        selector=dict(keep_ratio=config["keep_ratio"], test_count="batch"),
    ).eval()
    encoder.load_state_dict(under(state, "encoder."))
    tokens = fixture_tokens(config, state["level_embed"])
    refined: list[Tensor] = []
    for layer in encoder.layers:  # kept by the encoder itself in training only
        layer.register_forward_hook(lambda module, args, output: refined.append(output))
    output = encoder(tokens, lent_parts(state))
    chosen, padding = output.selection, output.tokens.padding_mask
    assert chosen is not None
    released_counts = torch.from_numpy(fixture["num_kept"]).long()
    # at ratio 1 the released count is one more than there are tokens
    counts = torch.minimum(released_counts, tokens.num_valid())
    # and made the released code write into padding
    beyond = (released_counts > tokens.num_valid()).unsqueeze(1)
    results = [
        close("score", chosen.scores, fixture["score"]),
        equal("num_kept", chosen.groups[0].num_foreground, counts.numpy()),
        same_sets("kept_index", output.layers[0].indices, fixture["kept_index"], chosen.scores),
        same_memory(output, fixture, None if padding is None else padding & beyond),
    ]
    if encoder.auxiliary is not None and "aux_cls_logits" in fixture:
        predicted = encoder.auxiliary(refined, output.layers, tokens)
        results += _same_auxiliary(output, fixture, predicted)
    return results


def _aliases(fixture: Fixture, config: dict[str, Any]) -> Fixture:
    """``aliases`` of a fixture that has none: shared parameters had the value of their last name.

    The encoder's heads are the last ones of the detector's list.
    """
    shapes, aliases = json.loads(str(fixture["param_shapes"])), {}
    for kind in ("class_embed", "bbox_embed"):
        heads = len({name.split(".")[1] for name in shapes if name.startswith(f"{kind}.")})
        for name in shapes:
            prefix, own, rest = name.partition(f"transformer.encoder.{kind}.")
            if own and not prefix and heads:
                index, _, part = rest.partition(".")
                aliases[name] = f"{kind}.{heads - config['num_layers'] + 1 + int(index)}.{part}"
    return {"aliases": np.array(json.dumps(aliases))}


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


def _same_labels(ours: Tensor, reference: Tensor, attention: Tensor) -> Check:
    """(B, N) labels that agree, but for tokens as much attended as an image's last positive."""
    if ours.shape != reference.shape:
        return equal("target", ours, reference.numpy())
    odd = ours != reference
    last = attention.masked_fill(~reference.bool(), torch.inf).amin(1, keepdim=True)
    slack = TIE * attention.amax(1, keepdim=True)
    wrong = int((odd & ((attention - last).abs() > slack)).sum())
    same_count = torch.equal(ours.sum(1), reference.long().sum(1))
    detail = f"{int(odd.sum())} of {odd.numel()} differ, {wrong} of them not by a tie"
    return Check("target", wrong == 0 and same_count, detail)
