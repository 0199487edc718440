"""Every registered model has timm's interface: with values at nano size, on the meta device at all sizes."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

import bevt_core.weights.timm_registry  # noqa: F401 - registers
from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.weights.export import save_hub_folder
from bevt_core.weights.model_files import save_weights
from schemas.errors import UserError

MODELS = timm.list_models("bevt_*")
NANO = [name for name in MODELS if "_nano_" in name]
INPUTS = {"video": (2, 3, 8, 64, 64), "image": (2, 3, 64, 64)}


def input_of(name: str) -> torch.Tensor:
    return torch.randn(INPUTS[name.rsplit("_", 1)[1]])


def test_every_size_is_registered_for_both_streams() -> None:
    assert set(MODELS) == {f"bevt_swin_{size}_{stream}" for size in SWIN_SIZES for stream in INPUTS}


@pytest.mark.parametrize("name", MODELS)
def test_shapes(name: str) -> None:
    size = name.split("_")[2]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
        features = model.stem(input_of(name).to("meta"))
    assert features.shape[-1] == SWIN_SIZES[size]["embed_dim"]
    assert model.num_features == SWIN_SIZES[size]["embed_dim"] * 2 ** (len(SWIN_SIZES[size]["depths"]) - 1)
    assert model.get_classifier().out_features == 7
    assert model.forward_head(torch.zeros(2, 1, 2, 2, model.num_features, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", NANO)
@torch.no_grad()
def test_heads_can_be_replaced_and_removed(name: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name, num_classes=7, drop_path_rate=0.1).eval(), input_of(name)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(model(x), model.fc(pooled))
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    assert pooled.std() > 0.1 and timm.create_model(name, num_classes=0).eval()(x).shape == pooled.shape


@torch.no_grad()
def test_a_runs_weights_are_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = build_classifier(**SWIN_SIZES["nano"], num_classes=5).eval()
    save_weights(tmp_path / "weights.safetensors", ours)
    path = str(tmp_path / "weights.safetensors")
    model = timm.create_model("bevt_swin_nano_video", num_classes=5, checkpoint_path=path).eval()
    x = input_of("video_video")
    torch.testing.assert_close(model(x), ours(x), atol=0, rtol=0)


PRETRAINED: dict[str, dict[str, Any]] = {
    "image": {"streams": ("image",)},
    "video": {"streams": ("video",)},
    "joint": {},
    "separate": {"share_encoder": "separate"},
    "wider": {"streams": ("image",), "window": (4, 7, 7)},
}


@pytest.mark.parametrize("stage", PRETRAINED)
@torch.no_grad()
def test_pretraining_weights_keep_the_models_head(stage: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = build_bevt(**{**SWIN_SIZES["nano"], **PRETRAINED[stage]}, vocab_size=32).eval()
    for parameter in ours.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)  # so that no norm or bias has its initial value
    save_weights(tmp_path / "weights.safetensors", ours)
    save_hub_folder(tmp_path / "hub", ours, {})
    for path in (tmp_path / "weights.safetensors", tmp_path / "hub" / "model.safetensors"):
        for stream in INPUTS:
            name, x = f"bevt_swin_nano_{stream}", input_of(f"nano_{stream}")
            if stream == "image" and stage == "video":
                with pytest.raises(UserError, match="without images"):
                    timm.create_model(name, checkpoint_path=str(path))
                continue
            model = timm.create_model(name, num_classes=5, checkpoint_path=str(path)).eval()
            assert model(x).shape == (2, 5)
            clip_BCTHW = x if stream == "video" else x.unsqueeze(2)
            if stage == "wider":
                assert model(x).std() > 0  # the tables are resized, which test_model_files.py tests
            elif stream in ours.route:
                last_BTHWC = ours.encoders[ours.route[stream]](ours.stems[stream](clip_BCTHW))[-1]
                torch.testing.assert_close(model.forward_features(x), ours.norm(last_BTHWC))
            else:  # a video model from images: a still clip gives its image's output
                still = x[:, :, :1].expand_as(x)
                torch.testing.assert_close(model.stem(still)[:, :1], ours.stems["image"](x[:, :, :1]))


def test_there_are_no_published_weights() -> None:
    with pytest.raises(UserError, match="give checkpoint_path"):
        timm.create_model("bevt_swin_nano_video", pretrained=True)


def test_the_trained_input_is_in_the_cfg() -> None:
    model = timm.create_model("bevt_swin_nano_image", num_classes=5)
    assert model.pretrained_cfg is model.default_cfg and model.default_cfg["input_size"] == (3, 64, 64)
    assert timm.get_pretrained_cfg("bevt_swin_base_video").input_size == (3, 224, 224)
    config = timm.data.resolve_data_config(model=model)
    assert config["input_size"] == (3, 64, 64) and config["mean"] == timm.data.IMAGENET_DEFAULT_MEAN
    assert timm.data.create_transform(**config)(Image.new("RGB", (90, 80))).shape == (3, 64, 64)
    larger = timm.create_model("bevt_swin_nano_image", pretrained_cfg_overlay={"input_size": (3, 96, 96)})
    assert larger.pretrained_cfg["input_size"] == (3, 96, 96)
    names = dict(model.named_modules())
    assert model.default_cfg["classifier"] in names and model.default_cfg["first_conv"] in names


@pytest.mark.parametrize("name", NANO)
@torch.no_grad()
def test_features_only(name: str) -> None:
    torch.manual_seed(0)
    whole, x = timm.create_model(name).eval(), input_of(name)
    for indices in (None, (0, 1), (-2,)):
        net = timm.create_model(
            name, features_only=True, **({} if indices is None else {"out_indices": indices})
        ).eval()
        net.model.load_state_dict(
            {key: value for key, value in whole.state_dict().items() if key in net.model.state_dict()}
        )
        features = net(x)
        wanted = whole.forward_intermediates(x, indices, intermediates_only=True)
        for feature, same, channels, reduction in zip(
            features, wanted, net.feature_info.channels(), net.feature_info.reduction(), strict=True
        ):
            torch.testing.assert_close(feature, same)
            assert feature.shape[1] == channels and feature.shape[-1] == x.shape[-1] // reduction
            assert feature.ndim == x.ndim
        assert net.pretrained_cfg["input_size"] == (3, 64, 64)
    assert len(net.model.encoder.stages) == 1 and not list(net.model.fc.parameters())  # (-2,): the last is pruned


@pytest.mark.parametrize("name", NANO)
@torch.no_grad()
def test_intermediates(name: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), input_of(name)
    torch.nn.init.normal_(model.norm.weight)
    final, stages = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert [stage.shape[1] for stage in stages] == [info["num_chs"] for info in model.feature_info] == [64, 128]
    last = model.forward_intermediates(x, 1, norm=True, output_fmt="NHWC", intermediates_only=True)[0]
    torch.testing.assert_close(last.reshape(final.shape), final)
    early, (first,) = model.forward_intermediates(x, [0], stop_early=True, output_fmt="NHWC")
    torch.testing.assert_close(early.reshape(first.shape), first)
    with pytest.raises(ValueError, match="output_fmt 'NLC': expected NCHW or NHWC"):
        model.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize("name", NANO)
def test_gradient_checkpointing(name: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name), input_of(name)
    gradients, runs = [], []
    model.encoder.stages[0].blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    for enable in (True, False):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).sum().backward()
        gradients.append(model.stem.proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert len(runs) == 3  # recomputed once, in the backward pass


@torch.no_grad()
def test_pooling_and_channels() -> None:
    model, x = timm.create_model("bevt_swin_nano_video", num_classes=0, global_pool="").eval(), input_of("nano_video")
    torch.testing.assert_close(model(x), model.forward_features(x))
    model.double().reset_classifier(3, "avg")
    assert model(x.double()).shape == (2, 3) and model.get_classifier().weight.dtype == torch.float64
    with pytest.raises(ValueError, match="global_pool 'max': expected avg"):
        model.reset_classifier(3, "max")
    with pytest.raises(ValueError, match="in_chans 1: expected 3"):
        timm.create_model("bevt_swin_nano_image", in_chans=1)


def test_other_codes_weights_are_named(tmp_path: Path) -> None:
    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=12, num_heads=(1, 2, 4, 8)
    )
    torch.save({"model": theirs.state_dict()}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"a 2-D Swin; run `bevt import-checkpoint FILE --kind image-swin"):
        timm.create_model("bevt_swin_nano_image", checkpoint_path=str(tmp_path / "theirs.pth"))
