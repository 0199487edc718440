"""Attention maps of an encoder: the attention that each position receives, per stage.

Windowed attention has no matrix over the whole grid, and patch merging changes the grid between stages, so attention
is not multiplied over layers ("attention rollout"). A position's value is the attention that it receives from the
queries of its window, averaged over heads, queries and the blocks of the stage, times the number of positions in the
window: 1 is the value under uniform attention. TimeSformer attends within each frame; over its last blocks it has a map
of the same kind and one of the class token's attention.

Legend: B batch, T H W grid, K windows, A heads, N positions in a window, P positions of a frame, C channels.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from bevt_core.models.classifier import Classifier
from bevt_core.models.swin import Stage, SwinBlock, VideoSwin, WindowAttention
from bevt_core.models.timesformer import DividedBlock, SelfAttention, TimeSformer
from bevt_core.models.window_attention.sdpa import bias_with_masks
from bevt_core.models.windows import Size3, from_windows, grid_of, window_kinds

LAST_BLOCKS = 4  # of TimeSformer; a map is their average


@torch.no_grad()
def attention_maps(model: Classifier, clip_BCTHW: Tensor) -> dict[str, Tensor]:
    """Return maps (B, T, H, W), by a name that describes them; grids differ between stages."""
    return MAPS[type(model.encoder)](model, clip_BCTHW)


def window_attention_received(attention: WindowAttention, x_BTHWC: Tensor, shift: Size3) -> Tensor:
    """Return the attention that each position of the grid receives, relative to the average of 1: (B, T, H, W)."""
    qkv_BKNC, bias_ANN, windows = attention.attention_inputs(x_BTHWC, shift)
    bias_MANN = bias_with_masks(bias_ANN, windows, qkv_BKNC.dtype)
    kinds_K = window_kinds(windows, x_BTHWC.device)
    q, k, _ = qkv_BKNC.unflatten(-1, (3, attention.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
    logits_BKANN = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias_MANN[kinds_K]
    received_BKN = logits_BKANN.softmax(dim=-1).mean(dim=2).sum(dim=-2)  # mean over heads, sum over N queries / N * N
    return from_windows(received_BKN[..., None], windows, grid_of(x_BTHWC))[..., 0]


def frame_attention(attention: SelfAttention, x_BTPC: Tensor) -> Tensor:
    """Return the attention between all positions of a frame, mean over heads: (B, T, P queries, P keys)."""
    q, k, _ = attention.qkv(x_BTPC).unflatten(-1, (3, attention.num_heads, -1)).unbind(dim=-3)
    logits = q.transpose(-3, -2) @ k.transpose(-3, -2).transpose(-1, -2) / q.shape[-1] ** 0.5
    mean_BTPP: Tensor = logits.softmax(dim=-1).mean(dim=-3)
    return mean_BTPP


def _swin_maps(model: Classifier, clip_BCTHW: Tensor) -> dict[str, Tensor]:
    encoder = cast(VideoSwin, model.encoder)
    received: dict[str, list[Tensor]] = {}
    with ExitStack() as watches:
        for number, stage in enumerate(cast(list[Stage], encoder.stages), start=1):
            maps = received.setdefault(f"stage {number}: attention received, mean of {len(stage.blocks)} blocks", [])
            for block in cast(list[SwinBlock], stage.blocks):
                keep = partial(_keep_received, maps, block.attn)
                watches.enter_context(_watched(block.attn, keep))
        encoder(model.stem(clip_BCTHW))
    return {name: torch.stack(maps).mean(dim=0) for name, maps in received.items()}


def _keep_received(maps: list[Tensor], attention: WindowAttention, x_BTHWC: Tensor, shift: Size3) -> None:
    maps.append(window_attention_received(attention, x_BTHWC, shift))


def _timesformer_maps(model: Classifier, clip_BCTHW: Tensor) -> dict[str, Tensor]:
    encoder = cast(TimeSformer, model.encoder)
    blocks = cast(list[DividedBlock], list(encoder.blocks))[-LAST_BLOCKS:]
    weights: list[Tensor] = []
    with ExitStack() as watches:
        for block in blocks:
            watches.enter_context(_watched(block.attn, partial(_keep_frame_attention, weights, block.attn)))
        grid = grid_of(encoder(model.stem(clip_BCTHW))[-1])
    mean_BTPP = torch.stack(weights).mean(dim=0)
    num_keys = mean_BTPP.shape[-1]  # positions of a frame and the class token
    maps_BTP = {
        f"class token's attention, mean of {len(blocks)} blocks": mean_BTPP[..., 0, 1:] * num_keys,
        f"attention received, mean of {len(blocks)} blocks": mean_BTPP[..., 1:, 1:].mean(dim=-2) * num_keys,
    }
    return {name: map_BTP.unflatten(-1, grid[1:]) for name, map_BTP in maps_BTP.items()}


def _keep_frame_attention(weights: list[Tensor], attention: SelfAttention, x_BTPC: Tensor) -> None:
    weights.append(frame_attention(attention, x_BTPC))


@contextmanager
def _watched(module: nn.Module, watch: Callable[..., None]) -> Iterator[None]:
    """Call `watch` with the module's inputs before each forward pass."""
    handle = module.register_forward_pre_hook(lambda _, inputs: watch(*inputs))
    try:
        yield
    finally:
        handle.remove()


MAPS: dict[type, Callable[[Classifier, Tensor], dict[str, Tensor]]] = {
    VideoSwin: _swin_maps,
    TimeSformer: _timesformer_maps,
}
