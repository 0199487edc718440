"""Stems, from pixels to the encoder's grid: one linear embedding per patch (3-D for clips, 2-D for images).

Their input is normalised as the published encoders' was.

The embeddings are convolutions whose stride equals their kernel size. On GPUs they are computed as a matrix product:
cuDNN's 16-bit 3-D convolutions are many times slower, and wrong in some versions.

Legend: B batch, C channels, T H W frames and pixels of the input, grid of the output.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevt_core.models.windows import shape_constant, under_autocast

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of 0..255 RGB, as in the original's img_norm_cfg
IMAGENET_STD = (58.395, 57.12, 57.375)


class Stem3d(nn.Module):
    """Embed the tubelets of a clip: (B, 3, T, H, W) -> (B, T/pt, H/ph, W/pw, C), with zero padding if needed."""

    def __init__(
        self, patch: tuple[int, int, int], embed_dim: int, norm: Callable[[int], nn.Module] = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(3, embed_dim, kernel_size=patch, stride=patch)
        self.norm = norm(embed_dim)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        y_BTHWC: Tensor = self.norm(embed_patches(clip_BCTHW, self.proj.weight, self.proj.bias))
        return y_BTHWC


class Stem2d(nn.Module):
    """Embed the patches of an image, a clip of one frame: (B, 3, 1, H, W) -> (B, 1, H/ph, W/pw, C)."""

    def __init__(self, patch: tuple[int, int], embed_dim: int, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch, stride=patch)
        self.norm = norm(embed_dim)

    def forward(self, image_BCTHW: Tensor) -> Tensor:
        y_BTHWC: Tensor = self.norm(embed_patches(image_BCTHW, self.proj.weight.unsqueeze(2), self.proj.bias))
        return y_BTHWC


def embed_patches(clip_BCTHW: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with stride = kernel size, channels last: (B, 3, T, H, W) -> (B, T/t, H/h, W/w, C).

    `kernel` is (C, 3, t, h, w). Zeros are appended if it does not divide the clip.
    """
    t, h, w = kernel.shape[2:]
    pad_T, pad_H, pad_W = (-size % by for size, by in zip(clip_BCTHW.shape[2:], (t, h, w), strict=True))
    if pad_T or pad_H or pad_W:
        clip_BCTHW = F.pad(clip_BCTHW, (0, pad_W, 0, pad_H, 0, pad_T))
    if clip_BCTHW.device.type == "cpu":  # its convolution is three times as fast as the product below
        return F.conv3d(clip_BCTHW, kernel, bias, stride=(t, h, w)).movedim(1, -1)
    return patches_times_kernel(clip_BCTHW, kernel, bias)


def patches_times_kernel(clip_BCTHW: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `embed_patches` as a matrix product, for a clip that the kernel divides."""
    t, h, w = kernel.shape[2:]
    B, _, T, H, W = clip_BCTHW.shape
    # colours are the last axis in memory, so that whole rows of a patch are copied
    x = under_autocast(clip_BCTHW).movedim(1, -1).reshape(B, T // t, t, H // h, h, W // w, w, -1)
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)
    return F.linear(x, kernel.movedim(1, -1).flatten(1), bias)


def normalise(clip_BTHWC: Tensor) -> Tensor:
    """Convert uint8 frames to the stem's input: float32 (B, C, T, H, W), normalised by ImageNet's statistics."""
    mean, std = imagenet_statistics(clip_BTHWC.device)
    return ((clip_BTHWC.float() - mean) / std).permute(0, 4, 1, 2, 3)


@shape_constant
def imagenet_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per colour channel, each (3,); cached per device."""
    return torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)
