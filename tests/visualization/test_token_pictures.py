"""Pictures of kept tokens: the right token over the right pixels, and files that open."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from PIL import Image

import visualize_tokens as tool
from quick import pairs
from sparse_encoders.analysis.variants import encoder_config
from sparse_encoders.loading import load_detector
from sparse_encoders.visualization import panels as token_panels
from sparse_encoders.visualization.pictures import (
    PICTURES,
    Detections,
    TokenRecord,
    darken,
    draw_detection_sheet,
    draw_object_tokens,
    draw_score_map,
    draw_side_by_side,
    draw_tokens,
    picture_array,
    picture_bytes,
    pictures_of,
    record_sample,
    record_tokens,
    save_picture,
    write_pictures,
)
from tiny import build, ours
from tiny_detectors import detector_config

CLASSES = ("a", "b", "c", "d", "e")


@pytest.fixture
def record():
    shapes = ((4, 6), (2, 3), (1, 2))
    size = sum(h * w for h, w in shapes)
    rng = np.random.default_rng(0)
    kept = rng.random((2, size)) < 0.5
    kept[:, :2] = True
    return TokenRecord(
        image=rng.integers(0, 255, (30, 44, 3), dtype=np.uint8),
        batch_hw=(32, 48),
        shapes=shapes,
        kept=kept,
        valid=np.ones(size, dtype=bool),
        foreground=rng.random(size),
        objects=(np.array([1, 0]), np.array([0])),
        detections=Detections(np.array([[2.0, 3, 20, 21]]), np.array([1]), np.array([0.9])),
        classes=CLASSES,
    )


def test_a_token_covers_its_own_pixels(record):
    values = np.zeros(record.kept.shape[1])
    values[24 + 4] = 1  # level 2: row 1, column 1, of 16 x 16 pixels
    covered = record.level(values, 1)
    assert covered.shape == (30, 44)
    assert covered[16:30, 16:32].all() and covered.sum() == 14 * 16
    boxes, levels = record.boxes(np.array([0, 7, 24 + 4, 24 + 6 + 1]))
    assert boxes.tolist() == [[0, 0, 8, 8], [8, 8, 8, 8], [16, 16, 16, 16], [24, 0, 24, 32]]
    assert levels.tolist() == [0, 0, 1, 2]


def test_dropped_pixels_are_dark_and_grey_and_kept_ones_as_they_were(record):
    share = np.zeros((30, 44))
    share[:, :10] = 1
    drawn = darken(record.image, share)
    assert (drawn[:, :10] == record.image[:, :10]).all()
    assert (drawn[:, 10:].max(-1) == drawn[:, 10:].min(-1)).all()
    assert drawn[:, 10:].max() < 64


def test_pictures_have_a_panel_for_each_layer_and_level(record):
    assert len(draw_tokens(record).axes) == (3 + 1) * (2 + 1)
    scores, objects = draw_score_map(record), draw_object_tokens(record)
    titles = [axis.get_title() for axis in scores.axes]
    levels = [f"level {i + 1} ({h} x {w})" for i, (h, w) in enumerate(record.shapes)]
    assert titles[:5] == ["detections", "best of all levels", *levels]
    array = picture_array(scores, dpi=40)
    assert array.dtype == np.uint8 and array.shape[2] == 3 and array.std() > 10
    assert objects.axes[0].get_ylabel().startswith("layer 1: 2 objects of")
    assert len(objects.axes[0].patches) == 2 and len(objects.axes[4].patches) == 1


@pytest.mark.parametrize(("by", "columns"), [("levels", 1 + 1 + 3 + 1), ("layers", 1 + 3 + 1)])
def test_side_by_side(record, by, columns):
    plain = replace(record, objects=(), foreground=None, kept=np.ones((3, 32), dtype=bool))
    figure = draw_side_by_side({"one": record, "two": plain}, by=by)
    assert len(figure.axes) == 2 * columns
    assert figure.axes[columns].get_ylabel() == "two\n100% of the work"
    assert picture_array(figure, 40).std() > 10


def test_files_are_what_their_names_say(record, tmp_path):
    figure = draw_detection_sheet([record] * 5)
    for name, kind in {"deep/a.png": "PNG", "a.JPG": "JPEG"}.items():
        with Image.open(save_picture(figure, tmp_path / name, 30)) as picture:
            assert picture.format == kind and picture.width > 200
            assert np.asarray(picture.convert("RGB")).std() > 10


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
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (128, 180, 3), dtype=np.uint8)).save(folder / "x.png")
    return folder


def test_record_of_a_detector(trained):
    model = load_detector(trained / "config.py", trained / "good.pth")
    actual = record_tokens(model, trained / "x.png", min_score=0.0)
    assert actual.strategy == "DualAttentionEncoder, FocusTokenSelector"
    assert [len(set(layer)) for layer in actual.objects] == [10, 10]
    assert all(k[o].all() for k, o in zip(actual.kept, actual.objects, strict=True))
    assert actual.image.shape == (64, 90, 3) and actual.batch_hw == (64, 90)
    assert actual.kept.shape == (2, sum(h * w for h, w in actual.shapes))
    assert 0 < actual.kept[1].sum() < actual.kept[0].sum() < actual.kept.shape[1]
    assert ((actual.foreground >= 0) & (actual.foreground <= 1)).all()
    boxes = actual.detections.boxes
    assert len(boxes) and boxes[:, 2].max() <= 90.5 and boxes[:, 3].max() <= 64.5
    model.set_keep_ratio(0.9)
    assert record_tokens(model, trained / "x.png").kept.sum() > actual.kept.sum()


@pytest.mark.slow
def test_command_line(trained, tmp_path, capsys, monkeypatch):
    arguments = [str(trained / "config.py"), str(trained / "good.pth"), str(trained / "x.png")]
    monkeypatch.setattr(token_panels.save_picture, "__defaults__", (20,))
    out = tmp_path / "out.png"
    assert tool.main([*arguments, "--out", str(out), "--keep-ratio", "0.5"]) == 0
    assert out.is_file() and "tokens kept" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"out.png", "out_scores.png", "out_objects.png"}
    beside = ["--beside", "again", *arguments[:2], "--pictures", "kept"]
    assert tool.main([*arguments, "--out", str(out), *beside]) == 0
    assert "out_levels.png" in capsys.readouterr().out and (tmp_path / "out_layers.png").is_file()
    config, checkpoint, image = arguments
    for words, message in (
        ([*arguments, "--name", "again", "--out", str(out), *beside], "'again' is there twice"),
        ([*arguments, "--keep-ratio", "1.5"], "keep_ratio must lie in (0, 1]"),
        ([config, checkpoint, "none.png"], "is not an image file that can be read"),
        ([config, checkpoint, config], "is not an image file that can be read"),
        ([config, str(trained / "other.pth"), image], "belongs to another model: missing: 3"),
    ):
        assert tool.main(words) == 2 and message in capsys.readouterr().err


def sample(size=(64, 90)):
    packed = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
    pixels = np.random.default_rng(0).integers(0, 255, (3, *size), dtype=np.uint8)
    return dict(inputs=torch.from_numpy(pixels), data_samples=packed)


NO_DUAL = "focus, no dual attention"
# an encoder, and the pictures that there are of it
ENCODERS = {
    **dict.fromkeys(("dense", "lite-h2l2", "hybrid", "none"), ("kept",)),
    **dict.fromkeys(("lite-focus", "random", NO_DUAL), ("kept", "scores")),
    **dict.fromkeys(("focus", "salience"), ("kept", "scores", "objects")),
}
# shares that each layer refines of each level, where no scores decide
SHARES = {
    "dense": [[1, 1, 1, 1]] * 2,
    "lite-h2l2": [[0, 0, 1, 1], [1, 1, 1, 1]],
    "hybrid": [[0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1]],
    "none": [[0, 0, 0, 0]],
}


@pytest.mark.parametrize(
    ("detector", "name"), pairs(("DINO", "DeformableDETR"), ENCODERS, quick=("DINO",), each="focus")
)
def test_every_encoder_one_stage_and_two_stage(detector, name):
    encoder, pictures = encoder_config(name.split(",")[0], dict(num_layers=2)), ENCODERS[name]
    if name == NO_DUAL:
        encoder["dual_attention"] = False
    model, packed = build(detector_config(detector, encoder)).train(), sample()
    actual = record_sample(model, packed, CLASSES)
    assert model.training
    assert (actual.image[..., 0] == packed["inputs"][2].numpy()).all()  # RGB of BGR
    assert pictures_of(actual) == pictures
    assert all(picture_array(PICTURES[name](actual), dpi=15).std() > 5 for name in pictures)
    layers = range(actual.num_layers)
    shares = [[actual.share(layer, level) for level in range(4)] for layer in layers]
    if name in SHARES:
        assert shares == SHARES[name]
        assert actual.share() == pytest.approx(actual.kept.mean())
    if name == "lite-focus":
        assert shares[0][0] == 0 and shares[0][3] == 1 and 0 < shares[1][0] < 1
    if "scores" not in pictures:
        with pytest.raises(ValueError, match="has no selector, so its tokens have no scores"):
            draw_score_map(actual)
    if "objects" not in pictures:
        with pytest.raises(ValueError, match="has no dual attention"):
            draw_object_tokens(actual)


def test_padding_is_no_kept_token():
    model = build(detector_config("DINO", dict(type="DenseEncoder")))
    model.data_preprocessor.pad_size_divisor = 64
    actual = record_sample(model, sample((64, 90)), CLASSES)
    assert actual.batch_hw == (64, 128) and actual.image.shape == (64, 90, 3)
    assert not actual.valid.all() and (actual.kept == actual.valid).all() and actual.share() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda record: draw_detection_sheet([]), "at least one image"),
        (lambda record: draw_side_by_side({}), "at least one strategy"),
        (lambda record: draw_side_by_side({"a": record}, by="level"), "by must be one of"),
        (
            lambda record: draw_side_by_side(
                {"a": record, "b": replace(record, image=record.image[:20])}
            ),
            "same image and levels: 'b' has",
        ),
        (lambda record: picture_bytes(None, 30, "gif"), "'png' or 'jpeg', got 'gif'"),
        (lambda record: write_pictures(record, "a.png", ["foreground"]), "must be among"),
        (lambda record: record_sample(torch.nn.Linear(2, 2), {}, (), 3), r"lie in \[0, 1\], got 3"),
        (lambda record: record_sample(torch.nn.Linear(2, 2), {}, ()), "no encoder of sparse_enc"),
    ],
)
def test_bad_input(record, call, message):
    with pytest.raises(ValueError, match=message):
        call(record)
