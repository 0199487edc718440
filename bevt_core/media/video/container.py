"""Open a video file, without any files that it refers to, and select the stream to decode."""

import av
from av.stream import Disposition

from bevt_core.media.errors import MediaError, one_line
from bevt_core.storage.files import size_of
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.read_errors import raise_storage_trouble
from schemas.errors import StorageError

av.logging.set_level(av.logging.PANIC)

# Only demuxers of plain media files: a playlist would make FFmpeg open other files or network addresses.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,m4v,h264,hevc,gif,3gp,ivf,mjpeg,wtv,nut"

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
