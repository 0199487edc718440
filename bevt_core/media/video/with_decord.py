"""Decode chosen frames with decord, which exists for Linux on x86_64. It must agree with the packets.

Legend: H height, W width, C channels (RGB), T frames.
"""

from collections.abc import Callable

import numpy as np

from bevt_core.media.video.decoded import Decoded, Disagreement, Frame, Kept, chunks_of
from bevt_core.media.video.orientation import shown_as_stored
from bevt_core.media.video.video_file import VideoInfo, why_not_seek

CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4"})


def why_not_decord(info: VideoInfo) -> str | None:
    """Return why decord must not read this file, or None if it may.

    On such files decord returned frames up to 44 positions off, or could not open the file.
    """
    return why_not_seek(info, CODECS)


def read_with_decord(
    info: VideoInfo, indices: np.ndarray, keep: Callable[[Frame], Kept], notes: list[str]
) -> Decoded[Kept]:
    """Decode the frames `indices`. Raises Disagreement if decord fails or contradicts the packets."""
    import decord

    if not shown_as_stored(info.path):
        raise Disagreement("a display matrix")  # decord rotates frames, but does not mirror them
    decord.logging.set_level(decord.logging.FATAL)
    times_s = info.times_s[indices]
    try:
        reader = decord.VideoReader(str(info.path.absolute()), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != info.num_frames:
            raise Disagreement(f"it counts {len(reader)} frames, the packets {info.num_frames}")
        stamps_s = reader.get_frame_timestamp(indices.tolist())[:, 0]
        if np.abs(stamps_s - times_s).max() > 1e-3:
            raise Disagreement("its time stamps differ from those of the packets")
        kept: list[Kept] = []
        sizes: set[tuple[int, int]] = set()
        for chunk in chunks_of(indices.tolist(), info.width * info.height):
            chunk_THWC = reader.get_batch(chunk).asnumpy()
            sizes.add(chunk_THWC.shape[1:3])
            kept += [keep(frame_HWC) for frame_HWC in chunk_THWC]
    except (decord.DECORDError, RuntimeError, IndexError):  # messages not kept: they contain the time of day
        raise Disagreement("decord failed") from None
    return Decoded(kept, indices.tolist(), times_s.tolist(), "decord", decord.__version__, notes, frozenset(sizes))
