"""Video Swin Transformer, one class for images and videos: an image is a clip with T == 1.

https://arxiv.org/abs/2106.13230, section 3.

Legend: B batch, T H W grid, C channels, K windows, N positions in a window.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bevt_core.models.window_attention import IMPLEMENTATIONS, fastest_implementation
from bevt_core.models.windows import (
    Size3,
    Windows,
    fit_window,
    from_windows,
    grid_of,
    pad_to_windows,
    relative_position_bias,
    to_windows,
    under_autocast,
    windows_of,
)


def draw_drop_path(rate: float, draws: int, x_BC: Tensor) -> Tensor | None:
    """Draw the factors of `draws` residuals of each sample, (draws, B): 0 with probability `rate`, else 1 / (1 - rate).

    None if nothing is dropped. https://arxiv.org/abs/1603.09382. The factors are drawn outside the blocks, so that
    blocks with different rates are the same to a compiler.
    """
    if not rate:
        return None
    kept = [torch.rand(len(x_BC), device=x_BC.device) >= rate for _ in range(draws)]
    return torch.stack(kept) / (1 - rate)


def scaled(residual_BC: Tensor, factor_B: Tensor | None) -> Tensor:
    """Multiply each sample of a residual by its factor from `draw_drop_path`."""
    if factor_B is None:
        return residual_BC
    return residual_BC * factor_B.to(residual_BC.dtype).view(-1, *[1] * (residual_BC.ndim - 1))


def drop_path_rates(last: float, num_blocks: int) -> list[float]:
    """Return a rate per block, growing linearly from 0 at the first block to `last`."""
    return [last * i / max(num_blocks - 1, 1) for i in range(num_blocks)]


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias per relative position and head."""

    def __init__(self, dim: int, num_heads: int, window: Size3) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.implementation = "auto"  # or a key of window_attention.IMPLEMENTATIONS
        t, h, w = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * t - 1) * (2 * h - 1) * (2 * w - 1), num_heads)
        )

    def forward(self, x_BTHWC: Tensor, shift: Size3) -> Tensor:
        """Attend inside the windows of the grid, rolled back by `shift`: (B, T, H, W, C) -> the same."""
        qkv_BKNC, bias_ANN, windows = self.attention_inputs(x_BTHWC, shift)
        attend = IMPLEMENTATIONS[self.implementation_for(qkv_BKNC.device, qkv_BKNC.dtype, qkv_BKNC.shape[2])]
        y_BKNC = self.proj(attend(qkv_BKNC, bias_ANN, windows))
        return from_windows(y_BKNC, windows, grid_of(x_BTHWC))

    def attention_inputs(self, x_BTHWC: Tensor, shift: Size3) -> tuple[Tensor, Tensor, Windows]:
        """Return the inputs of attention in windows: queries, keys and values by window, the bias, and the windows."""
        window, shift = fit_window(grid_of(x_BTHWC), self.window, shift)
        windows = windows_of(grid_of(x_BTHWC), window, shift)
        x_BKNC = to_windows(pad_to_windows(under_autocast(x_BTHWC), window), windows)
        bias_ANN = relative_position_bias(self.relative_position_bias_table, window, self.window)
        return self.qkv(x_BKNC), bias_ANN, windows

    def implementation_for(self, device: torch.device, dtype: torch.dtype, positions: int) -> str:
        """Return the implementation for windows of `positions` positions, as a key of IMPLEMENTATIONS."""
        if self.implementation != "auto":
            return self.implementation
        return fastest_implementation(device, dtype, positions, self.proj.in_features // self.num_heads)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, applied to each position."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class SwinBlock(nn.Module):
    """Window attention, then an MLP, each with a norm before it and a residual connection."""

    def __init__(
        self, dim: int, num_heads: int, window: Size3, shift: Size3, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.shift, self.drop_path = shift, drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x_BTHWC: Tensor, drop_2B: Tensor | None = None) -> Tensor:
        """(B, T, H, W, C) -> the same. `drop_2B` are factors from `draw_drop_path`, for attention and MLP."""
        drop_attention, drop_mlp = (None, None) if drop_2B is None else drop_2B.unbind()
        x_BTHWC = x_BTHWC + scaled(self.attn(self.norm1(x_BTHWC), self.shift), drop_attention)
        return x_BTHWC + scaled(self.mlp(self.norm2(x_BTHWC)), drop_mlp)


class PatchMerging(nn.Module):
    """Join each 2 x 2 neighbourhood in space: (B, T, H, W, C) -> (B, T, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = pad_to_windows(x_BTHWC, (1, 2, 2))
        corners = [x[:, :, row::2, col::2] for col in (0, 1) for row in (0, 1)]  # the order of the published weights
        y_BTHWC: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return y_BTHWC


class Stage(nn.Module):
    """Blocks of one resolution, after a patch merging in all stages but the first."""

    def __init__(self, merge: nn.Module, blocks: Iterable[SwinBlock]) -> None:
        super().__init__()
        self.merge = merge
        self.blocks = nn.ModuleList(blocks)
        self.checkpointed = False

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x_BTHWC = self.merge(x_BTHWC)
        for block in cast(list[SwinBlock], self.blocks):
            drop_2B = draw_drop_path(block.drop_path, 2, x_BTHWC) if self.training else None
            if self.checkpointed and torch.is_grad_enabled():
                x_BTHWC = checkpoint(block, x_BTHWC, drop_2B, use_reentrant=False)
            else:
                x_BTHWC = block(x_BTHWC, drop_2B)
        return x_BTHWC


class VideoSwin(nn.Module):
    """The hierarchical encoder. Its input is the embedded grid, which stems compute from pixels.

    `drop_path` is the last block's rate, growing linearly from 0 at the first block.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window: Size3 = (8, 7, 7),
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        dims = [embed_dim * 2**i for i in range(len(depths))]
        rates = drop_path_rates(drop_path, sum(depths))
        no_shift, half_window = (0, 0, 0), (window[0] // 2, window[1] // 2, window[2] // 2)

        self.stages = nn.ModuleList()
        for i, (dim, depth, heads) in enumerate(zip(dims, depths, num_heads, strict=True)):
            first_block = sum(depths[:i])
            blocks = [
                SwinBlock(dim, heads, window, half_window if j % 2 else no_shift, mlp_ratio, rates[first_block + j])
                for j in range(depth)
            ]
            self.stages.append(Stage(PatchMerging(dims[i - 1]) if i else nn.Identity(), blocks))
        self.stage_dims = tuple(dims)
        self.apply(init_weights)

    def checkpoint_activations(self, stages: Collection[int]) -> None:
        """Store only the inputs of these stages' blocks, and run the blocks again in the backward pass."""
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            stage.checkpointed = i in stages

    def forward(self, x_BTHWC: Tensor) -> list[Tensor]:
        """Return the output of every stage, finest first, each (B, T, H_i, W_i, C_i)."""
        outputs = []
        for stage in self.stages:
            x_BTHWC = stage(x_BTHWC)
            outputs.append(x_BTHWC)
        return outputs


def use_attention(model: nn.Module, implementation: str) -> None:
    """Set the implementation of a model's window attention: a key of `window_attention.IMPLEMENTATIONS`, or `auto`."""
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.implementation = implementation


def attention_in_use(model: nn.Module, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the implementation for the model's full windows, or None for a model without window attention."""
    for module in model.modules():
        if isinstance(module, WindowAttention):
            return module.implementation_for(device, dtype, math.prod(module.window))
    return None


def init_weights(module: nn.Module) -> None:
    """Draw weights as Swin does: truncated normal with standard deviation 0.02, zero biases; norms stay at identity."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
