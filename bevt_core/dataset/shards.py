"""The dataset on disk, format version 1: writer and reader side by side.

    <dataset>/frames/{plan.json, sources.parquet, dataset.json}
    <dataset>/frames/part-00000/{frames.zarr, index.parquet, rejected.parquet, commit.json}
    <dataset>/tokens/<name>/{plan.json, part-00000.parquet, part-00000.json, dataset.json}

A part's bytes are a function of what is put in; a commit or a `dataset.json` is written last. Presence is read from
Parquet and commits, never from Zarr, where a missing chunk reads as zeros.
"""

import functools
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.dataset.jpeg_array import open_jpegs, write_jpegs
from bevt_core.dataset.token_rows import check_index, part_view
from bevt_core.foreign.parquet_file import ParquetFile
from bevt_core.foreign.rows import (
    FrameSample,
    PartView,
    Rejected,
    index_table,
    parquet_bytes,
    read_table,
    rejected_table,
    sources_table,
    token_table,
)
from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import (
    committed_folder,
    create_record,
    each,
    read_record,
    sha256_of,
    size_of,
    sizes_in,
    write_atomic,
    write_record,
)
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.part_cache import Place, hold
from bevt_core.views.replay import decode_jpeg
from schemas.errors import UserError
from schemas.frames import (
    INDEX_SCHEMA,
    FileDigest,
    FramePartCommit,
    FrameStoreManifest,
    Plan,
    SourceItem,
)
from schemas.tokens import TokenPartCommit, TokenPlan, TokenSetManifest, token_schema

FRAMES_ZARR = "frames.zarr"
COMMIT = "commit.json"
M = TypeVar("M", FrameStoreManifest, TokenSetManifest)
_TOKENS_COLUMN = "tokens.list.element.list.element"


def part_name(part: int) -> str:
    return f"part-{part:05d}"


# ---- the frame store: writing --------------------------------------------------------------------


def write_plan(frames_dir: AnyPath, plan: Plan, items: Sequence[SourceItem]) -> Plan:
    """Write `plan.json`, unless there is one, and its `sources.parquet`. Returns the plan that is there then.

    `items` are in the order in which they are cut into parts. Of several writers at once one is first; where its plan
    is another one, its sources are left alone.
    """
    sources = frames_dir / "sources.parquet"
    before = read_plan(frames_dir)
    there = before or create_record(frames_dir / "plan.json", plan)
    if there.digest() == plan.digest() and (before is None or size_of(sources) < 0):
        write_atomic(sources, parquet_bytes(sources_table(items)))
    return there


def read_plan(frames_dir: AnyPath) -> Plan | None:
    return read_record(frames_dir / "plan.json", Plan)


def read_sources(frames_dir: AnyPath) -> list[SourceItem]:
    rows = read_table(frames_dir / "sources.parquet").to_pylist()
    return [SourceItem(**row) for row in rows]


def sources_digest(items: Sequence[SourceItem]) -> str:
    """sha256 over the items in their order; what `Plan.sources_digest` holds."""
    lines = "".join(f"{item.source}\0{item.kind}\0{item.label}\n" for item in items)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def write_frame_part(
    frames_dir: AnyPath, part: int, samples: Sequence[FrameSample], rejected: Sequence[Rejected], plan: Plan
) -> FramePartCommit:
    """Write part `part`, its commit last; where another writer committed it first, its copy stays."""
    is_done = functools.partial(_is_committed, frames_dir, part, plan.digest())
    with committed_folder(frames_dir / part_name(part), COMMIT, is_done) as staging:
        jpegs = [jpeg for sample in samples for jpeg in sample.jpegs]
        write_jpegs(staging / FRAMES_ZARR, jpegs)
        pq.write_table(index_table(samples), staging / "index.parquet", compression="zstd")
        pq.write_table(rejected_table(rejected), staging / "rejected.parquet", compression="zstd")
        names = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
        commit = FramePartCommit(
            part=part,
            num_sources=len({sample.source for sample in samples}) + len(rejected),
            num_samples=len(samples),
            num_frames=len(jpegs),
            num_rejected=len(rejected),
            plan_digest=plan.digest(),
            files={name: _digest_file(staging / name) for name in names},
        )
        write_record(staging / COMMIT, commit)
    return commit


def read_frame_commit(frames_dir: AnyPath, part: int, plan_digest: str) -> FramePartCommit | None:
    """The commit of a part that is done for this plan: its files are there with their sizes. Else None."""
    folder = frames_dir / part_name(part)
    commit = read_record(folder / COMMIT, FramePartCommit)
    if commit is None or commit.plan_digest != plan_digest:
        return None
    there = sizes_in(folder)
    whole = all(there.get(name) == digest.num_bytes for name, digest in commit.files.items())
    return commit if whole else None


def local_part(frames_dir: AnyPath, commit: FramePartCommit) -> AbstractContextManager[Path]:
    """A local folder with the files of a committed part: its own, or a copy for the block of what the commit names."""
    sizes = {name: digest.num_bytes for name, digest in commit.files.items()}
    return storage_of(frames_dir / part_name(commit.part)).copied(sizes)


def _is_committed(frames_dir: AnyPath, part: int, plan_digest: str) -> bool:
    return read_frame_commit(frames_dir, part, plan_digest) is not None


def write_frame_manifest(frames_dir: AnyPath, plan: Plan, commits: Sequence[FramePartCommit]) -> FrameStoreManifest:
    """Write `dataset.json` from the commits of all parts, in order."""
    some_rejected = [commit.part for commit in commits if commit.num_rejected]
    rejected: dict[str, int] = {}
    for reasons in each(lambda part: rejected_reasons(frames_dir, part), some_rejected, frames_dir):
        for reason in reasons:
            rejected[reason] = rejected.get(reason, 0) + 1
    manifest = FrameStoreManifest(
        dataset=plan.dataset,
        split=plan.split,
        classes=plan.classes,
        pool=plan.pool,
        seed=plan.seed,
        plan_digest=plan.digest(),
        num_parts=plan.num_parts,
        num_sources=sum(commit.num_sources for commit in commits),
        num_samples=sum(commit.num_samples for commit in commits),
        num_frames=sum(commit.num_frames for commit in commits),
        rejected=dict(sorted(rejected.items())),
        parts_digest=_digest_of([commit.digest() for commit in commits]),
    )
    write_record(frames_dir / "dataset.json", manifest)
    return manifest


def rejected_reasons(frames_dir: AnyPath, part: int) -> list[str]:
    """Why each of a part's rejected sources could not be used."""
    table = read_table(frames_dir / part_name(part) / "rejected.parquet", columns=["reason"])
    return list(table["reason"].to_pylist())


# ---- the frame store: reading --------------------------------------------------------------------


class FrameStore:
    """Read a finished frame store. Arrays open lazily, once per process, so it may be pickled into workers.

    Of a store on an object store the parts are read from local copies (`bevt_core.storage.part_cache`).
    """

    def __init__(self, path: str | AnyPath) -> None:
        self.path = as_path(path)
        self.manifest = _read_manifest(self.path, FrameStoreManifest, "frame store")

    @functools.cached_property
    def digest(self) -> str:
        return self.manifest.digest()

    @functools.cached_property
    def index(self) -> pa.Table:
        """All samples: the columns of INDEX_SCHEMA and `part`, in (part, row) order."""
        tables = each(self.read_index, range(self.manifest.num_parts), self.path)
        numbered = [
            table.append_column("part", pa.array(np.full(len(table), part, dtype=np.int32)))
            for part, table in enumerate(tables)
        ]
        return pa.concat_tables(numbered).combine_chunks()

    def read_index(self, part: int) -> pa.Table:
        """The samples of one part: the columns of INDEX_SCHEMA."""
        path = self.path / part_name(part) / "index.parquet"
        return check_index(read_table(path), path, INDEX_SCHEMA, len(self.manifest.classes))

    def read_jpegs(self, part: int, first: int, count: int) -> list[np.ndarray]:
        """The bytes of `count` frames from position `first` of the part: one contiguous range."""
        with hold(self.place(part)) as folder:
            return open_jpegs(str(folder / FRAMES_ZARR)).read(first, count)

    def read_frames(self, part: int, first: int, count: int) -> list[np.ndarray]:
        """`read_jpegs`, decoded: RGB uint8 (H, W, 3)."""
        return [decode_jpeg(data) for data in self.read_jpegs(part, first, count)]

    def place(self, part: int) -> Place:
        """Where the part's frames are read: in its folder, or from a copy."""
        folder = self.path / part_name(part)
        return storage_of(folder).cached(f"{self.digest}-{folder.name}", functools.partial(_frame_files, folder))


def _frame_files(folder: AnyPath) -> dict[str, FileDigest]:
    """Of a committed part, what frames are read from."""
    commit = read_record(folder / COMMIT, FramePartCommit)
    if commit is None:
        raise UserError(f"{folder}: no {COMMIT}; run bevt verify, then bevt repair")
    return {name: digest for name, digest in commit.files.items() if name.startswith(f"{FRAMES_ZARR}/")}


# ---- the token set: writing ----------------------------------------------------------------------


def write_token_part(
    tokens_dir: AnyPath,
    frames: FramePartCommit,
    sample_ids: Sequence[str],
    rows: Sequence[PartView],
    plan: TokenPlan,
    gpu_model: str | None = None,
) -> TokenPartCommit:
    """Write the tokens of the frame part `frames`, and their commit. `rows[v]` is view `v` of all its samples."""
    part = frames.part
    schema = token_schema(plan.tokenizer.grid)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=["jitter.list.element.op"],
        column_encoding={_TOKENS_COLUMN: "BYTE_STREAM_SPLIT"},  # 320 bytes per 14x14 frame (docs/log.md)
    ) as writer:
        for view, row in enumerate(rows):
            table = token_table(schema, sample_ids, view, row)
            writer.write_table(table, row_group_size=max(1, len(table)))
    data = sink.getvalue().to_pybytes()
    commit = TokenPartCommit(
        part=part,
        num_samples=len(sample_ids),
        num_rows=len(sample_ids) * len(rows),
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        frames_commit=frames.digest(),
        token_plan=plan.digest(),
        gpu_model=gpu_model,
    )
    write_atomic(tokens_dir / f"{part_name(part)}.parquet", data)
    write_record(tokens_dir / f"{part_name(part)}.json", commit)
    return commit


def read_token_commit(tokens_dir: AnyPath, frames: FramePartCommit, plan_digest: str) -> TokenPartCommit | None:
    """The commit of a token part that is done for this plan and frame part, with its file in its size. Else None."""
    name = part_name(frames.part)
    commit = read_record(tokens_dir / f"{name}.json", TokenPartCommit)
    if commit is None or commit.token_plan != plan_digest or commit.frames_commit != frames.digest():
        return None
    return commit if size_of(tokens_dir / f"{name}.parquet") == commit.num_bytes else None


def read_token_plan(tokens_dir: AnyPath) -> TokenPlan | None:
    return read_record(tokens_dir / "plan.json", TokenPlan)


def write_token_plan(tokens_dir: AnyPath, plan: TokenPlan) -> TokenPlan:
    """Write `plan.json`, unless there is one. Returns the plan that is there then."""
    return create_record(tokens_dir / "plan.json", plan)


def write_token_manifest(
    tokens_dir: AnyPath, plan: TokenPlan, frames: FrameStoreManifest, commits: Sequence[TokenPartCommit]
) -> TokenSetManifest:
    """Write the token set's `dataset.json` from the commits of all parts, in order."""
    manifest = TokenSetManifest(
        name=plan.name,
        tokenizer=plan.tokenizer,
        views=plan.views,
        frames_digest=frames.digest(),
        num_parts=len(commits),
        num_samples=frames.num_samples,
        num_frames=frames.num_frames,
        parts_digest=_digest_of([commit.digest() for commit in commits]),
    )
    write_record(tokens_dir / "dataset.json", manifest)
    return manifest


# ---- the token set: reading ----------------------------------------------------------------------


class TokenSet:
    """Read a finished token set and the frame store that it belongs to. May be pickled into workers."""

    def __init__(self, path: str | AnyPath) -> None:
        self.path = as_path(path)
        self.manifest = manifest = _read_manifest(self.path, TokenSetManifest, "token set")
        self.frames = FrameStore(self.path.parent.parent / "frames")
        if self.frames.digest != manifest.frames_digest:
            raise UserError(
                f"{self.path}: made from the frame store {manifest.frames_digest[:12]}, but {self.frames.path} is now "
                f"{self.frames.digest[:12]}; run the same `bevt tokenize` command again: it makes the token parts anew"
            )

    @functools.cached_property
    def digest(self) -> str:
        return self.manifest.digest()

    def read_view(self, part: int, view: int) -> PartView:
        """View `view` of all samples of the part: reads one row group. Raises BadRow for tokens that are none."""
        with hold(self.place(part)) as folder, ParquetFile(folder / f"{part_name(part)}.parquet") as file:
            table = file.read_row_group(view)
        return part_view(table, self.path_of(part), view, self.manifest.tokenizer)

    def path_of(self, part: int) -> AnyPath:
        return self.path / f"{part_name(part)}.parquet"

    def place(self, part: int) -> Place:
        """Where the part's views are read: in the set's folder, or from a copy."""
        files = functools.partial(_token_files, self.path, part)
        return storage_of(self.path).cached(f"{self.digest}-{part_name(part)}", files)


def _token_files(tokens_dir: AnyPath, part: int) -> dict[str, FileDigest]:
    name = part_name(part)
    commit = read_record(tokens_dir / f"{name}.json", TokenPartCommit)
    if commit is None:
        raise UserError(f"{tokens_dir / name}.json: not there; run bevt verify, then bevt repair")
    return {f"{name}.parquet": FileDigest(sha256=commit.sha256, num_bytes=commit.num_bytes)}


# ---- both ----------------------------------------------------------------------------------------


def token_set_folders(dataset_dir: AnyPath, having: str) -> list[AnyPath]:
    """The token sets of a dataset, by name, that have the file `having`: plan.json, or dataset.json if finished."""
    folders: list[AnyPath] = [path.parent for path in dataset_dir.glob(f"tokens/*/{having}")]
    return sorted(folders, key=str)


def _read_manifest(path: AnyPath, kind: type[M], what: str) -> M:
    """Read the `dataset.json` of a frame store or token set. Raises UserError for another place, saying what it is."""
    try:
        manifest = read_record(path / "dataset.json", kind)
    except (UserError, NotADirectoryError):
        if what_is(path).startswith(f"a {what}"):
            raise  # it is damaged, or of another version
        manifest = None
    if manifest is not None:
        return manifest
    if not path.exists():
        others = sorted(other.parent.name for other in path.parent.glob("*/dataset.json"))
        beside = f" (beside it: {', '.join(others)})" if others else ""
        raise UserError(f"{path}: no such {what}{beside}; make one with `bevt tokenize --out ...`")
    if (path / "plan.json").is_file() and not (path / "dataset.json").is_file():
        raise UserError(f"{path}: no dataset.json, so this {what} is not finished; run the same `bevt tokenize` again")
    raise UserError(f"{path}: {what_is(path)}; expected a {what}")


def _digest_file(path: Path) -> FileDigest:
    return FileDigest(sha256=sha256_of(path), num_bytes=path.stat().st_size)


def _digest_of(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()
