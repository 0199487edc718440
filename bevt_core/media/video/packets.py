"""Read the packets of a video without decoding them. Both decoders are checked against the result."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from bevt_core.media.errors import MediaError, one_line
from bevt_core.media.video.container import open_video, video_stream
from bevt_core.media.video.keyframes import announces_another_size, can_start_at, size_headers
from bevt_core.media.video.packet_order import NO_PTS, doubt_of_order, leading_packets
from bevt_core.media.video.video_info import VideoInfo
from schemas.ranges import MOST_FRAME_PIXELS


def read_packets(path: Path) -> VideoInfo:
    """Read all packets of the best video stream. Raises MediaError, StorageError."""
    with open_video(path) as container:
        stream = video_stream(container)
        context = stream.codec_context
        if context is None or not context.width or not context.height:
            raise MediaError("open", "unknown-codec", "no decoder for its video stream")
        if context.width * context.height > MOST_FRAME_PIXELS:
            size = f"{context.width}x{context.height}"
            raise MediaError("open", "too-large", f"frames of {size}, the limit is {MOST_FRAME_PIXELS} pixels")
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
            raise MediaError("open", "damaged", one_line(error, path)) from None
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
