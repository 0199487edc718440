"""Conversion of pixels to and from the dVAE's range (Ramesh et al. 2021, appendix A; `dall_e.utils`)."""

import torch
from torch import Tensor

EPS = 0.1  # the logit-Laplace density is defined on the open interval; pixels keep this distance from its ends


def to_unit(frames_NHWC: Tensor) -> Tensor:
    """uint8 frames -> float32 `[N, C, H, W]` in [0, 1], channels-last in memory."""
    return frames_NHWC.permute(0, 3, 1, 2).to(torch.float32) / 255


def to_uint8(unit_NCHW: Tensor) -> Tensor:
    """Floats in [0, 1] -> the nearest uint8 frames `[N, H, W, C]`."""
    return (unit_NCHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def map_pixels(unit: Tensor) -> Tensor:
    """[0, 1] -> [0.1, 0.9]."""
    return (1 - 2 * EPS) * unit + EPS


def unmap_pixels(mapped: Tensor) -> Tensor:
    """[0.1, 0.9] -> [0, 1], not clamped."""
    return (mapped - EPS) / (1 - 2 * EPS)
