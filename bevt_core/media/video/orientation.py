"""Frames as a player shows them: rotated and mirrored by the file's display matrix, like FFmpeg's autorotate."""

from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type

from bevt_core.media.errors import MediaError, one_line
from bevt_core.media.video.decoded import Frame
from bevt_core.media.video.video_file import open_video, video_stream


def upright(frame: av.VideoFrame) -> Frame:
    """Return the frame as displayed, HWC uint8 RGB. Angles other than the eight orientations become the nearest one."""
    return oriented(frame.to_ndarray(format="rgb24", threads=1), display_matrix(frame))


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Return the (height, width) of `upright(frame)` without converting the frame."""
    size = frame.height, frame.width
    return size[::-1] if _swaps_axes(display_matrix(frame)) else size


def first_frame(path: Path) -> av.VideoFrame | None:
    """Return the first frame that PyAV decodes, or None if there is none. Raises MediaError."""
    with open_video(path) as container:
        stream = video_stream(container)
        stream.codec_context.thread_count = 1
        try:
            return next(container.decode(stream), None)
        except av.FFmpegError as error:
            raise MediaError("decode", "damaged", one_line(error, path)) from None


def shown_as_stored(path: Path) -> bool:
    """Whether a video's first frame has no display matrix. Raises MediaError."""
    frame = first_frame(path)
    return frame is None or display_matrix(frame) is None


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """Return ((a, b), (c, d)), int32, or None if the frame is displayed as stored.

    Up to a shift and a scale, the stored pixel (x, y) is displayed at (a x + c y, b x + d y).
    """
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    return None if data is None else np.frombuffer(data, dtype=np.int32).reshape(3, 3)[:2, :2]


def oriented(frame_HWC: Frame, matrix: np.ndarray | None) -> Frame:
    """Rotate and mirror a stored frame by its display matrix."""
    if matrix is None:
        return frame_HWC
    (a, b), (c, d) = matrix.tolist()
    if _swaps_axes(matrix):
        frame_HWC, right, down = frame_HWC.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    return np.ascontiguousarray(frame_HWC[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def _swaps_axes(matrix: np.ndarray | None) -> bool:
    if matrix is None:
        return False
    (a, b), (c, d) = np.abs(matrix.astype(np.int64)).tolist()
    return bool(b + c > a + d)
