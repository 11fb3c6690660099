"""Released files become checkpoints of this package, with nothing lost and nothing guessed."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor

import fake_releases as releases
from quick import exhaustive_but
from reference.model import compare_detections
from sparse_encoders.checkpoints.conversion import convert, one_set_per_level
from sparse_encoders.checkpoints.converting import convert_file, ready_config
from sparse_encoders.checkpoints.families import FAMILIES, check_family
from sparse_encoders.checkpoints.released import model_config
from sparse_encoders.checkpoints.settings import release_settings
from sparse_encoders.configs import config_path
from sparse_encoders.loading import check_fit, read_checkpoint
from sparse_encoders.loading.detectors import COUNTERS

# what the file's own args say, in the release's words
ARGS = {
    "sparse_deformable_detr": dict(rho=0.3, eff_specific_head=True, num_queries=300),
    "lite_dino": dict(num_expansion=3, enc_scale=3, num_select=300, pe_temperatureH=20),
}


@pytest.mark.parametrize(
    "family",
    exhaustive_but(FAMILIES.keys() - {"dino", "dn_deformable_detr"}, FAMILIES, quick=()),
)
def test_from_a_released_file_to_its_detections(
    family: str, tmp_path: Path, run_tool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    args, state = ARGS.get(family, {}), releases.seeded_release(family)
    source, target = releases.save(tmp_path / "in.pth", state, **args), tmp_path / "out.pth"
    assert run_tool("convert_checkpoint.py", source, target, "--family", family) == 0
    message = capsys.readouterr().out
    assert f"in.pth: {family}, " in message and "config: sparse_encoders::" in message
    meta = torch.load(target, weights_only=True)["meta"]
    written = target.with_suffix(".py")
    # DINO's heads beside MMDetection's: at least the neck's bias differs
    assert written.exists() == bool(meta["differs_from_config"])
    name = meta["config"].removeprefix("sparse_encoders::")
    config = Config.fromfile(written if written.exists() else config_path(name))
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    load_checkpoint(model, str(target), strict=True)
    model.eval()
    source.unlink()
    with torch.no_grad():
        checks = compare_detections(model, releases.fixture(family), releases.config(family))
    assert checks and [check for check in checks if not check.passed] == []


def release(family: str, **changes: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A family's tensors, with some changed, and its model."""
    init_default_scope("mmdet")
    shapes = releases.shapes(family)
    model = model_config(family, releases.config(family), shapes)
    return {**releases.hollow(shapes), **changes}, model


@pytest.mark.parametrize(
    ("names", "family", "message"),
    [
        (["bbox_head.cls_branches.0.weight"], "dino", "needs no conversion"),
        (["backbone.conv1.weight"], "dino", r"no known model \(1 tensors, such as backbone"),
        (["transformer.encoder.layers.0.x"], "dino", "without deformable attention"),
        (["roi_heads.box_head.fc1.weight"], "dino", "two-stage convolutional"),
        ([], "yolo", r"family must be one of dino, .* got 'yolo'"),
        (
            ["transformer.enc_mask_predictor.0", "transformer.alpha", "input_proj.0.0.weight"],
            *("focus_dino", "focus_dino has detrex names, not official ones"),
        ),
    ],
)
def test_other_models_are_named(names: list[str], family: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_family(names, family)


class Stranger:
    """Stands for a class of the releases' own code."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no checkpoint file"),
        (b"a page that says: not found", "not a checkpoint"),
        ([1, 2], "holds a list, no dictionary"),
        ({"epoch": 3}, "holds no weights; keys: epoch"),
        (
            {"model": {"a": torch.zeros(1)}, "args": Stranger()},
            r"an object of \S*Stranger.*save the weights alone",
        ),
    ],
)
def test_files_that_cannot_be_read(content: Any, message: str, tmp_path: Path) -> None:
    """And code in a file is never run."""
    path = tmp_path / "in.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_which_weights_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.pth"
    weights = {"module.a.weight": torch.ones(9000), "module.b.weight": torch.ones(1)}
    averaged = {"module": {k: 2 * v for k, v in weights.items()}}
    torch.save({"model": weights, "ema_model": averaged, "args": Namespace(rho=0.1)}, path)
    file = read_checkpoint(path)
    assert file.state.keys() == {"a.weight", "b.weight"}
    assert (file.key, file.others, file.args) == ("model", ("ema_model",), {"rho": 0.1})
    assert read_checkpoint(path, averaged=True).state["b.weight"].tolist() == [2.0]
    torch.save(weights, path)
    assert read_checkpoint(path).key == ""
    with pytest.raises(ValueError, match="has no averaged weights"):
        read_checkpoint(path, averaged=True)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(ValueError, match=r"in.pth \(20000 bytes\) is truncated"):
        read_checkpoint(path)


def test_what_is_not_the_model_is_left_out() -> None:
    family, counter = "sparse_deformable_detr", "backbone.0.body.bn1.num_batches_tracked"
    profiled = {"transformer.encoder.total_ops": torch.zeros(1), counter: torch.tensor(0)}
    state, model = release(family, **profiled)
    done = convert(state, family, model)
    assert done.left_out["transformer.encoder.total_ops"].startswith("a counter")
    assert "frozen" in done.left_out[counter]
    state["transformer.encoder.layers.0.gate.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"1 tensors have names .*layers\.0\.gate\.weight"):
        convert(state, family, model)


def test_two_names_of_a_parameter_must_agree() -> None:
    state, model = release("dino", **{"class_embed.2.bias": torch.ones(80)})
    with pytest.raises(ValueError, match="one parameter in the released model, but have different"):
        convert(state, "dino", model)


def test_missing_and_misshapen_tensors() -> None:
    wrong = {"transformer.enc_output.weight": torch.zeros(256, 128)}
    state, model = release("lite_dino", **wrong)
    del state["transformer.encoder.layers.3.linear22.weight"]
    done = convert(state, "lite_dino", model)
    with torch.device("meta"), pytest.raises(ValueError) as refused:
        check_fit(MODELS.build(model), done.state, "the file")
    assert "missing: 1 ['encoder.layers.3.low_level_ffn.layers.1.weight']" in str(refused.value)
    assert "memory_trans_fc.weight is (256, 128), expected (256, 256)" in str(refused.value)


def test_offsets_that_levels_share_are_repeated() -> None:
    """(heads 2, points 2, xy) for all of three levels; those of each level stay as they are."""
    shared = torch.arange(8.0)
    repeated = one_set_per_level(shared, levels=3, heads=2, points=2)
    assert repeated.view(2, 3, 4)[1].tolist() == [[4, 5, 6, 7]] * 3
    assert one_set_per_level(repeated, levels=3, heads=2, points=2) is repeated


def test_class_counts(tmp_path: Path, run_tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = releases.shapes("lite_dino")
    source = releases.save(tmp_path / "in.pth", releases.hollow(shapes))
    options = ("--family", "lite_dino", "--num-classes", 80)
    assert run_tool("convert_checkpoint.py", source, tmp_path / "out.pth", *options) == 1
    assert "the heads have 91 classes, not 80" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()
    cut = convert_file(source, "lite_dino", coco80=True)
    assert cut.model["bbox_head"]["num_classes"] == 80
    for name in ("bbox_head.cls_branches.6", "dn_query_generator.label_embedding"):
        assert cut.conversion.state[f"{name}.weight"].shape == (80, 256)
    assert set(cut.conversion.shortened.values()) == {
        "11 rows of 91: not the number of a category of COCO"
    }
    assert cut.checkpoint["meta"]["dataset_meta"]["classes"][79] == "toothbrush"
    short, long = (set(cut.report(all_names)) for all_names in (False, True))
    names = {f"  {name}: {reason}" for name, reason in cut.conversion.left_out.items()}
    assert names <= long and len(short) < len(names)
    twenty = releases.with_rows(shapes, r"class_embed|enhance_MCSP|label_enc", 20)
    few = releases.save(tmp_path / "few.pth", releases.hollow(twenty))
    with pytest.raises(ValueError, match=r"only heads with 91 classes .* have 20"):
        convert_file(few, "lite_dino", coco80=True)
    with pytest.raises(ValueError, match=r"heads of \[80, 91\] classes"):
        release_settings("lite_dino", {**shapes, "class_embed.2.weight": [80, 256]})


def test_settings_and_where_they_come_from() -> None:
    def settings(family: str, args: Any = None, **options: Any) -> dict[str, tuple[Any, str]]:
        actual = release_settings(family, releases.shapes(family), args, options)
        return {name: (setting.value, setting.source) for name, setting in actual.items()}

    lite = settings("lite_dino", dict(enc_scale=2))
    assert (lite["high_levels"], lite["blocks"]) == ((2, "its args"), (3, "its tensors"))
    asked = settings("lite_dino", schedule="H2L2-(2+1)x3")
    assert asked["high_levels"] == (2, "the options")
    assert settings("h_deformable_detr")["num_queries"] == (300, "the release's default")
    average = settings("focus_dino", keep_ratio=[0.4])
    assert average["keep_ratio"][0] == 0.65 and len(average["cascade"][0]) == 6
    with pytest.raises(ValueError, match="blocks is 3 by the file's tensors, got 1"):
        settings("lite_dino", schedule="H3L1-(6+1)x1")
    with pytest.raises(ValueError, match="keep_ratio is not a setting of dino; accepted"):
        settings("dino", keep_ratio=0.3)


def test_the_config_beside_the_checkpoint_trains(tmp_path: Path) -> None:
    """It has the released model's settings and the zoo's training ones."""
    state = releases.hollow(releases.shapes("sparse_deformable_detr"))
    source = releases.save(tmp_path / "in.pth", state, rho=0.1)
    done = convert_file(source, "sparse_deformable_detr")
    assert done.config == "sparse_detr/sparse-detr_r50_sparse-k10_16xb2-50e_coco.py"
    config = ready_config(done)
    assert config.model.encoder.selector.keep_ratio == 0.1
    assert config.model.bbox_head.num_classes == 91
    assert config.model.train_cfg.assigner.type == "HungarianAssigner"
    assert config.train_cfg.max_epochs == 50
    assert not [name for name in done.conversion.state if COUNTERS in name and "neck" in name]
