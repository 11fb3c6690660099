"""Released files become checkpoints of this package, with nothing lost and nothing guessed."""

from __future__ import annotations

import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint

import fake_releases as releases
from quick import exhaustive_but
from reference.model import compare_detections
from sparse_encoders.checkpoints.classes import CATEGORY_NUMBERS
from sparse_encoders.checkpoints.conversion import convert
from sparse_encoders.checkpoints.converting import convert_file, ready_config
from sparse_encoders.checkpoints.families import FAMILIES, check_family, looks_like
from sparse_encoders.checkpoints.released import model_config
from sparse_encoders.checkpoints.settings import release_settings
from sparse_encoders.configs import config_path
from sparse_encoders.loading import read_checkpoint
from sparse_encoders.loading.detectors import COUNTERS, check_fit

TOOL = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"
# what the file's own args say, in the release's words
ARGS = {
    "sparse_deformable_detr": dict(rho=0.3, eff_specific_head=True, num_queries=300),
    "lite_dino": dict(num_expansion=3, enc_scale=3, num_select=300, pe_temperatureH=20),
}


def run_tool(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOL), run_name="__main__")
    return int(stopped.value.code)


@pytest.mark.parametrize(
    "family",
    exhaustive_but(["focus_dino", "lite_dino", "sparse_deformable_detr"], FAMILIES, quick=()),
)
def test_from_a_released_file_to_its_detections(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = releases.save(
        tmp_path / "in.pth", releases.seeded_release(family), **ARGS.get(family, {})
    )
    target = tmp_path / "out.pth"
    assert run_tool(monkeypatch, source, target, "--family", family) == 0
    message = capsys.readouterr().out
    assert f"in.pth: {family}, " in message and "config: sparse_encoders::" in message
    saved = torch.load(target, weights_only=True)
    name = saved["meta"]["config"].removeprefix("sparse_encoders::")
    written = target.with_suffix(".py")
    # DINO's heads beside MMDetection's: at least the neck's bias differs
    assert written.exists() == bool(saved["meta"]["differs_from_config"])
    config = Config.fromfile(written if written.exists() else config_path(name))
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    load_checkpoint(model, str(target), strict=True)
    model.eval()
    source.unlink()
    with torch.no_grad():
        checks = compare_detections(model, releases.fixture(family), releases.config(family))
    assert checks and [check for check in checks if not check.passed] == []


def test_every_tensor_is_converted_or_left_out_with_a_reason() -> None:
    init_default_scope("mmdet")
    for family in FAMILIES:
        shapes = releases.shapes(family)
        state = releases.hollow(shapes)
        model = model_config(family, releases.config(family), shapes)
        done = convert(state, family, model)
        used = set(done.sources.values())
        assert used.isdisjoint(done.left_out)
        assert used | done.left_out.keys() == state.keys()
        # and nothing of ours is left as it was drawn
        with torch.device("meta"):
            check_fit(MODELS.build(model), done.state, "the file")


def test_the_names_tell_the_family() -> None:
    for family in FAMILIES:
        assert looks_like(releases.shapes(family)) == family
        for other in set(FAMILIES) - {family}:
            with pytest.raises(ValueError, match=f"not a {other} model: it looks like {family}"):
                check_family(releases.shapes(family), other)


@pytest.mark.parametrize(
    ("names", "actual"),
    [
        (["bbox_head.cls_branches.0.weight"], "needs no conversion"),
        (["backbone.conv1.weight"], "no known model"),
        (["transformer.encoder.layers.0.self_attn.in_proj_weight"], "without deformable attention"),
        (["roi_heads.box_head.fc1.weight"], "two-stage convolutional"),
    ],
)
def test_other_models_are_named(names: list[str], actual: str) -> None:
    with pytest.raises(ValueError, match=actual):
        check_family(names, "dino")
    with pytest.raises(ValueError, match=r"family must be one of dino, .* got 'yolo'"):
        check_family(names, "yolo")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint file"):
        read_checkpoint(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("a page that says: not found")
    with pytest.raises(ValueError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "text.pth")
    whole = releases.save(tmp_path / "whole.pth", {"a.weight": torch.zeros(9000)})
    (tmp_path / "half.pth").write_bytes(whole.read_bytes()[:20000])
    with pytest.raises(ValueError, match=r"half.pth \(20000 bytes\) is truncated"):
        read_checkpoint(tmp_path / "half.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, no dictionary"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="holds no weights; keys: epoch"):
        read_checkpoint(tmp_path / "bare.pth")


class Stranger:
    """Stands for a class of the releases' own code."""


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "args": Stranger()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"an object of \S*Stranger.*save the weights alone"):
        read_checkpoint(tmp_path / "code.pth")


def test_where_the_weights_stand(tmp_path: Path) -> None:
    weights = {"module.a.weight": torch.ones(2), "module.b.weight": torch.ones(1)}
    content = {
        "model": weights,
        "ema_model": {k: 2 * v for k, v in weights.items()},
        "args": Namespace(rho=0.1),
    }
    torch.save(content, tmp_path / "both.pth")
    file = read_checkpoint(tmp_path / "both.pth")
    assert file.state.keys() == {"a.weight", "b.weight"}
    assert (file.key, file.others, file.args) == ("model", ("ema_model",), {"rho": 0.1})
    averaged = read_checkpoint(tmp_path / "both.pth", averaged=True)
    assert averaged.state["a.weight"].tolist() == [2.0, 2.0]
    torch.save(weights, tmp_path / "plain.pth")
    assert read_checkpoint(tmp_path / "plain.pth").key == ""
    with pytest.raises(ValueError, match="has no averaged weights"):
        read_checkpoint(tmp_path / "plain.pth", averaged=True)


def test_what_is_not_the_model_is_left_out() -> None:
    shapes = releases.shapes("sparse_deformable_detr")
    model = model_config(
        "sparse_deformable_detr", releases.config("sparse_deformable_detr"), shapes
    )
    state = releases.hollow(shapes)
    state["backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(0)
    state["transformer.encoder.total_ops"] = torch.zeros(1)
    done = convert(state, "sparse_deformable_detr", model)
    assert done.left_out["transformer.encoder.total_ops"].startswith("a counter")
    assert "frozen" in done.left_out["backbone.0.body.bn1.num_batches_tracked"]
    state["transformer.encoder.layers.0.gate.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"1 tensors have names .*layers\.0\.gate\.weight"):
        convert(state, "sparse_deformable_detr", model)


def test_two_names_of_a_parameter_must_agree() -> None:
    shapes = releases.shapes("dino")
    model = model_config("dino", releases.config("dino"), shapes)
    state = releases.hollow(shapes)
    state["class_embed.2.bias"] = torch.ones(80)
    with pytest.raises(ValueError, match="one parameter in the released model, but have different"):
        convert(state, "dino", model)


def test_missing_and_misshapen_tensors() -> None:
    shapes = releases.shapes("lite_dino")
    model = model_config("lite_dino", releases.config("lite_dino"), shapes)
    state = releases.hollow(shapes)
    del state["transformer.encoder.layers.3.linear22.weight"]
    state["transformer.enc_output.weight"] = torch.zeros(256, 128)
    done = convert(state, "lite_dino", model)
    with torch.device("meta"), pytest.raises(ValueError) as refused:
        check_fit(MODELS.build(model), done.state, "the file")
    assert "missing: 1 ['encoder.layers.3.low_level_ffn.layers.1.weight']" in str(refused.value)
    assert "memory_trans_fc.weight is (256, 128), expected (256, 256)" in str(refused.value)


def test_class_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    source = releases.save(tmp_path / "in.pth", releases.hollow(releases.shapes("lite_dino")))
    words = (source, tmp_path / "out.pth", "--family", "lite_dino", "--num-classes", 80)
    assert run_tool(monkeypatch, *words) == 1
    assert "the heads have 91 classes, not 80" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()
    cut = convert_file(source, "lite_dino", coco80=True)
    assert cut.model["bbox_head"]["num_classes"] == 80
    assert cut.conversion.state["bbox_head.cls_branches.6.weight"].shape == (80, 256)
    assert cut.conversion.state["dn_query_generator.label_embedding.weight"].shape == (80, 256)
    assert CATEGORY_NUMBERS[11] == 13 and len(CATEGORY_NUMBERS) == 80
    assert cut.checkpoint["meta"]["dataset_meta"]["classes"][79] == "toothbrush"
    shapes = {**releases.shapes("lite_dino"), "class_embed.2.weight": [80, 256]}
    with pytest.raises(ValueError, match=r"heads of \[80, 91\] classes"):
        release_settings("lite_dino", shapes)


def test_settings_and_where_they_come_from() -> None:
    lite = releases.shapes("lite_dino")
    actual = release_settings("lite_dino", lite, dict(enc_scale=2), {})
    assert (actual["high_levels"].value, actual["high_levels"].source) == (2, "its args")
    assert (actual["blocks"].value, actual["blocks"].source) == (3, "its tensors")
    asked = release_settings("lite_dino", lite, {}, dict(schedule="H2L2-(2+1)x3"))
    assert (asked["high_levels"].value, asked["high_levels"].source) == (2, "the options")
    with pytest.raises(ValueError, match="blocks is 3 by the file's tensors, got 1"):
        release_settings("lite_dino", lite, {}, dict(schedule="H3L1-(6+1)x1"))
    with pytest.raises(ValueError, match="keep_ratio is not a setting of dino; accepted"):
        release_settings("dino", releases.shapes("dino"), {}, dict(keep_ratio=0.3))
    hybrid = release_settings("h_deformable_detr", releases.shapes("h_deformable_detr"))
    assert hybrid["num_queries"].value == 300
    focus = releases.shapes("focus_dino")
    average = release_settings("focus_dino", focus, {}, dict(keep_ratio=[0.4]))
    assert average["keep_ratio"].value == 0.65 and len(average["cascade"].value) == 6


def test_the_config_beside_the_checkpoint_trains(tmp_path: Path) -> None:
    """It has the released model's settings and the zoo's training ones."""
    source = releases.save(
        tmp_path / "in.pth", releases.hollow(releases.shapes("sparse_deformable_detr")), rho=0.1
    )
    done = convert_file(source, "sparse_deformable_detr")
    assert done.config == "sparse_detr/sparse-detr_r50_sparse-k10_16xb2-50e_coco.py"
    config = ready_config(done)
    assert config.model.encoder.selector.keep_ratio == 0.1
    assert config.model.bbox_head.num_classes == 91
    assert config.model.train_cfg.assigner.type == "HungarianAssigner"
    assert config.train_cfg.max_epochs == 50
    assert not [name for name in done.conversion.state if COUNTERS in name and "neck" in name]
