"""Facts from the packets of a video, used to choose a decoder and to check its frames."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class VideoInfo:
    """A video's packets. `shown_pts` is in display order; the `packet_*` arrays are in the file's decoding order."""

    path: Path
    container: str
    codec: str
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
    reorders: bool  # the decoder may output frames in another order than the packets'
    doubt: str | None  # why frame i may not be the i-th packet by time; the frames must then be counted by decoding

    @property
    def num_frames(self) -> int:
        return len(self.shown_pts)

    @property
    def times_s(self) -> np.ndarray:
        """Presentation times in seconds, float64, in display order."""
        return self.shown_pts * float(self.time_base)
