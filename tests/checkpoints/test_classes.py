"""Released weights on other classes: rows kept, mapped or new, and the way to a training."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fake_releases as releases
from sparse_encoders.analysis.mim import read_scalars
from sparse_encoders.checkpoints.classes import (
    CATEGORY_NUMBERS,
    class_agnostic_first_stage,
    class_names,
    class_rows,
    with_classes,
)
from sparse_encoders.checkpoints.converting import convert_file
from sparse_encoders.datasets import CLASSES, ShapesSettings, make_shapes_dataset
from training_here import run_mim_here

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
    for kind, specific, head in (
        ("HDETR", False, "bbox_head.cls_branches.3"),
        ("DeformableDETR", False, "bbox_head.cls_branches.3"),
        ("DeformableDETR", True, None),
        ("DINO", False, None),
        ("DNDETR", False, None),
    ):
        model = dict(type=f"sparse_encoders.{kind}", decoder=dict(num_layers=3))
        model["class_specific_first_stage"] = specific
        assert class_agnostic_first_stage(model) == head


def test_names_find_cocos_rows_in_both_numberings() -> None:
    words = ["cat", "wolf=dog", "thing"]
    assert [CATEGORY_NUMBERS[row] for row in (0, 10, 11, 79)] == [1, 11, 13, 90]
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
    heads = [v for n, v in done.conversion.state.items() if re.search("cls_branches.*weight", n)]
    assert len(heads) >= 7 and {head.shape[0] for head in heads} == {2}
    # a class of the file's holds its zeros; the first stage of any object keeps the first row
    assert all(head[0].abs().max() == 0 < head[1].abs().max() for head in heads)
    assert any("other classes" in why for why in done.conversion.shortened.values())
    assert "2 classes, 1 of the file's and 1 new: cat, thing (new)" in list(done.report())
    with pytest.raises(ValueError, match="classes and coco80 exclude each other"):
        convert_file(source, family, classes=2, coco80=True)


@pytest.mark.slow
def test_from_a_released_file_to_a_training_on_other_classes(tmp_path: Path, run_tool) -> None:
    """Convert with the data set's names, then train by mim: as docs/checkpoints.md says."""
    data, target = tmp_path / "data", tmp_path / "work/mine.pth"
    make_shapes_dataset(data, ShapesSettings(train=4, val=2, size=96))
    source = releases.save(tmp_path / "in.pth", releases.seeded_release("focus_dino"))
    options = ("--family", "focus_dino", "--classes", data / "train.json")
    assert run_tool("convert_checkpoint.py", source, target, *options) == 0
    meta = torch.load(target, weights_only=True)["meta"]
    assert tuple(meta["dataset_meta"]["classes"]) == CLASSES
    (tmp_path / "mine.py").write_text(
        f'_base_ = "{tmp_path}/work/mine.py"\n'
        "from sparse_encoders.datasets import use_coco_folder\n\n"
        f'use_coco_folder(_base_, "{data}", scale=(96, 96))\n'
    )
    train = ["train", "mmdet", str(tmp_path / "mine.py"), "--gpus", "0"]
    train += ["--work-dir", str(tmp_path / "run"), "--cfg-options"]
    train += ["model.backbone.init_cfg=None", "train_cfg.max_epochs=1"]
    train += ["default_hooks.logger.interval=1", "train_cfg.val_begin=1000"]
    train += ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
    run_mim_here(train, tmp_path / "log")
    log = (tmp_path / "log").read_text()
    assert f"Load checkpoint from {target}" in log
    assert "size mismatch" not in log and "missing keys" not in log and "unexpected key" not in log
    losses = [record["loss"] for record in read_scalars(tmp_path / "run") if "loss" in record]
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)
