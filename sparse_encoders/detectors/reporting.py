"""Kept tokens and decoder attention as elements of MMDetection's data samples."""

from __future__ import annotations

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from sparse_encoders.encoders.base import EncoderOutput


def token_reports(encoded: EncoderOutput, attention_map: Tensor) -> list[BaseDataElement]:
    """One record for each image.

    Args:
        encoded: the encoder's output. An encoder without a selector counts as one
            layer that keeps every valid token.
        attention_map: (B, N) decoder attention map.

    Returns:
        Elements with ``kept`` (layers, N) bool, ``valid`` (N,) bool, ``scores``
        (N,) float32 (a selector's, else absent), ``attention`` (N,) float32, and
        the level ``shapes`` as metainfo.
    """
    tokens, selection, layers = encoded.tokens, encoded.selection, encoded.layers
    if tokens.padding_mask is None:
        valid = torch.ones(attention_map.shape, dtype=torch.bool, device=attention_map.device)
    else:
        valid = ~tokens.padding_mask
    if layers:
        kept = torch.stack([layer.mask(tokens.num_tokens) for layer in layers], 1)
    else:
        kept = valid.unsqueeze(1)
    reports = []
    for image in range(len(valid)):
        report = BaseDataElement(metainfo=dict(shapes=tokens.shapes))
        report.kept, report.valid = kept[image], valid[image]
        report.attention = attention_map[image]
        if selection is not None:
            report.scores = selection.scores[image]
        reports.append(report)
    return reports
