"""Facts from the header of a video file, for a quick check of many files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av

from bevt_core.media.video.video_file import decodable, open_video, video_stream
from bevt_core.storage.objects import AnyPath

ROUNDING = 0.02  # in the aspect of a pixel, from sizes that were rounded to even numbers


@dataclass(frozen=True)
class MediaHeader:
    """Facts from a file's header, read without decoding."""

    container: str
    codec: str
    width: int  # px
    height: int  # px
    seconds: float | None  # None if not in the header, and for pictures
    frames: int | None  # of a video: the header's count, or duration times rate
    pixel_aspect: Fraction = Fraction(1)  # width of a pixel divided by its height; not applied when decoding


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
            container.format.name.split(",")[0],
            context.name,
            context.width,
            context.height,
            seconds,
            frames,
            stream.sample_aspect_ratio or Fraction(1),
        )


def pixel_warnings(headers: Sequence[MediaHeader]) -> list[str]:
    """Return a warning if some videos have pixels that are not square, else nothing."""
    aspects = Counter(header.pixel_aspect for header in headers if abs(header.pixel_aspect - 1) > ROUNDING)
    if not aspects:
        return []
    ((common, _),) = aspects.most_common(1)
    return [
        f"{aspects.total():,} of {len(headers):,} have pixels that are not square (mostly {common}); frames are "
        "stored as coded, not stretched to their display size"
    ]
