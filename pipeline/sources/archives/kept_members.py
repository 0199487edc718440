"""The members of archives on object stores, in the cache of indexes: the headers of a tar lie between its members, so
that finding them takes a request for each range of the archive, which is spent once.

    <cache>/<key>.parquet   the key contains the archive's paths, and the sizes and tags of its objects
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from bevt_core.storage.files import clean_staging, write_atomic
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.archives.member_table import MemberTable
from bevt_core.untrusted.archives.members import Member
from bevt_core.untrusted.parquet_file import parquet_bytes, read_table
from pipeline.sources.archives.gzip_index import indexes
from schemas.errors import UserError

_SCHEMA = pa.schema(
    [
        ("name", pa.large_string()),
        ("offset", pa.int64()),
        ("stored_bytes", pa.int64()),
        ("num_bytes", pa.int64()),
        ("method", pa.string()),
        ("crc32", pa.uint32()),
    ]
)
BLOCK_ROWS = 1 << 16


def kept_members(paths: Sequence[AnyPath], versions: object, read: Callable[[], Iterable[Member]]) -> MemberTable:
    """The members of the archive in `paths`: as kept for `versions` of its files, else as `read()` returns them.

    Raises UserError and OSError as `read`, and if the cache cannot be written.
    """
    key = hashlib.sha256(repr((list(map(str, paths)), versions)).encode()).hexdigest()[:32]
    path = indexes() / f"{key}.parquet"
    kept = _read(path)
    if kept is not None:
        return kept
    members = MemberTable(read())
    columns = zip(*members, strict=True) if len(members) else [()] * len(_SCHEMA)
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
    )
    write_atomic(path, parquet_bytes(table))
    clean_staging(path.parent)
    return members


def _read(path: Path) -> MemberTable | None:
    """The members in a file of the cache; None if it does not exist, or is damaged."""
    try:
        table = read_table(path)
    except (FileNotFoundError, UserError):
        return None
    if not table.schema.equals(_SCHEMA):
        return None
    rows = (row for batch in table.to_batches(BLOCK_ROWS) for row in batch.to_pylist())
    return MemberTable(Member(**row) for row in rows)
