"""PeCo's two networks: convolutional, two residual blocks at each resolution, self-attention at the smallest.

(Dong et al. 2021, PeCo, https://arxiv.org/abs/2111.12710. The paper gives no widths; these are VQGAN's, Esser et al.
2021, whose encoder has the same description.)

Shapes: N frames, H W pixels, C channels, D values of a code, h x w tokens.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.peco.family import PecoSizes


class ResBlock(nn.Module):
    """x + two times (norm, swish, 3x3 convolution); a 1x1 convolution on the skip path if the width changes."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(width_in), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2, self.conv2 = _norm(width_out), nn.Conv2d(width_out, width_out, 3, padding=1)
        self.skip = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x_NCHW)))
        y_NCHW: Tensor = self.skip(x_NCHW) + self.conv2(F.silu(self.norm2(hidden)))
        return y_NCHW


class Attention(nn.Module):
    """x + single-head self-attention over all positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
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


def build_encoder(sizes: PecoSizes) -> nn.Sequential:
    """Floats `[N, 3, H, W]` in [-1, 1], H and W multiples of the stride -> vectors `[N, D, h, w]`."""
    widths = [sizes.width * m for m in sizes.multipliers]
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            layers.append(nn.Conv2d(widths[level - 1], widths[level - 1], 3, stride=2, padding=1))
        layers += _blocks(widths[max(0, level - 1)], width, sizes.blocks)
    layers += [Attention(widths[-1]), _norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], sizes.code_dim, 1)]
    return nn.Sequential(*layers)


def build_decoder(sizes: PecoSizes) -> nn.Sequential:
    """Codes `[N, D, h, w]` -> colours `[N, 3, H, W]`, nominally in [-1, 1] but not clamped."""
    widths = [sizes.width * m for m in reversed(sizes.multipliers)]
    layers: list[nn.Module] = [nn.Conv2d(sizes.code_dim, widths[0], 3, padding=1), Attention(widths[0])]
    for level, width in enumerate(widths):
        if level:
            layers.append(Upsample(widths[level - 1]))
        layers += _blocks(widths[max(0, level - 1)], width, sizes.blocks)
    layers += [_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 3, 3, padding=1)]
    return nn.Sequential(*layers)


def _blocks(width_in: int, width_out: int, count: int) -> list[nn.Module]:
    return [ResBlock(width_in if block == 0 else width_out, width_out) for block in range(count)]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, min(32, width // 4)), width, eps=1e-6)
