"""Frames of videos and pictures, each with its presentation time. PyAV or decord decodes, whichever is right and fast.

Which of them read a file is recorded. On the files that decord is trusted with, both give the same bits; PyAV is the
faster one wherever the codec lets it pass over frames that no other frame leans on (benchmarks/decoding.py).
Legend: H height, W width, C channels (RGB).
"""

import re
import warnings as python_warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import av
import numpy as np
import PIL
from PIL import Image, ImageOps

from bevt_core.probing import MAX_PIXELS, MediaError, VideoInfo, one_line, open_video, probe, raise_storage_trouble
from schemas.errors import StorageError
from schemas.frames import DamagePolicy, MediaKind, PoolSpec

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv", ".ivf"}
)
DECORD_CONTAINERS = frozenset({"mov", "matroska"})
DECORD_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4"})
SKIPPING_CODECS = frozenset({"h264", "hevc", "mpeg4"})  # FFmpeg's decoders of these can leave out unreferenced frames
FRAME_FOLDER_RATE = 12.0  # frames per second of Something-Something-V2, the data set that comes as frame folders
CHUNK_FRAMES = 16  # that decord hands over at a time
CHUNK_PIXELS = 64_000_000  # at most: 192 MB

Frame = np.ndarray  # HWC uint8
Kept = TypeVar("Kept")
Choose = Callable[[int], Sequence[int] | np.ndarray]  # number of frames -> increasing frame indices


@dataclass(frozen=True)
class Decoded(Generic[Kept]):
    """The chosen frames of one source, each as what `keep` made of it."""

    frames: list[Kept]
    frame_indices: list[int]  # in display order
    times_s: list[float]
    decoder: str
    decoder_version: str
    warnings: list[str]


class _Disagreement(Exception):
    """decord and the packets tell different stories about a file."""


def decode_frames(
    path: Path, choose: Choose, keep: Callable[[Frame], Kept], damaged: DamagePolicy = "unchecked"
) -> Decoded[Kept]:
    """Decode the frames `choose(num_frames)` of a video, in increasing order, and pass each HWC uint8 frame to `keep`.

    Few frames are held at a time unless `keep` holds them. Raises MediaError for what cannot be decoded, and for chosen
    frames that are damaged where `damaged` is "reject"; with "keep" they are counted in the warnings.
    """
    decoded, damaged_frames = _decode(path, choose, keep, damaged)
    if damaged_frames and damaged == "reject":
        what = f"{damaged_frames} of the {len(decoded.frames)} chosen frames are damaged"
        raise MediaError("decode", "damaged-frames", what)
    return decoded


def _decode(
    path: Path, choose: Choose, keep: Callable[[Frame], Kept], damaged: DamagePolicy
) -> tuple[Decoded[Kept], int]:
    """Also how many of the frames are damaged, as far as it is known."""
    info = probe(path)
    notes = []
    if info.sample_aspect not in (0, 1):
        notes.append(f"sample aspect ratio {info.sample_aspect} not applied")
    if info.packets_are_exact and info.num_frames:
        indices = np.asarray(choose(info.num_frames), dtype=np.int64)
        unfit = decord_unfit(info) if damaged == "unchecked" else "it cannot see damage"
        if unfit is None and info.codec not in SKIPPING_CODECS:
            try:
                return _read_decord(info, indices, keep, notes), 0
            except _Disagreement as error:
                unfit = str(error)
        try:
            return _read_pyav(info, indices, keep, notes if unfit is None else [*notes, f"not decord: {unfit}"])
        except _Disagreement as error:
            notes.append(str(error))
    return _read_by_counting(info, choose, keep, [*notes, "frames counted by decoding"])


def decode_source(
    path: Path, kind: MediaKind, choose: Choose, keep: Callable[[Frame], Kept], damaged: DamagePolicy = "unchecked"
) -> Decoded[Kept]:
    """Decode a picture, a folder of a video's frames or a video.

    Whatever goes wrong with the file is a MediaError; StorageError where it is the disk, or the network.
    """
    try:
        if kind == "image":
            return decode_image(path, keep)
        if path.is_dir():
            return decode_frame_folder(path, choose, keep)
        return decode_frames(path, choose, keep, damaged)
    except (MediaError, StorageError):
        raise
    except MemoryError:
        raise MediaError("decode", "out-of-memory", "not enough memory to decode it") from None
    except Exception as error:
        raise_storage_trouble(error, path)
        raise MediaError("decode", "decoder-error", one_line(error, path)) from error


def decord_unfit(info: VideoInfo) -> str | None:
    """Why decord must not read this file, or None: it was measured up to 44 frames off there, or cannot open."""
    if info.container not in DECORD_CONTAINERS:
        return f"container {info.container}"
    if info.codec not in DECORD_CODECS:
        return f"codec {info.codec}"
    if not info.has_duration:
        return "no duration"
    if info.video_streams > 1:
        return f"{info.video_streams} video streams"
    if info.discarded:
        return f"an edit list cuts {info.discarded} packets"
    if info.leading:
        return f"open groups of pictures ({info.leading} leading packets)"
    return None


def pool_indices(num_frames: int, pool: PoolSpec, rng: np.random.Generator) -> np.ndarray:
    """Indices (int64, increasing) of the frames to keep: every `stride`-th from a phase, thinned or not."""
    phase = int(rng.integers(min(pool.stride, num_frames))) if pool.phase == "random" else 0
    indices = np.arange(phase, num_frames, pool.stride, dtype=np.int64)
    if len(indices) > pool.max_frames and pool.long == "thin":
        indices = indices[np.linspace(0, len(indices) - 1, pool.max_frames).round().astype(np.int64)]
    return indices


def decode_image(path: Path, keep: Callable[[Frame], Kept]) -> Decoded[Kept]:
    """Decode a picture to one HWC uint8 RGB frame: greyscale and CMYK are converted, the EXIF orientation is applied.

    Raises MediaError for damaged files and for pictures whose dimensions are a decompression bomb.
    """
    if not path.exists():
        raise MediaError("open", "missing", "no such file")
    if path.stat().st_size == 0:
        raise MediaError("open", "empty-file", "0 bytes")
    notes = []
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise MediaError("open", "too-large", one_line(error, path)) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise_storage_trouble(error, path)
        raise MediaError("open", "not-media", one_line(error, path)) from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width}x{image.height}"
            raise MediaError("open", "too-large", f"{size}, the limit is {MAX_PIXELS} pixels")
        try:
            if image.mode != "RGB":
                notes.append(f"converted from {image.mode}")
            upright = ImageOps.exif_transpose(image)
            if upright.size != image.size:
                notes.append("EXIF orientation applied")
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            frame = np.asarray(upright.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise_storage_trouble(error, path)
            raise MediaError("decode", "damaged", one_line(error, path)) from None
    return Decoded([keep(frame)], [0], [0.0], "pillow", PIL.__version__, notes)


def decode_frame_folder(path: Path, choose: Choose, keep: Callable[[Frame], Kept]) -> Decoded[Kept]:
    """`decode_frames` of a folder with one picture per frame, in the order of the numbers in their names."""
    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise MediaError("open", "no-frames", "no pictures in the folder")
    files.sort(key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.stem)])
    indices = [int(i) for i in choose(len(files))]
    kept = [decode_image(files[i], keep).frames[0] for i in indices]
    times_s = [i / FRAME_FOLDER_RATE for i in indices]
    notes = [f"times at {FRAME_FOLDER_RATE:g} frames/s"]
    return Decoded(kept, indices, times_s, "pillow", PIL.__version__, notes)


# ---- the two decoders ------------------------------------------------------------------------------------------------


def _read_decord(
    info: VideoInfo, indices: np.ndarray, keep: Callable[[Frame], Kept], notes: list[str]
) -> Decoded[Kept]:
    """Raises _Disagreement where decord fails or differs from the packets, so that PyAV has the last word."""
    import decord

    decord.logging.set_level(decord.logging.FATAL)
    times_s = info.times_s[indices]
    try:
        reader = decord.VideoReader(str(info.path.absolute()), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != info.num_frames:
            raise _Disagreement(f"it counts {len(reader)} frames, the packets are {info.num_frames}")
        stamps_s = reader.get_frame_timestamp(indices.tolist())[:, 0]
        if np.abs(stamps_s - times_s).max() > 1e-3:
            raise _Disagreement("its time stamps are not those of the packets")
        kept = []
        chunk = max(1, min(CHUNK_FRAMES, CHUNK_PIXELS // (info.width * info.height)))
        for start in range(0, len(indices), chunk):
            chunk_THWC = reader.get_batch(indices[start : start + chunk].tolist()).asnumpy()
            kept += [keep(frame_HWC) for frame_HWC in chunk_THWC]
    except (decord.DECORDError, RuntimeError, IndexError):  # its messages carry the time of day
        raise _Disagreement("decord failed on it") from None
    return Decoded(kept, indices.tolist(), times_s.tolist(), "decord", decord.__version__, notes)


def _read_pyav(
    info: VideoInfo, indices: np.ndarray, keep: Callable[[Frame], Kept], notes: list[str]
) -> tuple[Decoded[Kept], int]:
    """One pass over the packets that the chosen frames depend on. _Disagreement when a promised frame never comes."""
    chosen_pts = info.shown_pts[indices]
    wanted = set(chosen_pts.tolist())
    feed = packets_to_decode(info, chosen_pts)
    kept: dict[int, Kept] = {}
    corrupt = 0
    with open_video(info.path) as container:
        stream = container.streams.best("video")
        context = stream.codec_context
        context.thread_count = 1
        fed_last = True
        try:
            packets = (packet for packet in container.demux(stream) if packet.size)
            for fed, packet in zip(feed, packets, strict=False):
                frames: list[av.VideoFrame] = []
                if fed:
                    context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                    frames = context.decode(packet)
                elif fed_last:  # the rest of this group of pictures is not needed
                    frames = context.decode(None)
                    context.flush_buffers()
                fed_last = fed
                for frame in frames:
                    if frame.pts in wanted and frame.pts not in kept:
                        corrupt += bool(frame.is_corrupt)
                        kept[frame.pts] = keep(_upright(frame))
                if len(kept) == len(wanted):
                    break
            else:
                for frame in context.decode(None) if fed_last else []:
                    if frame.pts in wanted and frame.pts not in kept:
                        corrupt += bool(frame.is_corrupt)
                        kept[frame.pts] = keep(_upright(frame))
        except av.FFmpegError as error:
            raise MediaError("decode", "damaged", one_line(error, info.path)) from None
    if len(kept) < len(wanted):
        raise _Disagreement(f"{len(wanted) - len(kept)} of the promised frames never came")
    if corrupt:
        notes = [*notes, f"{corrupt} of {len(kept)} frames are damaged"]
    frames_in_order = [kept[pts] for pts in chosen_pts.tolist()]
    times_s = info.times_s[indices].tolist()
    return Decoded(frames_in_order, indices.tolist(), times_s, "pyav", av.__version__, notes), corrupt


def packets_to_decode(info: VideoInfo, chosen_pts: np.ndarray) -> np.ndarray:
    """Bool per packet, in decoding order: needed for the chosen frames.

    In a closed group of pictures that is everything up to its last chosen frame, and nothing of a group without one.
    Open groups lean on their predecessor: there it is everything up to the last chosen frame of the file.
    """
    chosen = np.flatnonzero(np.isin(info.packet_pts, chosen_pts))
    positions = np.arange(len(info.packet_pts))
    if info.leading or info.discarded or not info.packet_is_key[0]:
        return positions <= chosen.max(initial=-1)
    group = np.cumsum(info.packet_is_key) - 1
    last_chosen = np.full(group[-1] + 1, -1)
    np.maximum.at(last_chosen, group[chosen], chosen)
    return positions <= last_chosen[group]


def _read_by_counting(
    info: VideoInfo, choose: Choose, keep: Callable[[Frame], Kept], notes: list[str]
) -> tuple[Decoded[Kept], int]:
    """A plain sequential decode, where only that tells how many frames there are.

    The frames are chosen as if every packet were one. Where that is not how many come out, a second pass reads again.
    """
    expected = len(info.packet_pts)
    while True:
        indices = np.asarray(choose(expected), dtype=np.int64)
        kept, shown_pts, corrupt = _read_positions(info, frozenset(indices.tolist()), keep)
        if len(shown_pts) == expected:
            break
        expected = len(shown_pts)
    chosen_pts = [shown_pts[i] for i in indices.tolist()]
    if None in shown_pts:
        notes = [*notes, "times from the frame rate, the file has none"]
    times_s = [
        i * info.frame_s if pts is None else float(pts * info.time_base)
        for i, pts in zip(indices.tolist(), chosen_pts, strict=True)
    ]
    if corrupt:
        notes = [*notes, f"{corrupt} of {len(kept)} frames are damaged"]
    return Decoded(kept, indices.tolist(), times_s, "pyav", av.__version__, notes), corrupt


def _read_positions(
    info: VideoInfo, wanted: frozenset[int], keep: Callable[[Frame], Kept]
) -> tuple[list[Kept], list[int | None], int]:
    """The frames at these positions of the output, the pts of every frame, and how many of the wanted are damaged."""
    kept: list[Kept] = []
    shown_pts: list[int | None] = []
    corrupt = 0
    with open_video(info.path) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        try:
            for position, frame in enumerate(container.decode(stream)):
                shown_pts.append(frame.pts)
                if position in wanted:
                    corrupt += bool(frame.is_corrupt)
                    kept.append(keep(_upright(frame)))
        except av.FFmpegError as error:
            raise MediaError("decode", "damaged", one_line(error, info.path)) from None
    if not shown_pts:
        raise MediaError("decode", "no-frames", "no frame could be decoded")
    return kept, shown_pts, corrupt


def _upright(frame: av.VideoFrame) -> Frame:
    """RGB, turned as the file's display matrix says (decord does so by itself)."""
    frame_HWC = frame.to_ndarray(format="rgb24")
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame_HWC, quarter_turns)) if quarter_turns else frame_HWC
