"""Checkpoints are recognised by their keys: models of installed libraries, and keys from the source code of others."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import swin_t, swin_v2_t
from torchvision.models.video import mvit_v1_b, mvit_v2_s, r3d_18, swin3d_t

from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.weights.kinds import advice, check_kind, family_of
from schemas.errors import UserError
from tests.support.foreign_checkpoints import VIDEO_SWIN_CODES, as_video_swin

NANO = SWIN_SIZES["nano"]
MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "timm swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "a 2-D Swin"),
    "timm swinv2": (lambda: timm.create_model("swinv2_tiny_window8_256"), "Swin Transformer V2"),
    "timm mvitv2": (lambda: timm.create_model("mvitv2_tiny"), "an MViT"),
    "timm beit": (lambda: timm.create_model("beit_base_patch16_224"), "a BEiT"),
    "timm vit": (lambda: timm.create_model("vit_base_patch16_224"), "a ViT"),
    "torchvision swin": (swin_t, "a 2-D Swin of torchvision"),
    "torchvision swinv2": (swin_v2_t, "Swin Transformer V2"),
    "torchvision swin3d": (swin3d_t, "--kind torchvision"),
    "torchvision mvit v1": (mvit_v1_b, "an MViT"),
    "torchvision mvit v2": (mvit_v2_s, "an MViT"),
    "torchvision r3d": (r3d_18, "a convolutional network"),
    "ours, joint": (lambda: build_bevt(**NANO, vocab_size=32), "weights of bevt"),
    "ours, timesformer": (lambda: build_bevt(vocab_size=32, encoder="timesformer"), "weights of bevt"),
    "ours, classifier": (lambda: build_classifier(**NANO, num_classes=5), "weights of bevt"),
}
OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {  # keys from their source code
    "hf videomae": ({"videomae.embeddings.patch_embeddings.projection.weight": (8, 3, 2, 16, 16)}, "a VideoMAE"),
    "hf timesformer": ({"timesformer.embeddings.time_embeddings": (1, 8, 8)}, "a TimeSformer"),
    "hf swinv2": ({"swinv2.embeddings.norm.weight": (8,)}, "a Swin Transformer V2"),
    "hf swin": ({"swin.encoder.layers.0.blocks.0.attention.q_proj.weight": (8, 8)}, "a 2-D Swin of Hugging"),
    "hf vivit": (
        {
            "vivit.embeddings.patch_embeddings.projection.weight": (8, 3, 2, 16, 16),
            "vivit.layers.0.attention.q_proj.weight": (8, 8),
        },
        "a ViT on video",
    ),
    "videomae, fine-tuned": (
        {"patch_embed.proj.weight": (8, 3, 2, 16, 16), "blocks.0.attn.q_bias": (8,), "fc_norm.weight": (8,)},
        "a VideoMAE",
    ),
    "videomae, pretrained": (
        {"encoder.patch_embed.proj.weight": (8, 3, 2, 16, 16), "encoder.blocks.0.attn.q_bias": (8,)},
        "a VideoMAE",
    ),
    "timesformer": (
        {
            "model.cls_token": (1, 1, 8),
            "model.pos_embed": (1, 197, 8),
            "model.time_embed": (1, 8, 8),
            "model.patch_embed.proj.weight": (8, 3, 16, 16),
            "model.blocks.0.temporal_attn.qkv.weight": (24, 8),
        },
        "a TimeSformer",
    ),
    "timesformer of mmaction2": (
        {
            "backbone.cls_token": (1, 1, 8),
            "backbone.time_embed": (1, 8, 8),
            "backbone.transformer_layers.layers.0.attentions.0.temporal_fc.weight": (8, 8),
        },
        "a TimeSformer",
    ),
    "slowfast's mvit": (
        {"patch_embed.proj.weight": (8, 3, 3, 7, 7), "blocks.0.attn.pool_q.weight": (8, 1, 3, 3, 3)},
        "an MViT",
    ),
    "v-jepa": (
        {"backbone.patch_embed.proj.weight": (8, 3, 2, 16, 16), "backbone.blocks.0.norm1.weight": (8,)},
        "V-JEPA",
    ),
    "swin of mmpretrain": (
        {"backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table": (169, 3)},
        "a 2-D Swin of mmpretrain",
    ),
    "bevt": (
        {"cls_head.lm_head.weight": (16, 8), "backbone.fpn_t.0.weight": (8, 8, 2, 1, 1)},
        "--kind official",
    ),
    "something": ({"conv.weight": (3,)}, "unknown origin"),
}


def state_of(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build().state_dict()


@pytest.mark.parametrize("name", MODELS)
def test_models_of_libraries(name: str) -> None:
    build, expected = MODELS[name]
    assert expected in advice(Path("theirs.pth"), state_of(build))


@pytest.mark.parametrize("name", OTHERS)
def test_keys_of_other_codes(name: str) -> None:
    shapes, expected = OTHERS[name]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert expected in advice(Path("theirs.pth"), state)


@pytest.mark.parametrize("code", VIDEO_SWIN_CODES)
def test_video_swin_is_named_with_its_kind(code: str) -> None:
    state = as_video_swin(state_of(swin3d_t), code)
    check_kind(Path("theirs.pth"), state, "video-swin")
    with pytest.raises(UserError, match=r"theirs\.pth: a Video Swin classifier; run .*--kind video-swin"):
        check_kind(Path("theirs.pth"), state, "official")
    backbone = {key: tensor for key, tensor in state.items() if "cls_head" not in key}
    with pytest.raises(UserError, match=r"without its classifier .*cannot be imported; expected official .*video-swin"):
        check_kind(Path("theirs.pth"), backbone, "video-swin")


def test_a_2d_swin_is_not_a_video_swin() -> None:
    state = state_of(lambda: timm.create_model("swin_tiny_patch4_window7_224"))
    with pytest.raises(UserError, match=r"a 2-D Swin; run .*--kind image-swin"):
        check_kind(Path("theirs.pth"), state, "video-swin")
    family = family_of({f"backbone.{key}": tensor for key, tensor in state.items()})
    assert family is not None
    assert family.kind == "image-swin"
