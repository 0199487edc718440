"""VQGAN's two networks (CompVis/taming-transformers, taming/modules/diffusionmodules/model.py).

Self-attention follows every residual block at the smallest resolution, and is in the middle of each network.

Shapes: N frames, H W pixels, C channels, D values of a code, h x w tokens.
"""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from bevt_core.tokenizers.conv_blocks import Attention, ResBlock, Upsample
from bevt_core.tokenizers.taming.family import VqganSizes


class Level(nn.Module):
    """Residual blocks at one resolution, with or without attention after each, then a change of the resolution."""

    def __init__(self, widths: Sequence[int], attends: bool, resample: nn.Module) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResBlock(a, b, group_norm) for a, b in itertools.pairwise(widths))
        self.attn = nn.ModuleList(Attention(width, group_norm) for width in widths[1:] if attends)
        self.resample = resample

    def forward(self, x_NCHW: Tensor) -> Tensor:
        for at, block in enumerate(self.res):
            x_NCHW = block(x_NCHW)
            if self.attn:
                x_NCHW = self.attn[at](x_NCHW)
        y_NCHW: Tensor = self.resample(x_NCHW)
        return y_NCHW


class Encoder(nn.Module):
    """Floats `[N, 3, H, W]` in [-1, 1], H and W multiples of the stride -> vectors `[N, D, h, w]`."""

    def __init__(self, sizes: VqganSizes) -> None:
        super().__init__()
        widths = [sizes.width * m for m in sizes.multipliers]
        last = len(widths) - 1
        before = [sizes.width, *widths]
        self.stem = nn.Conv2d(3, sizes.width, 3, padding=1)
        self.levels = nn.Sequential(
            *(
                Level(
                    [before[at], *[width] * sizes.blocks],
                    at == last,
                    nn.Identity() if at == last else _downsample(width),
                )
                for at, width in enumerate(widths)
            )
        )
        self.middle = _middle(widths[-1])
        self.head = nn.Sequential(
            group_norm(widths[-1]),
            nn.SiLU(),
            nn.Conv2d(widths[-1], sizes.latent_width, 3, padding=1),
            nn.Conv2d(sizes.latent_width, sizes.code_dim, 1),
        )

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        vectors_NDhw: Tensor = self.head(self.middle(self.levels(self.stem(pixels_NCHW))))
        return vectors_NDhw


class Decoder(nn.Module):
    """Codes `[N, D, h, w]` -> colours `[N, 3, H, W]`, nominally in [-1, 1] but not clamped.

    Its levels are numbered from the smallest resolution.
    """

    def __init__(self, sizes: VqganSizes) -> None:
        super().__init__()
        widths = [sizes.width * m for m in reversed(sizes.multipliers)]
        last = len(widths) - 1
        before = [widths[0], *widths]
        self.stem = nn.Sequential(
            nn.Conv2d(sizes.code_dim, sizes.latent_width, 1), nn.Conv2d(sizes.latent_width, widths[0], 3, padding=1)
        )
        self.middle = _middle(widths[0])
        self.levels = nn.Sequential(
            *(
                Level(
                    [before[at], *[width] * (sizes.blocks + 1)],
                    at == 0,
                    nn.Identity() if at == last else Upsample(width),
                )
                for at, width in enumerate(widths)
            )
        )
        self.head = nn.Sequential(group_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 3, 3, padding=1))

    def forward(self, codes_NDhw: Tensor) -> Tensor:
        colours_NCHW: Tensor = self.head(self.levels(self.middle(self.stem(codes_NDhw))))
        return colours_NCHW


def group_norm(width: int) -> nn.GroupNorm:
    """The norm of all published tokenizers of this form: 32 groups."""
    return nn.GroupNorm(32, width, eps=1e-6)


def _downsample(width: int) -> nn.Module:
    """Half the size: a convolution of stride 2, padded on the right and at the bottom only."""
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2))


def _middle(width: int) -> nn.Module:
    return nn.Sequential(
        ResBlock(width, width, group_norm), Attention(width, group_norm), ResBlock(width, width, group_norm)
    )
