"""The choice of an implementation of window attention, by device, precision and window size.

Legend: B batch, K windows, N positions in a window, A heads, D channels of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bevt_core.models.window_attention import triton_op
from bevt_core.models.window_attention.cpu import attend_on_cpu
from bevt_core.models.window_attention.sdpa import attend_by_kind, attend_plainly
from bevt_core.models.windows import Windows

CPU_FROM = 128  # positions in a window; the matrices of smaller windows stay in the cache anyway

# (qkv_BKNC, bias_ANN, windows) -> y_BKNC: attend inside every window, (B, K, N, 3*A*D) -> (B, K, N, A*D). The bias is
# added to the logits of every window. Positions from opposite borders of a rolled grid do not attend to each other.
Implementation = Callable[[Tensor, Tensor, Windows], Tensor]


def fastest_implementation(device: torch.device, dtype: torch.dtype, positions: int, head_dim: int) -> str:
    """Return the fastest implementation for windows of `positions` positions, as a key of IMPLEMENTATIONS."""
    if device.type == "cpu":
        return "cpu" if positions >= CPU_FROM and not torch.compiler.is_compiling() else "math"
    if torch.onnx.is_in_onnx_export():
        return "math"
    return "triton" if triton_op.supported(device, dtype, head_dim) else "sdpa"


IMPLEMENTATIONS: dict[str, Implementation] = {
    "triton": triton_op.attend_by_triton,  # one kernel, with one bias for all windows
    "sdpa": attend_by_kind,  # PyTorch's memory-efficient kernel, one call per kind of window
    "cpu": attend_on_cpu,
    "math": attend_plainly,
}
