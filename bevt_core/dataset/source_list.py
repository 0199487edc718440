"""The plan of a frame store and its list of sources, which are written before the first part."""

import hashlib
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bevt_core.storage.files import create_record, read_record, size_of, write_atomic
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.parquet_file import parquet_bytes, read_table
from schemas.errors import DAMAGED, UserError
from schemas.frames import SOURCES_SCHEMA, MediaKind, Plan, SourceItem

BLOCK_ROWS = 1 << 16  # handled at once, so that copies stay small
ROW_GROUP = 1 << 20  # rows in a row group of Parquet, pyarrow's default
_COLUMNS = pa.schema(
    [
        pa.field("source", pa.large_string(), nullable=False),
        pa.field("kind", pa.large_string(), nullable=False),
        pa.field("label", pa.int32()),
    ]
)
_TYPES = dict(zip(_COLUMNS.names, _COLUMNS.types, strict=True))


def write_plan(frames_dir: AnyPath, plan: Plan, items: Sequence[SourceItem], extension: int = 0) -> Plan:
    """Write `plan.json` unless it exists, and its `sources.parquet`. Returns the stored plan.

    `items` are in the order of their parts. If several processes write, the plan of the first is stored; if it differs
    from `plan`, its sources are left unchanged. `extension` counts the extensions of a store from 1; 0 is the store.
    """
    sources = sources_path(frames_dir, extension)
    before = read_plan(frames_dir, extension)
    stored = before or create_record(plan_path(frames_dir, extension), plan)
    if stored.digest() == plan.digest() and (before is None or size_of(sources) < 0):
        write_atomic(sources, parquet_bytes(sources_table(items)))
    return stored


def read_plan(frames_dir: AnyPath, extension: int = 0) -> Plan | None:
    return read_record(plan_path(frames_dir, extension), Plan)


def plan_path(frames_dir: AnyPath, extension: int = 0) -> AnyPath:
    return frames_dir / (f"plan-{extension:04d}.json" if extension else "plan.json")


def sources_path(frames_dir: AnyPath, extension: int = 0) -> AnyPath:
    return frames_dir / (f"sources-{extension:04d}.parquet" if extension else "sources.parquet")


class SourceTable(Sequence[SourceItem]):
    """Sources as Arrow columns, which take a tenth of the memory of items; an item is made when it is asked for."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        """`rows` has the columns `source`, `kind` and `label`; the first two are large_string or dictionaries of it."""
        self.rows = rows

    @classmethod
    def of(cls, items: Sequence[SourceItem]) -> "SourceTable":
        """The same items as columns. Raises UnicodeEncodeError for a name that is not UTF-8."""
        if isinstance(items, SourceTable):
            return items
        columns = [
            pa.array([item.source for item in items], pa.large_string()),
            pa.array([item.kind for item in items], pa.large_string()),
            pa.array([item.label for item in items], pa.int32()),
        ]
        return cls(pa.RecordBatch.from_arrays(columns, schema=_COLUMNS))

    @classmethod
    def of_kind(cls, sources: pa.Array, kind: MediaKind, labels: pa.Array) -> "SourceTable":
        """Sources of one kind: large_string, and labels, int32 with nulls."""
        kinds = pa.DictionaryArray.from_arrays(np.zeros(len(sources), np.int8), pa.array([kind], pa.large_string()))
        return cls(pa.record_batch({"source": sources, "kind": kinds, "label": labels}))

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @overload
    def __getitem__(self, at: int) -> SourceItem: ...
    @overload
    def __getitem__(self, at: slice) -> "SourceTable": ...
    def __getitem__(self, at: int | slice) -> "SourceItem | SourceTable":
        if isinstance(at, slice):
            first, stop, step = at.indices(len(self))
            if step != 1:
                return self.take(range(len(self))[at])
            return SourceTable(self.rows.slice(first, max(0, stop - first)))
        row = range(len(self))[at]  # raises IndexError, and counts negative positions from the end
        return SourceItem.model_construct(**{name: self.rows[name][row].as_py() for name in _COLUMNS.names})

    def __iter__(self) -> Iterator[SourceItem]:
        for first in range(0, len(self), BLOCK_ROWS):
            for row in self.rows.slice(first, BLOCK_ROWS).to_pylist():
                yield SourceItem.model_construct(**row)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SourceTable):
            return all(self.rows[name].cast(kind).equals(other.rows[name].cast(kind)) for name, kind in _TYPES.items())
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def take(self, positions: Iterable[int]) -> "SourceTable":
        """The items at `positions`, in that order."""
        return SourceTable(self.rows.take(pa.array(positions, pa.int64())))

    def with_prefix(self, prefix: str) -> "SourceTable":
        """The same items with `prefix` before each source."""
        empty, sources = pa.scalar("", pa.large_string()), self.rows["source"].cast(pa.large_string())
        longer = pc.binary_join_element_wise(pa.scalar(prefix, pa.large_string()), sources, empty)
        return SourceTable(self.rows.set_column(0, pa.field("source", pa.large_string(), nullable=False), longer))

    def sources(self) -> Iterator[str]:
        """The path of each item."""
        for first in range(0, len(self), BLOCK_ROWS):
            yield from self.rows["source"].slice(first, BLOCK_ROWS).to_pylist()

    def __repr__(self) -> str:
        return f"SourceTable of {len(self)} sources"


def read_sources(frames_dir: AnyPath, extension: int = 0) -> SourceTable:
    """Read `sources.parquet`. Raises OSError, and UserError for a damaged table and for values that cannot be."""
    path = sources_path(frames_dir, extension)
    table = read_table(path)
    if not table.schema.equals(SOURCES_SCHEMA):
        raise UserError(f"{path}: the columns are not those of a list of sources; {DAMAGED}")
    kinds = table["kind"].cast(pa.large_string()).combine_chunks().dictionary_encode()  # two words, not a million
    if table["source"].null_count or not set(kinds.unique().to_pylist()) <= set(get_args(MediaKind)):
        raise UserError(f"{path}: a row without a source, or with a kind other than video and image; {DAMAGED}")
    if (pc.min(table["label"]).as_py() or 0) < 0:
        raise UserError(f"{path}: a negative label; {DAMAGED}")
    sources = _joined(table["source"].cast(pa.large_string()))
    return SourceTable(pa.record_batch({"source": sources, "kind": kinds, "label": _joined(table["label"])}))


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def sources_of(items: Sequence[SourceItem]) -> Iterator[str]:
    """The path of each item."""
    return items.sources() if isinstance(items, SourceTable) else (item.source for item in items)


def labels_of(items: Sequence[SourceItem]) -> pa.Array:
    """The label of each item: int32, null for none."""
    if isinstance(items, SourceTable):
        return items.rows["label"]
    return pa.array([item.label for item in items], pa.int32())


def taken(items: Sequence[SourceItem], positions: Sequence[int]) -> Sequence[SourceItem]:
    """The items at `positions`, in that order."""
    return items.take(positions) if isinstance(items, SourceTable) else [items[at] for at in positions]


def kinds_of(items: Sequence[SourceItem]) -> set[str]:
    """The kinds that occur."""
    if isinstance(items, SourceTable):
        return set(items.rows["kind"].unique().to_pylist())
    return {item.kind for item in items}


def dicts_of(items: Sequence[SourceItem]) -> list[dict[str, Any]]:
    """The fields of each item by name."""
    if isinstance(items, SourceTable):
        rows: list[dict[str, Any]] = items.rows.to_pylist()
        return rows
    return [item.model_dump() for item in items]


def sources_digest(items: Sequence[SourceItem]) -> str:
    """Return the SHA-256 over the items in order: the value of `Plan.sources_digest`."""
    digest = hashlib.sha256()
    if not isinstance(items, SourceTable):
        lines = (f"{item.source}\0{item.kind}\0{item.label}\n" for item in items)
        for block in iter(lambda: "".join(itertools.islice(lines, BLOCK_ROWS)), ""):
            digest.update(block.encode(errors="surrogateescape"))
        return digest.hexdigest()
    zero, newline, empty = (pa.scalar(text, pa.large_string()) for text in ("\0", "\n", ""))
    for first in range(0, len(items), BLOCK_ROWS):
        block = items.rows.slice(first, BLOCK_ROWS)
        source, kind, label = (block[name] for name in _COLUMNS.names)
        labels = label.cast(pa.large_string()).fill_null("None")
        lines = pc.binary_join_element_wise(source, kind.cast(pa.large_string()), labels, zero)
        ended = pc.binary_join_element_wise(lines, empty, newline)  # a newline after each
        _, offsets, data = ended.buffers()
        digest.update(memoryview(data)[: np.frombuffer(offsets, np.int64)[len(ended)]])
    return digest.hexdigest()


def sources_table(items: Sequence[SourceItem]) -> pa.Table:
    """The items as in `sources.parquet`."""
    rows = SourceTable.of(items).rows
    blocks = [rows.slice(first, ROW_GROUP) for first in range(0, len(rows), ROW_GROUP)]  # texts below 2 GiB each
    return pa.concat_tables(
        [SOURCES_SCHEMA.empty_table(), *(pa.Table.from_batches([block]).cast(SOURCES_SCHEMA) for block in blocks)]
    )
