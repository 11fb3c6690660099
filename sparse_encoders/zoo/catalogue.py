"""What is written from the zoo: the configs, their metafiles, and the table of the docs.

The published figures are in ``mmdet_configs/published.yml``; they are the papers', and everything
written here says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparse_encoders.zoo.names import BACKBONES, DETECTORS, ZooConfig, zoo

_AP_KEYS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
_KEYS = {*_AP_KEYS, "parameters", "gflops", "fps"}
_NOT_MEASURED = "the figures are those printed in the papers, not measured with this code"


@dataclass(frozen=True)
class Figures:
    """What a paper prints for a config.

    Attributes:
        values: by name: AP, AP50, AP75, AP_S, AP_M, AP_L (percent), parameters (millions),
            gflops, fps; only those printed.
        paper: title.
        url: of the paper.
        place: where in it.
    """

    values: Mapping[str, float]
    paper: str
    url: str
    place: str


def read_published(file: Path) -> dict[str, list[Figures]]:
    """Published figures by config name.

    Args:
        file: ``published.yml``.

    Raises:
        ValueError: a name that is no config's, or a figure of unknown name.
    """
    content = yaml.safe_load(file.read_text())
    known = {config.name for config in zoo()}
    found: dict[str, list[Figures]] = {}
    for paper, places in content["figures"].items():
        facts = content["papers"][paper]
        for place, rows in places.items():
            for row in rows:
                name, values = row["config"], {k: v for k, v in row.items() if k != "config"}
                if name not in known or not values.keys() <= _KEYS or "AP" not in values:
                    raise ValueError(
                        f"{file}: {place} must name a config of the zoo, AP, and some of "
                        f"{sorted(_KEYS)}, got {row}"
                    )
                figures = Figures(values, facts["title"], facts["url"], place)
                found.setdefault(name, []).append(figures)
    return found


def written_files(configs: Path) -> dict[Path, str]:
    """Every file that follows from the zoo, and its content.

    Args:
        configs: the folder ``mmdet_configs``; ``model-index.yml`` and ``docs`` are beside it.
    """
    published = read_published(configs / "published.yml")
    files = {configs / config.path: config.text for config in zoo()}
    folders = sorted({facts.folder for facts in DETECTORS.values()})
    for folder in folders:
        files[configs / folder / "metafile.yml"] = _metafile(folder, published)
    index = {"Import": [f"configs/{folder}/metafile.yml" for folder in folders]}
    files[configs.parent / "model-index.yml"] = yaml.safe_dump(index)
    files[configs.parent / "docs" / "config_zoo.md"] = _page(published, configs)
    return files


def write(configs: Path) -> list[Path]:
    """Write what is missing or differs; returns those files."""
    changed = out_of_date(configs)
    for path, text in written_files(configs).items():
        if path in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return changed


def out_of_date(configs: Path) -> list[Path]:
    """The files that are missing or differ from what follows from the zoo."""
    return [
        path
        for path, text in written_files(configs).items()
        if not path.is_file() or path.read_text() != text
    ]


def _metafile(folder: str, published: Mapping[str, list[Figures]]) -> str:
    """OpenMMLab's description of a folder's configs."""
    collections, models = [], []
    for detector, facts in DETECTORS.items():
        if facts.folder != folder:
            continue
        name = f"sparse_encoders {facts.title}"
        collections.append(
            {"Name": name, "Metadata": {"Training Data": "COCO"}, "README": "docs/config_zoo.md"}
        )
        for config in zoo():
            if config.detector == detector:
                models.append(_model(config, name, published.get(config.name, [])))
    text = yaml.safe_dump(
        {"Collections": collections, "Models": models}, sort_keys=False, width=100
    )
    return f"# Written by tools/config_zoo.py; {_NOT_MEASURED}.\n{text}"


def _model(config: ZooConfig, collection: str, published: list[Figures]) -> dict[str, Any]:
    """One entry of a metafile; the first paper's figures count as its results."""
    entry: dict[str, Any] = {
        "Name": config.name,
        "In Collection": collection,
        "Config": f"configs/{config.path}",
        "Metadata": {"Epochs": config.epochs},
    }
    if not published:
        return entry
    values = published[0].values
    metrics = {
        "box AP" if key == "AP" else f"box {key}": values[key] for key in _AP_KEYS if key in values
    }
    entry["Results"] = [{"Task": "Object Detection", "Dataset": "COCO", "Metrics": metrics}]
    entry["Published"] = [
        {"Paper": f.paper, "URL": f.url, "Place": f.place, "Measured here": False, **f.values}
        for f in published
    ]
    return entry


def _page(published: Mapping[str, list[Figures]], configs: Path) -> str:
    """The page of the docs."""
    header = (configs / "page_header.md").read_text()
    notes = yaml.safe_load((configs / "published.yml").read_text())["notes"]
    parts = [header.rstrip(), "", "## Notes on the published figures", ""]
    parts += [f"- {where}: {text.strip()}" for where, text in notes.items()]
    for detector, facts in DETECTORS.items():
        parts += ["", f"## {facts.title}", "", *_table(detector, published)]
    return "\n".join(parts) + "\n"


def _table(detector: str, published: Mapping[str, list[Figures]]) -> Iterator[str]:
    """Rows of one detector's configs."""
    yield "| config | backbone | epochs | AP | GFLOPs | M parameters | printed in |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for config in zoo():
        if config.detector != detector:
            continue
        link = f"[{config.encoder}](../mmdet_configs/{config.path})"
        start = f"| {link} | {BACKBONES[config.backbone]} | {config.epochs} |"
        for figures in published.get(config.name, [None]):
            if figures is None:
                yield f"{start} | | | |"
                continue
            cells = [f"{figures.values.get(k, '')}" for k in ("AP", "gflops", "parameters")]
            paper = figures.paper.split(":")[0]
            paper = "Focus-DETR" if paper == "Less is More" else paper
            yield f"{start} {' | '.join(cells)} | {paper}, {figures.place} |"
