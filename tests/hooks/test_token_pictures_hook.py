"""Pictures during training: the visualizer gets them, and training goes on as without them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import HOOKS
from PIL import Image

from sparse_encoders.hooks import token_pictures
from sparse_encoders.hooks.token_pictures import TokenPicturesHook
from sparse_encoders.visualization.pictures import PICTURES
from tiny_runs import Pictures, make_runner

DUAL = dict(type="DualAttentionEncoder", num_object_tokens=6)


def run(folder, encoder, **hook):
    """A runner with the hook, if it has settings."""
    return make_runner(
        folder,
        encoder,
        [dict(type="TokenPicturesHook", dpi=20, **hook)] if hook else [],
        loader=dict(dataset=Pictures(brightness=0)),  # drawing loads pictures, too
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=5),
        visualizer=dict(
            type="DetLocalVisualizer",
            name=f"at {folder}",
            vis_backends=[dict(type="LocalVisBackend")],
        ),
    )


@pytest.mark.slow
def test_files_of_the_local_backend_and_the_same_training(tmp_path):
    hook = dict(interval=3, by_epoch=False, images=[0, 2])  # one more iteration follows
    watched = run(tmp_path / "with", DUAL, **hook)
    watched.train()
    files = {path.name: path for path in (tmp_path / "with").rglob("tokens_*.png")}
    assert set(files) == {f"tokens_{name}_{image}_3.png" for name in PICTURES for image in (0, 2)}
    for path in files.values():
        with Image.open(path) as picture:
            assert np.asarray(picture).std() > 10
    plain = run(tmp_path / "without", DUAL)
    plain.train()
    torch.testing.assert_close(watched.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)


def test_pictures_that_an_encoder_cannot_have_are_logged(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(token_pictures, "print_log", lambda text, logger: said.append(text))
    run(tmp_path, dict(type="DenseEncoder"), pictures=["scores"], images=1).train()
    assert not list(tmp_path.rglob("tokens_*.png"))
    assert said == ["TokenPicturesHook: DenseEncoder has no scores to draw"] * 2


def test_images_beyond_the_end_and_no_validation_set():
    validation = SimpleNamespace(dataset=range(4))
    runner = SimpleNamespace(val_loop=object(), val_dataloader=validation)
    with pytest.raises(ValueError, match=r"\[4\] lie beyond the validation set of 4 images"):
        TokenPicturesHook(images=[1, 4]).before_train(runner)
    with pytest.raises(ValueError, match="has no val_dataloader"):
        TokenPicturesHook().before_train(SimpleNamespace(val_loop=None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(interval=0), "interval must be at least 1, got 0"),
        (dict(interval=1.5), "interval must be at least 1, got 1.5"),
        (dict(dpi=2), "dpi must be at least 20"),
        (dict(images=0), "images must be a number of images of at least 1"),
        (dict(images=[]), "images must be a number of images of at least 1"),
        (dict(images=[-1]), "images must be a number of images of at least 1"),
        (dict(pictures=["map"]), "pictures must be some of"),
        (dict(pictures=[]), "pictures must be some of"),
        (dict(min_score=2), r"min_score must lie in \[0, 1\], got 2"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type="TokenPicturesHook", **settings))
