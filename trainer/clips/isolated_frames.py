"""Decode frames of a file in a child process with a time limit: one child per process, reused for all files.

The child does not import torch. It sends the frames through a pipe; this process chooses which ones.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bevt_core.media.errors import MediaError
from bevt_core.media.frame_size import one_size
from bevt_core.untrusted.isolation import DECODER_BYTES, ChildCrash, ChildTimeout, IsolatedFunction, ask
from bevt_core.views.replay import shrink_short_side
from schemas.frames import MediaKind

# the child starts at the first call
_isolated = IsolatedFunction("trainer.clips.isolated_frames:decode", DECODER_BYTES)


def read_frames(
    path: Path, kind: MediaKind, choose: Callable[[int], NDArray[np.int64]], short_side_px: int, limit_s: float
) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Return the frames that `choose(num_frames)` picks (increasing), scaled down to the short side, and their indices.

    `choose` is called again if a file has more or fewer frames than its header states. Raises MediaError, also if
    the decoder takes longer than `limit_s` seconds or crashes.
    """
    try:
        # absolute: the child keeps the working directory that it was started in
        frames_and_indices: tuple[list[NDArray[np.uint8]], list[int]] = _isolated(
            path.absolute(), kind, short_side_px, limit_s=limit_s, reply=choose
        )
        return frames_and_indices
    except ChildTimeout as error:
        raise MediaError("time-out", "time-out", f"{error} of decoding") from None
    except ChildCrash as error:
        raise MediaError("crash", "crash", f"the decoder was {error}") from None


def decode(path: Path, kind: MediaKind, short_side_px: int) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Decode `path` in the child, the only process that imports decoders."""
    from bevt_core.media.decoding import decode_source

    decoded = decode_source(path, kind, ask, lambda frame_HWC: shrink_short_side(frame_HWC, short_side_px))
    one_size(decoded.sizes, short_side_px)
    return decoded.frames, decoded.frame_indices


def decoder_pid() -> int | None:
    """Return the process id of this process's child, or None if it is not running."""
    return _isolated.pid
