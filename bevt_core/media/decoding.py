"""Decode selected frames of videos, frame folders and pictures, each with its presentation time.

A video is decoded by PyAV, or by another decoder that a recipe prefers and that gives the same bits; a file that the
other one cannot read correctly is decoded by PyAV. The choice is recorded. If the packets do not determine the order of
the frames, PyAV decodes all frames in sequence (bevt_core/media/video/sequential.py).
Legend: H height, W width, C channels (RGB).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL

from bevt_core.media.errors import MediaError, one_line
from bevt_core.media.frame_folders import frames_in, read_frame
from bevt_core.media.stills import read_picture
from bevt_core.media.video.decoded import Choose, Decoded, Disagreement, Frame, Kept
from bevt_core.media.video.decoders import PREFERRED
from bevt_core.media.video.selective import read_selectively
from bevt_core.media.video.sequential import read_by_counting
from bevt_core.media.video.video_file import read_packets
from bevt_core.storage.read_errors import raise_storage_trouble
from schemas.errors import StorageError
from schemas.frames import DamagePolicy, MediaKind, PoolSpec, VideoDecoder

FRAME_FOLDER_RATE = 12.0  # frames per second of Something-Something-V2, which is published as frame folders


def decode_frames(
    path: Path,
    choose: Choose,
    keep: Callable[[Frame], Kept],
    damaged: DamagePolicy = "unchecked",
    decoder: VideoDecoder = "pyav",
) -> Decoded[Kept]:
    """Decode the frames `choose(num_frames)` of a video, in increasing order, and pass each HWC uint8 frame to `keep`.

    `choose` is called again if the number of frames turns out to differ. Only a few frames are in memory at a time,
    unless `keep` retains them. Raises MediaError if the video cannot be decoded, or if a chosen frame is damaged and
    `damaged` is "reject"; with "keep", damaged frames are counted in the warnings. `decoder` is tried before PyAV.
    """
    decoded, damaged_frames = _decode(path, choose, keep, damaged, decoder)
    if damaged_frames and damaged == "reject":
        what = f"{damaged_frames} of the {len(decoded.frames)} chosen frames are damaged"
        raise MediaError("decode", "damaged-frames", what)
    return decoded


def _decode(
    path: Path, choose: Choose, keep: Callable[[Frame], Kept], damaged: DamagePolicy, decoder: VideoDecoder
) -> tuple[Decoded[Kept], int]:
    """Decode as `decode_frames` does; also return the number of frames known to be damaged."""
    info = read_packets(path)
    notes = []
    if info.sample_aspect not in (0, 1):
        notes.append(f"sample aspect ratio {info.sample_aspect} not applied")
    doubt = info.doubt
    if doubt is None and info.num_frames:
        indices = np.asarray(choose(info.num_frames), dtype=np.int64)
        unfit = None
        if decoder in PREFERRED:
            preferred = PREFERRED[decoder]
            unfit = preferred.why_not(info) if damaged == "unchecked" else "it cannot see damage"
            if unfit is None and info.codec not in preferred.slower_for:
                try:
                    return preferred.read(info, indices, keep, notes), 0
                except Disagreement as error:
                    unfit = str(error)
        try:
            return read_selectively(
                info, indices, keep, notes if unfit is None else [*notes, f"not {decoder}: {unfit}"]
            )
        except Disagreement as error:
            doubt = str(error)
    return read_by_counting(info, choose, keep, [*notes, f"frames counted by decoding: {doubt}"])


def decode_source(
    path: Path,
    kind: MediaKind,
    choose: Choose,
    keep: Callable[[Frame], Kept],
    damaged: DamagePolicy = "unchecked",
    decoder: VideoDecoder = "pyav",
) -> Decoded[Kept]:
    """Decode a picture, a folder of a video's frames or a video.

    Raises MediaError for any fault of the file, StorageError if the disk or the network fails.
    """
    try:
        if kind == "image":
            return decode_image(path, keep)
        if path.is_dir():
            return decode_frame_folder(path, choose, keep)
        return decode_frames(path, choose, keep, damaged, decoder)
    except (MediaError, StorageError):
        raise
    except MemoryError:
        raise MediaError("decode", "out-of-memory", "not enough memory to decode it") from None
    except Exception as error:
        raise_storage_trouble(error, path)
        raise MediaError("decode", "decoder-error", one_line(error, path)) from error


def pool_indices(num_frames: int, pool: PoolSpec, rng: np.random.Generator) -> np.ndarray:
    """Return the indices (int64, increasing) of the frames to keep: every `stride`-th from a phase.

    More than `max_frames` of them are thinned evenly if `pool.long` is "thin".
    """
    phase = int(rng.integers(min(pool.stride, num_frames))) if pool.phase == "random" else 0
    indices = np.arange(phase, num_frames, pool.stride, dtype=np.int64)
    if len(indices) > pool.max_frames and pool.long == "thin":
        indices = indices[np.linspace(0, len(indices) - 1, pool.max_frames).round().astype(np.int64)]
    return indices


def decode_image(path: Path, keep: Callable[[Frame], Kept]) -> Decoded[Kept]:
    """Decode a picture to one frame, as `read_picture` does. Raises MediaError, StorageError."""
    frame_HWC, notes = read_picture(path)
    sizes = frozenset({frame_HWC.shape[:2]})
    return Decoded([keep(frame_HWC)], [0], [0.0], "pillow", PIL.__version__, notes, sizes)


def decode_frame_folder(path: Path, choose: Choose, keep: Callable[[Frame], Kept]) -> Decoded[Kept]:
    """Decode a folder with one picture per frame, like `decode_frames`; only the chosen frames are read."""
    names, notes = frames_in(path)
    indices = [int(i) for i in choose(len(names))]
    kept: list[Kept] = []
    sizes: set[tuple[int, int]] = set()
    for i in indices:
        frame_HWC = read_frame(path, names[i])
        sizes.add(frame_HWC.shape[:2])
        kept.append(keep(frame_HWC))
    times_s = [i / FRAME_FOLDER_RATE for i in indices]
    notes = [f"times at {FRAME_FOLDER_RATE:g} frames/s", *notes]
    return Decoded(kept, indices, times_s, "pillow", PIL.__version__, notes, frozenset(sizes))
