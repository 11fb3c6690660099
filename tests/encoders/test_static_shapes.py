"""No tensor's size depends on a device value, in encoder and selector."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from grids import CLASSES, ENCODERS, PADDED, lent, small_encoder, small_grid
from quick import exhaustive_but
from skips import needs_export
from sparse_encoders.contracts import Targets
from sparse_encoders.encoders import LiteDETREncoder, SparseDETREncoder
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
        self.encoder, self.shapes, self.lent = encoder, shapes, lent()
        self.parts = nn.ModuleList([self.lent.projection, self.lent.category_head(0)])

    def forward(self, features, pos_embed, padding, ratios):
        tokens = TokenGrid(features, pos_embed, padding, self.shapes, ratios)
        return self.encoder(tokens, self.lent).memory


def whole(**kwargs):
    tokens = small_grid(PADDED)
    inputs = (tokens.features, tokens.pos_embed, tokens.padding_mask, tokens.valid_ratios)
    return Whole(small_encoder(**kwargs), tokens.shapes).eval(), inputs


def sparse(**selector):
    return dict(encoder=SparseDETREncoder, num_classes=CLASSES, selector=selector)


def lite(selector, **settings):
    return dict(encoder=LiteDETREncoder, blocks=1, selector=dict(type=selector), **settings)


CASES = {
    **ENCODERS,
    "bottom-up": dict(selector=dict(type="FocusTokenSelector", modulation="bottom_up")),
    "released in a batch": dict(selector=dict(type="FocusTokenSelector", test_count="batch")),
    "sparse + focus": sparse(type="FocusTokenSelector"),
    "salience in a batch, modulation after the norm": dict(
        background_embedding="never_kept",
        selector=dict(
            type="SalienceTokenSelector",
            test_count="batch",
            modulation_place="after_norm",
            keep_ratio=0.3,
        ),
    ),
    "random by level": sparse(type="RandomSelector", by_level=True),
    "lite + salience": lite("SalienceTokenSelector"),
    "lite + focus, all pruned": lite("FocusTokenSelector", prune_high_levels=True),
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
EXPORTED = ("dense", "focus", "sparse", "salience", "hybrid", "none", "lite + focus")


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
    tokens, parts = small_grid(PADDED), lent()
    locations = torch.rand(2, 3, 5, 4, 4, 2, 2)
    for settings in (ENCODERS["sparse"], lite("DecoderAttentionSelector")):
        encoder = small_encoder(**settings).train()
        with ForbidSyncs():
            output = encoder(tokens, parts)
            seen = decoder_attention_map(locations, torch.rand(locations.shape[:-1]), tokens.shapes)
            losses = encoder.selector.loss(output.selection, tokens, Targets([], [], seen))
            losses["loss_decoder_attention"].backward()
            attention_share(seen, output.layers[0].mask(tokens.num_tokens), tokens.shapes)
            if settings["encoder"] is SparseDETREncoder:
                encoder.auxiliary(output.refined, output.layers, tokens)
