"""Attention maps: compared with the encoder's own arithmetic at each position."""

import torch

from bevt_core.models.attention_maps import attention_maps, frame_attention, window_attention_received
from bevt_core.models.build import build_classifier
from bevt_core.models.swin import WindowAttention
from bevt_core.models.timesformer import SelfAttention
from bevt_core.models.window_attention import IMPLEMENTATIONS
from bevt_core.models.windows import from_windows


def test_a_position_receives_what_its_value_adds_to_the_outputs() -> None:
    torch.manual_seed(0)
    attention, x, shift = WindowAttention(8, 2, (2, 2, 2)), torch.randn(1, 3, 4, 6, 8), (1, 1, 1)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    qkv, bias, windows = attention.attention_inputs(x, shift)
    qkv = qkv.detach().requires_grad_()
    IMPLEMENTATIONS["math"](qkv, bias, windows).sum().backward()
    assert qkv.grad is not None
    by_value = qkv.grad[..., 16:].mean(dim=-1, keepdim=True)  # sum over queries, mean over heads
    received = window_attention_received(attention, x, shift)
    torch.testing.assert_close(from_windows(by_value, windows, (3, 4, 6))[..., 0], received)
    assert received.std() > 0.1


def test_all_that_is_given_is_received() -> None:
    sizes = {"embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2), "window": (2, 2, 2), "patch": (1, 4, 4)}
    model = build_classifier(**sizes, num_classes=2).eval()  # type: ignore[arg-type]
    maps = attention_maps(model, torch.randn(2, 3, 4, 32, 32))
    assert [tuple(m.shape) for m in maps.values()] == [(2, 4, 8, 8), (2, 4, 4, 4)]
    for values in maps.values():
        torch.testing.assert_close(values.mean(), torch.tensor(1.0))
    assert not any(block.attn._forward_pre_hooks for stage in model.encoder.stages for block in stage.blocks)  # type: ignore[union-attr]


def test_timesformers_maps_are_of_its_attention_within_frames() -> None:
    sizes = {"embed_dim": 8, "depth": 2, "num_heads": 2, "grid": (4, 2, 2), "patch": (1, 8, 8)}
    model = build_classifier(encoder="timesformer", **sizes, num_classes=2).eval()  # type: ignore[arg-type]
    maps = attention_maps(model, torch.randn(1, 3, 4, 16, 16))
    assert [tuple(m.shape) for m in maps.values()] == [(1, 4, 2, 2)] * 2
    attention, x = SelfAttention(8, num_heads=1), torch.randn(1, 4, 5, 8)
    value = attention.qkv(x)[..., 16:]
    torch.testing.assert_close(attention.proj(frame_attention(attention, x) @ value), attention(x))
