"""Token sets on disk, format version 1: their writer, then their reader.

<dataset>/tokens/<name>/{plan.json, part-00000.parquet, part-00000.json, dataset.json}

Each row group has one view of a part's samples. Tokens are later used as indices, and views as boxes in pictures.
Unchecked, a wrong value would cause an IndexError or a GPU fault that does not name the sample.
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from bevt_core.dataset.commits import FramePart, TokenPart, digest_of, part_name, read_manifest
from bevt_core.dataset.extensions import with_generations
from bevt_core.dataset.frame_rows import BadRow
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.storage.files import (
    create_record,
    read_record,
    size_of,
    write_atomic,
    write_record,
)
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.part_cache import PartLocation, local_files
from bevt_core.untrusted.parquet_file import ParquetFile
from bevt_core.views.replay import scaled_size
from schemas.errors import DAMAGED, UserError
from schemas.frames import (
    FileDigest,
    FramePartCommit,
    FrameStoreManifest,
)
from schemas.text.validation import describe
from schemas.tokens import TokenizerIdentity, TokenPartCommit, TokenPlan, TokenSetManifest, token_schema
from schemas.views import View

_TOKENS_COLUMN = "tokens.list.element.list.element"


@dataclass(frozen=True)
class PartView:
    """One view of all samples of a part, in index order: the geometry and the tokens, uint16 (F, rows, columns)."""

    views: list[View]
    tokens: list[np.ndarray]


def write_token_part(
    tokens_dir: AnyPath,
    frames: FramePartCommit,
    sample_ids: Sequence[str],
    views: Sequence[PartView],
    plan: TokenPlan,
    gpu_model: str | None = None,
) -> TokenPartCommit:
    """Write the tokens of the frame part `frames`, then their commit. `views[v]` is view `v` of all its samples."""
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
        for number, view in enumerate(views):
            table = token_table(schema, sample_ids, number, view)
            writer.write_table(table, row_group_size=max(1, len(table)))
    data = memoryview(sink.getvalue()).cast("B")
    commit = TokenPartCommit(
        part=part,
        num_samples=len(sample_ids),
        num_rows=len(sample_ids) * len(views),
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        frames_commit=frames.digest(),
        token_plan=plan.digest(),
        gpu_model=gpu_model,
    )
    write_atomic(tokens_dir / f"{part_name(part)}.parquet", data)
    write_record(tokens_dir / f"{part_name(part)}.json", commit)
    return commit


def token_table(schema: pa.Schema, sample_ids: Sequence[str], view: int, row: PartView) -> pa.Table:
    grid = schema.field("tokens").type.value_type.list_size
    lengths = [len(tokens) for tokens in row.tokens]
    flat = np.concatenate([tokens.reshape(-1) for tokens in row.tokens]) if row.tokens else np.zeros(0, np.uint16)
    frames = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.uint16()), grid)
    columns = {
        "sample_id": pa.array(sample_ids, pa.string()),
        "view": pa.array(np.full(len(sample_ids), view, np.int32)),
        **{
            name: pa.array([getattr(v, name) for v in row.views], schema.field(name).type)
            for name in ("short_side_px", "top_px", "left_px", "crop_px", "flip")
        },
        "jitter": pa.array(
            [[{"op": op, "factor": factor} for op, factor in v.jitter] for v in row.views],
            schema.field("jitter").type,
        ),
        "tokens": pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), frames),
    }
    return pa.table(columns, schema=schema)


def read_token_commit(
    tokens_dir: AnyPath, frames: FramePartCommit | FramePart, plan_digest: str
) -> TokenPartCommit | None:
    """Return the commit of a token part if it matches this plan and frame part and the file's size, else None."""
    name = part_name(frames.part)
    commit = read_record(tokens_dir / f"{name}.json", TokenPartCommit)
    if commit is None or commit.token_plan != plan_digest or commit.frames_commit != frames.digest():
        return None
    return commit if size_of(tokens_dir / f"{name}.parquet") == commit.num_bytes else None


def read_token_plan(tokens_dir: AnyPath) -> TokenPlan | None:
    return read_record(tokens_dir / "plan.json", TokenPlan)


def write_token_plan(tokens_dir: AnyPath, plan: TokenPlan) -> TokenPlan:
    """Write `plan.json` unless it exists. Returns the stored plan."""
    return create_record(tokens_dir / "plan.json", plan)


def write_token_manifest(
    tokens_dir: AnyPath,
    plan: TokenPlan,
    frames: FrameStoreManifest,
    commits: Sequence[TokenPartCommit | TokenPart],
) -> TokenSetManifest:
    """Write the token set's `dataset.json` from the commits of all parts, in order."""
    manifest = token_manifest(plan, frames, commits)
    write_record(tokens_dir / "dataset.json", manifest)
    return manifest


def token_manifest(
    plan: TokenPlan, frames: FrameStoreManifest, commits: Sequence[TokenPartCommit | TokenPart]
) -> TokenSetManifest:
    """The manifest of a token set whose parts have these commits."""
    parts = [commit.digest() for commit in commits]
    manifest = TokenSetManifest(
        name=plan.name,
        tokenizer=plan.tokenizer,
        views=plan.views,
        frames_digest=frames.digest(),
        num_parts=len(commits),
        num_samples=frames.num_samples,
        num_frames=frames.num_frames,
        parts_digest=digest_of(parts),
    )
    return with_generations(manifest, frames, parts)


def views_of(table: pa.Table) -> list[View]:
    names = ["short_side_px", "top_px", "left_px", "crop_px", "flip"]
    rows = table.select(names).to_pylist()
    jitters = table["jitter"].to_pylist()
    return [
        View(**row, jitter=tuple((step["op"], step["factor"]) for step in jitter))
        for row, jitter in zip(rows, jitters, strict=True)
    ]


def part_view(table: pa.Table, path: AnyPath, view: int, tokenizer: TokenizerIdentity) -> PartView:
    """Convert the row group of `view`, read from `path`. Raises BadRow."""
    if not table.schema.equals(token_schema(tokenizer.grid)):
        raise BadRow(
            f"{path}: the columns are not those of a token set with {tokenizer.grid} tokens per frame; {DAMAGED}"
        )
    rows, columns = tokenizer.grid
    column = table["tokens"].combine_chunks()
    frames = column.flatten()
    flat = frames.flatten()
    if table["tokens"].null_count or len(flat) != len(frames) * rows * columns or flat.null_count:
        raise BadRow(f"{path}: view {view} has rows without tokens; {DAMAGED}")
    flat_Fhw = flat.to_numpy(zero_copy_only=False).reshape(-1, rows, columns)
    bounds = column.offsets.to_numpy() - column.offsets[0].as_py()
    if flat_Fhw.size and flat_Fhw.max() >= tokenizer.vocab_size:
        frame = int(flat_Fhw.argmax()) // (rows * columns)
        sample = table["sample_id"][int(np.searchsorted(bounds, frame, side="right")) - 1].as_py()
        raise BadRow(
            f"{path}: sample {sample!r} has the token {flat_Fhw.max()} in view {view}, but its tokenizer "
            f"{tokenizer.name!r} has tokens 0 to {tokenizer.vocab_size - 1}; {DAMAGED}"
        )
    try:
        views = views_of(table)
    except ValidationError as error:
        raise BadRow(f"{path}: a row of view {view}: {describe(error, View)}; {DAMAGED}") from None
    return PartView(views=views, tokens=[flat_Fhw[a:b] for a, b in itertools.pairwise(bounds)])


def check_rows(
    stored: PartView,
    path: AnyPath,
    view: int,
    crop_px: int,
    sample_ids: Sequence[str],
    sizes: Sequence[tuple[int, int, int]],
) -> None:
    """Raise BadRow unless the rows match the frames. `sizes` are (frames, height, width) of the part's samples."""
    if len(stored.views) != len(sizes):
        raise BadRow(
            f"{path}: {len(stored.views)} rows in view {view}, but the part has {len(sizes)} samples; {DAMAGED}"
        )
    for sample, row, tokens, (frames, height, width) in zip(
        sample_ids, stored.views, stored.tokens, sizes, strict=True
    ):
        scaled_h, scaled_w = scaled_size(height, width, row.short_side_px)
        if len(tokens) != frames:
            raise BadRow(
                f"{path}: sample {sample!r} has tokens for {len(tokens)} frames, but {frames} frames; {DAMAGED}"
            )
        if row.crop_px != crop_px:
            raise BadRow(
                f"{path}: sample {sample!r} has a crop of {row.crop_px} px in view {view}, not {crop_px}; {DAMAGED}"
            )
        if row.top_px + crop_px > scaled_h or row.left_px + crop_px > scaled_w:
            raise BadRow(
                f"{path}: sample {sample!r} has a crop of {crop_px} px at ({row.top_px}, {row.left_px}) in view "
                f"{view}, outside its frame of {scaled_h} x {scaled_w} px; {DAMAGED}"
            )


class TokenSet:
    """Read a finished token set and the frame store that it belongs to. Can be pickled into workers."""

    def __init__(self, path: str | AnyPath) -> None:
        self.path = as_path(path)
        self.manifest = manifest = read_manifest(self.path, TokenSetManifest, "token set")
        self.frames = FrameStore(self.path.parent.parent / "frames")
        if manifest.frames_digest in {generation.manifest_digest for generation in self.frames.manifest.generations}:
            raise UserError(
                f"{self.path}: has tokens of {manifest.num_parts} parts, but {self.frames.path} was extended to "
                f"{self.frames.manifest.num_parts}; run the same `bevt extend` command again to tokenize the new parts"
            )
        if self.frames.digest != manifest.frames_digest:
            raise UserError(
                f"{self.path}: made from the frame store {manifest.frames_digest[:12]}, but {self.frames.path} is now "
                f"{self.frames.digest[:12]}; run the same `bevt tokenize` command again to rebuild the token parts"
            )

    @functools.cached_property
    def digest(self) -> str:
        return self.manifest.digest()

    def read_view(self, part: int, view: int) -> PartView:
        """Read view `view` of all samples of the part: one row group. Raises BadRow."""
        with local_files(self.location(part)) as folder, ParquetFile(folder / f"{part_name(part)}.parquet") as file:
            table = file.read_row_group(view)
        return part_view(table, self.path_of(part), view, self.manifest.tokenizer)

    def read_checked_view(
        self, part: int, view: int, sample_ids: Sequence[str], sizes: Sequence[tuple[int, int, int]]
    ) -> PartView:
        """Read a view; raise BadRow unless it matches the samples, whose `sizes` are (frames, height, width)."""
        stored = self.read_view(part, view)
        check_rows(stored, self.path_of(part), view, self.manifest.views.crop_px, sample_ids, sizes)
        return stored

    def path_of(self, part: int) -> AnyPath:
        return self.path / f"{part_name(part)}.parquet"

    def location(self, part: int) -> PartLocation:
        """Return where `local_files` finds the part's views: the set's folder, or an entry of the part cache."""
        files = functools.partial(_token_files, self.path, part)
        return storage_of(self.path).cached(f"{self.digest}-{part_name(part)}", files)


def _token_files(tokens_dir: AnyPath, part: int) -> dict[str, FileDigest]:
    name = part_name(part)
    commit = read_record(tokens_dir / f"{name}.json", TokenPartCommit)
    if commit is None:
        raise UserError(f"{tokens_dir / name}.json: no such file; {DAMAGED}")
    return {f"{name}.parquet": FileDigest(sha256=commit.sha256, num_bytes=commit.num_bytes)}


def token_set_folders(dataset_dir: AnyPath, having: str) -> list[AnyPath]:
    """List a dataset's token sets that contain the file `having`: plan.json for all, dataset.json for finished ones."""
    folders: list[AnyPath] = [path.parent for path in dataset_dir.glob(f"tokens/*/{having}")]
    return sorted(folders, key=str)
