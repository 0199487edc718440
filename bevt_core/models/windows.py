"""The windows of a video grid: how the grid is cut, which positions may attend to each other, and the position bias.

Video Swin Transformer, https://arxiv.org/abs/2106.13230, section 3.2. Everything here is a function of shapes
or tensors. Not here: parameters (`swin.WindowAttention`) and attention inside the windows (`window_attention`).

Legend: B batch, T H W grid, P = T*H*W positions of a grid, C channels, K windows, N positions in a window (t*h*w),
A attention heads, D channels of a head, M kinds of windows, R rows of a bias table.
"""

import functools
import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Constant = TypeVar("Constant", Tensor, tuple[Tensor, Tensor])
Size3 = tuple[int, int, int]  # (T, H, W)


class Windows(NamedTuple):
    """How a grid is cut: the padded size of the grid, the size of a window, and the roll back before cutting."""

    grid: Size3  # padded
    window: Size3
    shift: Size3


def shape_constant(make: Callable[..., Constant]) -> Callable[..., Constant]:
    """Cache the tensor that `make` returns per shapes and device; a compiler traces `make` into its graph instead.

    The tensor is an ordinary one even if the first call is in inference mode, so training can use it later.
    """
    cached = functools.cache(torch.inference_mode(False)(make))

    @functools.wraps(make)
    def constant(*shapes_and_device: Hashable) -> Constant:
        return make(*shapes_and_device) if torch.compiler.is_compiling() else cached(*shapes_and_device)

    return constant


def under_autocast(x: Tensor) -> Tensor:
    """Cast as autocast would cast the input of the next Linear, so that fewer bytes are moved in between."""
    kind = x.device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if enabled else x


def grid_of(x_BTHWC: Tensor) -> Size3:
    """Return (T, H, W) of a channels-last grid."""
    _, T, H, W, _ = x_BTHWC.shape
    return T, H, W


def fit_window(grid_THW: Size3, window: Size3, shift: Size3) -> tuple[Size3, Size3]:
    """Clip `window` to the grid, and set the shift to 0 on every axis that one window covers."""
    fitted = tuple(min(size, extent) for size, extent in zip(grid_THW, window, strict=True))
    shifted = tuple(0 if size <= extent else by for size, extent, by in zip(grid_THW, window, shift, strict=True))
    return fitted, shifted  # type: ignore[return-value]


def windows_of(grid_THW: Size3, window: Size3, shift: Size3) -> Windows:
    """Return the windows of a grid after `pad_to_windows`."""
    T, H, W = (size + -size % extent for size, extent in zip(grid_THW, window, strict=True))
    return Windows((T, H, W), window, shift)


def pad_to_windows(x_BTHWC: Tensor, window: Size3) -> Tensor:
    """Append zeros to T, H and W up to the next multiple of the window."""
    pad_T, pad_H, pad_W = (-size % extent for size, extent in zip(x_BTHWC.shape[1:4], window, strict=True))
    return F.pad(x_BTHWC, (0, 0, 0, pad_W, 0, pad_H, 0, pad_T)) if pad_T or pad_H or pad_W else x_BTHWC


def to_windows(x_BTHWC: Tensor, windows: Windows) -> Tensor:
    """Roll a padded grid back by the shift and cut it into windows: (B, T, H, W, C) -> (B, K, N, C)."""
    order_P, inverse_P = window_order(windows, x_BTHWC.device)
    x_BPC = Rearranged.apply(x_BTHWC.flatten(1, 3), order_P, inverse_P)
    x_BKNC: Tensor = x_BPC.unflatten(1, (-1, math.prod(windows.window)))
    return x_BKNC


def from_windows(x_BKNC: Tensor, windows: Windows, grid_THW: Size3) -> Tensor:
    """Undo cutting, roll and padding: (B, K, N, C) -> (B, T, H, W, C), the size before padding."""
    order_P, inverse_P = window_order(windows, x_BKNC.device)
    x_BTHWC = Rearranged.apply(x_BKNC.flatten(1, 2), inverse_P, order_P).unflatten(1, windows.grid)
    T, H, W = grid_THW
    inside_BTHWC: Tensor = x_BTHWC[:, :T, :H, :W]
    return inside_BTHWC


class Rearranged(torch.autograd.Function):
    """Gather rows by a permutation. The gradient is a gather too; that of `index_select` would add into zeros."""

    @staticmethod
    def forward(ctx: Any, x_BPC: Tensor, order_P: Tensor, inverse_P: Tensor) -> Tensor:
        """Return row `order_P[p]` of each sample at position p. `inverse_P` is the inverse permutation."""
        ctx.save_for_backward(order_P, inverse_P)
        return x_BPC.index_select(1, order_P)

    @staticmethod
    def backward(ctx: Any, grad_BPC: Tensor) -> tuple[Tensor, None, None]:
        order_P, inverse_P = ctx.saved_tensors
        return Rearranged.apply(grad_BPC, inverse_P, order_P), None, None


@shape_constant
def window_order(windows: Windows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the grid's positions in the order of the windows (P,), and the inverse permutation (P,)."""
    (T, H, W), (t, h, w), shift = windows
    position_THW = torch.arange(T * H * W, device=device).view(T, H, W)
    position_THW = torch.roll(position_THW, [-by for by in shift], dims=(0, 1, 2))
    order_P = position_THW.view(T // t, t, H // h, h, W // w, w).permute(0, 2, 4, 1, 3, 5).flatten()
    # the inverse without a sort, which compiled code would repeat in every pass
    inverse_THW = torch.arange(T * H * W, device=device).view(T // t, H // h, W // w, t, h, w)
    inverse_THW = inverse_THW.permute(0, 3, 1, 4, 2, 5).reshape(T, H, W)
    return order_P, torch.roll(inverse_THW, shift, dims=(0, 1, 2)).flatten()


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
    T, H, W = table_window
    dt_NN, dh_NN, dw_NN = offset_NN3.unbind(-1)  # summed one by one, because CUDA has no integer matrix product
    return ((dt_NN + T - 1) * (2 * H - 1) + dh_NN + H - 1) * (2 * W - 1) + dw_NN + W - 1


@shape_constant
def shift_labels(window: Size3, shift: Size3, device: torch.device) -> Tensor:
    """Label the positions of a window by the side of the grid that they were on before the roll: int32 (M, N).

    Rolling the grid brings positions from opposite borders into one window; only positions with the same label may
    attend to each other. Windows differ only in whether they touch the far border of each shifted axis, so there are
    M = 1 to 8 kinds.
    """
    T, H, W = (extent * (2 if by else 1) for extent, by in zip(window, shift, strict=True))  # a window of each kind
    side_THW = torch.zeros(T, H, W, dtype=torch.int32, device=device)
    for axis, (size, extent, by) in enumerate(zip((T, H, W), window, shift, strict=True)):
        position = torch.arange(size, device=device, dtype=torch.int32)
        side = (position >= size - extent).int() + (position >= size - by).int() if by else position * 0
        side_THW = side_THW + side.view([-1 if a == axis else 1 for a in range(3)]) * 3**axis
    kinds = Windows((T, H, W), window, (0, 0, 0))
    return side_THW.flatten()[window_order(kinds, device)[0]].view(-1, math.prod(window))


@shape_constant
def shift_masks(window: Size3, shift: Size3, device: torch.device) -> Tensor:
    """Return `shift_labels` as masks to add to the logits, 0 and -inf: (M, N, N)."""
    side_MN = shift_labels(window, shift, device)
    return torch.where(side_MN[:, :, None] == side_MN[:, None, :], 0.0, -math.inf)


@shape_constant
def window_kinds(windows: Windows, device: torch.device) -> Tensor:
    """Return the kind of every window of the grid, a row of `shift_labels`: (K,)."""
    kind_THW = torch.zeros(1, 1, 1, dtype=torch.long, device=device)
    for axis, (size, extent, by) in enumerate(zip(*windows, strict=True)):
        window_index = torch.arange(size // extent, device=device)
        at_border = (window_index == size // extent - 1).long() if by else window_index * 0
        kind_THW = kind_THW * (2 if by else 1) + at_border.view([-1 if a == axis else 1 for a in range(3)])
    return kind_THW.flatten()


def kind_counts(windows: Windows) -> list[int]:
    """Count the windows of each kind, in the order of the rows of `shift_labels`."""
    counts = [1]
    for size, extent, by in zip(*windows, strict=True):
        along = (size // extent - 1, 1) if by else (size // extent,)
        counts = [count * times for count in counts for times in along]
    return counts


def relative_position_bias(table_RA: Tensor, window: Size3, table_window: Size3) -> Tensor:
    """Look up the bias of every pair of positions in `window`: (A, N, N).

    CPUs use `index_select`, whose gradient is summed in the order of the pairs. On other devices that order would vary,
    so the gradient is summed along diagonals (`PairBias`).
    """
    index_NN = relative_position_index(window, table_window, table_RA.device)
    N = math.prod(window)
    if table_RA.device.type != "cpu":
        bias_ANN: Tensor = PairBias.apply(table_RA, index_NN, window, table_window)
        return bias_ANN
    # ten times as fast as table_RA[index_NN], forward and backward
    return table_RA.T.contiguous().index_select(1, index_NN.flatten()).view(-1, N, N)


class PairBias(torch.autograd.Function):
    """The look-up of `relative_position_bias` with a gradient by dense sums: the same bits in every run."""

    @staticmethod
    def forward(ctx: Any, table_RA: Tensor, index_NN: Tensor, window: Size3, table_window: Size3) -> Tensor:
        ctx.sizes, ctx.dtype = (window, table_window), table_RA.dtype
        return table_RA.T.index_select(1, index_NN.flatten()).view(-1, *index_NN.shape)

    @staticmethod
    def backward(ctx: Any, grad_ANN: Tensor) -> tuple[Tensor, None, None, None]:
        (t, h, w), (T, H, W) = ctx.sizes
        grad = grad_ANN.to(ctx.dtype).view(-1, t, h, w, t, h, w)
        for partner in (4, 3, 2):  # pair the two T axes, then H, then W; each summed axis goes last
            grad = sum_diagonals(grad.movedim((1, partner), (-2, -1)))
        grad_ATHW = F.pad(grad, (W - w, W - w, H - h, H - h, T - t, T - t))  # a clipped window uses the middle rows
        return grad_ATHW.flatten(1).T, None, None, None


def sum_diagonals(x_II: Tensor) -> Tensor:
    """Sum entries of the last two axes with equal i - j, from -(I - 1) to I - 1: (..., I, I) -> (..., 2 * I - 1)."""
    size = x_II.shape[-1]
    # after the flip, i + j is constant on each diagonal; padding and reshaping then moves row i right by i
    padded = F.pad(x_II.flip(-1), (0, size)).flatten(-2)[..., :-size]
    sums: Tensor = padded.unflatten(-1, (size, 2 * size - 1)).sum(dim=-2)
    return sums
