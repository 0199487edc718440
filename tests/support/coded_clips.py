"""Clips whose frames carry their number, in every container and codec that FFmpeg writes here, and copies of them.

A copy moves packets into another container without decoding, with time stamps that may be wrong.
"""

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.support.media import write_video

BITS, FRAMES, RATE = 8, 30, 25
X264 = "keyint=12:min-keyint=12:scenecut=0"

Options = Callable[[int], dict[str, str]]


def x264(extra: str) -> Options:
    return lambda bframes: {"x264-params": f"{X264}:bframes={bframes}:{extra}"}


def x265(extra: str) -> Options:
    return lambda bframes: {"x265-params": f"keyint=12:min-keyint=12:bframes={bframes}:log-level=none:{extra}"}


def native(bframes: int) -> dict[str, str]:
    return {"g": "12", "bf": str(bframes)}


def libvpx(lag: int) -> dict[str, str]:
    """With `lag`, frames that are never shown (alternative references)."""
    lags = {"auto-alt-ref": str(int(lag > 0)), "lag-in-frames": str(8 * lag)}
    return {"g": "12", "deadline": "good", "cpu-used": "5", "b": "500k", **lags}


def plain(bframes: int) -> dict[str, str]:
    return {"strict": "unofficial"}


# name -> FFmpeg's encoder, its options by number of B-frames, and those numbers
CODECS: dict[str, tuple[str, Options, Sequence[int]]] = {
    "h264": ("libx264", x264("b-adapt=0"), range(4)),
    "h264-pyramid": ("libx264", x264("b-adapt=0:b-pyramid=strict"), (3,)),
    "h264-open": ("libx264", x264("open-gop=1:b-pyramid=normal"), (0, 3)),
    "h264-refresh": ("libx264", x264("intra-refresh=1"), (2, 0)),
    "h264-interlaced": ("libx264", x264("b-adapt=0:tff=1"), (2,)),
    "hevc": ("libx265", x265("open-gop=0:b-adapt=0"), range(4)),
    "hevc-open": ("libx265", x265("open-gop=1:b-adapt=0"), (3,)),
    "mpeg4": ("mpeg4", native, range(4)),
    "xvid": ("libxvid", native, range(4)),
    "mpeg2": ("mpeg2video", native, range(4)),
    "mpeg1": ("mpeg1video", native, range(4)),
    "vp8": ("libvpx", libvpx, (0, 2)),
    "vp9": ("libvpx-vp9", libvpx, (0, 2)),
    "av1": ("libsvtav1", lambda bframes: {"g": "12", "preset": "12"}, (0,)),
    "mjpeg": ("mjpeg", plain, (0,)),
    "flv1": ("flv", plain, (0,)),
    "wmv2": ("wmv2", plain, (0,)),
    "msmpeg4": ("msmpeg4", plain, (0,)),
    "ffv1": ("ffv1", plain, (0,)),
}
CONTAINERS = {
    "mp4": "mp4",
    "mov": "mov",
    "mkv": "matroska",
    "webm": "webm",
    "avi": "avi",
    "ts": "mpegts",
    "mpg": "mpeg",
    "flv": "flv",
    "wmv": "asf",
    "ogv": "ogg",
    "ivf": "ivf",
    "h264": "h264",
    "hevc": "hevc",
    "m4v": "m4v",
    "m2v": "mpeg2video",
    "nut": "nut",
}
COPIED_FROM = ("avi", "h264", "hevc", "m4v", "m2v", "ts", "mpg")
COPIED_TO = ("mp4", "mkv", "mov", "flv", "avi", "ts")
STAMPS = ("kept", "decoding", "counted")  # what a copy makes of time stamps; "decoding": dts for pts


@dataclass(frozen=True)
class Coded:
    """A clip to be written."""

    codec: str
    bframes: int
    suffix: str
    copied_to: str | None = None  # suffix of a copy of it
    stamps: str = "kept"

    @property
    def name(self) -> str:
        copied = f"_{self.copied_to}_{self.stamps}" if self.copied_to else ""
        return f"{self.codec}_b{self.bframes}_{self.suffix}{copied}"

    def write(self, folder: Path) -> Path | None:
        """None where FFmpeg has no such encoder, or cannot put the codec into the container."""
        encoder, options, _ = CODECS[self.codec]
        if encoder not in av.codecs_available:
            return None
        path = folder / f"{replace(self, copied_to=None).name}.{self.suffix}"
        try:
            if not path.exists():
                form = CONTAINERS[self.suffix]
                frames = coded_frames()
                write_video(path, frames, codec=encoder, options=options(self.bframes), container_format=form)
            if self.copied_to is None:
                return path
            return copy_packets(path, folder / f"{self.name}.{self.copied_to}", packets_of(path, self.stamps))
        except (av.FFmpegError, ValueError):
            return None


def coded_clips() -> Iterator[Coded]:
    """The whole matrix; not all of it can be written."""
    for codec, (_, _, bframes) in CODECS.items():
        for number, suffix in itertools.product(bframes, CONTAINERS):
            yield Coded(codec, number, suffix)
            if suffix in COPIED_FROM:
                for copied_to, stamps in itertools.product(COPIED_TO, STAMPS):
                    yield Coded(codec, number, suffix, copied_to, stamps)


def coded_frames(count: int = FRAMES, height: int = 64, width: int = 64) -> list[np.ndarray]:
    """Frame i shows i as bits: white or black blocks at the top, lowest bit first, their complement at the bottom."""
    rows, columns = np.mgrid[:height, :width]
    gradient = np.stack([columns * 255 // width, rows * 255 // height, np.full((height, width), 128)], -1)
    frames = []
    for i in range(count):
        frame = gradient.astype(np.uint8)
        for bit in range(BITS):
            block, value = slice(bit * width // BITS, (bit + 1) * width // BITS), 255 * (i >> bit & 1)
            frame[: height // 4, block] = value
            frame[-height // 4 :, block] = 255 - value
        frames.append(frame)
    return frames


def read_code(frame_HWC: np.ndarray) -> int:
    height, width = frame_HWC.shape[:2]
    top, bottom = (part.reshape(-1, BITS, width // BITS, 3).mean((0, 2, 3)) for part in _bands(frame_HWC, height // 4))
    return int(((top > bottom) << np.arange(BITS)).sum())


def _bands(frame_HWC: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return frame_HWC[:rows], frame_HWC[-rows:]


def decode_in_order(path: Path) -> list[tuple[int | None, np.ndarray]]:
    """(pts, RGB) of every frame of a plain sequential decode. Raises av.FFmpegError, ValueError."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise ValueError(f"{path}: no video stream")
        return [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]


@dataclass(frozen=True)
class Packet:
    data: bytes
    pts: int
    dts: int
    is_keyframe: bool
    time_base: Fraction


def packets_of(path: Path, stamps: str = "kept") -> list[Packet]:
    """The packets of a file, with these time stamps; counted where the file has none. Raises ValueError."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise ValueError(f"{path}: no video stream")
        found = [packet for packet in container.demux(stream) if packet.size]
        if stamps == "counted" or any(packet.dts is None for packet in found):
            rate = Fraction(1, RATE)
            return [Packet(bytes(packet), at, at, packet.is_keyframe, rate) for at, packet in enumerate(found)]
        return [
            Packet(
                data=bytes(packet),
                pts=packet.dts if packet.pts is None or stamps == "decoding" else packet.pts,
                dts=packet.dts,
                is_keyframe=packet.is_keyframe,
                time_base=packet.time_base,
            )
            for packet in found
        ]


def copy_packets(like: Path, path: Path, packets: Sequence[Packet]) -> Path:
    """Write packets into a file with the codec parameters of another. Raises av.FFmpegError, ValueError."""
    with av.open(str(like)) as source, av.open(str(path), "w", format=CONTAINERS[path.suffix[1:]]) as container:
        stream = container.add_stream_from_template(source.streams.best("video"))
        for each in packets:
            packet = av.Packet(each.data)
            packet.pts, packet.dts, packet.time_base = each.pts, each.dts, each.time_base
            packet.is_keyframe, packet.stream = each.is_keyframe, stream
            container.mux(packet)
    return path


def size_changing_clip(path: Path, codec: str, raw: str, sizes: Sequence[tuple[int, int]]) -> Path:
    """Clips of these (height, width) in one stream, without B-frames. `raw` is a suffix whose files can be joined."""
    encoder, options, _ = CODECS[codec]
    parts, packets = [], []
    for i, (height, width) in enumerate(sizes):
        part = path.with_name(f"{path.stem}{i}.{raw}")
        frames, form = coded_frames(FRAMES, height, width), CONTAINERS[raw]
        parts.append(write_video(part, frames, codec=encoder, options=options(0), container_format=form))
        packets += later(packets_of(part, "counted"), len(packets))
    if path.suffix == f".{raw}":
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
    else:
        copy_packets(parts[0], path, packets)
    for part in parts:
        part.unlink()
    return path


def later(packets: Sequence[Packet], ticks: int) -> list[Packet]:
    return [replace(packet, pts=packet.pts + ticks, dts=packet.dts + ticks) for packet in packets]


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write (a, b, c, d) into the track header of an mp4 or mov: pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    start = header + (52 if data[header] == 1 else 40)  # ISO/IEC 14496-12, 8.3.2
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
