"""Small media files for tests, written with PyAV and Pillow."""

import functools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from bevt_core.media.video.decoders import PREFERRED, check_decoder
from schemas.errors import UserError
from schemas.frames import VideoDecoder


@functools.cache
def usable_decoders() -> tuple[VideoDecoder, ...]:
    """PyAV, and the others that are installed here."""
    found: list[VideoDecoder] = ["pyav"]
    for decoder in PREFERRED:
        try:
            check_decoder(decoder)
        except UserError:
            continue
        found.append(decoder)
    return tuple(found)


def moving_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> list[np.ndarray]:
    """Frames that all differ: a bright square crosses a gradient, and its colour counts."""
    rows, columns = np.mgrid[:height, :width]
    frames = []
    for i in range(count):
        frame = np.stack([rows * 3 % 256, columns * 2 % 256, (rows + columns + 7 * seed) % 256], -1).astype(np.uint8)
        left, top = (5 * i + 3 * seed) % (width - 12), (3 * i) % (height - 12)
        frame[top : top + 12, left : left + 12] = (255 - i % 200, (40 * i) % 256, (90 + 20 * seed) % 256)
        frames.append(frame)
    return frames


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rate: int = 25,
    pts: Sequence[int] | None = None,
    container_format: str | None = None,
    rotation: int = 0,
    pixel_format: str = "yuv420p",
) -> Path:
    """Encode RGB frames; `pts` are in units of 1 / rate seconds, one per frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, rate)
        for i, frame_HWC in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
            frame.pts = i if pts is None else pts[i]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """A second of a tone, and no picture."""
    with av.open(str(path), "w") as container:
        _mux_tone(container, container.add_stream("aac", rate=16000, layout="mono"))
    return path


def write_audio_with_cover(path: Path, cover_HWC: np.ndarray) -> Path:
    """A second of a tone, and a picture as music players show it."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        _mux_cover(container, _add_cover(container, cover_HWC), cover_HWC)
        _mux_tone(container, audio)
    return path


def write_video_with_cover(path: Path, frames: Sequence[np.ndarray], cover_HWC: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        cover = _add_cover(container, cover_HWC)
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        _mux_cover(container, cover, cover_HWC)
        for frame_HWC in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _mux_tone(container: av.container.OutputContainer, stream: av.AudioStream) -> None:
    tone = (np.sin(np.arange(16000) / 6) * 8000).astype(np.int16)[None]
    for start in range(0, 16000 - 1024, 1024):
        frame = av.AudioFrame.from_ndarray(tone[:, start : start + 1024], format="s16", layout="mono")
        frame.sample_rate = 16000
        frame.pts = start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _add_cover(container: av.container.OutputContainer, cover_HWC: np.ndarray) -> av.VideoStream:
    stream = container.add_stream("mjpeg", rate=1)
    stream.height, stream.width = cover_HWC.shape[:2]
    stream.pix_fmt = "yuvj420p"
    stream.disposition = Disposition.attached_pic
    return stream


def _mux_cover(container: av.container.OutputContainer, stream: av.VideoStream, cover_HWC: np.ndarray) -> None:
    container.mux(stream.encode(av.VideoFrame.from_ndarray(cover_HWC, format="rgb24")))
    container.mux(stream.encode(None))


def write_image(path: Path, frame_HWC: np.ndarray, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame_HWC).convert(mode).save(path)
    return path


def decode_all(path: Path) -> list[tuple[float, np.ndarray]]:
    """The truth: (seconds, RGB) of every frame of a plain sequential decode, unrotated."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
