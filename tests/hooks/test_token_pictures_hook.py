"""Pictures during training: every backend gets them, and training goes on as without them."""

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


def run(folder, encoder, backends=("LocalVisBackend",), **hook):
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
            vis_backends=[dict(type=name) for name in backends],
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


@pytest.mark.slow
def test_tensorboard_gets_them_too(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = ("TensorboardVisBackend", "LocalVisBackend")
    lite = dict(type="LiteDETREncoder", blocks=1)
    runner = run(tmp_path, lite, backends, interval=2, images=1)
    runner.train()
    runner.visualizer.close()
    events = EventAccumulator(str(next(tmp_path.rglob("events.out*")).parent)).Reload()
    assert events.Tags()["images"] == ["tokens_kept_0"]
    assert [event.step for event in events.Images("tokens_kept_0")] == [2]
    assert next(tmp_path.rglob("tokens_kept_0_2.png")).is_file()


def test_pictures_that_an_encoder_cannot_have_are_logged(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(token_pictures, "print_log", lambda text, logger: said.append(text))
    run(tmp_path, dict(type="DenseEncoder"), pictures=["scores"], images=1).train()
    assert not list(tmp_path.rglob("tokens_*.png"))
    assert said == ["TokenPicturesHook: DenseEncoder has no scores to draw"] * 2


@pytest.mark.slow
def test_images_beyond_the_end_and_no_validation_set(tmp_path):
    runner = run(tmp_path, DUAL, images=[1, 4])
    with pytest.raises(ValueError, match=r"\[4\] lie beyond the validation set of 4 images"):
        runner.train()
    runner._val_loop = None
    with pytest.raises(ValueError, match="has no val_dataloader"):
        TokenPicturesHook().before_train(runner)


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
