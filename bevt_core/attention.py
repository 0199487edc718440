"""Attention inside (shifted) windows of a video grid, with relative position bias.

Video Swin Transformer, https://arxiv.org/abs/2106.13230, section 3.2. Everything here is a function of shapes
or tensors; the parameters live in `swin.WindowAttention`.

Legend: B batch, T H W grid, C channels, K windows, N positions in a window (t*h*w), A attention heads, D channels
of a head, R rows of a bias table.
"""

import functools
import math
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor

from bevt_core.cpu_attention import CpuWindowAttention

Size3 = tuple[int, int, int]  # (T, H, W)


CPU_ATTENTION_FROM = 128  # positions in a window; matrices of smaller ones stay in the cache by themselves


def shape_constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a tensor once for each set of shapes and device; a compiler traces `make` and folds it in."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def constant(*shapes_and_device: Hashable) -> Tensor:
        return make(*shapes_and_device) if torch.compiler.is_compiling() else cached(*shapes_and_device)

    return constant


def grid_of(x_BTHWC: Tensor) -> Size3:
    """Return (T, H, W) of a channels-last grid."""
    _, T, H, W, _ = x_BTHWC.shape
    return T, H, W


def fit_window(grid_THW: Size3, window: Size3, shift: Size3) -> tuple[Size3, Size3]:
    """Clip `window` to the grid, and switch the shift off on every axis that one window covers."""
    fitted = tuple(min(size, extent) for size, extent in zip(grid_THW, window, strict=True))
    shifted = tuple(0 if size <= extent else by for size, extent, by in zip(grid_THW, window, shift, strict=True))
    return fitted, shifted  # type: ignore[return-value]


def pad_to_windows(x_BTHWC: Tensor, window: Size3) -> Tensor:
    """Append zeros to T, H and W up to the next multiple of the window."""
    pad_T, pad_H, pad_W = (-size % extent for size, extent in zip(x_BTHWC.shape[1:4], window, strict=True))
    return F.pad(x_BTHWC, (0, 0, 0, pad_W, 0, pad_H, 0, pad_T)) if pad_T or pad_H or pad_W else x_BTHWC


def to_windows(x_BTHWC: Tensor, window: Size3) -> Tensor:
    """Cut the grid into windows: (B, T, H, W, C) -> (B, K, N, C)."""
    B, T, H, W, C = x_BTHWC.shape
    t, h, w = window
    x = x_BTHWC.view(B, T // t, t, H // h, h, W // w, w, C).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(B, -1, t * h * w, C)


def from_windows(x_BKNC: Tensor, window: Size3, grid_THW: Size3) -> Tensor:
    """Put windows back into the grid: the inverse of `to_windows`."""
    (B, C), (T, H, W), (t, h, w) = (x_BKNC.shape[0], x_BKNC.shape[-1]), grid_THW, window
    x = x_BKNC.view(B, T // t, H // h, W // w, t, h, w, C).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(B, T, H, W, C)


def back_to_grid(x_BKNC: Tensor, grid_THW: Size3, window: Size3, shift: Size3) -> Tensor:
    """Undo cutting, roll and padding: windows of a grid rolled back by `shift` -> (B, T, H, W, C)."""
    T, H, W = grid_THW
    padded_THW = tuple(size + -size % extent for size, extent in zip(grid_THW, window, strict=True))
    x_BTHWC = from_windows(x_BKNC, window, padded_THW)  # type: ignore[arg-type]
    x_BTHWC = torch.roll(x_BTHWC, shift, dims=(1, 2, 3)) if any(shift) else x_BTHWC
    return x_BTHWC[:, :T, :H, :W]


@shape_constant
def relative_position_index(window: Size3, table_window: Size3, device: torch.device) -> Tensor:
    """Return the row of the bias table for every pair of positions in `window`: (N, N).

    The table was made for `table_window`; its rows run over the relative positions (dt, dh, dw), each axis from
    -(size - 1) to size - 1. A window that was clipped to a small grid reads the rows of its true relative
    positions; at T = 1 those are the rows of dt = 0.
    """
    axes = [torch.arange(size, device=device) for size in window]
    position_N3 = torch.cartesian_prod(*axes).view(-1, 3)
    offset_NN3 = position_N3[:, None] - position_N3[None, :]
    _, h, w = table_window
    offset_NN3 = offset_NN3 + torch.tensor([size - 1 for size in table_window], device=device)
    return offset_NN3 @ torch.tensor([(2 * h - 1) * (2 * w - 1), 2 * w - 1, 1], device=device)


@shape_constant
def shift_masks(window: Size3, shift: Size3, device: torch.device) -> Tensor:
    """Return which pairs of positions must not attend after a cyclic shift, as 0 and -inf: (M, N, N).

    Rolling the grid brings positions from opposite borders into one window; only pairs from the same side may
    attend. Windows differ only by touching the far border of a shifted axis or not, so there are M = 1 to 8 kinds.
    """
    T, H, W = (extent * (2 if by else 1) for extent, by in zip(window, shift, strict=True))  # a window of each kind
    side_THW = torch.zeros(T, H, W, device=device)
    for axis, (size, extent, by) in enumerate(zip((T, H, W), window, shift, strict=True)):
        position = torch.arange(size, device=device)
        side = (position >= size - extent).long() + (position >= size - by).long() if by else position * 0
        side_THW = side_THW + side.view([-1 if a == axis else 1 for a in range(3)]) * 3**axis
    side_MN = to_windows(side_THW[None, ..., None], window)[0, :, :, 0]
    return torch.where(side_MN[:, :, None] == side_MN[:, None, :], 0.0, -math.inf)


@shape_constant
def window_kinds(grid_THW: Size3, window: Size3, shift: Size3, device: torch.device) -> Tensor:
    """Return for every window of the grid the row of `shift_masks` that is its own: (K,)."""
    kind_THW = torch.zeros(1, 1, 1, dtype=torch.long, device=device)
    for axis, (size, extent, by) in enumerate(zip(grid_THW, window, shift, strict=True)):
        window_index = torch.arange(size // extent, device=device)
        at_border = (window_index == size // extent - 1).long() if by else window_index * 0
        kind_THW = kind_THW * (2 if by else 1) + at_border.view([-1 if a == axis else 1 for a in range(3)])
    return kind_THW.flatten()


def relative_position_bias(table_RA: Tensor, window: Size3, table_window: Size3) -> Tensor:
    """Look up the bias of every pair of positions in `window`: (A, N, N)."""
    index_NN = relative_position_index(window, table_window, table_RA.device)
    # ten times as fast on CPUs as table_RA[index_NN], forward and backward
    bias_AQ = table_RA.T.contiguous().index_select(1, index_NN.flatten())
    N = math.prod(window)
    return bias_AQ.view(-1, N, N)


def windowed_attention(qkv_BKNC: Tensor, bias_MANN: Tensor, kinds_K: Tensor) -> Tensor:
    """Attend inside every window: (B, K, N, 3*A*D) -> (B, K, N, A*D).

    `bias_MANN[kinds_K[k]]`, relative positions and shift mask in one, is added to the logits of window k of every
    sample.
    """
    N, bias_MANN = qkv_BKNC.shape[2], bias_MANN.to(qkv_BKNC.dtype)
    if N >= CPU_ATTENTION_FROM and qkv_BKNC.device.type == "cpu" and not torch.compiler.is_compiling():
        y_WNC = CpuWindowAttention.apply(qkv_BKNC.flatten(0, 1), bias_MANN, kinds_K.repeat(len(qkv_BKNC)))
        return y_WNC.unflatten(0, qkv_BKNC.shape[:2])
    q, k, v = qkv_BKNC.unflatten(-1, (3, bias_MANN.shape[1], -1)).permute(3, 0, 1, 4, 2, 5)
    bias_KANN = bias_MANN[kinds_K] if len(bias_MANN) > 1 else bias_MANN
    return attend(q, k, v, bias_KANN).transpose(-3, -2).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention, each (..., A, N, D) -> (..., A, N, D). `bias` (..., A, N, N) is added to the logits.

    Written out for ONNX, whose exporter has attention of four axes only, and guards it against queries that may see
    nothing; here are none. So the file is sooner written, and makes fewer passes over the logits.
    """
    if not torch.onnx.is_in_onnx_export():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(dim=-1) @ v
