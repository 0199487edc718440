"""A video file: opened without any files that it refers to, the stream to decode, and what its packets contain.

The packets are read without decoding. They determine the choice of a decoder, and are the reference for its frames.
"""

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from bevt_core.media.errors import MediaError, one_line
from bevt_core.media.video.keyframes import announces_another_size, can_start_at, size_headers
from bevt_core.media.video.packet_order import NO_PTS, doubt_of_order, leading_packets
from bevt_core.storage.files import size_of
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.read_errors import raise_storage_trouble
from schemas.errors import StorageError
from schemas.ranges import MAX_FRAME_PIXELS

av.logging.set_level(av.logging.PANIC)

# Only demuxers of plain media files: a playlist would make FFmpeg open other files or network addresses.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,m4v,h264,hevc,gif,3gp,ivf,mjpeg,wtv,nut"

SEEKABLE = frozenset({"mov", "matroska"})  # containers with an index and reliable time stamps
NOT_A_VIDEO = "not a video, or its header is damaged or missing"
NOT_THIS_FORMAT = (av.InvalidDataError, av.ArgumentError)  # their texts only repeat their names


def open_video(path: AnyPath) -> av.container.InputContainer:
    """Open a video file. Raises MediaError if it is not a video file, StorageError if it cannot be read."""
    try:
        size = size_of(path)
    except OSError as error:
        raise_storage_trouble(error, path)
        raise
    if size < 0:
        raise MediaError("open", "missing", "no such file")
    if size == 0:
        raise MediaError("open", "empty-file", "0 bytes")
    try:
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        container = av.open(storage_of(path).native_input(), options=options)
    except StorageError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise_storage_trouble(error, path)
        what = NOT_A_VIDEO if isinstance(error, NOT_THIS_FORMAT) else one_line(error, path)
        raise MediaError("open", "not-media", what) from None
    if all(_is_cover(stream) for stream in container.streams.video):
        what = "none is video" if not container.streams.video else "the only video is a cover picture"
        what = f"{len(container.streams)} streams, {what}"
        container.close()
        raise MediaError("open", "no-video-stream", what)
    return container


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Return the stream that FFmpeg ranks best, or the first other one if that is a cover picture."""
    best = container.streams.best("video")
    return next(stream for stream in (best, *container.streams.video) if stream is not None and not _is_cover(stream))


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


@dataclass(frozen=True)
class VideoInfo:
    """A video's packets. `shown_pts` is in display order; the `packet_*` arrays are in the file's decoding order."""

    path: Path
    container: str
    codec: str
    pixel_format: str  # FFmpeg's name, such as yuv420p
    width: int
    height: int
    video_streams: int
    has_duration: bool
    sample_aspect: Fraction  # recorded but not applied, as in the original
    time_base: Fraction
    frame_s: float  # seconds from one frame to the next, by the stream's average rate
    packet_pts: np.ndarray  # int64, NO_PTS if missing
    packet_is_key: np.ndarray  # bool
    shown_pts: np.ndarray  # int64, sorted
    discarded: int  # packets removed by an edit list
    leading: int  # packets displayed before the keyframe that they follow: open groups of pictures
    closed: bool  # no frame depends on one before its keyframe
    reorders: bool  # the decoder may output frames in a different order from the packets
    doubt: str | None  # why frame i may not be the i-th packet by time, so that frames must be counted

    @property
    def num_frames(self) -> int:
        return len(self.shown_pts)

    @property
    def times_s(self) -> np.ndarray:
        """Presentation times in seconds, float64, in display order."""
        return self.shown_pts * float(self.time_base)


def why_not_seek(info: VideoInfo, codecs: Collection[str]) -> str | None:
    """Return why a decoder that seeks, and knows `codecs`, must not read this file, or None if it may."""
    if info.container not in SEEKABLE:
        return f"container {info.container}"
    if info.codec not in codecs:
        return f"codec {info.codec}"
    if not info.has_duration:
        return "no duration"
    if info.video_streams > 1:
        return f"{info.video_streams} video streams"
    if info.discarded:
        return f"an edit list cuts {info.discarded} packets"
    if not info.closed:
        return f"open groups of pictures ({info.leading} leading packets)"
    return None


def decodable(stream: av.VideoStream) -> av.VideoCodecContext:
    """Return the codec of a video stream. Raises MediaError without a decoder for it."""
    context = stream.codec_context
    if context is None or not context.width or not context.height:
        raise MediaError("open", "unknown-codec", "no decoder for its video stream")
    return context


def read_packets(path: Path) -> VideoInfo:
    """Read all packets of the best video stream. Raises MediaError."""
    with open_video(path) as container:
        stream = video_stream(container)
        context = decodable(stream)
        if context.width * context.height > MAX_FRAME_PIXELS:
            size = f"{context.width}x{context.height}"
            raise MediaError("open", "too-large", f"frames of {size}, the limit is {MAX_FRAME_PIXELS} pixels")
        extradata = context.extradata or b""
        columns: list[tuple[int, bool, bool, int]] = []  # pts, keyframe, cut by an edit list, bytes
        headers: list[set[bytes]] = []  # of the keyframes
        changes, closed = False, True
        try:
            for packet in container.demux(stream):
                if packet.size:
                    pts = NO_PTS if packet.pts is None else packet.pts
                    columns.append((pts, packet.is_keyframe, packet.is_discard, packet.size))
                    changes |= packet.has_sidedata("new_extradata")
                    if packet.is_keyframe:
                        data = bytes(packet)
                        headers.append(size_headers(context.name, extradata, data))
                        closed &= can_start_at(context.name, extradata, data)
        except av.FFmpegError as error:
            what = "damaged data" if isinstance(error, NOT_THIS_FORMAT) else one_line(error, path)
            raise MediaError("open", "damaged", what) from None
        if not columns:
            raise MediaError("open", "no-frames", "its video stream has no packets")
        pts_P, is_key_P, is_cut_P, bytes_P = (np.array(column) for column in zip(*columns, strict=True))
        kind = container.format.name.split(",")[0]
        doubt = doubt_of_order(kind, context.name, pts_P, is_key_P, bytes_P, reorders=context.has_b_frames)
        if doubt is None and (changes or announces_another_size(headers, extradata)):
            doubt = "the size of its pictures may change"
        leading = leading_packets(pts_P, is_key_P)
        return VideoInfo(
            path=path,
            container=kind,
            codec=context.name,
            pixel_format=context.pix_fmt or "unknown",
            width=context.width,
            height=context.height,
            video_streams=len(container.streams.video),
            has_duration=bool(stream.duration or container.duration),
            sample_aspect=stream.sample_aspect_ratio or Fraction(1),
            time_base=stream.time_base,
            frame_s=1 / float(stream.average_rate or stream.guessed_rate or 25),
            packet_pts=pts_P,
            packet_is_key=is_key_P,
            shown_pts=np.unique(pts_P[~is_cut_P]),
            discarded=int(is_cut_P.sum()),
            leading=leading,
            closed=bool(closed and is_key_P[0] and not leading and not is_cut_P.any()),
            reorders=bool(context.has_b_frames),
            doubt=doubt,
        )
