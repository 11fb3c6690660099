"""The shapes set: the same for a seed, usable, and safe to write."""

import hashlib
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

import make_shapes_dataset as tool
from sparse_encoders.datasets.drawing import CLASSES, Shape, coverage, inside
from sparse_encoders.datasets.shapes import (
    EMPTY_EVERY,
    MARKER,
    ShapesSettings,
    draw_picture,
    make_shapes_dataset,
)

SMALL = ShapesSettings(train=5, val=3, size=80)


def digest(folder) -> str:
    hashed = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()


def test_one_picture_has_the_pixels_it_always_had():
    drawn = draw_picture(ShapesSettings(), "val", 3)
    actual = hashlib.sha256(drawn.pixels.tobytes()).hexdigest()[:16]
    assert (actual, drawn.labels, drawn.boxes) == RECORDED


# picture 3 of the validation split with the default settings
RECORDED = (
    "1d33c7f0d7357cba",
    (3, 2, 3, 1, 3, 3, 0, 2),
    (
        (84, 34, 52, 58),
        (90, 0, 54, 48),
        (12, 3, 35, 31),
        (44, 47, 20, 23),
        (93, 45, 16, 17),
        (10, 38, 11, 14),
        (123, 22, 14, 10),
        (136, 86, 9, 9),
    ),
)


def test_a_picture_follows_from_seed_split_and_index_alone():
    few, many, other = (ShapesSettings(train=n, seed=s) for n, s in ((3, 0), (300, 0), (3, 1)))
    picture = draw_picture(few, "train", 2)
    assert (picture.pixels == draw_picture(many, "train", 2).pixels).all()
    assert picture.boxes != draw_picture(other, "train", 2).boxes
    assert picture.boxes != draw_picture(few, "val", 2).boxes


@pytest.fixture(scope="module")
def pictures():
    return [draw_picture(ShapesSettings(), "train", i) for i in range(128)]


def test_sizes_classes_empty_pictures_and_shapes_of_pictures(pictures):
    areas = [area for p in pictures for area in p.areas]
    longest = [max(box[2:]) for p in pictures for box in p.boxes]
    assert max(areas) > 200 * min(areas)
    # levels of stride 8, 16, 32, 64: every size of object has its share
    counts = np.histogram(longest, bins=(0, 16, 32, 64, 160))[0]
    assert (counts > 0.1 * len(longest)).all()
    assert {label for p in pictures for label in p.labels} == set(range(len(CLASSES)))
    empty = [i for i, p in enumerate(pictures) if not p.boxes]
    assert set(range(EMPTY_EVERY - 1, 128, EMPTY_EVERY)) <= set(empty)
    shapes = {p.pixels.shape for p in pictures}
    assert any(h > w for h, w, _ in shapes) and any(h < w for h, w, _ in shapes)


def test_boxes_lie_inside_the_picture_and_overlap_somewhere(pictures):
    overlaps = 0
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        for x, y, w, h in picture.boxes:
            assert w > 0 and h > 0 and x >= 0 and y >= 0 and x + w <= width and y + h <= height
        for i, (x, y, w, h) in enumerate(picture.boxes):
            overlaps += any(
                x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h
                for x2, y2, w2, h2 in picture.boxes[:i]
            )
    assert overlaps > 20


def test_pycocotools_reads_it_and_pictures_match_it(tmp_path):
    from PIL import Image

    make_shapes_dataset(tmp_path, SMALL)
    for split, count in (("train", 5), ("val", 3)):
        coco = COCO(str(tmp_path / f"{split}.json"))
        assert len(coco.imgs) == count
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        for image in coco.imgs.values():
            picture = Image.open(tmp_path / "images" / image["file_name"])
            assert picture.size == (image["width"], image["height"])


def test_coverage_and_kinds():
    u, v = np.meshgrid(*[np.arange(-20, 21) / 20.3] * 2)
    for kind in CLASSES:
        actual = inside(kind, u, v)
        assert actual.any() and not actual.all()
        assert (actual == actual[:, ::-1]).all()  # mirrored left to right
    circle = Shape("circle", (20.0, 15.0), (10.0, 10.0), 0.0)
    assert coverage(circle, 30, 40)[0].sum() == pytest.approx(np.pi * 100, rel=0.01)
    with pytest.raises(ValueError, match="kind must be one of"):
        inside("heptagon", np.zeros(1), np.zeros(1))


@pytest.mark.parametrize(
    "setting", [{"train": 0}, {"val": -1}, {"size": 20}, {"min_side": 90}, {"seed": -1}]
)
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        ShapesSettings(**setting)


def test_what_is_not_its_own_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not written by this tool"):
        make_shapes_dataset(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="must be a folder"):
        make_shapes_dataset(tmp_path / "thesis.txt", SMALL)


def test_its_own_folder_is_kept_or_replaced(tmp_path):
    assert make_shapes_dataset(tmp_path, SMALL)
    first = digest(tmp_path)
    assert not make_shapes_dataset(tmp_path, SMALL)
    (tmp_path / "images" / "notes.png").write_text("mine")
    assert make_shapes_dataset(tmp_path, ShapesSettings(train=2, val=2, size=80))
    assert len(list((tmp_path / "images").glob("train_*.png"))) == 2
    assert (tmp_path / "images" / "notes.png").read_text() == "mine"
    (tmp_path / "images" / "notes.png").unlink()

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shapes_dataset(tmp_path, SMALL, interrupt)
    assert json.loads((tmp_path / MARKER).read_text())["complete"] is False
    assert make_shapes_dataset(tmp_path, SMALL)
    assert digest(tmp_path) == first


def test_command_line(tmp_path, capsys):
    words = [str(tmp_path / "set"), "--train", "2", "--val", "1", "--size", "64"]
    for message in ("drew 3/3", "already complete"):
        assert tool.main(words) == 0
        assert message in capsys.readouterr().out
    assert tool.main([*words, "--size", "3"]) == 2
    assert "size must be between 64 and 2048, got 3" in capsys.readouterr().err
