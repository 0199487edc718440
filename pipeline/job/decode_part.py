"""One part of the frame store: decode its sources in a child process, and commit it."""

import errno
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bevt_core.dataset.commits import FramePart
from bevt_core.dataset.frame_store import FrameSample, Rejected, write_frame_part
from bevt_core.media.decoding import decode_source, pool_indices
from bevt_core.media.errors import MediaError
from bevt_core.media.frame_folders import check_frames
from bevt_core.media.frame_size import one_size
from bevt_core.media.source_bytes import read_through
from bevt_core.media.video.decoders import imports_of
from bevt_core.rng import rng_for
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.isolation import DECODER_BYTES, ChildCrash, ChildTimeout, IsolatedFunction
from bevt_core.views.replay import encode_jpeg, shrink_short_side
from pipeline.sources.archives.local_copy import local_source, remove_leftovers
from pipeline.sources.archives.packed_file import read_packed
from schemas.errors import StorageError, UserError
from schemas.frames import FramePartCommit, Plan, PoolSpec, SourceItem, VideoDecoder
from schemas.text.credentials import masked

_isolated: IsolatedFunction | None = None  # one per process, kept from part to part


def make_frame_part(
    frames_dir: AnyPath,
    root: AnyPath,
    part: int,
    items: Sequence[SourceItem],
    plan: Plan,
    limit_s: float,
    attempts: int,
    allow_outside: bool = False,
    decoder: VideoDecoder = "pyav",
) -> FramePartCommit:
    """Decode the sources of a part, `decoder` before PyAV, write the part, and return its commit.

    The frames of one source at a time are in memory, so a part may have any number of sources. Raises StorageError, and
    writes nothing, if sources cannot be read because of the disk, the network or a missing root. Raises UserError for a
    source that leads out of the root, unless `allow_outside`.
    """
    rejected: list[Rejected] = []
    first = (part - plan.first_part) * plan.sources_per_part
    packed = read_packed(frames_dir, first, first + len(items), plan.first_part) or [()] * len(items)
    if any(packed):
        remove_leftovers()

    def samples() -> Iterator[FrameSample]:
        for item, files in zip(items, packed, strict=True):
            raw = item.model_copy(update={"source": plan.raw_source(item.source)})
            try:
                with local_source(root, raw.source, files, allow_outside) as local_root:
                    outcome = read_source(local_root, raw, plan.pool, plan.seed, limit_s, attempts, decoder)
            except MediaError as error:  # of a member of an archive
                outcome = rejection(item, error)
            if isinstance(outcome, Rejected):
                if outcome.reason == "missing":
                    check_present(root, item.source)
                rejected.append(replace(outcome, source=item.source))
            else:
                yield from (replace(sample, source=item.source) for sample in outcome)

    return write_frame_part(frames_dir, part, samples(), rejected, plan)


def check_present(root: AnyPath, source: str) -> None:
    """Raise StorageError if nothing can be read below the root, so that no source in it counts as missing."""
    trouble = root_trouble(root)
    if trouble is not None:
        raise StorageError(
            errno.ENOENT,
            f"{root}: {trouble}, while reading {source}; check the mount or the network, then run the same command "
            "again. Finished parts are kept",
        )


def read_source(
    root: Path,
    item: SourceItem,
    pool: PoolSpec,
    seed: int,
    limit_s: float,
    attempts: int,
    decoder: VideoDecoder = "pyav",
) -> list[FrameSample] | Rejected:
    """Run `load_source` in the child process, with up to `attempts` attempts of `limit_s` seconds.

    Time-outs and crashes are retried; an error in the file itself is final. Attempts are recorded only for sources that
    never succeeded, so that a child killed from outside leaves no trace in the stored bytes. Raises StorageError if the
    disk or the network failed, not the file.
    """
    decode = _isolated_loader(decoder)
    for _ in range(attempts):
        try:
            decoded: list[FrameSample] | Rejected = decode(root, item, pool, seed, decoder, limit_s=limit_s)
            return decoded
        except MediaError as error:
            rejected = rejection(item, error)
            break
        except ChildTimeout as error:
            rejected = Rejected(item.source, item.label, "time-out", "time-out", str(error), attempts)
        except ChildCrash as error:
            rejected = Rejected(item.source, item.label, "crash", "crash", f"the decoder was {error}", attempts)
    read_through(root / item.source)
    return rejected


def rejection(item: SourceItem, error: MediaError) -> Rejected:
    """The record of a source that cannot be used because of its content."""
    return Rejected(item.source, item.label, error.stage, error.reason, masked(error.message), 1)


def root_trouble(root: AnyPath) -> str | None:
    """Why nothing can be read below `root`, or None: it does not exist, or is empty like an unused mount point."""
    return storage_of(root).why_empty()


def load_source(
    root: Path, item: SourceItem, pool: PoolSpec, seed: int, decoder: VideoDecoder = "pyav"
) -> list[FrameSample]:
    """Decode the pool of one source, scale its frames and encode them as JPEG.

    Returns one sample, or several for a long source that is cut. Raises MediaError, StorageError.
    """

    def to_jpeg(frame_HWC: np.ndarray) -> bytes:
        return encode_jpeg(shrink_short_side(frame_HWC, pool.short_side_px), pool.jpeg_quality)

    def choose_frames(num_frames: int) -> np.ndarray:
        return pool_indices(num_frames, pool, rng_for("pool", seed, item.source))

    path = root / item.source
    if item.kind == "video" and path.is_dir():
        check_frames(path)
    decoded = decode_source(path, item.kind, choose_frames, to_jpeg, pool.damaged, decoder)
    height, width = one_size(decoded.sizes, pool.short_side_px)
    count = len(decoded.frames)
    pieces = -(-count // pool.max_frames)
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    return [
        FrameSample(
            source=item.source,
            label=item.label,
            jpegs=decoded.frames[start:end],
            frame_indices=decoded.frame_indices[start:end],
            times_s=decoded.times_s[start:end],
            height=height,
            width=width,
            decoder=decoded.decoder,
            decoder_version=decoded.decoder_version,
            warnings=decoded.warnings,
            piece=piece if pieces > 1 else None,
        )
        for piece, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


def _isolated_loader(decoder: VideoDecoder) -> IsolatedFunction:
    """This process's child; a new one if the decoder needs other modules."""
    global _isolated
    if _isolated is None or _isolated.preloaded != imports_of(decoder):
        if _isolated is not None:
            _isolated.close()
        _isolated = IsolatedFunction("pipeline.job.decode_part:load_source", DECODER_BYTES, imports_of(decoder))
    return _isolated


def check_root(root: AnyPath, plan: Plan, frames_done: Mapping[int, FramePart]) -> None:
    """Raise UserError if parts still have to be decoded, but nothing can be read below the root."""
    lacking = plan.num_parts - len(frames_done)
    trouble = root_trouble(root) if lacking else None
    if trouble is not None:
        raise UserError(
            f"`root` {root}: {trouble}, and {lacking} of {plan.num_parts} parts still have to be decoded from it; "
            "mount it, or correct the path"
        )
