"""TimeSformer with divided space-time attention: the second encoder of BEVT's table 8.

https://arxiv.org/abs/2102.05095, section 3. It has the interface of VideoSwin, from an embedded grid to a list of
stages, with a single stage.

Legend: B batch, T H W grid, C channels, N = 1 + H*W positions of a frame with the class token.
"""

from collections.abc import Collection
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bevt_core.models.swin import Mlp, draw_drop_path, drop_path_rates, init_weights, scaled
from bevt_core.models.window_attention.sdpa import attend
from bevt_core.models.windows import Size3, grid_of

NORM_EPS = 1e-6  # as in the original code


class SelfAttention(nn.Module):
    """Multi-head attention over the second-to-last axis: (..., N, C) -> (..., N, C)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = (part.squeeze(-3).transpose(-3, -2) for part in qkv.split(1, dim=-3))
        y = attend(q, k, v)
        projected: Tensor = self.proj(y.transpose(-3, -2).flatten(-2))
        return projected


class DividedBlock(nn.Module):
    """Attention along time, attention within each frame, MLP; each with a norm before it and a residual connection."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm_time = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn_time = SelfAttention(dim, num_heads)
        self.fc_time = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x_BTHWC: Tensor, cls_B1C: Tensor, drop_3B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the grid and the class token. `drop_3B` are `draw_drop_path` factors for time, space and the MLP."""
        drop_time, drop_space, drop_mlp = (None, None, None) if drop_3B is None else drop_3B.unbind()
        T, H, W = grid_of(x_BTHWC)

        x_BHWTC = x_BTHWC.permute(0, 2, 3, 1, 4)
        x_BHWTC = x_BHWTC + self.fc_time(scaled(self.attn_time(self.norm_time(x_BHWTC)), drop_time))

        patches_BTNC = x_BHWTC.permute(0, 3, 1, 2, 4).flatten(2, 3)
        cls_BT1C = cls_B1C[:, None].expand(-1, T, -1, -1)
        frames_BTNC = self.attn(self.norm1(torch.cat([cls_BT1C, patches_BTNC], dim=2)))
        frames_BTNC = scaled(frames_BTNC, drop_space)
        cls_B1C = cls_B1C + frames_BTNC[:, :, :1].mean(dim=1)  # the mean over frames
        patches_BTNC = patches_BTNC + frames_BTNC[:, :, 1:]

        tokens_BNC = torch.cat([cls_B1C, patches_BTNC.flatten(1, 2)], dim=1)
        tokens_BNC = tokens_BNC + scaled(self.mlp(self.norm2(tokens_BNC)), drop_mlp)
        return tokens_BNC[:, 1:].unflatten(1, (T, H, W)), tokens_BNC[:, :1]


class TimeSformer(nn.Module):
    """The encoder. `grid` is the size of the position embeddings; other sizes use the nearest embedding.

    `drop_path` is the last block's rate, growing linearly from 0 at the first block.
    """

    def __init__(
        self, embed_dim: int, depth: int, num_heads: int, grid: Size3, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        T, H, W = grid
        self.cls_token = nn.Parameter(torch.zeros(embed_dim))
        self.space_embedding = nn.Parameter(torch.zeros(embed_dim, H, W))
        self.time_embedding = nn.Parameter(torch.zeros(embed_dim, T))
        self.blocks = nn.ModuleList(
            DividedBlock(embed_dim, num_heads, mlp_ratio, rate) for rate in drop_path_rates(drop_path, depth)
        )
        self.stage_dims = (embed_dim,)
        self.checkpointed = False
        self.apply(init_weights)
        for embedding in (self.cls_token, self.space_embedding, self.time_embedding):
            nn.init.trunc_normal_(embedding, std=0.02)

    def checkpoint_activations(self, stages: Collection[int]) -> None:
        """Store only the blocks' inputs if `stages` has 0, and run the blocks again in the backward pass."""
        self.checkpointed = 0 in stages

    def forward(self, x_BTHWC: Tensor) -> list[Tensor]:
        """Return the output of the only stage: [(B, T, H, W, C)]."""
        T, H, W = grid_of(x_BTHWC)
        space_HWC = F.interpolate(self.space_embedding[None], (H, W))[0].permute(1, 2, 0)
        time_TC = F.interpolate(self.time_embedding[None], T)[0].T
        x_BTHWC = x_BTHWC + space_HWC + time_TC[:, None, None]
        cls_B1C = self.cls_token.expand(x_BTHWC.shape[0], 1, -1)  # len() would fix the batch size in an export
        for block in cast(list[DividedBlock], self.blocks):
            drop_3B = draw_drop_path(block.drop_path, 3, x_BTHWC) if self.training else None
            if self.checkpointed and torch.is_grad_enabled():
                x_BTHWC, cls_B1C = checkpoint(block, x_BTHWC, cls_B1C, drop_3B, use_reentrant=False)
            else:
                x_BTHWC, cls_B1C = block(x_BTHWC, cls_B1C, drop_3B)
        return [x_BTHWC]
