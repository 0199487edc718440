"""The choice of an implementation of window attention, by device, precision and window size.

Legend: B batch, K windows, N positions in a window, A heads, D channels of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bevt_core.models.window_attention import triton_op
from bevt_core.models.window_attention.cpu import CpuWindowAttention
from bevt_core.models.window_attention.sdpa import attend_by_kind, attend_plainly, bias_with_masks
from bevt_core.models.windows import Windows, shift_labels, window_kinds

CPU_FROM = 128  # positions in a window; the matrices of smaller windows stay in the cache anyway

Implementation = Callable[[Tensor, Tensor, Windows], Tensor]


def windowed_attention(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows, implementation: str = "auto") -> Tensor:
    """Attend inside every window: (B, K, N, 3*A*D) -> (B, K, N, A*D).

    `bias_ANN` is added to the logits of every window. Positions from opposite borders of a rolled grid do not attend to
    each other. `implementation` is a key of IMPLEMENTATIONS, or `auto` for `fastest_implementation`.
    """
    if implementation == "auto":
        head_dim = qkv_BKNC.shape[-1] // (3 * len(bias_ANN))
        implementation = fastest_implementation(qkv_BKNC.device, qkv_BKNC.dtype, qkv_BKNC.shape[2], head_dim)
    return IMPLEMENTATIONS[implementation](qkv_BKNC, bias_ANN, windows)


def fastest_implementation(device: torch.device, dtype: torch.dtype, positions: int, head_dim: int) -> str:
    """Return the fastest implementation for windows of `positions` positions, as a key of IMPLEMENTATIONS."""
    if device.type == "cpu":
        return "cpu" if positions >= CPU_FROM and not torch.compiler.is_compiling() else "math"
    if torch.onnx.is_in_onnx_export():
        return "math"
    return "triton" if triton_op.supported(device, dtype, head_dim) else "sdpa"


def _by_triton(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows) -> Tensor:
    labels_MN = kinds_W = None
    if any(windows.shift):
        labels_MN = shift_labels(windows.window, windows.shift, qkv_BKNC.device)
        kinds_W = window_kinds(windows, qkv_BKNC.device).int().repeat(len(qkv_BKNC))
    y_WNC = triton_op.window_attention(qkv_BKNC.flatten(0, 1), bias_ANN, labels_MN, kinds_W)
    y_BKNC: Tensor = y_WNC.unflatten(0, qkv_BKNC.shape[:2])
    return y_BKNC


def _by_cpu(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows) -> Tensor:
    bias_MANN = bias_with_masks(bias_ANN, windows, qkv_BKNC.dtype)
    kinds_W = window_kinds(windows, qkv_BKNC.device).repeat(len(qkv_BKNC))
    y_WNC = CpuWindowAttention.apply(qkv_BKNC.flatten(0, 1), bias_MANN, kinds_W)
    y_BKNC: Tensor = y_WNC.unflatten(0, qkv_BKNC.shape[:2])
    return y_BKNC


IMPLEMENTATIONS: dict[str, Implementation] = {
    "triton": _by_triton,  # one kernel, with one bias for all windows
    "sdpa": attend_by_kind,  # PyTorch's memory-efficient kernel, one call per kind of window
    "cpu": _by_cpu,
    "math": attend_plainly,
}
