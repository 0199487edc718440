"""Decoders, from the encoder's stages to the token grid (BEVT, https://arxiv.org/abs/2112.01529, section 3.2).

Each stream has its own decoder. A decoder takes the list of stage outputs, finest first.
Legend: B batch, T H W grid, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Upsample(nn.ConvTranspose3d):
    """A transposed convolution with stride = kernel, channels last: each position becomes a block."""

    def __init__(self, in_dim: int, out_dim: int, factor_THW: tuple[int, int, int]) -> None:
        super().__init__(in_dim, out_dim, kernel_size=factor_THW, stride=factor_THW)

    def forward(self, x_BTHWC: Tensor) -> Tensor:  # type: ignore[override]
        B, T, H, W, _ = x_BTHWC.shape
        t, h, w = self.kernel_size
        assert self.bias is not None  # always created by this class
        x = torch.einsum("bthwi,ioxyz->btxhywzo", x_BTHWC, self.weight)
        return x.reshape(B, T * t, H * h, W * w, -1) + self.bias


class FuseStages(nn.Module):
    """Upsample the last stage to the grid of the one before and fuse the two: -> (B, T, H, W, out_dim)."""

    def __init__(self, fine_dim: int, coarse_dim: int, out_dim: int) -> None:
        super().__init__()
        self.up_space = Upsample(coarse_dim, coarse_dim, (1, 2, 2))
        self.fuse = nn.Linear(fine_dim + coarse_dim, out_dim)

    def forward(self, stages_BTHWC: Sequence[Tensor]) -> Tensor:
        fine_BTHWC, coarse_BTHWC = stages_BTHWC[-2:]
        _, _, H, W, _ = fine_BTHWC.shape
        up_BTHWC = self.up_space(coarse_BTHWC)[:, :, :H, :W]  # an odd grid was padded before merging
        y_BTHWD: Tensor = self.fuse(torch.cat([fine_BTHWC, up_BTHWC], dim=-1))
        return y_BTHWD


class LastStage(nn.Module):
    """A linear layer on the output of an encoder with one resolution: -> (B, T, H, W, out_dim)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.fuse = nn.Linear(dim, out_dim)

    def forward(self, stages_BTHWC: Sequence[Tensor]) -> Tensor:
        y_BTHWD: Tensor = self.fuse(stages_BTHWC[-1])
        return y_BTHWD


class ToFrames(nn.Module):
    """Another decoder, then upsampling from tubelets to frames: T grows by the stem's temporal stride."""

    def __init__(self, decoder: nn.Module, dim: int, tubelet: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.up_time = Upsample(dim, dim, (tubelet, 1, 1))

    def forward(self, stages_BTHWC: Sequence[Tensor]) -> Tensor:
        y_BTHWD: Tensor = self.up_time(self.decoder(stages_BTHWC))
        return y_BTHWD
