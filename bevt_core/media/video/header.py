"""Facts from the header of a video file, for a quick check of many files."""

from dataclasses import dataclass

import av

from bevt_core.media.video.video_file import decodable, open_video, video_stream
from bevt_core.storage.objects import AnyPath


@dataclass(frozen=True)
class MediaHeader:
    """Facts from a file's header, read without decoding."""

    container: str
    codec: str
    width: int  # px
    height: int  # px
    seconds: float | None  # None if not in the header, and for pictures
    frames: int | None  # of a video: the header's count, or duration times rate


def read_video_header(path: AnyPath) -> MediaHeader:
    """Read the header of a video. Raises MediaError, StorageError."""
    with open_video(path) as container:
        stream = video_stream(container)
        context = decodable(stream)
        seconds = None
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / av.time_base
        rate = stream.average_rate or stream.guessed_rate
        frames = stream.frames or (round(seconds * float(rate)) if seconds and rate else None)
        return MediaHeader(
            container.format.name.split(",")[0], context.name, context.width, context.height, seconds, frames
        )
