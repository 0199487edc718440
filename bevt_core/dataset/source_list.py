"""The plan of a frame store and its list of sources, which are written before the first part."""

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from bevt_core.storage.files import create_record, read_record, size_of, write_atomic
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.parquet_file import parquet_bytes, read_table
from schemas.frames import SOURCES_SCHEMA, Plan, SourceItem


def write_plan(frames_dir: AnyPath, plan: Plan, items: Sequence[SourceItem]) -> Plan:
    """Write `plan.json` unless it exists, and its `sources.parquet`. Returns the stored plan.

    `items` are in the order of their parts. If several processes write, the plan of the first is stored; if it differs
    from `plan`, its sources are left unchanged.
    """
    sources = frames_dir / "sources.parquet"
    before = read_plan(frames_dir)
    stored = before or create_record(frames_dir / "plan.json", plan)
    if stored.digest() == plan.digest() and (before is None or size_of(sources) < 0):
        write_atomic(sources, parquet_bytes(sources_table(items)))
    return stored


def read_plan(frames_dir: AnyPath) -> Plan | None:
    return read_record(frames_dir / "plan.json", Plan)


def read_sources(frames_dir: AnyPath) -> list[SourceItem]:
    rows = read_table(frames_dir / "sources.parquet").to_pylist()
    return [SourceItem(**row) for row in rows]


def sources_digest(items: Sequence[SourceItem]) -> str:
    """Return the SHA-256 over the items in order: the value of `Plan.sources_digest`."""
    lines = "".join(f"{item.source}\0{item.kind}\0{item.label}\n" for item in items)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def sources_table(items: Sequence[SourceItem]) -> pa.Table:
    return pa.Table.from_pylist([item.model_dump() for item in items], schema=SOURCES_SCHEMA)
