"""A dense encoder with as many layers as have the cost of another encoder, for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from sparse_encoders.analysis.complexity import count_complexity, model_of_config
from sparse_encoders.analysis.variants import DEFAULT_LAYERS, MATCHED, encoder_config, label, prunes


@dataclass(frozen=True)
class Match:
    """A dense encoder and the encoder whose cost it matches.

    Attributes:
        encoder: name of the other encoder.
        keep_ratio: its keep ratio, if one number was set.
        layers: dense layers, at least 1 and at most the config's.
        of_layers: the config's.
        madds: multiply-adds of the dense encoder.
        wanted: of the other one, its selector included.
    """

    encoder: str
    keep_ratio: float | None
    layers: int
    of_layers: int
    madds: int
    wanted: int

    @property
    def variant(self) -> str:
        """The dense encoder's name: 'dense-2' and so on, or 'dense' with all layers."""
        return "dense" if self.layers == self.of_layers else f"dense-{self.layers}"

    def __str__(self) -> str:
        return (
            f"{MATCHED} has {self.layers} of {self.of_layers} dense layers, "
            f"{self.madds / 1e9:.2f} G multiply-adds; matched to "
            f"{label(self.encoder, self.keep_ratio)}, {self.wanted / 1e9:.2f} G"
        )


def to_be_matched(names: Sequence[str]) -> str:
    """The encoder that 'dense-matched' is matched to: the first that prunes, or else is not dense.

    Raises:
        ValueError: there is none.
    """
    others = [n for n in names if n not in (MATCHED, "none") and not n.startswith("dense")]
    chosen = next((name for name in others if prunes(name)), next(iter(others), None))
    if chosen is None:
        raise ValueError(
            f"{MATCHED} takes as many dense layers as cost what another encoder does: name one "
            f"that it is matched to, such as focus; got {' '.join(names)}"
        )
    return chosen


def match_dense(
    model: Config, name: str, encoder: Mapping[str, Any], size: tuple[int, int]
) -> Match:
    """Count both encoders in a detector.

    Args:
        model: the detector's config, with whatever encoder.
        name: of the encoder to match.
        encoder: its config.
        size: (height, width) in pixels of the image that is counted.
    """
    base = model.get("encoder") or {}
    layers = int(base.get("num_layers", DEFAULT_LAYERS))
    wanted = _encoder_madds(model, encoder, size)
    # dense layers all cost the same
    dense = {**encoder_config("dense", base), "num_layers": 1}
    each = _encoder_madds(model, dense, size)
    count = min(max(round(wanted / each), 1), layers)
    ratio = (encoder.get("selector") or {}).get("keep_ratio")
    one_ratio = ratio if isinstance(ratio, (int, float)) else None
    return Match(name, one_ratio, count, layers, count * each, wanted)


def _encoder_madds(model: Config, encoder: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Multiply-adds of an encoder, its selector included, on one image."""
    config = Config(dict(model={**model, "encoder": dict(encoder)}))
    return count_complexity(model_of_config(config), size).group("encoder").madds
