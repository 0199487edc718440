"""Colour jitter of a picture: brightness, contrast and saturation, by Pillow or by faster compiled code, bit for bit.

Each operation blends a picture with a degenerate one in float32: black, the mean luma of the picture, or its own luma.
Brightness and contrast therefore map each level to another regardless of position, and several in a row combine into
one table. The compiled code applies a table, the saturation, and another table. Only the mean luma needs pixels
outside the crop.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from bevt_core.views.resample import Backend, Pixels
from schemas.views import JitterOp

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}
JITTER_OPS: tuple[JitterOp, ...] = ("brightness", "contrast", "saturation")
Jitter = Sequence[tuple[JitterOp, float]]  # (operation, factor), in the order they are applied

LEVELS = np.arange(256, dtype=np.int32)
BLACK, UNCHANGED = 0, np.float32(1)


def jitter(frame_HWC: np.ndarray, operations: Jitter, needed: Pixels, backend: Backend = "pillow") -> np.ndarray:
    """Apply the operations to a frame, uint8 (H, W, 3). Pixels outside `needed` may have any value.

    The compiled backend supports at most one saturation; with more, Pillow is used.
    """
    if backend == "compiled" and sum(op == "saturation" for op, _ in operations) <= 1:
        return jitter_compiled(frame_HWC, operations, needed)
    return jitter_by_pillow(frame_HWC, operations)


def jitter_by_pillow(frame_HWC: np.ndarray, operations: Jitter) -> np.ndarray:
    """Apply `jitter` to all pixels with Pillow."""
    image = Image.fromarray(frame_HWC)
    for op, factor in operations:
        image = ENHANCERS[op](image).enhance(factor)
    return np.asarray(image)


def jitter_compiled(frame_HWC: np.ndarray, operations: Jitter, needed: Pixels) -> np.ndarray:
    """Apply `jitter` with compiled code, for at most one saturation. Pixels outside `needed` are black."""
    from bevt_core.views.jitter_kernels import mean_luma, mean_luma_saturated, recolour

    frame_HWC = np.ascontiguousarray(frame_HWC)
    before = after = LEVELS  # tables before and after the saturation
    saturation, saturated = UNCHANGED, False
    for op, factor in operations:
        if op == "saturation":
            saturation, saturated = np.float32(factor), True
            continue
        if op == "brightness":
            degenerate = BLACK
        elif saturated:
            degenerate = int(mean_luma_saturated(frame_HWC, before, saturation, after) + 0.5)
        else:
            degenerate = int(mean_luma(frame_HWC, before) + 0.5)
        if saturated:
            after = blend(degenerate, after, factor)
        else:
            before = blend(degenerate, before, factor)
    coloured_HWC = np.zeros_like(frame_HWC)
    recolour(frame_HWC, before, saturation, after, *needed, coloured_HWC)
    return coloured_HWC


def blend(degenerate: int, levels: np.ndarray, factor: float) -> np.ndarray:
    """Return `degenerate + factor * (levels - degenerate)`, int32, clipped to 0..255 and rounded down.

    Repeats the operations of Pillow's ImagingBlend in the same precision.
    """
    blended = np.float32(degenerate) + np.float32(factor) * (levels - degenerate).astype(np.float32)
    blended_levels: np.ndarray = np.clip(blended, 0, 255).astype(np.int32)
    return blended_levels
