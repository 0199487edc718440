"""Animated and still WebP pictures of clips: panels side by side, enlarged smoothly, with transparent gaps."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

GAP_SHARE = 1 / 32  # of a panel's height
QUALITY = 80  # of WebP
FRAME_MS, LAST_MS = 180, 700  # how long frames are shown, and the last one, so that the jump to the first is seen


def enlarged(frame_HWC: np.ndarray, side_px: int) -> np.ndarray:
    """Scale a picture smoothly to a square: uint8 (side_px, side_px, 3)."""
    return np.asarray(Image.fromarray(frame_HWC).resize((side_px, side_px), Image.Resampling.BICUBIC))


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Join pictures of one height in a row with transparent gaps: uint8 (H, W, 4)."""
    height_px = len(panels[0])
    gap_px = round(height_px * GAP_SHARE)
    width_px = sum(panel.shape[1] + gap_px for panel in panels) - gap_px
    row_HWC = np.zeros((height_px, width_px, 4), dtype=np.uint8)
    left = 0
    for panel in panels:
        right = left + panel.shape[1]
        row_HWC[:, left:right, :3] = panel
        row_HWC[:, left:right, 3] = 255
        left = right + gap_px
    return row_HWC


def webp(frames: Sequence[np.ndarray]) -> bytes:
    """Return RGB or RGBA frames as the bytes of a WebP file; several are an endless animation."""
    first, *others = map(Image.fromarray, frames)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": QUALITY}
    if others:
        durations_ms = [FRAME_MS] * len(others) + [LAST_MS]
        options |= {"save_all": True, "append_images": others, "duration": durations_ms, "loop": 0}
    first.save(buffer, format="WEBP", **options)
    return buffer.getvalue()
