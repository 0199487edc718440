"""From pixels to the encoder's grid: one linear embedding per patch (3-D for clips, 2-D for images).

Legend: B batch, C channels, T H W: frames and pixels before, the grid after.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Stem3d(nn.Module):
    """Embed tubelets of a clip: (B, 3, T, H, W) -> (B, T/pt, H/ph, W/pw, C), padded where they do not divide."""

    def __init__(
        self, patch: tuple[int, int, int], embed_dim: int, norm: Callable[[int], nn.Module] = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(3, embed_dim, kernel_size=patch, stride=patch)
        self.norm = norm(embed_dim)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        pad_T, pad_H, pad_W = (-size % by for size, by in zip(clip_BCTHW.shape[2:], self.patch, strict=True))
        x_BCTHW = self.proj(F.pad(clip_BCTHW, (0, pad_W, 0, pad_H, 0, pad_T)))
        return self.norm(x_BCTHW.movedim(1, -1))


class Stem2d(nn.Module):
    """Embed patches of an image, a clip of one frame: (B, 3, 1, H, W) -> (B, 1, H/ph, W/pw, C)."""

    def __init__(self, patch: tuple[int, int], embed_dim: int, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch, stride=patch)
        self.norm = norm(embed_dim)

    def forward(self, image_BCTHW: Tensor) -> Tensor:
        image_BCHW = image_BCTHW.squeeze(2)
        pad_H, pad_W = (-size % by for size, by in zip(image_BCHW.shape[2:], self.patch, strict=True))
        x_BCHW = self.proj(F.pad(image_BCHW, (0, pad_W, 0, pad_H)))
        return self.norm(x_BCHW.movedim(1, -1)).unsqueeze(1)
