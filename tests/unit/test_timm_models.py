"""Every registered model keeps timm's promises: at nano size with numbers, at all sizes on the meta device."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import bevt_core.timm_models  # noqa: F401 - registers
from bevt_core.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.export import save_hub_folder
from bevt_core.weights import save_weights
from schemas.errors import UserError

MODELS = timm.list_models("bevt_*")
NANO = [name for name in MODELS if "_nano_" in name]
INPUTS = {"video": (2, 3, 8, 64, 64), "image": (2, 3, 64, 64)}


def input_of(name: str) -> torch.Tensor:
    return torch.randn(INPUTS[name.rsplit("_", 1)[1]])


def test_every_size_is_there_for_both_streams() -> None:
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
def test_heads_come_and_go(name: str) -> None:
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
def test_pretraining_weights_go_under_a_fresh_head(stage: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = build_bevt(**{**SWIN_SIZES["nano"], **PRETRAINED[stage]}, vocab_size=32).eval()
    for parameter in ours.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)  # so that no norm or bias is what it begins as
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
                assert model(x).std() > 0  # the tables are others, and tested in test_weights.py
            elif stream in ours.route:
                last_BTHWC = ours.encoders[ours.route[stream]](ours.stems[stream](clip_BCTHW))[-1]
                torch.testing.assert_close(model.forward_features(x), ours.norm(last_BTHWC))
            else:  # a video model of images: a still clip looks like its picture
                still = x[:, :, :1].expand_as(x)
                torch.testing.assert_close(model.stem(still)[:, :1], ours.stems["image"](x[:, :, :1]))


def test_there_are_no_published_weights() -> None:
    with pytest.raises(UserError, match="give checkpoint_path"):
        timm.create_model("bevt_swin_nano_video", pretrained=True)
