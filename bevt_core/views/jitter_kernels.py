"""The loops of `bevt_core.views.jitter`, compiled. Each row is split into planes, so that the compiler can vectorise.

Legend: H W pixels, C channels (RGB). `before` and `after` are tables of 256 int32 levels, `factor` is float32.
The annotations are for the reader and mypy: numba does not read them.
"""

import numpy as np

from bevt_core.views.compiled import compiled

# weights of the ITU-R 601-2 luma, as in Pillow: 16 fractional bits, rounded
RED, GREEN, BLUE = np.int32(19595), np.int32(38470), np.int32(7471)
HALF, FRACTION_BITS = np.int32(1 << 15), np.int32(16)
BLACK, WHITE = np.float32(0), np.float32(255)


@compiled
def mean_luma(frame_HWC: np.ndarray, levels: np.ndarray) -> float:
    """Return the mean luma of a frame whose levels are mapped by the table `levels`."""
    height, width, _ = frame_HWC.shape
    total = np.int64(0)
    for y in range(height):
        row = frame_HWC[y].reshape(-1)
        of_row = np.int32(0)
        for x in range(width):
            of_row = np.int32(of_row + _luma(levels[row[3 * x]], levels[row[3 * x + 1]], levels[row[3 * x + 2]]))
        total += of_row
    mean: float = total / (height * width)
    return mean


@compiled
def mean_luma_saturated(frame_HWC: np.ndarray, before: np.ndarray, factor: np.float32, after: np.ndarray) -> float:
    """Return the mean luma of a frame after `before`, a saturation of `factor`, and `after`."""
    height, width, _ = frame_HWC.shape
    red, green, blue, grey = _planes(width)
    total = np.int64(0)
    for y in range(height):
        _recoloured(frame_HWC[y].reshape(-1), before, factor, red, green, blue, grey)
        of_row = np.int32(0)
        for x in range(width):
            made = _luma(after[np.uint8(red[x])], after[np.uint8(green[x])], after[np.uint8(blue[x])])
            of_row = np.int32(of_row + made)
        total += of_row
    mean: float = total / (height * width)
    return mean


@compiled
def recolour(
    frame_HWC: np.ndarray,
    before: np.ndarray,
    factor: np.float32,
    after: np.ndarray,
    top: int,
    bottom: int,
    left: int,
    right: int,
    coloured_HWC: np.ndarray,
) -> None:
    """Write the pixels of rows `top` to `bottom` and columns `left` to `right` (exclusive) into `coloured_HWC`."""
    width = right - left
    red, green, blue, grey = _planes(width)
    for y in range(top, bottom):
        _recoloured(frame_HWC[y, left:right].reshape(-1), before, factor, red, green, blue, grey)
        row = coloured_HWC[y, left:right].reshape(-1)
        for x in range(width):
            row[3 * x] = after[np.uint8(red[x])]
            row[3 * x + 1] = after[np.uint8(green[x])]
            row[3 * x + 2] = after[np.uint8(blue[x])]


@compiled
def _planes(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return np.empty(width, np.int32), np.empty(width, np.int32), np.empty(width, np.int32), np.empty(width, np.int32)


@compiled
def _recoloured(
    row: np.ndarray,
    before: np.ndarray,
    factor: np.float32,
    red: np.ndarray,
    green: np.ndarray,
    blue: np.ndarray,
    grey: np.ndarray,
) -> None:
    for x in range(len(grey)):
        red[x], green[x], blue[x] = before[row[3 * x]], before[row[3 * x + 1]], before[row[3 * x + 2]]
    for x in range(len(grey)):
        grey[x] = _luma(red[x], green[x], blue[x])
    _saturate(red, grey, factor)
    _saturate(green, grey, factor)
    _saturate(blue, grey, factor)


@compiled
def _saturate(level: np.ndarray, grey: np.ndarray, factor: np.float32) -> None:
    for x in range(len(grey)):
        blended = np.float32(grey[x]) + factor * np.float32(np.int32(level[x] - grey[x]))
        level[x] = np.int32(min(max(blended, BLACK), WHITE))


@compiled
def _luma(red: np.int32, green: np.int32, blue: np.int32) -> np.int32:
    return np.int32((red * RED + green * GREEN + blue * BLUE + HALF) >> FRACTION_BITS)
