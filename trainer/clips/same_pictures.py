"""Compare the pictures of clips with the same names in two sources, such as files and a frame store made from them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bevt_core.media.errors import MediaError
from trainer.clips.sources import ClipSource, StoreClips

SHOWN = 8  # pairs to compare, spread over all pairs
SIDE_PX = 16  # side of a thumbnail
SAME = 12.0  # mean difference of two thumbnails, 0 to 255: about 2 from JPEG and scaling, 30 or more for other videos


def show_the_same(pairs: Sequence[tuple[int, int]], one: ClipSource, other: ClipSource) -> bool | None:
    """Whether most of a few pairs (index in `one`, index in `other`) show the same video, judged by one frame each.

    None if no pair can be read.
    """
    chosen = sorted({round(at) for at in np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs)))})
    same = []
    for mine, theirs in (pairs[at] for at in chosen):
        frame = _middle(one, mine) if isinstance(one, StoreClips) else _middle(other, theirs)
        try:
            difference = np.abs(_thumbnail(one, mine, frame) - _thumbnail(other, theirs, frame)).mean()
        except MediaError:
            continue
        same.append(difference < SAME)
    return sum(same) * 2 > len(same) if same else None


def _middle(source: ClipSource, index: int) -> int:
    """The number in the video of the middle one of its stored frames; 0 if `source` is not a frame store."""
    if not isinstance(source, StoreClips):
        return 0
    indices = source.frame_indices(index)
    return indices[len(indices) // 2]


def _thumbnail(source: ClipSource, index: int, frame: int) -> np.ndarray:
    """A thumbnail of the frame closest to number `frame` of the video: float (SIDE_PX, SIDE_PX, 3)."""
    kept = np.array(source.frame_indices(index)) if isinstance(source, StoreClips) else None

    def choose(num_frames: int) -> np.ndarray:
        return np.array([min(frame, num_frames - 1) if kept is None else int(np.abs(kept - frame).argmin())])

    (frame_HWC,) = source.read(index, choose)
    return np.asarray(Image.fromarray(frame_HWC).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX), dtype=float)
