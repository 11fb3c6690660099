"""No tensor's size depends on a device value, in encoder and selector."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from grids import DIMS
from grids import small_encoder as make
from grids import small_grid as grid
from quick import exhaustive_but
from skips import needs_export
from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.encoders import (
    DenseEncoder,
    DualAttentionEncoder,
    HybridEncoder,
    LiteDETREncoder,
    NoEncoder,
    SparseDETREncoder,
)
from sparse_encoders.selectors.projection import TokenProjection
from sparse_encoders.supervision.decoder_attention import attention_share, decoder_attention_map
from sparse_encoders.tokens import TokenGrid

# operators that must read a device value on the host
SYNCING = (
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.unique",
    "aten.repeat_interleave.Tensor",
    "aten.equal",
)


class ForbidSyncs(TorchDispatchMode):
    """Fails where a CUDA device would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if name.startswith(SYNCING):
            raise AssertionError(f"{name} reads a device value")
        if name.startswith("aten.index.Tensor") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        ):
            raise AssertionError("indexing with a boolean mask")
        return func(*args, **(kwargs or {}))


class Whole(nn.Module):
    """Encoder, selector and what the detector lends, as a function of tensors."""

    def __init__(self, encoder, shapes):
        super().__init__()
        self.encoder, self.shapes = encoder, shapes
        self.projection, self.head = TokenProjection(DIMS), nn.Linear(DIMS, 7)

    def forward(self, features, pos_embed, padding, ratios):
        tokens = TokenGrid(features, pos_embed, padding, self.shapes, ratios)
        lent = DetectorParts(self.projection, lambda layer: self.head)
        return self.encoder(tokens, lent).memory


def whole(**kwargs):
    tokens = grid([(1.0, 1.0), (0.5, 0.6)])
    inputs = (tokens.features, tokens.pos_embed, tokens.padding_mask, tokens.valid_ratios)
    return Whole(make(**kwargs), tokens.shapes).eval(), inputs


CASES = {
    "dense": dict(encoder=DenseEncoder),
    "released": dict(encoder=DualAttentionEncoder),
    "paper": dict(
        encoder=DualAttentionEncoder,
        values="updated",
        object_score="probability",
        selector=dict(type="FocusTokenSelector", count="image", intervals="overlapping"),
    ),
    "bottom-up": dict(selector=dict(type="FocusTokenSelector", modulation="bottom_up")),
    "released in a batch": dict(selector=dict(type="FocusTokenSelector", test_count="batch")),
    "sparse": dict(encoder=SparseDETREncoder, num_classes=7),
    "sparse + focus": dict(
        encoder=SparseDETREncoder, num_classes=7, selector=dict(type="FocusTokenSelector")
    ),
    "salience": dict(background_embedding="released", selector=dict(type="SalienceTokenSelector")),
    "salience in a batch, modulation after the norm": dict(
        background_embedding="never_kept",
        selector=dict(
            type="SalienceTokenSelector",
            test_count="batch",
            modulation_place="after_norm",
            keep_ratio=0.3,
        ),
    ),
    "random by level": dict(
        encoder=SparseDETREncoder,
        num_classes=7,
        selector=dict(type="RandomSelector", by_level=True),
    ),
    "hybrid": dict(encoder=HybridEncoder, feedforward_channels=48),
    "none": dict(encoder=NoEncoder),
    "lite": dict(encoder=LiteDETREncoder, blocks=1, small_low_level_ffn=True),
    "lite key-aware": dict(encoder=LiteDETREncoder, blocks=1, attention="key_aware"),
    "lite + focus": dict(
        encoder=LiteDETREncoder,
        blocks=1,
        small_low_level_ffn=True,
        selector=dict(type="FocusTokenSelector"),
    ),
    "lite + salience": dict(
        encoder=LiteDETREncoder, blocks=1, selector=dict(type="SalienceTokenSelector")
    ),
    "lite + focus, all pruned": dict(
        encoder=LiteDETREncoder,
        blocks=1,
        selector=dict(type="FocusTokenSelector"),
        prune_high_levels=True,
    ),
}


def test_the_mode_itself_notices():
    with ForbidSyncs():
        for sync in (
            lambda x: x.sum().item(),
            lambda x: x[x > 0],
            lambda x: int(x.max()),
            lambda x: (x > 0).nonzero(),
        ):
            with pytest.raises(AssertionError, match=r"device value|boolean mask"):
                sync(torch.randn(3))


@pytest.mark.parametrize("case", CASES)
def test_no_device_value_is_read(case):
    model, inputs = whole(**CASES[case])
    with ForbidSyncs(), torch.no_grad():
        assert model(*inputs).shape == inputs[0].shape


# every encoder and every selector that is no control
EXPORTED = ("dense", "released", "sparse", "salience", "hybrid", "none", "lite + focus")


@needs_export
@pytest.mark.parametrize("case", exhaustive_but(EXPORTED, CASES, quick=("dense", "lite + focus")))
def test_the_whole_encoder_exports(case):
    model, inputs = whole(**CASES[case])
    with torch.no_grad():
        exported = torch.export.export(model, inputs, strict=False)
        others = (torch.randn_like(inputs[0]), *inputs[1:])
        assert torch.allclose(exported.module()(*others), model(*others), atol=1e-5)


def test_a_drawn_keep_ratio_reads_no_device_value():
    model, inputs = whole(selector=dict(type="FocusTokenSelector", train_keep_ratio=(0.1, 0.9)))
    model.train()
    sizes = set()
    with ForbidSyncs(), torch.no_grad():
        for _ in range(4):
            assert model(*inputs).shape == inputs[0].shape
            schedule = model.encoder.selector.active_schedule
            sizes.add(schedule.foreground_counts(inputs[0].shape[1]))
            model.encoder.selector.note_training()
    assert len(sizes) == 4


def test_what_the_decoder_teaches_reads_no_device_value():
    encoder = make(SparseDETREncoder, num_classes=7).train()
    tokens = grid([(1.0, 1.0), (0.5, 0.6)])
    locations = torch.rand(2, 3, 5, 4, 4, 2, 2)
    with ForbidSyncs():
        lent = DetectorParts(TokenProjection(DIMS))
        output = encoder(tokens, lent)
        seen = decoder_attention_map(locations, torch.rand(locations.shape[:-1]), tokens.shapes)
        targets = Targets([], [], seen)
        encoder.selector.loss(output.selection, tokens, targets)[
            "loss_decoder_attention"
        ].backward()
        encoder.auxiliary(output.refined, output.layers, tokens)
        attention_share(seen, output.layers[0].mask(tokens.num_tokens), tokens.shapes)
        lite = make(LiteDETREncoder, blocks=1, selector=dict(type="DecoderAttentionSelector"))
        output = lite.train()(tokens, lent)
        lite.selector.loss(output.selection, tokens, targets)["loss_decoder_attention"].backward()
