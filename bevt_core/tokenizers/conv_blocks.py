"""Blocks of convolutional tokenizers. Their group norm is an argument: codes differ in the number of groups.

Shapes: N frames, H W pixels, C channels, P positions.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]  # of a width


class ResBlock(nn.Module):
    """x + two times (norm, swish, 3x3 convolution); a 1x1 convolution on the skip path if the width changes."""

    def __init__(self, width_in: int, width_out: int, norm: Norm, bias: bool = True) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(width_in), nn.Conv2d(width_in, width_out, 3, padding=1, bias=bias)
        self.norm2, self.conv2 = norm(width_out), nn.Conv2d(width_out, width_out, 3, padding=1, bias=bias)
        self.skip = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1, bias=bias)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x_NCHW)))
        y_NCHW: Tensor = self.skip(x_NCHW) + self.conv2(F.silu(self.norm2(hidden)))
        return y_NCHW


class Attention(nn.Module):
    """x + single-head self-attention over all positions."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x_NCHW)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        mixed_NPC = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        y_NCHW: Tensor = x_NCHW + self.proj(mixed_NPC.transpose(1, 2).reshape(x_NCHW.shape))
        return y_NCHW


class Upsample(nn.Module):
    """Twice the size by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW: Tensor = self.conv(F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest"))
        return y_NCHW
