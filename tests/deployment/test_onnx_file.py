"""ONNX files run in onnxruntime and give what torch gives."""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from deployed import SIZE, config, detector, picture
from export_onnx import read_image
from quick import exhaustive_but, slow_but
from skips import needs_newer_onnx_exporter
from sparse_encoders.deployment import compare_with_onnx, export_onnx, open_onnx, run_onnx
from sparse_encoders.loading import load_detector
from tiny_detectors import DETECTORS, ENCODERS

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


def check(model: Any, file: Any, images: torch.Tensor, per_image: int = 50, **runtime: str) -> str:
    actual = compare_with_onnx(model, file, images, **runtime)
    assert actual.detections == per_image * len(images)
    assert actual.boxes < 1e-2 and actual.scores < 1e-5
    return str(actual)


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
    assert "50 detections: boxes differ by at most" in check(model, detect, picture())
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
    images, detect = picture(3, batch=3), open_onnx(path)
    for batch in (1, 2, 3):
        check(model, detect, images[:batch])
    (together, _, _), _ = run_onnx(detect, images)
    (alone, _, _), _ = run_onnx(detect, images[2:])
    assert abs(together[2] - alone[0]).max() < 1e-2 < abs(together[0] - alone[0]).max()


@needs_onnx
@pytest.mark.parametrize(
    ("encoder", "kind"),
    exhaustive_but(
        [("lite", "two-stage DeformableDETR"), ("sparse", "DINO"), ("lite key-aware", "DINO")],
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
    generator, detect = torch.Generator().manual_seed(5), open_onnx(path)
    for batch, height, width in ((1, *SIZE), (2, 64, 256), (1, 170, 125), (3, 128, 96)):
        check(model, detect, torch.rand(batch, 3, height, width, generator=generator) * 255)


@needs_onnx
@pytest.mark.parametrize("name", ["dynamic_batch", "dynamic_size"])
def test_a_backbone_that_keeps_the_examples_numbers_is_refused(name: str, tmp_path: Path) -> None:
    """Without the check a file of Swin runs on other batches, and finds other boxes."""
    swin = dict(type="SwinTransformer", embed_dims=32, depths=(1, 1, 1, 1), out_indices=(1, 2, 3))
    settings = config()
    settings.backbone = dict(swin, num_heads=(1, 2, 4, 8))
    settings.neck.in_channels = [64, 128, 256]
    model = MODELS.build(settings).eval()
    with pytest.raises(ValueError, match=f"{name}=True cannot be written for .* SwinTransformer"):
        export_onnx(model, SIZE, tmp_path / "a.onnx", **{name: True})


@pytest.mark.slow
@needs_onnx
@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
@pytest.mark.parametrize(("encoder", "batch"), [("focus", 1), ("lite", 1), ("focus", 3)])
def test_openvino_gives_what_torch_gives(encoder: str, batch: int, exported: Exported) -> None:
    dynamic = dict(dynamic_batch=True) if batch > 1 else {}
    model, path = exported(encoder, **dynamic)
    message = check(model, path, picture(batch=batch), runtime="openvino")
    assert "s in openvino" in message


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
    settings = config(encoder="lite key-aware")
    settings.decoder.num_layers = 1
    model = MODELS.build(settings).eval()
    image = torch.rand(1, 3, 64, 64) * 255
    export_onnx(model, (64, 64), tmp_path / "a.onnx", exporter="dynamo")
    assert compare_with_onnx(model, tmp_path / "a.onnx", image).scores < 1e-5


RANDOM = dict(type="DualAttentionEncoder", selector=dict(type="RandomSelector"))


@pytest.mark.parametrize(
    ("model", "size", "settings", "message"),
    [
        ({}, SIZE, {"exporter": "caffe"}, r"exporter must be one of .* got 'caffe'"),
        ({"encoder": RANDOM}, SIZE, {}, "RandomSelector draws its tokens"),
        ({"kind": "DDQDETR"}, SIZE, {}, "DDQDETR chooses queries by non-maximum suppression"),
        *(
            ({}, SIZE, {"exporter": "dynamo", name: True}, f"{name}=True needs exporter='torchs")
            for name in ("dynamic_batch", "dynamic_size")
        ),
        pytest.param(
            *({}, (32, 32), {"dynamic_size": True}),
            r"at least model\.num_queries=40 tokens, got one of 22",
            marks=needs_onnx,
        ),
    ],
)
def test_what_cannot_be_exported(
    model: Any, size: Any, settings: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(detector(**model), size, tmp_path / "a.onnx", **settings)
    assert not (tmp_path / "a.onnx").exists() and torch.is_autocast_cache_enabled()


def test_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(model, args, f, export_params=True, *, input_names=None): ...

    with pytest.raises(ValueError, match=r"runtime must be one of .* got 'tensorrt'"):
        open_onnx(tmp_path / "a.onnx", "tensorrt")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match="the dynamo exporter needs onnx, onnxscript"):
            export_onnx(detector(), SIZE, tmp_path / "a.onnx", exporter="dynamo")
        patch.setattr("importlib.util.find_spec", lambda name: True)
        patch.setattr(torch.onnx, "export", export)
        with pytest.raises(ImportError, match=r"exporter='dynamo' needs torch 2\.5 or newer"):
            export_onnx(detector(), SIZE, tmp_path / "a.onnx", exporter="dynamo")


@pytest.mark.slow
@needs_onnx
def test_the_tool(tmp_path: Path, run_tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Config(dict(model=config(encoder="lite").to_dict()))
    settings.custom_imports = dict(imports=["sparse_encoders"])
    settings.dump(tmp_path / "tiny.py")
    target = tmp_path / "tiny.onnx"

    def run(height: int, *options: str, config: Any = tmp_path / "tiny.py") -> int:
        size = ("--size", height, 96)
        return int(run_tool("export_onnx.py", config, "none", *size, target, *options))

    assert run(64) == 0
    message = capsys.readouterr().out
    assert f"written: {target}" in message and "50 detections: boxes differ by at most" in message
    assert run(64, "--dynamic-batch", "--dynamic-size", "--no-normalize") == 0
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert lines == ["50 detections", "150 detections", "50 detections"]
    assert run(0) == 1
    assert "image_hw must be at least" in capsys.readouterr().err
    assert run(64, config="sparse_encoders::dino/nothing.py") == 1
    assert "there is no config" in capsys.readouterr().err


def test_images_and_detectors_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no image that OpenCV reads"):
        read_image(tmp_path / "absent.jpg", SIZE)
    with pytest.raises(ValueError, match="there is no config file"):
        load_detector(tmp_path / "absent.py", None)
