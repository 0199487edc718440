"""The frame store on disk, format version 1: its writer, then its reader.

    <dataset>/frames/{plan.json, sources.parquet, samples.arrow, samples.json, dataset.json}
    <dataset>/frames/part-00000/{frames.zarr, index.parquet, rejected.parquet, commit.json}

The bytes of a part depend only on its input. Whether data exists is decided by Parquet files and commits, never by
Zarr, which reads a missing chunk as zeros.
"""

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.dataset.commits import COMMIT, FRAMES_ZARR, FramePart, digest_file, digest_of, part_name, read_manifest
from bevt_core.dataset.extensions import generation_of, mix_of
from bevt_core.dataset.frame_rows import BadRow, check_ids
from bevt_core.dataset.jpeg_array import open_jpegs, write_jpegs
from bevt_core.dataset.sample_table import (
    TABLE,
    has_sample_table,
    index_path,
    read_index,
    read_sample_table,
    samples_in_parts,
    write_sample_table,
)
from bevt_core.storage.files import committed_folder, map_in_threads, read_record, sizes_in, write_record
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.part_cache import PartLocation, local_files
from bevt_core.untrusted.parquet_file import read_table
from bevt_core.views.replay import decode_jpeg
from schemas.errors import DAMAGED, UserError
from schemas.frames import (
    INDEX_SCHEMA,
    LARGE_INDEX_SCHEMA,
    REJECTED_SCHEMA,
    FileDigest,
    FramePartCommit,
    FrameStoreManifest,
    Generation,
    Plan,
)


@dataclass(frozen=True)
class FrameSample:
    """The stored frames of one source, and where they come from."""

    source: str
    label: int | None
    jpegs: list[bytes]
    frame_indices: list[int]
    times_s: list[float]
    height: int
    width: int
    decoder: str
    decoder_version: str
    warnings: list[str]
    piece: int | None = None  # its number, if the source is cut into several samples

    @property
    def sample_id(self) -> str:
        return self.source if self.piece is None else f"{self.source}#{self.piece:04d}"


@dataclass(frozen=True)
class Rejected:
    """A source that could not be used, and why."""

    source: str
    label: int | None
    stage: str
    reason: str
    message: str
    attempts: int


def write_frame_part(
    frames_dir: AnyPath, part: int, samples: Iterable[FrameSample], rejected: Sequence[Rejected], plan: Plan
) -> FramePartCommit:
    """Write part `part`, its commit last. If another process has committed the part meanwhile, its copy is kept.

    `samples` may be made on the way, so that a part of any size needs little memory; `rejected` is read after the last.
    """
    is_done = functools.partial(_is_committed, frames_dir, part, plan.digest())
    with committed_folder(frames_dir / part_name(part), COMMIT, is_done) as staging:
        rows: list[dict[str, Any]] = []
        num_frames = write_jpegs(staging / FRAMES_ZARR, _jpegs_of(samples, rows))
        pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), staging / "index.parquet", compression="zstd")
        pq.write_table(rejected_table(rejected), staging / "rejected.parquet", compression="zstd")
        names = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
        commit = FramePartCommit(
            part=part,
            num_sources=len({row["source"] for row in rows}) + len(rejected),
            num_samples=len(rows),
            num_frames=num_frames,
            num_rejected=len(rejected),
            plan_digest=plan.digest(),
            files={name: digest_file(staging / name) for name in names},
        )
        write_record(staging / COMMIT, commit)
    return commit


def _jpegs_of(samples: Iterable[FrameSample], rows: list[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the frames of each sample, after its row of INDEX_SCHEMA was added to `rows`."""
    start = 0
    for sample in samples:
        facts = {name: value for name, value in vars(sample).items() if name not in ("jpegs", "piece")}
        count = len(sample.jpegs)
        rows.append({"sample_id": sample.sample_id, "num_frames": count, "frame_start": start, **facts})
        yield from sample.jpegs
        start += count


def rejected_table(rejected: Sequence[Rejected]) -> pa.Table:
    return pa.Table.from_pylist([vars(row) for row in rejected], schema=REJECTED_SCHEMA)


def read_frame_commit(frames_dir: AnyPath, part: int, plan_digest: str) -> FramePartCommit | None:
    """Return the commit of a part if it was made for this plan and all files exist with their sizes, else None."""
    folder = frames_dir / part_name(part)
    commit = read_record(folder / COMMIT, FramePartCommit)
    if commit is None or commit.plan_digest != plan_digest:
        return None
    sizes = sizes_in(folder)
    complete = all(sizes.get(name) == digest.num_bytes for name, digest in commit.files.items())
    return commit if complete else None


def local_part(frames_dir: AnyPath, commit: FramePartCommit) -> AbstractContextManager[Path]:
    """A local folder with the files of a committed part: the part's own, or a copy for the length of the block."""
    sizes = {name: digest.num_bytes for name, digest in commit.files.items()}
    return storage_of(frames_dir / part_name(commit.part)).copied(sizes)


def _is_committed(frames_dir: AnyPath, part: int, plan_digest: str) -> bool:
    return read_frame_commit(frames_dir, part, plan_digest) is not None


def write_frame_manifest(
    frames_dir: AnyPath, plan: Plan, commits: Sequence[FramePartCommit | FramePart], extensions: Sequence[Plan] = ()
) -> FrameStoreManifest:
    """Write `dataset.json` from the commits of all parts, in order, after the table of all samples.

    `extensions` are the plans of the store's extensions.
    """
    manifest = frame_manifest(frames_dir, plan, commits, extensions)
    if not has_sample_table(frames_dir, manifest.parts_digest):
        write_sample_table(frames_dir, samples_in_parts(frames_dir, manifest), manifest.parts_digest)
    write_record(frames_dir / "dataset.json", manifest)
    return manifest


def frame_manifest(
    frames_dir: AnyPath, plan: Plan, commits: Sequence[FramePartCommit | FramePart], extensions: Sequence[Plan] = ()
) -> FrameStoreManifest:
    """The manifest of the parts with these commits; arguments as in `write_frame_manifest`."""
    generations: list[Generation] = []
    plans = (plan, *extensions)
    for number, newest in enumerate(plans, 1):
        some = commits[: newest.num_parts]
        parts_digest = digest_of([commit.digest() for commit in some])
        manifest = FrameStoreManifest(
            dataset=plan.dataset,
            split=plan.split,
            classes=newest.classes,
            pool=plan.pool,
            seed=plan.seed,
            plan_digest=newest.digest(),
            num_parts=newest.num_parts,
            num_sources=sum(commit.num_sources for commit in some),
            num_samples=sum(commit.num_samples for commit in some),
            num_frames=sum(commit.num_frames for commit in some),
            rejected=_rejected(frames_dir, some, parts_digest),
            parts_digest=parts_digest,
            generations=tuple(generations),
            mix=mix_of(plans[:number]),
        )
        generations.append(generation_of(manifest))
    return manifest


def _rejected(frames_dir: AnyPath, commits: Sequence[FramePartCommit | FramePart], parts_digest: str) -> dict[str, int]:
    """The number of rejected sources by reason: those in an earlier manifest of the same parts, or from every part."""
    with contextlib.suppress(UserError):  # a damaged manifest is written again
        before = read_record(frames_dir / "dataset.json", FrameStoreManifest)
        total = sum(commit.num_rejected for commit in commits)
        if before is not None and before.parts_digest == parts_digest and sum(before.rejected.values()) == total:
            return before.rejected
    some = [commit.part for commit in commits if commit.num_rejected]
    found = map_in_threads(lambda part: rejected_reasons(frames_dir, part), some, frames_dir)
    return dict(sorted(Counter(itertools.chain.from_iterable(found)).items()))


def rejected_reasons(frames_dir: AnyPath, part: int) -> list[str]:
    """Return the reason for each rejected source of a part."""
    table = read_table(frames_dir / part_name(part) / "rejected.parquet", columns=["reason"])
    return list(table["reason"].to_pylist())


class FrameStore:
    """Read a finished frame store. Arrays open lazily, once per process, so it can be pickled into workers.

    Parts on an object store are read from local copies (`bevt_core.storage.part_cache`).
    """

    def __init__(self, path: str | AnyPath) -> None:
        self.path = as_path(path)
        self.manifest = read_manifest(self.path, FrameStoreManifest, "frame store")

    @functools.cached_property
    def digest(self) -> str:
        return self.manifest.digest()

    @functools.cached_property
    def samples(self) -> pa.RecordBatch:
        """All samples: the columns of SAMPLES_SCHEMA, in (part, row) order. Raises UserError for damaged files.

        Memory-mapped, and shared by all processes of a machine. Stores of older versions have no such file; there all
        parts are read.
        """
        samples = read_sample_table(self.path, self.manifest)
        return samples_in_parts(self.path, self.manifest) if samples is None else samples

    @functools.cached_property
    def index(self) -> pa.Table:
        """All columns of all samples: LARGE_INDEX_SCHEMA and `part`, in (part, row) order. Raises BadRow.

        This reads every part and keeps the frame indices and times of all frames; prefer `samples` and `row`.
        """
        tables = map_in_threads(self.read_index, range(self.manifest.num_parts), self.path)
        numbered = [
            table.cast(LARGE_INDEX_SCHEMA).append_column("part", pa.array(np.full(len(table), part, dtype=np.int32)))
            for part, table in enumerate(tables)
        ]
        index = pa.concat_tables(numbered).combine_chunks()
        check_ids(index, self.index_path)
        return index

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest}  # samples are opened again

    def row(self, number: int) -> dict[str, Any]:
        """All columns of the sample in row `number` of `samples`: those of INDEX_SCHEMA and `part`. Raises BadRow."""
        part_N = self.samples["part"].to_numpy()
        part = int(part_N[number])
        index, at = self.read_index(part), number - int(np.searchsorted(part_N, part))
        sample_id = self.samples["sample_id"][number].as_py()
        if at >= len(index) or index["sample_id"][at].as_py() != sample_id:
            raise BadRow(f"{self.index_path(part)}: row {at} is not {sample_id!r}, as in {TABLE}; {DAMAGED}")
        return {**index.slice(at, 1).to_pylist()[0], "part": part}

    def read_index(self, part: int) -> pa.Table:
        """The samples of one part: the columns of INDEX_SCHEMA. Raises BadRow."""
        return read_index(self.path, part, len(self.manifest.classes))

    def index_path(self, part: int) -> AnyPath:
        return index_path(self.path, part)

    def read_jpegs(self, part: int, first: int, count: int) -> list[np.ndarray]:
        """Return the JPEG bytes of `count` frames from position `first` of the part, read as one contiguous range."""
        with local_files(self.location(part)) as folder:
            return open_jpegs(str(folder / FRAMES_ZARR)).read(first, count)

    def read_frames(self, part: int, first: int, count: int) -> list[np.ndarray]:
        """Read the same frames as `read_jpegs`, decoded to RGB uint8 (H, W, 3)."""
        return [decode_jpeg(data) for data in self.read_jpegs(part, first, count)]

    def location(self, part: int) -> PartLocation:
        """Return where `local_files` finds the part's frames: the part's folder, or an entry of the part cache."""
        folder = self.path / part_name(part)
        return storage_of(folder).cached(f"{self.digest}-{folder.name}", functools.partial(_frame_files, folder))


def _frame_files(folder: AnyPath) -> dict[str, FileDigest]:
    """Return the files of a committed part that contain its frames."""
    commit = read_record(folder / COMMIT, FramePartCommit)
    if commit is None:
        raise UserError(f"{folder}: no {COMMIT}; {DAMAGED}")
    return {name: digest for name, digest in commit.files.items() if name.startswith(f"{FRAMES_ZARR}/")}
