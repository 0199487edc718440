"""Pillow's bicubic resampling of a box of a picture, and faster compiled code for enlargements, bit for bit.

Pillow resamples along x, then along y, in 32-bit integers with weights of 22 fractional bits, so its result can be
reproduced exactly. Since version 13 it begins with y for tall pictures; here x always comes first (ADR 3).

An enlargement reads four pixels along each axis per output pixel. That constant lets numba's compiler unroll the inner
loop. Reductions read more pixels and are left to Pillow, one axis at a time.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Literal

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom, in px
Backend = Literal["pillow", "compiled"]  # both give the same bits
Pixels = tuple[int, int, int, int]  # the rows and columns of a frame: top, bottom, left, right

TAPS = 4  # of the bicubic kernel, which reaches 2 px to each side
FRACTION_BITS = 22  # of Pillow's weights for 8-bit pixels
SHARPNESS = -0.5  # the kernel's parameter `a`, as in Pillow
PAYS_AFTER = 1000  # pictures; fewer do not save the second that numba takes to start


def backend_for(num_pictures: int) -> Backend:
    """Return the faster backend for scaling or jittering `num_pictures` pictures."""
    return "compiled" if num_pictures >= PAYS_AFTER else "pillow"


def resize_box(
    frame_HWC: np.ndarray, box: Box, size_px: int, backend: Backend = "pillow", *, flip: bool = False
) -> np.ndarray:
    """Scale a box of a frame to a square: uint8 (H, W, 3) -> uint8 (size_px, size_px, 3), mirrored if `flip`.

    Pillow handles what the compiled backend does not support: reductions, and frames of less than TAPS px.
    """
    height, width = frame_HWC.shape[:2]
    enlarges = max(box[2] - box[0], box[3] - box[1]) <= size_px and min(height, width) >= TAPS
    resize = enlarge_compiled if backend == "compiled" and enlarges else resize_by_pillow
    return resize(frame_HWC, box, size_px, flip=flip)


def pixels_read(height: int, width: int, box: Box, size_px: int) -> Pixels:
    """Return the pixels of a frame of `height` x `width` px that `resize_box` of `box` reads."""
    left, right = _range_read(width, box[0], box[2], size_px)
    top, bottom = _range_read(height, box[1], box[3], size_px)
    return top, bottom, left, right


def _range_read(source_px: int, low: float, high: float, size_px: int) -> tuple[int, int]:
    """Return the pixels read along an axis: TAPS / 2 px beyond the box, more for a reduction, one for rounding."""
    reach = math.ceil(TAPS / 2 * max(1.0, (high - low) / size_px)) + 1
    return max(0, math.floor(low) - reach), min(source_px, math.ceil(high) + reach)


def resize_by_pillow(frame_HWC: np.ndarray, box: Box, size_px: int, *, flip: bool = False) -> np.ndarray:
    """Apply `resize_box` with Pillow, one axis at a time so that x always comes first."""
    left, top, right, bottom = box
    height = frame_HWC.shape[0]
    wide = Image.fromarray(frame_HWC).resize((size_px, height), Image.Resampling.BICUBIC, (left, 0, right, height))
    square = wide.resize((size_px, size_px), Image.Resampling.BICUBIC, (0, top, size_px, bottom))
    # ten times as fast as numpy's flip, which copies pixel by pixel
    return np.asarray(square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else square)


def enlarge_compiled(frame_HWC: np.ndarray, box: Box, size_px: int, *, flip: bool = False) -> np.ndarray:
    """Apply `resize_box` with compiled code: a box of at most `size_px` px in a frame of at least TAPS px a side."""
    height, width = frame_HWC.shape[:2]
    first_x, weights_x = _taps(width, box[0], box[2], size_px, flip)
    first_y, weights_y = _taps(height, box[1], box[3], size_px, False)
    square_HWC = np.empty((size_px, size_px, 3), np.uint8)
    _compiled()(np.ascontiguousarray(frame_HWC), first_x, weights_x, first_y, weights_y, square_HWC)
    return square_HWC


@lru_cache(maxsize=64)  # shared by the frames of a clip
def _taps(source_px: int, low: float, high: float, size_px: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return, per output pixel along an axis, the first pixel read (size_px,) and the weights of four (size_px, 4).

    Repeats the operations of Pillow's precompute_coeffs and normalize_coeffs_8bpc in the same precision: the box is
    float32, all else float64. Near the border the four pixels move inwards; the kernel is 0 at the added ones. The
    pixels are uint32, so that compiled code skips the check for negative indices, which halves its time.
    """
    low32, high32 = np.float32(low), np.float32(high)
    scale = float(high32 - low32) / size_px
    centre = float(low32) + (np.arange(size_px) + 0.5) * scale
    first = np.clip((centre - TAPS / 2 + 0.5).astype(np.int64), 0, source_px - TAPS)
    x = np.abs(first[:, None] + np.arange(TAPS) - centre[:, None] + 0.5)
    a = SHARPNESS
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights /= ((weights[:, :1] + weights[:, 1:2]) + weights[:, 2:3]) + weights[:, 3:]
    fixed = np.trunc(weights * (1 << FRACTION_BITS) + np.copysign(0.5, weights))
    order = slice(None, None, -1 if mirrored else 1)
    return np.ascontiguousarray(first[order], np.uint32), np.ascontiguousarray(fixed[order], np.int32)


@cache
def _compiled() -> Callable[..., None]:
    from bevt_core.views.compiled import compiled

    return compiled(_enlarge)


def _enlarge(  # compiled by numba, which does not read the types
    frame_HWC: np.ndarray,
    first_x: np.ndarray,
    weights_x: np.ndarray,
    first_y: np.ndarray,
    weights_y: np.ndarray,
    square_HWC: np.ndarray,
) -> None:
    size_px = square_HWC.shape[0]
    half, black, white = np.int32(1 << (FRACTION_BITS - 1)), np.int32(0), np.int32(255)
    rows = frame_HWC.reshape(frame_HWC.shape[0], -1)
    top = first_y[0]
    scaled = np.empty((first_y[-1] + TAPS - top, 3 * size_px), np.uint8)  # along x only; rounded, as in Pillow
    for y in range(len(scaled)):
        row, scaled_row = rows[top + y], scaled[y]
        for x in range(size_px):
            i = 3 * first_x[x]
            for channel in range(3):
                total = half
                for k in range(TAPS):
                    total = np.int32(total + row[i + channel + 3 * k] * weights_x[x, k])
                level = np.int32(total >> FRACTION_BITS)
                scaled_row[3 * x + channel] = np.uint8(min(max(level, black), white))
    square = square_HWC.reshape(size_px, 3 * size_px)
    for y in range(size_px):
        i, square_row = first_y[y] - top, square[y]
        for x in range(3 * size_px):
            total = half
            for k in range(TAPS):
                total = np.int32(total + scaled[i + k, x] * weights_y[y, k])
            level = np.int32(total >> FRACTION_BITS)
            square_row[x] = np.uint8(min(max(level, black), white))
