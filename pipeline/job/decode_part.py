"""One part of the frame store: decode its sources, in a child process, and commit it."""

import errno
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bevt_core.dataset.frame_rows import FrameSample, Rejected
from bevt_core.dataset.frame_store import write_frame_part
from bevt_core.foreign.isolation import DECODER_BYTES, ChildCrash, ChildTimeout, IsolatedFunction
from bevt_core.media.decoding import decode_source, pool_indices
from bevt_core.media.errors import MediaError
from bevt_core.media.frame_folders import check_frames
from bevt_core.media.frame_size import one_size
from bevt_core.media.source_bytes import read_through
from bevt_core.rng import rng_for
from bevt_core.storage.contained import readable_source
from bevt_core.storage.files import fetched
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.views.replay import encode_jpeg, shrink_short_side
from schemas.errors import StorageError
from schemas.frames import FramePartCommit, Plan, PoolSpec, SourceItem
from schemas.text.credentials import masked

_isolated: IsolatedFunction | None = None  # of this process; it outlives a part


def make_frame_part(
    frames_dir: AnyPath,
    root: AnyPath,
    part: int,
    items: Sequence[SourceItem],
    plan: Plan,
    limit_s: float,
    attempts: int,
    allow_outside: bool = False,
) -> FramePartCommit:
    """Decode the part's sources and write it.

    Raises StorageError, and writes nothing, where sources cannot be read for reasons that are not theirs: the disk, the
    network, a root that is gone. Raises UserError for a source that leads out of the root, unless `allow_outside`.
    """
    samples: list[FrameSample] = []
    rejected: list[Rejected] = []
    for item in items:
        readable_source(root, item.source, allow_outside)
        with fetched(root, item.source) as local_root:
            outcome = read_source(local_root, item, plan.pool, plan.seed, limit_s, attempts)
        if isinstance(outcome, Rejected):
            trouble = root_trouble(root) if outcome.reason == "missing" else None
            if trouble is not None:
                raise StorageError(
                    errno.ENOENT,
                    f"{root}: {trouble}, with {item.source} to be read from it; a lost network, or unmounted? "
                    "Mend it and run the same command again: what is finished is kept",
                )
            rejected.append(outcome)
        else:
            samples.extend(outcome)
    return write_frame_part(frames_dir, part, samples, rejected, plan)


def read_source(
    root: Path, item: SourceItem, pool: PoolSpec, seed: int, limit_s: float, attempts: int
) -> list[FrameSample] | Rejected:
    """`load_source` in the child process. A time-out or a crash is tried again; an error of the file itself is final.

    Attempts are recorded only for sources that never succeeded, so that a child killed from outside leaves no trace in
    the bytes. Raises StorageError where the file is not at fault.
    """
    decode = _isolated_loader()
    for _ in range(attempts):
        try:
            return decode(root, item, pool, seed, limit_s=limit_s)
        except MediaError as error:
            rejected = Rejected(item.source, item.label, error.stage, error.reason, masked(error.message), 1)
            break
        except ChildTimeout as error:
            rejected = Rejected(item.source, item.label, "time-out", "time-out", str(error), attempts)
        except ChildCrash as error:
            rejected = Rejected(item.source, item.label, "crash", "crash", f"the decoder was {error}", attempts)
    read_through(root / item.source)
    return rejected


def root_trouble(root: AnyPath) -> str | None:
    """Why nothing can be read under `root`: it is not there, or empty, as a mount point is without its mount."""
    return storage_of(root).absence()


def load_source(root: Path, item: SourceItem, pool: PoolSpec, seed: int) -> list[FrameSample]:
    """Decode the pool of one source, scale it, encode it as JPEG: one sample, or several of a long one that is cut.

    Raises MediaError, StorageError.
    """

    def keep(frame_HWC: np.ndarray) -> bytes:
        return encode_jpeg(shrink_short_side(frame_HWC, pool.short_side_px), pool.jpeg_quality)

    def choose(num_frames: int) -> np.ndarray:
        return pool_indices(num_frames, pool, rng_for("pool", seed, item.source))

    path = root / item.source
    if item.kind == "video" and path.is_dir():
        check_frames(path)
    decoded = decode_source(path, item.kind, choose, keep, pool.damaged)
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


def _isolated_loader() -> IsolatedFunction:
    global _isolated
    if _isolated is None:
        _isolated = IsolatedFunction("pipeline.job.decode_part:load_source", DECODER_BYTES)
    return _isolated
