"""Released weights on other classes: rows kept, mapped or new, and the way to a training."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import fake_releases as releases
from sparse_encoders.analysis.mim import read_scalars
from sparse_encoders.checkpoints.classes import (
    CATEGORY_NUMBERS,
    class_agnostic_first_stage,
    class_names,
    class_rows,
    coco_classes_only,
    with_classes,
)
from sparse_encoders.checkpoints.converting import convert_file
from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset
from training_here import run_mim_here

TOOL = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"
HEAD, LABELS = "bbox_head.cls_branches.0", "dn_query_generator.label_embedding.weight"


def state(classes: int) -> dict[str, torch.Tensor]:
    """Rows that hold their own number, and a tensor that no class has."""
    rows = torch.arange(float(classes))
    return {
        f"{HEAD}.weight": rows[:, None].expand(-1, 16).clone(),
        f"{HEAD}.bias": rows.clone(),
        "bbox_head.cls_branches.1.bias": rows.clone(),
        "encoder.auxiliary.cls_branches.0.bias": rows.clone(),
        LABELS: rows[:, None].expand(-1, 16).clone(),
        "bbox_head.reg_branches.0.0.weight": torch.ones(classes, 4),
    }


def test_rows_are_kept_mapped_and_new() -> None:
    old = state(5)
    new = with_classes(old, [3, None, 3, 0])
    assert new[f"{HEAD}.bias"].tolist() == [3, pytest.approx(-math.log(99)), 3, 0]
    assert new["encoder.auxiliary.cls_branches.0.bias"].tolist()[::2] == [3, 3]
    for name in (f"{HEAD}.weight", LABELS):
        assert new[name].shape == (4, 16)
        assert new[name][[0, 2, 3], 0].tolist() == [3, 3, 0]
    assert 0 < new[f"{HEAD}.weight"][1].abs().max() <= 0.25
    assert new[LABELS][1].std() > 0.4
    untouched = "bbox_head.reg_branches.0.0.weight"
    assert new[untouched] is old[untouched] and old[f"{HEAD}.bias"].tolist() == [0, 1, 2, 3, 4]
    again = with_classes(old, [3, None, 3, 0])
    assert all(torch.equal(again[name], value) for name, value in new.items())


def test_the_row_of_any_object_stays_first() -> None:
    new = with_classes(state(5), [3, None, 2], "bbox_head.cls_branches.1")
    assert new["bbox_head.cls_branches.1.bias"].tolist()[::2] == [0, 2]
    assert new[f"{HEAD}.bias"].tolist()[::2] == [3, 2]
    cut = coco_classes_only(state(91), "bbox_head.cls_branches.1")
    assert cut["bbox_head.cls_branches.1.bias"][:3].tolist() == [0, 2, 3]
    assert cut[f"{HEAD}.bias"][:3].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"only heads with 91 classes .* has 5 rows"):
        coco_classes_only(state(5))


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (dict(type="sparse_encoders.HDETR", as_two_stage=True), 3),
        (dict(type="sparse_encoders.DeformableDETR", as_two_stage=True), 3),
        (
            dict(
                type="sparse_encoders.DeformableDETR",
                as_two_stage=True,
                class_specific_first_stage=True,
            ),
            None,
        ),
        (dict(type="sparse_encoders.DINO", as_two_stage=True), None),
        (dict(type="sparse_encoders.DNDETR", as_two_stage=False), None),
    ],
)
def test_which_first_stages_tell_no_classes(model: dict[str, Any], head: int | None) -> None:
    actual = class_agnostic_first_stage({**model, "decoder": dict(num_layers=3)})
    assert actual == (None if head is None else f"bbox_head.cls_branches.{head}")


def test_names_find_cocos_rows_in_both_numberings() -> None:
    words = ["cat", "wolf=dog", "thing"]
    for released, numbers in ((80, range(80)), (91, CATEGORY_NUMBERS)):
        actual = class_rows(words, released)
        assert actual.names == ("cat", "wolf", "thing")
        assert actual.sources == ("cat", "dog", None)
        assert actual.rows == (numbers[15], numbers[16], None)
        names = class_names(released)
        assert [names[row] for row in actual.rows if row is not None] == ["cat", "dog"]
    assert str(actual) == "3 classes, 2 of the file's and 1 new: cat, wolf (from dog), thing (new)"
    assert class_rows(["N/A"], 91).rows == (None,)
    assert class_rows(["cat"], 7).rows == (None,)
    assert str(class_rows(4, 91)) == "4 classes, all new"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (0, "classes must be at least 1, got 0"),
        ([], "classes must be names, each once"),
        (["cat", "cat=dog"], "classes must be names, each once"),
        (["wolf=dogg"], r"wolf=dogg, but the file has no 'dogg' \(such as dog"),
        (["a=xyzzy"], "80 classes with names"),
    ],
)
def test_wrong_classes_are_refused(classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_rows(classes, 80)


@pytest.mark.parametrize("family", ["h_deformable_detr", "sparse_deformable_detr"])
def test_a_whole_file_on_other_classes(family: str, tmp_path: Path) -> None:
    shapes = releases.shapes(family)
    source = releases.save(tmp_path / "in.pth", releases.hollow(shapes))
    done = convert_file(source, family, classes=["cat", "thing"])
    assert done.model["bbox_head"]["num_classes"] == 2
    assert done.checkpoint["meta"]["dataset_meta"]["classes"] == ("cat", "thing")
    assert "bbox_head.num_classes" in done.differing
    heads = [n for n in done.conversion.state if "cls_branches" in n and n.endswith("weight")]
    assert len(heads) >= 7 and {done.conversion.state[n].shape[0] for n in heads} == {2}
    # a class of the file's holds its zeros; the first stage of any object keeps the first row
    assert all(done.conversion.state[n][0].abs().max() == 0 for n in heads)
    assert all(done.conversion.state[n][1].abs().max() > 0 for n in heads)
    assert any("other classes" in why for why in done.conversion.shortened.values())
    assert "2 classes, 1 of the file's and 1 new: cat, thing (new)" in list(done.report())
    with pytest.raises(ValueError, match="classes and coco80 exclude each other"):
        convert_file(source, family, classes=2, coco80=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["focus_dino"])  # conversion of others: above
def test_from_a_released_file_to_a_training_on_other_classes(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Convert with the data set's names, then train by mim: as docs/checkpoints.md says."""
    data = tmp_path / "data"
    make_shapes_dataset(data, ShapesSettings(train=4, val=2, size=96))
    source = releases.save(tmp_path / "in.pth", releases.seeded_release(family))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            *("convert_checkpoint.py", str(source), str(tmp_path / "work/mine.pth")),
            *("--family", family, "--classes", str(data / "train.json")),
        ],
    )
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOL), run_name="__main__")
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    names = [c["name"] for c in json.loads((data / "train.json").read_text())["categories"]]
    assert f"{len(names)} classes, 0 of the file's and {len(names)} new" in said.out
    converted = torch.load(tmp_path / "work/mine.pth", weights_only=True)
    assert list(converted["meta"]["dataset_meta"]["classes"]) == names
    (tmp_path / "mine.py").write_text(
        f'_base_ = "{tmp_path}/work/mine.py"\n'
        "from sparse_encoders.datasets import use_coco_folder\n\n"
        f'use_coco_folder(_base_, "{data}", scale=(96, 96))\n'
    )
    assert Config.fromfile(tmp_path / "mine.py").model.bbox_head.num_classes == len(names)
    train = ["train", "mmdet", str(tmp_path / "mine.py"), "--gpus", "0"]
    train += ["--work-dir", str(tmp_path / "run"), "--cfg-options"]
    train += ["model.backbone.init_cfg=None", "train_cfg.max_epochs=1"]
    train += ["default_hooks.logger.interval=1", "train_cfg.val_begin=1000"]
    train += ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
    run_mim_here(train, tmp_path / "log")
    log = (tmp_path / "log").read_text()
    assert f"Load checkpoint from {tmp_path}/work/mine.pth" in log
    assert "size mismatch" not in log and "missing keys" not in log and "unexpected key" not in log
    losses = [record["loss"] for record in read_scalars(tmp_path / "run") if "loss" in record]
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)
