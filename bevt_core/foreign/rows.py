"""Rows of a dataset as Python values, and as the Arrow tables that its Parquet files hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.foreign.parquet_file import ParquetFile
from bevt_core.storage.objects import AnyPath
from schemas.frames import INDEX_SCHEMA, REJECTED_SCHEMA, SOURCES_SCHEMA, SourceItem
from schemas.views import View


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
    piece: int | None = None  # of a source that is cut into several samples

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


@dataclass(frozen=True)
class PartView:
    """One view of all samples of a part, in index order: the geometry and the tokens, uint16 (F, rows, columns)."""

    views: list[View]
    tokens: list[np.ndarray]


def index_table(samples: Sequence[FrameSample]) -> pa.Table:
    starts = np.cumsum([0] + [len(sample.jpegs) for sample in samples])
    rows = [
        {
            "sample_id": sample.sample_id,
            "source": sample.source,
            "label": sample.label,
            "num_frames": len(sample.jpegs),
            "frame_start": int(start),
            "frame_indices": sample.frame_indices,
            "times_s": sample.times_s,
            "height": sample.height,
            "width": sample.width,
            "decoder": sample.decoder,
            "decoder_version": sample.decoder_version,
            "warnings": sample.warnings,
        }
        for sample, start in zip(samples, starts, strict=False)
    ]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def rejected_table(rejected: Sequence[Rejected]) -> pa.Table:
    return pa.Table.from_pylist([vars(row) for row in rejected], schema=REJECTED_SCHEMA)


def sources_table(items: Sequence[SourceItem]) -> pa.Table:
    return pa.Table.from_pylist([item.model_dump() for item in items], schema=SOURCES_SCHEMA)


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


def views_of(table: pa.Table) -> list[View]:
    names = ["short_side_px", "top_px", "left_px", "crop_px", "flip"]
    rows = table.select(names).to_pylist()
    jitters = table["jitter"].to_pylist()
    return [
        View(**row, jitter=tuple((step["op"], step["factor"]) for step in jitter))
        for row, jitter in zip(rows, jitters, strict=True)
    ]


def parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_table(path: AnyPath, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file. Raises OSError, and UserError for one that is cut or unpacks to too much."""
    with ParquetFile(path) as file:
        return file.read(columns)
