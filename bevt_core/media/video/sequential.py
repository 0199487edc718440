"""Decode a video from its first packet to its last: slow, but correct if packets do not determine the frame order."""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Generic

import av
import numpy as np

from bevt_core.media.errors import MediaError, one_line
from bevt_core.media.video.decoded import Choose, Decoded, Frame, Kept
from bevt_core.media.video.orientation import upright, upright_size
from bevt_core.media.video.video_file import VideoInfo, open_video, video_stream


def read_by_counting(
    info: VideoInfo, choose: Choose, keep: Callable[[Frame], Kept], notes: list[str]
) -> tuple[Decoded[Kept], int]:
    """Decode the frames `choose(num_frames)`, counted in the decoder's output order.

    The first pass assumes one frame per packet. If the decoder outputs more or fewer, a second pass uses their number.
    Also returns how many of the kept frames are damaged. Raises MediaError.
    """
    expected = len(info.packet_pts)
    while True:
        indices = np.asarray(choose(expected), dtype=np.int64).tolist()
        out = _decode_all(info, frozenset(indices), keep)
        if len(out.pts) == expected:
            break
        expected = len(out.pts)
    times_s, trouble = display_times(out.pts, info.time_base, info.frame_s)
    if trouble is not None:
        notes = [*notes, f"times from the frame rate: {trouble}"]
    if out.damaged:
        notes = [*notes, f"{out.damaged} of {len(out.kept)} frames are damaged"]
    chosen_s, sizes = [times_s[i] for i in indices], frozenset(out.sizes.values())
    return Decoded(out.kept, indices, chosen_s, "pyav", av.__version__, notes, sizes), out.damaged


def display_times(pts: Sequence[int | None], time_base: Fraction, frame_s: float) -> tuple[list[float], str | None]:
    """Return (times, trouble): the display times of all frames in seconds, and what is wrong with their time stamps.

    If `trouble` is None, the times are the time stamps; otherwise frames are assumed to be `frame_s` seconds apart.
    """
    stamps_s = [stamp * time_base.numerator / time_base.denominator for stamp in pts if stamp is not None]
    if len(stamps_s) < len(pts):
        trouble = "frames without a time stamp"
    elif any(later <= earlier for earlier, later in itertools.pairwise(stamps_s)):
        trouble = "time stamps that do not rise"
    else:
        return stamps_s, None
    return [i * frame_s for i in range(len(pts))], trouble


@dataclass
class _Output(Generic[Kept]):
    """The decoder's output."""

    kept: list[Kept] = field(default_factory=list)
    pts: list[int | None] = field(default_factory=list)  # of every frame
    # stored (width, height) -> displayed (height, width)
    sizes: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    damaged: int = 0  # of the kept frames


def _decode_all(info: VideoInfo, wanted: Collection[int], keep: Callable[[Frame], Kept]) -> _Output[Kept]:
    """Decode every frame, and keep those at the output positions `wanted`."""
    out: _Output[Kept] = _Output()
    with open_video(info.path) as container:
        stream = video_stream(container)
        stream.codec_context.thread_count = 1
        try:
            for position, frame in enumerate(container.decode(stream)):
                out.pts.append(frame.pts)
                if (frame.width, frame.height) not in out.sizes:
                    out.sizes[frame.width, frame.height] = upright_size(frame)
                if position in wanted:
                    out.damaged += bool(frame.is_corrupt)
                    out.kept.append(keep(upright(frame)))
        except av.FFmpegError as error:
            raise MediaError("decode", "damaged", one_line(error, info.path)) from None
    if not out.pts:
        raise MediaError("decode", "no-frames", "no frame could be decoded")
    return out
