"""Write the generated files of the config zoo: metafiles, model-index.yml, docs/config_zoo.md.

python tools/config_zoo.py           write the files that are missing or out of date
python tools/config_zoo.py --check   write nothing; exit status 1 if a file is out of date

Detector, encoder, backbone and schedule of a config are parsed from its file name
(sparse_encoders/configs.py). The results come from mmdet_configs/published.yml: those printed in
the papers and, separately, those of models trained with this code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sparse_encoders.configs import coco_configs

CONFIGS = Path(__file__).resolve().parents[1] / "mmdet_configs"
#: first part of a config's name to the detector's title, in the order of docs/config_zoo.md
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


Row = dict[str, Any]


def read_printed(file: Path) -> dict[str, list[Row]]:
    """Read the results printed in the papers.

    Returns:
        By config name, the entries of its metafile: Paper, URL, Source (table, poster or README)
        and the printed ones of AP to AP_L (percent), parameters (millions), gflops and fps.

    Raises:
        ValueError: a row names an unknown config or result, or has no AP.
    """
    content = yaml.safe_load(file.read_text())
    known = {config.path.stem for config in coco_configs()}
    printed: dict[str, list[Row]] = {}
    for key, sources in content["figures"].items():
        paper = content["papers"][key]
        for source, rows in sources.items():
            for row in rows:
                name, values = row["config"], {k: v for k, v in row.items() if k != "config"}
                if name not in known or not values.keys() <= PRINTED_KEYS or "AP" not in values:
                    raise ValueError(
                        f"{file}: each row of {source} must name an existing config and give AP "
                        f"and any of {sorted(PRINTED_KEYS)}, got {row}"
                    )
                entry = {"Paper": paper["title"], "URL": paper["url"], "Source": source, **values}
                printed.setdefault(name, []).append(entry)
    return printed


def read_trained(file: Path) -> list[Row]:
    """Read the results of the configs trained with this code.

    Returns:
        Rows of config (below ``mmdet_configs``), dataset, epochs, log (the file of this repository
        that documents the training) and AP to AP_L, percent.

    Raises:
        ValueError: the file of a config or of a log does not exist.
    """
    trained: list[Row] = yaml.safe_load(file.read_text())["trained"]
    for row in trained:
        for path in (CONFIGS / row["config"], CONFIGS.parent / row["log"]):
            if not path.is_file():
                raise ValueError(f"{file}: 'trained' names {path}, which does not exist")
    return trained


def generated_files(configs: Path = CONFIGS) -> dict[Path, str]:
    """Path and content of every file that this tool writes.

    Args:
        configs: the folder ``mmdet_configs``; ``model-index.yml`` and ``docs`` are beside it.
    """
    published = configs / "published.yml"
    printed, trained = read_printed(published), read_trained(published)
    folders = sorted({config.path.parent.name for config in coco_configs()})
    index = {"Import": [f"configs/{folder}/metafile.yml" for folder in folders]}
    files = {configs / f / "metafile.yml": _metafile(f, printed, trained) for f in folders}
    files[configs.parent / "model-index.yml"] = yaml.safe_dump(index)
    files[configs.parent / "docs" / "config_zoo.md"] = _page(configs, printed, trained)
    return files


def out_of_date(configs: Path = CONFIGS) -> list[Path]:
    """Generated files that are missing or whose content is no longer right."""
    return [
        path
        for path, text in generated_files(configs).items()
        if not path.is_file() or path.read_text() != text
    ]


def write(configs: Path = CONFIGS) -> list[Path]:
    """Write the generated files that are missing or out of date, and return their paths."""
    changed, files = out_of_date(configs), generated_files(configs)
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    return changed


def _metafile(folder: str, printed: Mapping[str, list[Row]], trained: list[Row]) -> str:
    """Content of a folder's metafile.yml, in OpenMMLab's format."""
    configs = [config for config in coco_configs() if config.path.parent.name == folder]
    small = [run for run in trained if Path(run["config"]).parent.name == folder]
    names = {c.detector: f"sparse_encoders {DETECTORS[c.detector]}" for c in configs}
    data = dict.fromkeys(names.values(), "COCO")
    if small:
        data[SMALL] = small[0]["dataset"]
    collections = [
        {"Name": name, "Metadata": {"Training Data": kind}, "README": "docs/config_zoo.md"}
        for name, kind in data.items()
    ]
    models = []
    for config in configs:
        entry = _entry(config.path, names[config.detector])
        entry["Metadata"] = {"Epochs": config.epochs}
        if config.path.stem in printed:
            entry["Printed in the paper"] = printed[config.path.stem]
        models.append(entry)
    for path in dict.fromkeys(run["config"] for run in small):
        entry = _entry(Path(path), SMALL)
        entry["Results"] = [_result(run) for run in small if run["config"] == path]
        models.append(entry)
    content = {"Collections": collections, "Models": models}
    text = yaml.safe_dump(content, sort_keys=False, width=100)
    return (
        f"# Written by tools/config_zoo.py. Results: only of models trained with this code.\n{text}"
    )


def _entry(path: Path, collection: str) -> Row:
    """Metafile entry of a config."""
    config = f"configs/{path.as_posix()}"
    return {"Name": path.stem, "In Collection": collection, "Config": config}


def _result(run: Row) -> Row:
    """Metafile entry of a training with this code."""
    return {
        "Task": "Object Detection",
        "Dataset": run["dataset"],
        "Epochs": run["epochs"],
        "Metrics": {f"box {key}": run[key] for key in AP_KEYS},
        "Training Log": run["log"],
    }


def _page(configs: Path, printed: Mapping[str, list[Row]], trained: list[Row]) -> str:
    """Content of docs/config_zoo.md."""
    notes = yaml.safe_load((configs / "published.yml").read_text())["notes"]
    parts = [(configs / "page_header.md").read_text().rstrip(), "", "## Trained here", ""]
    parts += ["| config | data | epochs | AP | AP50 | AP75 | numbers |", "|" + " --- |" * 7]
    for run in trained:
        cells = " | ".join(str(run[key]) for key in AP_KEYS[:3])
        name, log = Path(run["config"]).stem, run["log"].removeprefix("docs/")
        start = (
            f"| [{name}](../mmdet_configs/{run['config']}) | {run['dataset']} | {run['epochs']} |"
        )
        parts.append(f"{start} {cells} | [{log}]({log}) |")
    parts += ["", "## Notes on the printed figures", ""]
    parts += [f"- {source}: {text.strip()}" for source, text in notes.items()]
    for detector, title in DETECTORS.items():
        parts += ["", f"## {title}", "", *_table(detector, printed)]
    return "\n".join(parts) + "\n"


def _table(detector: str, printed: Mapping[str, list[Row]]) -> Iterator[str]:
    """Lines of the Markdown table of one detector's configs."""
    yield "| config | backbone | epochs | AP | GFLOPs | M parameters | printed in |"
    yield "|" + " --- |" * 7
    order = list(BACKBONES)
    configs = [config for config in coco_configs() if config.detector == detector]
    for config in sorted(configs, key=lambda c: (order.index(c.backbone), c.epochs, c.encoder)):
        link = f"[{config.encoder}](../mmdet_configs/{config.path.as_posix()})"
        start = f"| {link} | {BACKBONES[config.backbone]} | {config.epochs} |"
        rows = printed.get(config.path.stem, [])
        for figures in rows:
            cells = [f"{figures.get(k, '')}" for k in ("AP", "gflops", "parameters")]
            paper = figures["Paper"].split(":")[0].replace("Less is More", "Focus-DETR")
            yield f"{start} {' | '.join(cells)} | {paper}, {figures['Source']} |"
        if not rows:
            yield f"{start} | | | |"


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only list what is out of date")
    check = parser.parse_args().check
    changed = out_of_date() if check else write()
    for path in changed:
        print(f"{'differs' if check else 'written'}: {path.relative_to(CONFIGS.parent)}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
