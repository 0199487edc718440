"""Frames of a file, decoded in a child process with a time limit: one child per process, kept between files.

The child loads no torch. The frames come back through a pipe; which ones is decided in this process.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bevt_core.foreign.isolation import DECODER_BYTES, ChildCrash, ChildTimeout, IsolatedFunction, ask
from bevt_core.media.errors import MediaError
from bevt_core.media.frame_size import one_size
from bevt_core.views.replay import shrink_short_side
from schemas.frames import MediaKind

_isolated = IsolatedFunction(
    "trainer.clips.isolated_frames:decode", DECODER_BYTES
)  # its child starts at the first call


def read_frames(
    path: Path, kind: MediaKind, choose: Callable[[int], NDArray[np.int64]], short_side_px: int, limit_s: float
) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Return the frames `choose(num_frames)` (increasing), scaled down to the short side, and their indices.

    `choose` may be called again, where a file turns out to have another number of frames than it says. Raises
    MediaError, also for a decoder that takes longer than `limit_s` seconds or kills its process.
    """
    try:
        # absolute: the child stays where this process was when it started
        return _isolated(path.absolute(), kind, short_side_px, limit_s=limit_s, reply=choose)
    except ChildTimeout as error:
        raise MediaError("time-out", "time-out", f"{error} of decoding") from None
    except ChildCrash as error:
        raise MediaError("crash", "crash", f"the decoder was {error}") from None


def decode(path: Path, kind: MediaKind, short_side_px: int) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """In the child, which alone imports decoders."""
    from bevt_core.media.decoding import decode_source

    decoded = decode_source(path, kind, ask, lambda frame_HWC: shrink_short_side(frame_HWC, short_side_px))
    one_size(decoded.sizes, short_side_px)
    return decoded.frames, decoded.frame_indices


def decoder_pid() -> int | None:
    """Of this process's child, while it lives."""
    return _isolated.pid
