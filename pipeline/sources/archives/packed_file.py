"""Where the bytes of a file in an archive are, and the table of them beside a frame store's list of sources.

`archives.parquet` has a row for each row of `sources.parquet`: the files of that source which are inside archives, none
for a source on disk. It is written whenever the root is listed, and is excluded from digests, since a dataset does not
depend on how its sources were packed.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.storage.files import remove, write_atomic
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.archives.members import Member, Method
from bevt_core.untrusted.parquet_file import ParquetFile
from schemas.errors import UserError
from schemas.text.plain import shown

ARCHIVES = "archives.parquet"  # in a frame store
ROWS_PER_GROUP = 8192  # a part reads one or two groups


class PackedFile(NamedTuple):
    """A file in an archive."""

    name: str  # relative to the source; empty if the file is the source
    archive: str  # path of the archive, relative to the root
    archive_bytes: int
    offset: int  # where the member begins in the archive
    stored_bytes: int  # in the archive, without headers
    num_bytes: int  # unpacked
    method: Method
    crc32: int | None  # of the unpacked bytes

    @property
    def member(self) -> Member:
        """The same in the archive's terms."""
        return Member(self.name, self.offset, self.stored_bytes, self.num_bytes, self.method, self.crc32)


_FILE = pa.struct(
    [
        ("name", pa.string()),
        ("archive", pa.string()),
        ("archive_bytes", pa.int64()),
        ("offset", pa.int64()),
        ("stored_bytes", pa.int64()),
        ("num_bytes", pa.int64()),
        ("method", pa.string()),
        ("crc32", pa.uint32()),
    ]
)
ARCHIVES_SCHEMA = pa.schema([pa.field("files", pa.list_(_FILE), nullable=False)])


def packed_path(frames_dir: AnyPath, first_part: int) -> AnyPath:
    """The table of the plan with this first part: not 0 for an extension of the store."""
    return frames_dir / (f"archives-{first_part:05d}.parquet" if first_part else ARCHIVES)


def write_packed(
    frames_dir: AnyPath,
    sources: Iterable[str],
    packed: Mapping[str, tuple[PackedFile, ...]],
    first_part: int = 0,
) -> None:
    """Write the table for the sources of a plan, in their order; without `packed` files, remove it."""
    path = packed_path(frames_dir, first_part)
    if not packed:
        remove(path)
        return
    written = pa.BufferOutputStream()
    remaining = iter(sources)
    with pq.ParquetWriter(written, ARCHIVES_SCHEMA, compression="zstd") as writer:
        while rows := [packed.get(source) or () for source in itertools.islice(remaining, ROWS_PER_GROUP)]:
            writer.write_table(_table(rows))
    write_atomic(path, written.getvalue().to_pybytes())


def _table(rows: Sequence[tuple[PackedFile, ...]]) -> pa.Table:
    files = [file for row in rows for file in row]
    columns = zip(*files, strict=True) if files else [()] * len(_FILE)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _FILE, strict=True)]
    offsets = pa.array([0, *itertools.accumulate(map(len, rows))], pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=list(_FILE)))
    return pa.Table.from_arrays([lists], schema=ARCHIVES_SCHEMA)


def read_packed(frames_dir: AnyPath, start: int, stop: int, first_part: int = 0) -> list[tuple[PackedFile, ...]]:
    """The files in archives of the sources `start` to `stop - 1` of the plan; empty if none is in an archive.

    Raises UserError for a table that is damaged or has other rows.
    """
    path = packed_path(frames_dir, first_part)
    try:
        with ParquetFile(path) as file:
            wrong = file.schema_arrow.types != ARCHIVES_SCHEMA.types
            if wrong or file.metadata.num_rows < stop:
                raise UserError(f"{path}: {file.metadata.num_rows} rows of {shown(str(file.schema_arrow.types))}")
            groups = range(start // ROWS_PER_GROUP, (stop - 1) // ROWS_PER_GROUP + 1)
            rows: list[Any] = file.read(groups=groups)["files"].to_pylist()
    except FileNotFoundError:
        return []
    except UserError as error:
        raise UserError(f"{error}; run the same `bevt tokenize` command again to write it") from None
    first = start - groups[0] * ROWS_PER_GROUP
    return [tuple(PackedFile(**file) for file in files) for files in rows[first : first + stop - start]]
