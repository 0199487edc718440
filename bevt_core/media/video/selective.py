"""Decode only the packets that the chosen frames depend on. The packets must determine the order of the frames.

Legend: P packets, in the file's (decoding) order, G groups of pictures, each beginning at a keyframe.
"""

from collections.abc import Callable, Iterator

import av
import numpy as np

from bevt_core.media.errors import MediaError, one_line
from bevt_core.media.video.decoded import Decoded, Disagreement, Frame, Kept
from bevt_core.media.video.orientation import upright
from bevt_core.media.video.packet_order import in_decoding_order
from bevt_core.media.video.video_file import VideoInfo, open_video, video_stream


def read_selectively(
    info: VideoInfo, indices: np.ndarray, keep: Callable[[Frame], Kept], notes: list[str]
) -> tuple[Decoded[Kept], int]:
    """Decode the frames `indices`, and otherwise only frames that they depend on.

    Also returns how many of the chosen frames are damaged. Raises MediaError; raises Disagreement if frames are missing
    or not in the order of their time stamps.
    """
    chosen_pts = info.shown_pts[indices]
    wanted = set(chosen_pts.tolist())
    kept: list[Kept] = []
    sizes: set[tuple[int, int]] = set()
    damaged = 0
    last_pts = None
    try:
        for frame in _frames(info, *packets_to_decode(info, chosen_pts)):
            if frame.pts is None or (last_pts is not None and frame.pts <= last_pts):
                raise Disagreement("time stamps are not in display order")
            last_pts = frame.pts
            if frame.pts in wanted:
                damaged += bool(frame.is_corrupt)
                frame_HWC = upright(frame)
                sizes.add(frame_HWC.shape[:2])
                kept.append(keep(frame_HWC))
    except av.FFmpegError as error:
        raise MediaError("decode", "damaged", one_line(error, info.path)) from None
    if len(kept) < len(wanted):
        raise Disagreement(f"{len(wanted) - len(kept)} of {len(wanted)} chosen frames are missing")
    if damaged:
        notes = [*notes, f"{damaged} of {len(kept)} frames are damaged"]
    times_s = info.times_s[indices].tolist()
    return Decoded(kept, indices.tolist(), times_s, "pyav", av.__version__, notes, frozenset(sizes)), damaged


def packets_to_decode(info: VideoInfo, chosen_pts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two bool arrays (P,): packets to feed to the decoder, and packets that it must decode.

    The decoder may skip any other packet that no frame depends on.

    A closed group of pictures is fed up to its last chosen frame; a group without a chosen frame is skipped.
    Open groups depend on their predecessor, so everything up to the last chosen frame of the file is fed.
    A group whose time stamps increase although the decoder may reorder frames is decoded whole, to detect reordering.
    """
    pts_P, is_key_P = info.packet_pts, info.packet_is_key
    at_P = np.arange(len(pts_P))
    group_P = np.cumsum(is_key_P) - int(is_key_P[0])
    end_G = np.flatnonzero(np.diff(group_P, append=group_P[-1] + 1))
    suspect_P = in_decoding_order(pts_P, is_key_P) & info.reorders
    is_chosen_P = np.isin(pts_P, chosen_pts)
    last_G = np.full(len(end_G), -1)
    np.maximum.at(last_G, group_P[is_chosen_P], at_P[is_chosen_P])
    last_G = np.where(suspect_P[end_G] & (last_G >= 0), end_G, last_G)
    last_P = last_G[group_P] if info.closed else last_G.max()
    return at_P <= last_P, is_chosen_P | suspect_P


def _frames(info: VideoInfo, is_fed_P: np.ndarray, is_required_P: np.ndarray) -> Iterator[av.VideoFrame]:
    """Yield frames in the decoder's output order, except those that it may skip."""
    with open_video(info.path) as container:
        stream = video_stream(container)
        context = stream.codec_context
        context.thread_count = 1
        last = int(np.flatnonzero(is_fed_P).max(initial=-1))
        packets = (packet for packet in container.demux(stream) if packet.size)
        was_fed = False
        for is_fed, is_required, packet in zip(is_fed_P[: last + 1], is_required_P, packets, strict=False):
            if is_fed:
                context.skip_frame = "DEFAULT" if is_required else "NONREF"
                yield from context.decode(packet)
            elif was_fed:  # the rest of this group of pictures is not needed
                yield from context.decode(None)
                context.flush_buffers()
            was_fed = is_fed
        if was_fed:
            yield from context.decode(None)
