"""TimeSformer against transformers' TimesformerModel with the same random weights.

Worst case measured on CPU: 1e-6.
"""

import re

import pytest
import torch
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerModel

from bevt_core.models.build import TimeSformerBackbone, build_bevt

SIZES = {"embed_dim": 32, "depth": 3, "num_heads": 4, "grid": (4, 4, 4), "patch": (1, 8, 8), "mlp_ratio": 2.0}

KEYS = {
    r"embeddings\.patch_embeddings\.projection\.": "stem.proj.",
    r"encoder\.layer\.(\d+)\.attention\.attention\.qkv\.": r"encoder.blocks.\1.attn.qkv.",
    r"encoder\.layer\.(\d+)\.attention\.output\.dense\.": r"encoder.blocks.\1.attn.proj.",
    r"encoder\.layer\.(\d+)\.temporal_attention\.attention\.qkv\.": r"encoder.blocks.\1.attn_time.qkv.",
    r"encoder\.layer\.(\d+)\.temporal_attention\.output\.dense\.": r"encoder.blocks.\1.attn_time.proj.",
    r"encoder\.layer\.(\d+)\.temporal_dense\.": r"encoder.blocks.\1.fc_time.",
    r"encoder\.layer\.(\d+)\.temporal_layernorm\.": r"encoder.blocks.\1.norm_time.",
    r"encoder\.layer\.(\d+)\.layernorm_before\.": r"encoder.blocks.\1.norm1.",
    r"encoder\.layer\.(\d+)\.layernorm_after\.": r"encoder.blocks.\1.norm2.",
    r"encoder\.layer\.(\d+)\.intermediate\.dense\.": r"encoder.blocks.\1.mlp.fc1.",
    r"encoder\.layer\.(\d+)\.output\.dense\.": r"encoder.blocks.\1.mlp.fc2.",
}


def our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our stem and encoder; the class token takes its own position with it."""
    cls_C, positions_NC = state["embeddings.cls_token"].flatten(), state["embeddings.position_embeddings"][0]
    renamed = {
        "encoder.cls_token": cls_C + positions_NC[0],
        "encoder.space_embedding": positions_NC[1:].T.reshape(32, 4, 4),
        "encoder.time_embedding": state["embeddings.time_embeddings"][0].T,
    }
    for key, tensor in state.items():
        for pattern, replacement in KEYS.items():
            if re.match(pattern, key):
                renamed[re.sub(pattern, replacement, key)] = tensor
                break
    renamed["stem.proj.weight"] = renamed["stem.proj.weight"].unsqueeze(2)
    return renamed


@torch.no_grad()
def test_every_position_agrees() -> None:
    torch.manual_seed(0)
    config = TimesformerConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip
    reference = TimesformerModel(config).eval()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.2)
    backbone = TimeSformerBackbone(**SIZES)
    model = nn.ModuleDict({"stem": backbone.stems()["video"], "encoder": backbone.encoder()}).eval()
    model.load_state_dict(our_names(reference.state_dict()))

    clip_BCTHW = torch.randn(2, 3, 4, 32, 32)
    hidden_BNC = reference(clip_BCTHW.transpose(1, 2), output_hidden_states=True).hidden_states[-1]
    expected_BTHWC = hidden_BNC[:, 1:].unflatten(1, (4, 4, 4)).permute(0, 3, 1, 2, 4)  # theirs is (H, W, T)
    (ours_BTHWC,) = model["encoder"](model["stem"](clip_BCTHW))
    torch.testing.assert_close(ours_BTHWC, expected_BTHWC, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("stream", "frames"), [("video", 4), ("image", 1)])
def test_both_streams_predict_tokens_on_their_grid(stream: str, frames: int) -> None:
    torch.manual_seed(0)
    model = build_bevt(encoder="timesformer", vocab_size=16, **SIZES)
    clip_BCTHW = torch.randn(2, 3, frames, 32, 32)
    tokens_BTHW = torch.randint(16, (2, frames, 4, 4))
    mask_BTHW = torch.rand(2, frames, 4, 4) < 0.5
    model.encoders["shared"].checkpoint_activations([0])
    model.loss(clip_BCTHW, tokens_BTHW, mask_BTHW, stream).backward()
    assert model.predict(clip_BCTHW, None, stream).shape == tokens_BTHW.shape
    missing = [n for n, p in model.named_parameters() if p.grad is None and not n.startswith(("stems", "decoders"))]
    assert missing == []
