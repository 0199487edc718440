"""PeCo's two networks: convolutional, two residual blocks at each resolution, self-attention at the smallest.

(Dong et al. 2021, PeCo, https://arxiv.org/abs/2111.12710. The paper gives no widths; these are VQGAN's, Esser et al.
2021, whose encoder has the same description.)

Shapes: N frames, H W pixels, C channels, D values of a code, h x w tokens.
"""

from torch import nn

from bevt_core.tokenizers.conv_blocks import Attention, ResBlock, Upsample
from bevt_core.tokenizers.peco.family import PecoSizes


def build_encoder(sizes: PecoSizes) -> nn.Sequential:
    """Floats `[N, 3, H, W]` in [-1, 1], H and W multiples of the stride -> vectors `[N, D, h, w]`."""
    widths = [sizes.width * m for m in sizes.multipliers]
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            layers.append(nn.Conv2d(widths[level - 1], widths[level - 1], 3, stride=2, padding=1))
        layers += _blocks(widths[max(0, level - 1)], width, sizes.blocks)
    layers += [Attention(widths[-1], _norm), _norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], sizes.code_dim, 1)]
    return nn.Sequential(*layers)


def build_decoder(sizes: PecoSizes) -> nn.Sequential:
    """Codes `[N, D, h, w]` -> colours `[N, 3, H, W]`, nominally in [-1, 1] but not clamped."""
    widths = [sizes.width * m for m in reversed(sizes.multipliers)]
    layers: list[nn.Module] = [nn.Conv2d(sizes.code_dim, widths[0], 3, padding=1), Attention(widths[0], _norm)]
    for level, width in enumerate(widths):
        if level:
            layers.append(Upsample(widths[level - 1]))
        layers += _blocks(widths[max(0, level - 1)], width, sizes.blocks)
    layers += [_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 3, 3, padding=1)]
    return nn.Sequential(*layers)


def _blocks(width_in: int, width_out: int, count: int) -> list[nn.Module]:
    return [ResBlock(width_in if block == 0 else width_out, width_out, _norm) for block in range(count)]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, min(32, width // 4)), width, eps=1e-6)
