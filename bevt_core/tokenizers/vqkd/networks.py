"""VQ-KD's encoder: a ViT with pre-norm blocks, and a head that gives each patch the vector that is compared with codes.

Shapes: N frames, H W pixels, P patches, C channels, A heads, D values of a code, h x w tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.vqkd.family import VqkdSizes

EPS = 1e-6  # of the layer norms (get_model_default_params in modeling_vqkd.py)


class Attention(nn.Module):
    """Self-attention over all patches and the class token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_NPC: Tensor) -> Tensor:
        query, key, value = self.qkv(x_NPC).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed_NAPC = F.scaled_dot_product_attention(query, key, value)
        y_NPC: Tensor = self.proj(mixed_NAPC.transpose(1, 2).flatten(2))
        return y_NPC


class Block(nn.Module):
    """x + attention, then x + MLP, each of the normalised x. The published model has no layer scale."""

    def __init__(self, sizes: VqkdSizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm1, self.attn = nn.LayerNorm(width, EPS), Attention(width, sizes.heads)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = nn.Sequential(nn.Linear(width, sizes.mlp_width), nn.GELU(), nn.Linear(sizes.mlp_width, width))

    def forward(self, x_NPC: Tensor) -> Tensor:
        x_NPC = x_NPC + self.attn(self.norm1(x_NPC))
        y_NPC: Tensor = x_NPC + self.mlp(self.norm2(x_NPC))
        return y_NPC


class VqkdEncoder(nn.Module):
    """Floats `[N, 3, H, W]` in [-1, 1] -> vectors `[N, D, h, w]`."""

    def __init__(self, sizes: VqkdSizes) -> None:
        super().__init__()
        width = sizes.width
        self.patch = nn.Conv2d(3, width, sizes.patch, stride=sizes.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + sizes.side**2, width))  # of the class token and the patches
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.depth)))
        self.norm = nn.LayerNorm(width, EPS)
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, sizes.code_dim))

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        patches_NChw = self.patch(pixels_NCHW)
        patches_NPC = patches_NChw.flatten(2).transpose(1, 2)
        x_NPC = torch.cat([self.class_token.expand(len(patches_NPC), -1, -1), patches_NPC], dim=1) + self.positions
        vectors_NPD = self.head(self.norm(self.blocks(x_NPC)[:, 1:]))
        vectors_NDhw: Tensor = vectors_NPD.transpose(1, 2).unflatten(2, patches_NChw.shape[2:])
        return vectors_NDhw
