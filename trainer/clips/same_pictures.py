"""Whether clips of two places that have the same names show the same pictures: files and a frame store of them, say."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bevt_core.media.errors import MediaError
from trainer.clips.sources import ClipSource, StoreClips

SHOWN = 8  # pairs that are compared, spread over all
SIDE_PX = 16  # of the thumbnails that are compared
SAME = 12.0  # mean difference of two thumbnails, of 255: JPEG and scaling make some 2, other videos 30 and more


def show_the_same(pairs: Sequence[tuple[int, int]], one: ClipSource, other: ClipSource) -> bool | None:
    """Whether most of some pairs (index in `one`, index in `other`) are the same video, by one frame of each.

    None where no pair can be read.
    """
    chosen = sorted({round(at) for at in np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs)))})
    same = []
    for mine, theirs in (pairs[at] for at in chosen):
        frame = _middle(one, mine) if isinstance(one, StoreClips) else _middle(other, theirs)
        try:
            apart = np.abs(_thumbnail(one, mine, frame) - _thumbnail(other, theirs, frame)).mean()
        except MediaError:
            continue
        same.append(apart < SAME)
    return sum(same) * 2 > len(same) if same else None


def _middle(source: ClipSource, index: int) -> int:
    """The number, in the video, of the frame in the middle of what is kept of it."""
    if not isinstance(source, StoreClips):
        return 0
    indices = source.frame_indices(index)
    return indices[len(indices) // 2]


def _thumbnail(source: ClipSource, index: int, frame: int) -> np.ndarray:
    """The frame next to number `frame` of the video, as a small picture: float (SIDE_PX, SIDE_PX, 3)."""
    kept = np.array(source.frame_indices(index)) if isinstance(source, StoreClips) else None

    def choose(num_frames: int) -> np.ndarray:
        return np.array([min(frame, num_frames - 1) if kept is None else int(np.abs(kept - frame).argmin())])

    (frame_HWC,) = source.read(index, choose)
    return np.asarray(Image.fromarray(frame_HWC).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX), dtype=float)
