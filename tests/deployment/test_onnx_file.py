"""ONNX files run in onnxruntime and give what torch gives."""

from __future__ import annotations

import copy
import functools
import importlib.util
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from deployed import ENCODERS, SIZE, config, detector, picture
from quick import exhaustive_but, slow_but
from skips import needs_newer_onnx_exporter
from sparse_encoders.deployment import compare_with_onnx, export_onnx, open_onnx, run_onnx
from sparse_encoders.deployment.command import read_image
from sparse_encoders.loading import load_detector
from tiny_detectors import DETECTORS

TOOL = Path(__file__).parents[2] / "tools" / "export_onnx.py"
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")),
    reason="onnx and onnxruntime are not installed",
)


Exported = Callable[..., tuple[Any, Path]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """By encoder and kind of detector, a detector and its file; each is exported once."""
    folder = tmp_path_factory.mktemp("onnx")

    @functools.cache
    def export(encoder: str, kind: str = "DINO", **dynamic: bool) -> tuple[Any, Path]:
        model = detector(kind, encoder)
        path = folder / "new" / f"{'-'.join([encoder, kind, *dynamic])}.onnx"
        export_onnx(model, SIZE, path, **dynamic)
        return model, path

    return export


def backends(model: torch.nn.Module) -> list[str]:
    return [module.backend for module in model.modules() if hasattr(module, "backend")]


@needs_onnx
@pytest.mark.parametrize(
    "encoder", slow_but(["focus"], ["focus", "lite", "salience", "hybrid", "none"])
)
def test_onnxruntime_gives_what_torch_gives(encoder: str, exported: Exported) -> None:
    model, path = exported(encoder)
    assert backends(model) == backends(detector(encoder=encoder))
    if hasattr(torch.backends, "mha"):
        assert torch.backends.mha.get_fastpath_enabled()
    detect = open_onnx(path)
    actual = compare_with_onnx(model, detect, picture())
    assert actual.detections == 50 and actual.boxes < 1e-2 and actual.scores < 1e-5
    assert "boxes differ by at most" in str(actual)
    # another image than the one it was traced with
    other, _ = run_onnx(detect, picture(7))
    assert abs(other[0] - run_onnx(path, picture())[0][0]).max() > 1


@needs_onnx
@pytest.mark.parametrize(  # the others: with a dynamic size, below
    "encoder", exhaustive_but(["focus"], ["focus", "salience"], quick=())
)
def test_a_dynamic_batch(encoder: str, exported: Exported) -> None:
    """The file is traced with two images; one alone gets what torch finds in it, too."""
    model, path = exported(encoder, dynamic_batch=True)
    images = picture(3, batch=3)
    detect = open_onnx(path)
    for batch in (1, 2, 3):
        actual = compare_with_onnx(model, detect, images[:batch])
        assert actual.detections == 50 * batch and actual.boxes < 1e-2 and actual.scores < 1e-5
    (together, _, _), _ = run_onnx(detect, images)
    (alone, _, _), _ = run_onnx(detect, images[2:])
    assert abs(together[2] - alone[0]).max() < 1e-2 < abs(together[0] - alone[0]).max()


@needs_onnx
@pytest.mark.parametrize(
    ("encoder", "kind"),
    exhaustive_but(
        [
            ("lite", "two-stage DeformableDETR"),
            *((name, "DINO") for name in ("sparse", "key-aware")),
        ],
        [
            *((encoder, "DINO") for encoder in ENCODERS),
            *(("lite", kind) for kind in DETECTORS if kind not in ("DINO", "DDQDETR")),
        ],
        quick=(),
    ),
)
def test_a_dynamic_batch_and_size(encoder: str, kind: str, exported: Exported) -> None:
    """Sizes that leave a level with one row, and that no level divides, are among them."""
    model, path = exported(encoder, kind, dynamic_batch=True, dynamic_size=True)
    generator = torch.Generator().manual_seed(5)
    detect = open_onnx(path)
    for batch, height, width in ((1, *SIZE), (2, 64, 256), (1, 170, 125), (3, 128, 96)):
        images = torch.rand(batch, 3, height, width, generator=generator) * 255
        actual = compare_with_onnx(model, detect, images)
        assert actual.detections == 50 * batch and actual.boxes < 1e-2 and actual.scores < 1e-5


@needs_onnx
@pytest.mark.parametrize("name", ["dynamic_batch", "dynamic_size"])
def test_a_backbone_that_keeps_the_examples_numbers_is_refused(name: str, tmp_path: Path) -> None:
    """Without the check a file of Swin runs on other batches, and finds other boxes."""
    settings = config()
    settings.backbone = dict(
        type="SwinTransformer", embed_dims=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)
    )
    settings.backbone.out_indices = (1, 2, 3)
    settings.neck.in_channels = [64, 128, 256]
    model = MODELS.build(settings).eval()
    with pytest.raises(ValueError, match=f"{name}=True cannot be written for .* SwinTransformer"):
        export_onnx(model, SIZE, tmp_path / "a.onnx", **{name: True})


@needs_onnx
def test_a_dynamic_size_needs_tokens_for_all_queries(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least model\.num_queries=40 tokens, got one of 22"):
        export_onnx(detector(), (32, 32), tmp_path / "a.onnx", dynamic_size=True)
    assert torch.is_autocast_cache_enabled()


@pytest.mark.slow
@needs_onnx
@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
@pytest.mark.parametrize("encoder", ["focus", "lite"])
def test_openvino_gives_what_torch_gives(encoder: str, exported: Exported) -> None:
    model, path = exported(encoder)
    actual = compare_with_onnx(model, path, picture(), runtime="openvino")
    assert actual.detections == 50 and actual.boxes < 1e-2 and actual.scores < 1e-5
    assert "s in openvino" in str(actual)
    if encoder == "focus":
        model, path = exported(encoder, dynamic_batch=True)
        actual = compare_with_onnx(model, path, picture(batch=3), runtime="openvino")
        assert actual.detections == 150 and actual.boxes < 1e-2 and actual.scores < 1e-5


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"runtime must be one of .* got 'tensorrt'"):
        open_onnx(tmp_path / "a.onnx", "tensorrt")


@pytest.mark.slow
@needs_onnx
def test_other_weights_are_seen(exported: Exported) -> None:
    model, path = exported("lite")
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.bbox_head.cls_branches[-2].bias += 1
    assert compare_with_onnx(model, path, picture()).scores > 0.01


@needs_onnx
@pytest.mark.slow
@needs_newer_onnx_exporter
def test_the_newer_exporter(tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed")
    settings = config(encoder="key-aware")
    settings.decoder.num_layers = 1
    model = MODELS.build(settings).eval()
    image = torch.rand(1, 3, 64, 64) * 255
    export_onnx(model, (64, 64), tmp_path / "a.onnx", exporter="dynamo")
    assert compare_with_onnx(model, tmp_path / "a.onnx", image).scores < 1e-5


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector()
    with pytest.raises(ValueError, match=r"exporter must be one of .* got 'caffe'"):
        export_onnx(model, SIZE, tmp_path / "a.onnx", exporter="caffe")
    random = dict(type="DualAttentionEncoder", selector=dict(type="RandomSelector"))
    with pytest.raises(ValueError, match="RandomSelector draws its tokens"):
        export_onnx(detector(encoder=random), SIZE, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="DDQDETR chooses queries by non-maximum suppression"):
        export_onnx(detector("DDQDETR"), SIZE, tmp_path / "a.onnx")
    for name in ("dynamic_batch", "dynamic_size"):
        with pytest.raises(ValueError, match=f"{name}=True needs exporter='torchscript', got"):
            export_onnx(model, SIZE, tmp_path / "a.onnx", exporter="dynamo", **{name: True})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="the dynamo exporter needs onnx, onnxscript"):
        export_onnx(model, SIZE, tmp_path / "a.onnx", exporter="dynamo")
    assert not (tmp_path / "a.onnx").exists()


@needs_onnx
def test_a_torch_without_the_newer_exporter_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(model, args, f, export_params=True, *, input_names=None): ...

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(ImportError, match=r"exporter='dynamo' needs torch 2\.5 or newer"):
        export_onnx(detector(), SIZE, tmp_path / "a.onnx", exporter="dynamo")


@pytest.mark.slow
@needs_onnx
def test_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    settings = Config(dict(model=config(encoder="lite").to_dict()))
    settings.custom_imports = dict(imports=["sparse_encoders"])
    settings.dump(tmp_path / "tiny.py")
    target = tmp_path / "tiny.onnx"

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["export_onnx.py", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(TOOL), run_name="__main__")
        return int(stopped.value.code)

    assert run(tmp_path / "tiny.py", "none", "--size", 64, 96, target) == 0
    message = capsys.readouterr().out
    assert f"written: {target}" in message and "50 detections: boxes differ by at most" in message
    dynamic = ["--dynamic-batch", "--dynamic-size", "--no-normalize"]
    assert run(tmp_path / "tiny.py", "none", "--size", 64, 96, target, *dynamic) == 0
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert lines == ["50 detections", "150 detections", "50 detections"]
    assert run(tmp_path / "tiny.py", "none", "--size", 0, 96, target) == 1
    assert "image_hw must be at least" in capsys.readouterr().err
    assert run("sparse_encoders::dino/nothing.py", "none", "--size", 64, 96, target) == 1
    assert "there is no config" in capsys.readouterr().err


def test_images_and_detectors_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no image that OpenCV reads"):
        read_image(tmp_path / "absent.jpg", SIZE)
    with pytest.raises(ValueError, match="there is no config file"):
        load_detector(tmp_path / "absent.py", None)
