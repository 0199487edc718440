"""Whether the packets of a video determine when each frame is displayed, or only decoding can tell.

A packet's presentation time (pts) may only be its position in decoding order: AVI and raw streams contain nothing else,
and a file copied from one without decoding keeps it.
Legend: P packets, in the file's (decoding) order.
"""

import numpy as np

NO_PTS = np.iinfo(np.int64).min
UNTIMED_CONTAINERS = frozenset({"avi", "mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "mjpeg"})
PLACEHOLDER_BYTES = 19  # FFmpeg's MAX_NVOP_SIZE: an MPEG-4 packet of at most this size has no new picture


def in_decoding_order(pts_P: np.ndarray, is_key_P: np.ndarray) -> np.ndarray:
    """Return a bool per packet: whether the pts in its group of pictures increase from packet to packet."""
    group_P = np.cumsum(is_key_P)
    falls = np.flatnonzero((np.diff(pts_P) <= 0) & (np.diff(group_P) == 0))
    return ~np.isin(group_P, group_P[falls])


def doubt_of_order(
    container: str, codec: str, pts_P: np.ndarray, is_key_P: np.ndarray, bytes_P: np.ndarray, *, reorders: bool
) -> str | None:
    """Return why frame i may not be the i-th packet by pts, or None. `pts_P` is NO_PTS for packets without a pts.

    `reorders`: the decoder may output frames in a different order from the packets (B-frames). If all pts increase
    nevertheless, they are not display times.
    """
    if container in UNTIMED_CONTAINERS:
        return f"container {container}"
    if (pts_P == NO_PTS).any():
        return "packets without a time stamp"
    if len(np.unique(pts_P)) < len(pts_P):
        return "packets with the same time stamp"
    if not is_key_P[0]:
        return "no keyframe at the start"
    if codec == "mpeg4" and (bytes_P <= PLACEHOLDER_BYTES).any():
        return "packed B-frames, or pictures left out"
    if reorders and in_decoding_order(pts_P, is_key_P).all():
        return "B-frames, and time stamps in decoding order"
    return None


def leading_packets(pts_P: np.ndarray, is_key_P: np.ndarray) -> int:
    """Count the packets displayed before the latest keyframe that precedes them in decoding order."""
    latest_key = np.maximum.accumulate(np.where(is_key_P, np.arange(len(pts_P)), -1))
    follows = (latest_key >= 0) & ~is_key_P
    return int((pts_P[follows] < pts_P[latest_key[follows]]).sum())
