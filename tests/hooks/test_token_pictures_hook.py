"""Pictures during training: every backend gets them, and training goes on as without them."""

import numpy as np
import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset, use_coco_folder
from sparse_encoders.hooks import token_pictures
from sparse_encoders.hooks.token_pictures import TokenPicturesHook
from sparse_encoders.visualization.pictures import PICTURES
from tiny_detectors import detector_config

BASE = "mmdet_configs/_base_/datasets/coco_folder.py"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes_dataset(folder, ShapesSettings(train=3, val=3, size=64))
    return folder


def make_runner(request, shapes, work_dir, encoder, backends=("LocalVisBackend",), **hook):
    config = Config.fromfile(request.config.rootpath / BASE)
    for stage in ("train", "val", "test"):
        loader = config[f"{stage}_dataloader"]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    model = detector_config("DINO", encoder)
    config.merge_from_dict(
        dict(
            model=model.to_dict(),
            work_dir=str(work_dir),
            default_scope="mmdet",
            experiment_name=f"run in {work_dir}",  # MMEngine tells runs of one second apart by it
            custom_imports=dict(imports=["sparse_encoders", "sparse_encoders.datasets"]),
            train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=5),
            val_cfg=dict(type="ValLoop"),
            test_cfg=dict(type="TestLoop"),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=1e-4)),
            randomness=dict(seed=1),
            visualizer=dict(
                type="DetLocalVisualizer",
                name=f"at {work_dir}",
                vis_backends=[dict(type=name) for name in backends],
            ),
            custom_hooks=[dict(type="TokenPicturesHook", dpi=20, **hook)] if hook else [],
        )
    )
    use_coco_folder(config, shapes, scale=64)
    return Runner.from_cfg(config)


DUAL = dict(type="DualAttentionEncoder", num_object_tokens=6)


@pytest.mark.slow
def test_files_of_the_local_backend_and_the_same_training(request, shapes, tmp_path):
    hook = dict(interval=3, by_epoch=False, images=[0, 2])  # one more iteration follows
    runner = make_runner(request, shapes, tmp_path / "with", DUAL, **hook)
    runner.train()
    files = {path.name: path for path in (tmp_path / "with").rglob("tokens_*.png")}
    assert set(files) == {f"tokens_{name}_{image}_3.png" for name in PICTURES for image in (0, 2)}
    for path in files.values():
        with Image.open(path) as picture:
            assert np.asarray(picture).std() > 10
    plain = make_runner(request, shapes, tmp_path / "without", DUAL)
    plain.train()
    for (name, a), b in zip(
        runner.model.state_dict().items(), plain.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_tensorboard_gets_them_too(request, shapes, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runner = make_runner(
        request,
        shapes,
        tmp_path,
        dict(type="LiteDETREncoder", blocks=1),
        ("TensorboardVisBackend", "LocalVisBackend"),
        interval=2,
        images=1,
    )
    runner.train()
    runner.visualizer.close()
    events = EventAccumulator(str(next(tmp_path.rglob("events.out*")).parent)).Reload()
    assert events.Tags()["images"] == ["tokens_kept_0"]
    assert [event.step for event in events.Images("tokens_kept_0")] == [2]
    assert next(tmp_path.rglob("tokens_kept_0_2.png")).is_file()


def test_pictures_that_an_encoder_cannot_have_are_logged(request, shapes, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(token_pictures, "print_log", lambda text, logger: said.append(text))
    hook = dict(pictures=["scores"], images=1)
    runner = make_runner(request, shapes, tmp_path, dict(type="DenseEncoder"), **hook)
    runner.train()
    assert not list(tmp_path.rglob("tokens_*.png"))
    assert said == ["TokenPicturesHook: DenseEncoder has no scores to draw"] * 2


@pytest.mark.slow
def test_images_beyond_the_end_and_no_validation_set(request, shapes, tmp_path):
    runner = make_runner(request, shapes, tmp_path, DUAL, images=[1, 3])
    with pytest.raises(ValueError, match=r"\[3\] lie beyond the validation set of 3 images"):
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
