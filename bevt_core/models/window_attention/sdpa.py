"""Attention with PyTorch's own kernels, anywhere and in windows.

Legend: B batch, K windows, W = B*K windows of a batch, N positions in a window, A heads, D channels of a head, M kinds
of windows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bevt_core.models.windows import Rearranged, Windows, kind_counts, shape_constant, shift_masks, window_kinds


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute softmax attention, each (..., A, N, D) -> (..., A, N, D). `bias` (..., A, N, N) is added to the logits.

    The formula is written out for ONNX: its exporter supports attention of four axes only and adds guards for queries
    that attend to nothing, which do not occur here. Export is faster, and the file makes fewer passes over the logits.
    """
    if not torch.onnx.is_in_onnx_export():
        if q.ndim > 4 and bias is None and q.device.type != "cpu":  # GPUs have fused kernels for four axes only
            y = F.scaled_dot_product_attention(q.flatten(0, -4), k.flatten(0, -4), v.flatten(0, -4))
            fused: Tensor = y.unflatten(0, q.shape[:-3])
            return fused
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits: Tensor = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(dim=-1) @ v


def attend_plainly(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows) -> Tensor:
    """Attend in all windows at once, with one bias matrix per window.

    GPUs have no fused kernel for five axes and a bias with a gradient, so every (N, N) matrix goes through memory.
    """
    bias_MANN = bias_with_masks(bias_ANN, windows, qkv_BKNC.dtype)
    q, k, v = qkv_BKNC.unflatten(-1, (3, len(bias_ANN), -1)).permute(3, 0, 1, 4, 2, 5)
    bias_KANN = bias_MANN
    if len(bias_MANN) > 1:  # unlike indexing, `index_select` has a gradient with the same bits in every run
        bias_KANN = bias_MANN.index_select(0, window_kinds(windows, qkv_BKNC.device))
    return attend(q, k, v, bias_KANN).transpose(-3, -2).flatten(-2)


def attend_by_kind(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows) -> Tensor:
    """Attend in all windows of one kind at once. They share a bias, for which GPUs have a fused kernel.

    Windows are first sorted by kind; the results are returned in the original order.
    """
    bias_MANN = bias_with_masks(bias_ANN, windows, qkv_BKNC.dtype)
    B, K = qkv_BKNC.shape[:2]
    qkv_WNC = qkv_BKNC.flatten(0, 1)
    if len(bias_MANN) == 1:
        alike_BKNC: Tensor = _attend_alike(qkv_WNC, bias_MANN[0]).unflatten(0, (B, K))
        return alike_BKNC
    sorted_K, inverse_K = order_by_kind(windows, qkv_BKNC.device)
    sample_B = torch.arange(B, device=qkv_BKNC.device)
    by_kind_W = (sorted_K[:, None] + K * sample_B).flatten()
    back_W = (inverse_K * B + sample_B[:, None]).flatten()
    qkv_WNC = Rearranged.apply(qkv_WNC[None], by_kind_W, back_W)[0]
    counts = [count * B for count in kind_counts(windows)]
    y_WNC = torch.cat(
        [_attend_alike(kind_WNC, bias) for kind_WNC, bias in zip(qkv_WNC.split(counts), bias_MANN, strict=True)]
    )
    y_BKNC: Tensor = Rearranged.apply(y_WNC[None], back_W, by_kind_W)[0].unflatten(0, (B, K))
    return y_BKNC


def _attend_alike(qkv_WNC: Tensor, bias_ANN: Tensor) -> Tensor:
    """Attend with one bias for all windows: (W, N, 3*A*D) -> (W, N, A*D)."""
    q, k, v = qkv_WNC.unflatten(-1, (3, len(bias_ANN), -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias_ANN[None]).transpose(1, 2).flatten(2)


def bias_with_masks(bias_ANN: Tensor, windows: Windows, dtype: torch.dtype) -> Tensor:
    """Add the masks of every kind of window to the bias, in the precision of the logits: (M, A, N, N)."""
    masks_MNN = shift_masks(windows.window, windows.shift, bias_ANN.device)
    return (bias_ANN + masks_MNN[:, None]).to(dtype)


@shape_constant
def order_by_kind(windows: Windows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the windows of a grid sorted by kind (K,), and the inverse permutation (K,)."""
    sorted_K = torch.argsort(window_kinds(windows, device), stable=True)
    return sorted_K, torch.argsort(sorted_K)
