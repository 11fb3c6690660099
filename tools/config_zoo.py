"""Write what follows from the configs: their metafiles and docs/config_zoo.md, or check them.

python tools/config_zoo.py           write what differs
python tools/config_zoo.py --check   exit status 1 if anything differs

A config's words are its name (sparse_encoders/configs.py). The figures are those of
mmdet_configs/published.yml: what papers print, and apart from it what was trained here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparse_encoders.configs import CocoConfig, coco_configs

CONFIGS = Path(__file__).resolve().parents[1] / "mmdet_configs"
#: first word of a name to what the detector is called, in the order of the page
DETECTORS = {
    "deformable-detr-refine": "Deformable DETR, one-stage",
    "deformable-detr-refine-twostage": "Deformable DETR, two-stage",
    "sparse-detr": "Sparse DETR's: two-stage, efficient query init",
    "dn-deformable-detr": "DN-Deformable-DETR",
    "dino-4scale": "DINO",
    "ddq-detr-4scale": "DDQ-DETR",
    "h-deformable-detr": "H-Deformable-DETR",
}
BACKBONES = {
    "r50": "ResNet-50",
    "r101": "ResNet-101",
    "swin-t": "Swin-T",
    "swin-b-224-22k": "Swin-B (ImageNet-22K, 224)",
    "swin-b-384-22k": "Swin-B (ImageNet-22K, 384)",
}
AP_KEYS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
PRINTED_KEYS = {*AP_KEYS, "parameters", "gflops", "fps"}
SMALL = "sparse_encoders small DINO"  # collection of what was trained here


@dataclass(frozen=True)
class Figures:
    """What a paper prints for a config.

    Attributes:
        values: by name: AP to AP_L (percent), parameters (millions), gflops, fps; those printed.
        paper: title.
        url: of the paper.
        place: where in it.
    """

    values: Mapping[str, float]
    paper: str
    url: str
    place: str


@dataclass(frozen=True)
class Trained:
    """What a config reached that was trained with this code.

    Attributes:
        path: of the config, below the folder of the configs.
        dataset: that it was trained and tested on.
        epochs: length of the training.
        log: file of this repository with the training's or the comparison's numbers.
        metrics: AP to AP_L, percent.
    """

    path: str
    dataset: str
    epochs: int
    log: str
    metrics: Mapping[str, float]


def read_printed(file: Path) -> dict[str, list[Figures]]:
    """Printed figures by config name.

    Raises:
        ValueError: a name that is no config's, or a figure of unknown name.
    """
    content = yaml.safe_load(file.read_text())
    known = {config.path.stem for config in coco_configs()}
    found: dict[str, list[Figures]] = {}
    for paper, places in content["figures"].items():
        facts = content["papers"][paper]
        for place, rows in places.items():
            for row in rows:
                name, values = row["config"], {k: v for k, v in row.items() if k != "config"}
                if name not in known or not values.keys() <= PRINTED_KEYS or "AP" not in values:
                    raise ValueError(
                        f"{file}: {place} must name a config that is there, AP, and some of "
                        f"{sorted(PRINTED_KEYS)}, got {row}"
                    )
                figures = Figures(values, facts["title"], facts["url"], place)
                found.setdefault(name, []).append(figures)
    return found


def read_trained(file: Path) -> list[Trained]:
    """What was trained here.

    Raises:
        ValueError: a config or a log that is not there.
    """
    found = []
    for row in yaml.safe_load(file.read_text())["trained"]:
        metrics = {key: row[key] for key in AP_KEYS}
        one = Trained(row["config"], row["dataset"], row["epochs"], row["log"], metrics)
        for path in (CONFIGS / one.path, CONFIGS.parent / one.log):
            if not path.is_file():
                raise ValueError(f"{file}: trained names {path}, which is not there")
        found.append(one)
    return found


def written_files(configs: Path = CONFIGS) -> dict[Path, str]:
    """Every file that follows from the configs, and its content.

    Args:
        configs: the folder; ``model-index.yml`` and ``docs`` are beside it.
    """
    figures = configs / "published.yml"
    printed, trained = read_printed(figures), read_trained(figures)
    folders = sorted({config.path.parent.name for config in coco_configs()})
    index = {"Import": [f"configs/{folder}/metafile.yml" for folder in folders]}
    files = {configs / f / "metafile.yml": _metafile(f, printed, trained) for f in folders}
    files[configs.parent / "model-index.yml"] = yaml.safe_dump(index)
    files[configs.parent / "docs" / "config_zoo.md"] = _page(configs, printed, trained)
    return files


def out_of_date(configs: Path = CONFIGS) -> list[Path]:
    """The files that are missing or differ from what follows from the configs."""
    return [
        path
        for path, text in written_files(configs).items()
        if not path.is_file() or path.read_text() != text
    ]


def write(configs: Path = CONFIGS) -> list[Path]:
    """Write what is missing or differs; returns those files."""
    changed = out_of_date(configs)
    for path, text in written_files(configs).items():
        if path in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return changed


def _metafile(folder: str, printed: Mapping[str, list[Figures]], trained: list[Trained]) -> str:
    """OpenMMLab's description of a folder's configs."""
    here = [config for config in coco_configs() if config.path.parent.name == folder]
    small = [one for one in trained if Path(one.path).parent.name == folder]
    names = {c.detector: f"sparse_encoders {DETECTORS[c.detector]}" for c in here}
    collections = [_collection(name, "COCO") for name in names.values()]
    models = [_model(c, names[c.detector], printed.get(c.path.stem, [])) for c in here]
    for path in dict.fromkeys(one.path for one in small):
        models.append(_trained_model(path, [one for one in small if one.path == path]))
    if small:
        collections.append(_collection(SMALL, small[0].dataset))
    content = {"Collections": collections, "Models": models}
    text = yaml.safe_dump(content, sort_keys=False, width=100)
    return f"# Written by tools/config_zoo.py. Results: only of what was trained here.\n{text}"


def _collection(name: str, data: str) -> dict[str, Any]:
    return {"Name": name, "Metadata": {"Training Data": data}, "README": "docs/config_zoo.md"}


def _model(config: CocoConfig, collection: str, printed: list[Figures]) -> dict[str, Any]:
    """An entry of a config for COCO: without results, as it was not trained here."""
    entry = {
        "Name": config.path.stem,
        "In Collection": collection,
        "Config": f"configs/{config.path.as_posix()}",
        "Metadata": {"Epochs": config.epochs},
    }
    if printed:
        entry["Printed in the paper"] = [
            {"Paper": f.paper, "URL": f.url, "Place": f.place, **f.values} for f in printed
        ]
    return entry


def _trained_model(path: str, runs: list[Trained]) -> dict[str, Any]:
    """An entry of a config that was trained here."""
    results = [
        {
            "Task": "Object Detection",
            "Dataset": run.dataset,
            "Epochs": run.epochs,
            "Metrics": {f"box {key}": value for key, value in run.metrics.items()},
            "Training Log": run.log,
        }
        for run in runs
    ]
    return {
        "Name": Path(path).stem,
        "In Collection": SMALL,
        "Config": f"configs/{path}",
        "Results": results,
    }


def _page(configs: Path, printed: Mapping[str, list[Figures]], trained: list[Trained]) -> str:
    """The page of the docs."""
    notes = yaml.safe_load((configs / "published.yml").read_text())["notes"]
    parts = [(configs / "page_header.md").read_text().rstrip(), "", "## Trained here", ""]
    parts += ["| config | data | epochs | AP | AP50 | AP75 | numbers |", "|" + " --- |" * 7]
    for run in trained:
        cells = " | ".join(str(run.metrics[key]) for key in AP_KEYS[:3])
        name, log = Path(run.path).stem, run.log.removeprefix("docs/")
        start = f"| [{name}](../mmdet_configs/{run.path}) | {run.dataset} | {run.epochs} |"
        parts.append(f"{start} {cells} | [{log}]({log}) |")
    parts += ["", "## Notes on the printed figures", ""]
    parts += [f"- {where}: {text.strip()}" for where, text in notes.items()]
    for detector, title in DETECTORS.items():
        parts += ["", f"## {title}", "", *_table(detector, printed)]
    return "\n".join(parts) + "\n"


def _table(detector: str, printed: Mapping[str, list[Figures]]) -> Iterator[str]:
    """Rows of one detector's configs."""
    yield "| config | backbone | epochs | AP | GFLOPs | M parameters | printed in |"
    yield "|" + " --- |" * 7
    order = list(BACKBONES)
    here = [config for config in coco_configs() if config.detector == detector]
    for config in sorted(here, key=lambda c: (order.index(c.backbone), c.epochs, c.encoder)):
        link = f"[{config.encoder}](../mmdet_configs/{config.path.as_posix()})"
        start = f"| {link} | {BACKBONES[config.backbone]} | {config.epochs} |"
        rows = printed.get(config.path.stem, [])
        for figures in rows:
            cells = [f"{figures.values.get(k, '')}" for k in ("AP", "gflops", "parameters")]
            paper = figures.paper.split(":")[0].replace("Less is More", "Focus-DETR")
            yield f"{start} {' | '.join(cells)} | {paper}, {figures.place} |"
        if not rows:
            yield f"{start} | | | |"


def main() -> int:
    """Write or check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    changed = out_of_date() if check else write()
    for path in changed:
        print(f"{'differs' if check else 'written'}: {path.relative_to(CONFIGS.parent)}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
