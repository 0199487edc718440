"""The indexes of compressed tars, in a cache: decompressing hundreds of gigabytes takes an hour, which is spent once.

    <cache>/<key>/points            restart points
    <cache>/<key>/members.parquet   names, offsets and sizes

The key contains the paths, sizes and times of the archive's files. A machine that does not share the cache makes the
index of an archive when it first reads from it.
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from bevt_core.storage.files import clean_staging
from bevt_core.storage.staging import staged_folder
from bevt_core.untrusted.archives.gzip_file import index_gzip
from bevt_core.untrusted.archives.members import Member
from bevt_core.untrusted.archives.volumes import open_volumes, size_of_volumes
from bevt_core.untrusted.parquet_file import parquet_bytes, read_table

POINTS, MEMBERS = "points", "members.parquet"


def indexes() -> Path:
    """$BEVT_ARCHIVES, or ~/.cache/bevt/archives."""
    return Path(os.environ.get("BEVT_ARCHIVES", Path.home() / ".cache" / "bevt" / "archives"))


def restart_points(paths: Sequence[Path]) -> Path:
    """The file of restart points of a compressed tar, which is made if needed. Raises UserError, OSError."""
    return _index(paths) / POINTS


def members_of_gzip(paths: Sequence[Path]) -> list[Member]:
    """The members of a compressed tar, which is decompressed once. Raises UserError, OSError."""
    columns = read_table(_index(paths) / MEMBERS).to_pydict()
    rows = zip(columns["name"], columns["offset"], columns["num_bytes"], strict=True)
    return [Member(name, offset, count, count, "gzip", None) for name, offset, count in rows]


def _index(paths: Sequence[Path]) -> Path:
    status = tuple((os.path.realpath(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return _made(tuple(paths), indexes() / hashlib.sha256(repr(status).encode()).hexdigest()[:32])


@functools.cache
def _made(paths: tuple[Path, ...], folder: Path) -> Path:
    """Make the index `folder` of the archive in `paths`, unless it exists."""
    if not (folder / MEMBERS).exists():
        clean_staging(indexes())
        with staged_folder(folder) as staging, open_volumes(paths) as file:
            members = index_gzip(file, size_of_volumes(paths), paths[0], staging / POINTS)
            columns = {
                "name": pa.array([member.name for member in members], pa.string()),
                "offset": pa.array([member.offset for member in members], pa.int64()),
                "num_bytes": pa.array([member.num_bytes for member in members], pa.int64()),
            }
            (staging / MEMBERS).write_bytes(parquet_bytes(pa.table(columns)))
    return folder
