"""The pixels that a dVAE's networks compute on (Ramesh et al. 2021, appendix A; `dall_e.utils`), and their patches."""

from torch import Tensor

from bevt_core.tokenizers.dvae.family import STRIDE

EPS = 0.1  # the logit-Laplace density is defined on the open interval; pixels keep this distance from its ends
MIDDLE = 0.5  # of the mapped range
VALUES_PER_TOKEN = 3 * STRIDE * STRIDE  # colour values encoded by one token


def map_pixels(unit: Tensor) -> Tensor:
    """[0, 1] -> [0.1, 0.9]."""
    return (1 - 2 * EPS) * unit + EPS


def unmap_pixels(mapped: Tensor) -> Tensor:
    """[0.1, 0.9] -> [0, 1], not clamped."""
    return (mapped - EPS) / (1 - 2 * EPS)


def to_patches(unit_NCHW: Tensor) -> Tensor:
    """`[N, C, H, W]` -> `[N, h, w, C * 8 * 8]`: the block of pixels under each token."""
    n, c, height, width = unit_NCHW.shape
    blocks = unit_NCHW.reshape(n, c, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(n, height // STRIDE, width // STRIDE, -1)
