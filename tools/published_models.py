"""The multiply-adds of published models: counted here, counted on their releases, printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparse_encoders.analysis.complexity import Complexity, count_complexity, model_of_config
from sparse_encoders.skip_init import SkipInit

IMAGE_HW = (850, 1040)
Figures = tuple[float, float, float, str]  # total, encoder, decoder, printed
# what stands between them in docs/complexity.md is written by tools/count_complexity.py
BEGIN, END = "<!-- published models: begin -->", "<!-- published models: end -->"
TOTAL_TOLERANCE, ENCODER_TOLERANCE = 0.02, 0.03


@dataclass(frozen=True)
class Published:
    """A published ResNet-50 model.

    Attributes:
        name: as its paper says.
        config: below ``mmdet_configs``.
        total, encoder, decoder: counted on the released implementation for one image of
            :data:`IMAGE_HW`, in G. The encoder is without its selector; the decoder with the
            heads, those of the first stage included.
        printed: total that papers print, in G.
        overrides: where the released widths are not the config's.
    """

    name: str
    config: str
    total: float
    encoder: float
    decoder: float
    printed: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A published model beside what is counted here."""

    model: Published
    complexity: Complexity

    @property
    def total(self) -> float:
        """Multiply-adds, in G."""
        return self.complexity.madds / 1e9

    @property
    def encoder(self) -> float:
        """The same of the encoder without its selector."""
        return self.complexity.groups["encoder without selector"].madds / 1e9

    @property
    def decoder(self) -> float:
        """The same of the decoder and all heads."""
        return self.complexity.groups["decoder with heads"].madds / 1e9

    @property
    def total_difference(self) -> float:
        """Of the total, as a share of the release's."""
        return self.total / self.model.total - 1

    @property
    def encoder_difference(self) -> float:
        """Of the encoder, as a share of the release's."""
        return self.encoder / self.model.encoder - 1

    @property
    def agrees(self) -> bool:
        """Whether total and encoder are within 2% and 3% of the release's."""
        return (
            abs(self.total_difference) <= TOTAL_TOLERANCE
            and abs(self.encoder_difference) <= ENCODER_TOLERANCE
        )


# Deformable DETR's and Sparse DETR's code bases have an output for each of COCO's 91 ids
_COCO_IDS: dict[str, Any] = {"model.bbox_head.num_classes": 91}
_PLAIN: dict[str, Any] = {
    "model.encoder.attention": "plain",
    "model.encoder.key_aware": None,
    "model.decoder_attention": "plain",
    "model.decoder_key_aware": None,
}


def _deformable(name: str, config: str, figures: Figures, **overrides: Any) -> Published:
    file = f"deformable_detr/{config}_16xb2-50e_coco.py"
    return Published(name, file, *figures, overrides={**_COCO_IDS, **overrides})


def _sparse(keep_ratio: float, figures: Figures) -> Published:
    overrides = {**_COCO_IDS, "model.encoder.selector.keep_ratio": keep_ratio}
    file = "sparse_detr/sparse-detr_r50_sparse_16xb2-50e_coco.py"
    return Published(f"Sparse DETR {keep_ratio}", file, *figures, overrides=overrides)


def _dino(name: str, encoder: str, figures: Figures, **overrides: Any) -> Published:
    file = f"dino/dino-4scale_r50_{encoder}_8xb2-36e_coco.py"
    return Published(name, file, *figures, overrides=overrides)


PUBLISHED: tuple[Published, ...] = (
    _deformable(
        "Deformable DETR, one-stage",
        "deformable-detr-refine_r50_dense",
        (172.9, 86.0, 9.3, "173"),
        **{"model.with_box_refine": False},
    ),
    _deformable(
        "Deformable DETR, two-stage",
        "deformable-detr-refine-twostage_r50_dense",
        (177.4, 86.0, 12.7, "177"),
    ),
    _sparse(0.1, (111.2, 16.6, 12.7, "111")),
    _sparse(0.3, (129.8, 35.2, 12.7, "121 to 127")),
    _sparse(0.5, (148.4, 53.8, 12.7, "141")),
    _dino("DINO", "dense", (246.2, 144.3, 23.3, "279")),
    _dino("DINO + Focus-DETR 0.3", "focus", (155.0, 50.2, 22.9, "154")),
    Published(
        "DN-Deformable-DETR",
        "dn_detr/dn-deformable-detr_r50_dense_16xb2-50e_coco.py",
        *(233.0, 144.3, 11.3, "195"),
    ),
    _dino(
        "Lite-DINO H3L1-(2+1)x3, key-aware",
        *("lite-key-aware", (158.5, 58.7, 20.7, "151 to 159")),
    ),
    _dino(
        "Lite-DINO H3L1-(3+1)x2, key-aware",
        "lite-key-aware",
        (153.3, 53.5, 20.7, "-"),
        **{"model.encoder.schedule": "H3L1-(3+1)x2"},
    ),
    _dino(
        "Lite-DINO H3L1-(6+1)x1, key-aware",
        *("lite-key-aware-6p1x1", (148.2, 48.3, 20.7, "141 to 149")),
    ),
    _dino(
        "Lite-DINO H2L2-(2+1)x3, key-aware",
        *("lite-key-aware-h2l2", (135.2, 35.4, 20.7, "130")),
    ),
    _dino("Lite-DINO H3L1-(2+1)x3, plain", "lite-key-aware", (154.2, 54.7, 20.4, "-"), **_PLAIN),
)


def compare_published(
    configs: str | Path, progress: Callable[[str], None] = lambda message: None
) -> Iterator[Comparison]:
    """Count every model of :data:`PUBLISHED`, auxiliary heads included, as the releases run them.

    Args:
        configs: the folder ``mmdet_configs``.
        progress: is told what is being counted.

    Raises:
        ValueError: the folder lacks a config.
    """
    for published in PUBLISHED:
        progress(published.name)
        with SkipInit():  # shapes alone are counted
            model = model_of_config(Path(configs) / published.config, dict(published.overrides))
        yield Comparison(published, count_complexity(model, IMAGE_HW, auxiliary_heads=True))


def as_table(rows: Sequence[Comparison]) -> str:
    """Markdown, in G; differences are of what is counted here from what was on the release."""
    lines = [
        "| model | total here | release | difference | printed "
        "| encoder here | release | difference | decoder here | release |",
        "|" + " --- |" * 10,
    ]
    for row in rows:
        lines.append(
            f"| {row.model.name} | {row.total:.1f} | {row.model.total:.1f} "
            f"| {row.total_difference:+.1%} | {row.model.printed} "
            f"| {row.encoder:.1f} | {row.model.encoder:.1f} | {row.encoder_difference:+.1%} "
            f"| {row.decoder:.1f} | {row.model.decoder:.1f} |"
        )
    return "\n".join(lines)


def as_parts_table(rows: Sequence[Comparison]) -> str:
    """Markdown: every part of every model, in G, and the parameters in M."""
    names = [n for n in rows[0].complexity.parts if any(r.complexity.parts[n].madds for r in rows)]
    lines = [
        "| model | " + " | ".join(names) + " | total | parameters (M) |",
        "|" + " --- |" * (len(names) + 3),
    ]
    for row in rows:
        counted = row.complexity
        cells = [f"{counted.parts[name].madds / 1e9:.2f}" for name in names]
        total = f"{counted.madds / 1e9:.2f} | {counted.parameters / 1e6:.1f}"
        lines.append(f"| {row.model.name} | " + " | ".join(cells) + f" | {total} |")
    return "\n".join(lines)


def tables(rows: Sequence[Comparison]) -> str:
    """Both tables, as docs/complexity.md shows them."""
    return f"{as_table(rows)}\n\nBy part, here:\n\n{as_parts_table(rows)}"


def write_tables(path: Path, rows: Sequence[Comparison]) -> None:
    """Replace what stands between the two marks of a Markdown file.

    Raises:
        ValueError: the file is missing, or has not both marks in this order.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path} to write the tables into")
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} must hold the lines {BEGIN} and {END}, which it does not")
    path.write_text(f"{before}{begin}\n\n{tables(rows)}\n\n{end}{after}")


def as_records(rows: Sequence[Comparison]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "model": row.model.name,
            "config": row.model.config,
            "released_giga_madds": {
                "total": row.model.total,
                "encoder": row.model.encoder,
                "decoder": row.model.decoder,
            },
            "printed_giga_madds": row.model.printed,
            "total_difference": row.total_difference,
            "encoder_difference": row.encoder_difference,
            "agrees": row.agrees,
            **row.complexity.as_record(),
        }
        for row in rows
    ]
