"""Compare the pictures of clips with the same names in two sources, such as files and a frame store made from them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bevt_core.media.errors import MediaError
from trainer.clips.sources import ClipSource, StoreClips

PAIRS = 8  # pairs to compare, spread over all pairs
SIDE_PX = 16  # side of a thumbnail
# mean difference of two thumbnails (0 to 255) below which they are the same: JPEG and scaling cause about 2, different
# videos 30 or more
SAME = 12.0


def show_same_video(pairs: Sequence[tuple[int, int]], one: ClipSource, other: ClipSource) -> bool | None:
    """Return whether most pairs (index in `one`, index in `other`) show the same video; None if none can be read.

    At most PAIRS pairs are compared, by one frame each.
    """
    chosen = sorted({round(at) for at in np.linspace(0, len(pairs) - 1, min(PAIRS, len(pairs)))})
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
