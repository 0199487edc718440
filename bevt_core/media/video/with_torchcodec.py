"""Decode chosen frames with torchcodec, an extra that uses the system's FFmpeg. It must agree with PyAV.

Only its exact mode is used: the approximate one takes frames by the average rate, and returned frames up to 65
positions off in a file of variable rate.
Legend: H height, W width, C channels (RGB), T frames, P packets.
"""

from collections.abc import Callable

import numpy as np

from bevt_core.media.video.decoded import Decoded, Disagreement, Frame, Kept, chunks_of
from bevt_core.media.video.orientation import display_matrix, first_frame, upright
from bevt_core.media.video.packet_order import in_decoding_order
from bevt_core.media.video.video_file import VideoInfo, why_not_seek

# Their decoders give the same bits in every version of FFmpeg.
CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d"})
# 8 bits: from 10 bits torchcodec interpolates colours differently, by up to 46 of 255
PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuv444p"})


def why_not_torchcodec(info: VideoInfo) -> str | None:
    """Return why torchcodec must not read this file, or None if it may."""
    unfit = why_not_seek(info, CODECS)
    if unfit is None and info.pixel_format not in PIXEL_FORMATS:
        return f"pixels in {info.pixel_format}"
    if unfit is None and _may_have_wrong_times(info):
        return "B-frames, and time stamps in decoding order in a part of the file"
    return unfit


def _may_have_wrong_times(info: VideoInfo) -> bool:
    """Whether a group of pictures with B-frames has increasing time stamps; only decoding it shows if they are right.

    Torchcodec takes frames by their time stamps. Fewer than three packets cannot be reordered.
    """
    group_P = np.cumsum(info.packet_is_key)
    may_reorder_P = np.bincount(group_P)[group_P] >= 3
    return info.reorders and bool((in_decoding_order(info.packet_pts, info.packet_is_key) & may_reorder_P).any())


def read_with_torchcodec(
    info: VideoInfo, indices: np.ndarray, keep: Callable[[Frame], Kept], notes: list[str]
) -> Decoded[Kept]:
    """Decode the frames `indices`.

    Raises Disagreement if torchcodec fails, contradicts the packets, or decodes the first frame differently from PyAV.
    """
    import torchcodec
    from torchcodec.decoders import VideoDecoder

    first = first_frame(info.path)
    if first is None or display_matrix(first) is not None:
        raise Disagreement("a display matrix")  # torchcodec rotates frames, but does not mirror them
    times_s = info.times_s[indices]
    kept: list[Kept] = []
    sizes: set[tuple[int, int]] = set()
    try:
        decoder = VideoDecoder(
            str(info.path.absolute()), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        if decoder.metadata.num_frames != info.num_frames:
            raise Disagreement(f"it counts {decoder.metadata.num_frames} frames, the packets {info.num_frames}")
        if not np.array_equal(decoder.get_frame_at(0).data.numpy(), upright(first)):
            raise Disagreement("its first frame differs from PyAV's")
        done = 0
        for chunk in chunks_of(indices.tolist(), info.width * info.height):
            batch = decoder.get_frames_at(chunk)
            if np.abs(batch.pts_seconds.numpy() - times_s[done : done + len(chunk)]).max() > 1e-3:
                raise Disagreement("its time stamps differ from those of the packets")
            chunk_THWC = batch.data.numpy()
            sizes.add(chunk_THWC.shape[1:3])
            kept += [keep(frame_HWC) for frame_HWC in chunk_THWC]
            done += len(chunk)
    except (RuntimeError, ValueError, IndexError):  # messages not kept: they contain paths of its build
        raise Disagreement("torchcodec failed") from None
    version = torchcodec.__version__
    return Decoded(kept, indices.tolist(), times_s.tolist(), "torchcodec", version, notes, frozenset(sizes))
