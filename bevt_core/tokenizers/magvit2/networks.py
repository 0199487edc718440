"""Open-MAGVIT2's two networks (TencentARC/SEED-Voken, src/Open_MAGVIT2/modules/diffusionmodules/improved_model.py).

Residual blocks without attention and without biases. The decoder normalises each resolution adaptively: statistics of
the whole token map give the scale and the shift.

Shapes: N frames, H W pixels, C channels, B bits of an id, h x w tokens.
"""

import torch
from torch import Tensor, nn

from bevt_core.tokenizers.conv_blocks import ResBlock
from bevt_core.tokenizers.magvit2.family import Magvit2Sizes

EPS = 1e-6


class Encoder(nn.Module):
    """Floats `[N, 3, H, W]` in [-1, 1], H and W multiples of the stride -> vectors `[N, B, h, w]`."""

    def __init__(self, sizes: Magvit2Sizes) -> None:
        super().__init__()
        widths = [sizes.width * m for m in sizes.multipliers]
        self.stem = nn.Conv2d(3, sizes.width, 3, padding=1, bias=False)
        self.res, self.resample = nn.ModuleList(), nn.ModuleList()
        for at, width in enumerate(widths):
            self.res.append(_blocks(widths[at - 1] if at else sizes.width, width, sizes.blocks))
            if at < len(widths) - 1:
                self.resample.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.middle = _blocks(widths[-1], widths[-1], sizes.blocks)
        self.head = nn.Sequential(_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], sizes.bits, 1))

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        x_NCHW = self.stem(pixels_NCHW)
        for at, blocks in enumerate(self.res):
            x_NCHW = blocks(x_NCHW)
            if at < len(self.resample):
                x_NCHW = self.resample[at](x_NCHW)
        vectors_NBhw: Tensor = self.head(self.middle(x_NCHW))
        return vectors_NBhw


class Decoder(nn.Module):
    """Signs of the bits `[N, B, h, w]` -> colours `[N, 3, H, W]`, nominally in [-1, 1] but not clamped.

    Levels are numbered as in the original, from full resolution; they run from the smallest.
    """

    def __init__(self, sizes: Magvit2Sizes) -> None:
        super().__init__()
        widths = [sizes.width * m for m in sizes.multipliers]
        above = [*widths[1:], widths[-1]]  # the width that comes from the next smaller resolution
        self.stem = nn.Conv2d(sizes.bits, widths[-1], 3, padding=1)
        self.middle = _blocks(widths[-1], widths[-1], sizes.blocks)
        self.adaptive = nn.ModuleList(AdaptiveNorm(sizes.bits, width) for width in above)
        self.res = nn.ModuleList(_blocks(a, b, sizes.blocks) for a, b in zip(above, widths, strict=True))
        self.resample = nn.ModuleList(nn.Conv2d(width, 4 * width, 3, padding=1) for width in widths[1:])
        self.head = nn.Sequential(_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 3, 3, padding=1))

    def forward(self, signs_NBhw: Tensor) -> Tensor:
        x_NCHW = self.middle(self.stem(signs_NBhw))
        for at in reversed(range(len(self.res))):
            x_NCHW = self.res[at](self.adaptive[at](x_NCHW, signs_NBhw))
            if at:
                x_NCHW = depth_to_space(self.resample[at - 1](x_NCHW))
        colours_NCHW: Tensor = self.head(x_NCHW)
        return colours_NCHW


class AdaptiveNorm(nn.Module):
    """Group norm whose scale and shift are linear in the deviation and the mean of each bit over the token map."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=EPS, affine=False)
        self.scale, self.shift = nn.Linear(bits, width), nn.Linear(bits, width)

    def forward(self, x_NCHW: Tensor, signs_NBhw: Tensor) -> Tensor:
        signs_NBP = signs_NBhw.flatten(2)
        deviation_NB = (signs_NBP.var(dim=-1) + EPS).sqrt()
        scale_NC, shift_NC = self.scale(deviation_NB), self.shift(signs_NBP.mean(dim=-1))
        y_NCHW: Tensor = scale_NC[..., None, None] * self.norm(x_NCHW) + shift_NC[..., None, None]
        return y_NCHW


def depth_to_space(x_NCHW: Tensor) -> Tensor:
    """Twice the size: channel (2 i + j) C/4 + c becomes channel c at row i and column j of each 2 x 2 block."""
    count, channels, rows, columns = x_NCHW.shape
    split = x_NCHW.reshape(count, 2, 2, channels // 4, rows, columns)
    return torch.einsum("nijchw->nchiwj", split).reshape(count, channels // 4, 2 * rows, 2 * columns)


def _blocks(width_in: int, width_out: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        *(ResBlock(width_in if at == 0 else width_out, width_out, _norm, bias=False) for at in range(count))
    )


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=EPS)
