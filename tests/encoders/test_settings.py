"""Settings of encoders: which are refused, and what the others become."""

from __future__ import annotations

from typing import Any

import pytest

from grids import ENCODERS, LAYER, small_encoder
from sparse_encoders.encoders import (
    DenseEncoder,
    DualAttentionEncoder,
    HybridEncoder,
    LiteDETREncoder,
)
from sparse_encoders.encoders.background import BackgroundEmbedding
from sparse_encoders.encoders.ffn import SlicedFFN

NUM_CP = r"encoder\.num_cp must be .* an integer from -1 to encoder.num_layers=6, got"
FFN_SLICE = r"encoder\.ffn_slice must be a number of tokens, 0"
TYPES = r"selector.type must be one of .*FocusTokenSelector"
REFUSED: dict[Any, list[tuple[dict[str, Any], str]]] = {
    DenseEncoder: [
        (dict(num_layers=0), "num_layers must be at least 1"),
        (dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=3))), "is 3, the detector has 4"),
        *((dict(num_cp=value), NUM_CP) for value in (7, -2, 1.0, "all", True, None)),
        *((dict(ffn_slice=value), FFN_SLICE) for value in (-1, 2.0, "all", True)),
    ],
    DualAttentionEncoder: [
        (dict(values="output"), "encoder.values must be one of"),
        (dict(object_score="logits"), "encoder.object_score must be one of"),
        (dict(background_embedding="always"), "encoder.background_embedding must be one of"),
        (
            dict(background_embedding="released", background_cells=0),
            "encoder.background_cells must be at least 1",
        ),
        (dict(num_object_tokens=0), "encoder.num_object_tokens must be at least 1"),
        (dict(num_levels=3), "3 feature levels|each of the 3 feature levels"),
        (dict(selector=dict(type="FocusTokenSelector", keep_ratio=[0.5])), "for 6 encoder layers"),
        *((dict(selector=dict(type=t)), TYPES) for t in ("L1Loss", "FocusSelector", None)),
        (dict(selector=dict(type="DenseEncoder")), TYPES),
    ],
    "sparse": [
        (dict(num_classes=None), r"auxiliary_heads=True needs encoder\.num_classes"),
        (dict(selector=dict(keep_ratio=1.5)), r"keep_ratio must lie in \(0, 1\], got 1.5"),
        (dict(selector=dict(loss_weight=-1)), "loss_weight must not be negative, got -1"),
    ],
    LiteDETREncoder: [
        (dict(blocks=4), "encoder.blocks must divide encoder.num_layers, got 4 blocks and 6"),
        (dict(blocks=0), "encoder.blocks must divide"),
        (dict(high_levels=4), r"encoder.high_levels must lie in \[1, 3\]"),
        (dict(high_levels=0), "encoder.high_levels must lie in"),
        (dict(schedule="H3L1"), r"encoder.schedule must be named like H3L1-\(2\+1\)x3"),
        (dict(schedule="H2L1-(2+1)x3"), "is for 3 feature levels, the detector has 4"),
        (dict(schedule="H3L1-(2+1)x3", blocks=2), "means blocks=3, but encoder.blocks is 2"),
        (dict(schedule="H3L1-(3+1)x2", num_cp=7), NUM_CP),
        (dict(attention="linear"), r"attention must be one of \('plain', 'key_aware'\)"),
        (dict(key_aware=dict(separate_key_projection=True)), "but encoder.attention is 'plain'"),
        (dict(attention="key_aware", key_aware=dict(heads=1)), "key_aware accepts same_loc"),
        (dict(prune_high_levels=True), "prune_high_levels needs encoder.selector"),
    ],
    HybridEncoder: [
        (dict(position="columns"), r"encoder\.position must be one of .* got 'columns'"),
        (dict(expansion=0.001), r"encoder\.expansion is too small.*0\.001"),
        (dict(depth_mult=0.1), r"encoder\.depth_mult is too small.*0\.1"),
        (
            dict(norm_cfg=dict(type="GN", num_groups=5), layer_cfg=LAYER),
            r"num_groups must divide the 32 .*got 5",
        ),
        (dict(num_cp="all"), r"num_cp must be .* encoder\.num_layers=3, got 'all'"),
        (dict(layer_cfg=dict(self_attn_cfg=dict(embed_dims=30))), "multiple of 4, got 30"),
    ],
    BackgroundEmbedding: [(dict(embed_dims=5), "embed_dims must be even, got 5")],
}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [(kind, *case) for kind, cases in REFUSED.items() for case in cases],
)
def test_refused_settings(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_encoder(**{**ENCODERS[kind], **settings}) if kind == "sparse" else kind(**settings)


@pytest.mark.parametrize(
    ("encoder", "num_cp", "expected"),
    [(DenseEncoder, -1, -1), (LiteDETREncoder, 6, 6), (HybridEncoder, 6, 3)],
)
def test_number_of_checkpointed_layers(encoder: Any, num_cp: int, expected: int) -> None:
    """The hybrid encoder, of three steps, takes what a config says for six layers."""
    assert encoder(num_cp=num_cp).num_cp == expected


@pytest.mark.parametrize("encoder", [DenseEncoder, DualAttentionEncoder, LiteDETREncoder])
def test_ffns_of_dense_are_whole_and_of_what_prunes_are_cut_unless_told(encoder: Any) -> None:
    default = 0 if encoder is DenseEncoder else 1024
    for setting, slices in ((None, default), (7, 7), (0, 0)):
        built = encoder(ffn_slice=setting, num_layers=3)
        assert {m.slice_tokens for m in built.modules() if isinstance(m, SlicedFFN)} == {slices}
