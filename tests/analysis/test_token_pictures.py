"""Pictures of kept tokens: the right token over the right pixels, and files that open."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import visualize_tokens as tool
from sparse_encoders.analysis.inspection import load_detector
from sparse_encoders.analysis.token_pictures import (
    Detections,
    TokenRecord,
    darken,
    draw_detection_sheet,
    draw_tokens,
    record_tokens,
    save_picture,
)
from tiny import build, ours

CLASSES = ("a", "b", "c", "d", "e")


@pytest.fixture
def record():
    shapes = ((4, 6), (2, 3), (1, 2))
    size = sum(h * w for h, w in shapes)
    rng = np.random.default_rng(0)
    return TokenRecord(
        image=rng.integers(0, 255, (30, 44, 3), dtype=np.uint8),
        batch_hw=(32, 48),
        shapes=shapes,
        kept=rng.random((2, size)) < 0.5,
        foreground=rng.random(size),
        detections=Detections(np.array([[2.0, 3, 20, 21]]), np.array([1]), np.array([0.9])),
        classes=CLASSES,
    )


def test_a_token_covers_its_own_pixels(record):
    values = np.zeros(record.kept.shape[1])
    values[24 + 4] = 1  # level 2: row 1, column 1, of 16 x 16 pixels
    covered = record.level(values, 1)
    assert covered.shape == (30, 44)
    assert covered[16:30, 16:32].all() and covered.sum() == 14 * 16


def test_dropped_pixels_are_dark_and_grey_and_kept_ones_as_they_were(record):
    share = np.zeros((30, 44))
    share[:, :10] = 1
    drawn = darken(record.image, share)
    assert (drawn[:, :10] == record.image[:, :10]).all()
    assert (drawn[:, 10:].max(-1) == drawn[:, 10:].min(-1)).all()
    assert drawn[:, 10:].max() < 64


def test_pictures_have_a_panel_for_each_layer_and_level(record, tmp_path):
    figure = draw_tokens(record)
    assert len(figure.axes) == (3 + 1) * (2 + 1)
    path = save_picture(figure, tmp_path / "deep" / "tokens.png")
    with Image.open(path) as picture:
        assert picture.width > 200 and np.asarray(picture).std() > 10


def test_detection_sheet(record, tmp_path):
    assert save_picture(draw_detection_sheet([record] * 5), tmp_path / "a.png").is_file()
    with pytest.raises(ValueError, match="at least one image"):
        draw_detection_sheet([])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An untrained tiny detector, its config, its checkpoint, and an image."""
    folder = tmp_path_factory.mktemp("detector")
    model = ours(encoder=dict(type="DualAttentionEncoder", num_object_tokens=10))
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(96, 64), keep_ratio=True),
        dict(
            type="PackDetInputs",
            meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        ),
    ]
    config = dict(
        custom_imports=dict(imports=["sparse_encoders"]),
        default_scope="mmdet",
        model=model.to_dict(),
        test_dataloader=dict(dataset=dict(pipeline=pipeline)),
    )
    Config(config).dump(folder / "config.py")
    state = build(model).state_dict()
    meta = {"dataset_meta": {"classes": CLASSES}}
    torch.save({"state_dict": state, "meta": meta}, folder / "good.pth")
    torch.save({"state_dict": dict(list(state.items())[3:]), "meta": meta}, folder / "other.pth")
    (folder / "cut.pth").write_bytes((folder / "good.pth").read_bytes()[:20000])
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (128, 180, 3), dtype=np.uint8)).save(folder / "x.png")
    return folder


def test_record_of_a_detector(trained):
    model = load_detector(trained / "config.py", trained / "good.pth")
    found = record_tokens(model, trained / "x.png", min_score=0.0)
    assert found.image.shape == (64, 90, 3) and found.batch_hw == (64, 90)
    assert found.kept.shape == (2, sum(h * w for h, w in found.shapes))
    assert 0 < found.kept[1].sum() < found.kept[0].sum() < found.kept.shape[1]
    assert ((found.foreground >= 0) & (found.foreground <= 1)).all()
    boxes = found.detections.boxes
    assert len(boxes) and boxes[:, 2].max() <= 90.5 and boxes[:, 3].max() <= 64.5
    model.set_keep_ratio(0.9)
    assert record_tokens(model, trained / "x.png").kept.sum() > found.kept.sum()


def test_command_line(trained, tmp_path, capsys):
    arguments = [str(trained / "config.py"), str(trained / "good.pth"), str(trained / "x.png")]
    out = tmp_path / "out.png"
    assert tool.main([*arguments, "--out", str(out), "--keep-ratio", "0.5"]) == 0
    assert out.is_file() and "tokens kept" in capsys.readouterr().out
    assert tool.main([*arguments, "--keep-ratio", "1.5"]) == 2
    assert "keep_ratio must lie in (0, 1]" in capsys.readouterr().err
    assert tool.main([*arguments[:2], str(tmp_path / "none.png")]) == 2
    assert "no image that can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "checkpoint", "message"),
    [
        ("none.py", "good.pth", "config: there is no file"),
        ("config.py", "none.pth", "checkpoint: there is no file"),
        ("config.py", "cut.pth", "cannot be read"),
        ("config.py", "other.pth", "belongs to another model: it lacks 3 values"),
    ],
)
def test_files_that_do_not_fit(trained, config, checkpoint, message):
    with pytest.raises(ValueError, match=message):
        load_detector(trained / config, trained / checkpoint)


def test_an_encoder_that_keeps_everything(trained):
    model = build(ours())
    model.cfg = Config.fromfile(trained / "config.py")
    model.dataset_meta = {"classes": CLASSES}
    with pytest.raises(ValueError, match="keeps every token"):
        record_tokens(model.eval(), trained / "x.png")
