"""The names in a root's folders, kept in a cache, so that a second command does not read a million of them again.

    <cache>/<digest of the root's path>.parquet   a row per folder: path, stamp, names

A row counts only while the folder's times and inode are unchanged; any other folder is read again. Lists, class names
and archives are not kept here.
"""

import functools
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.console.terminal import note, warn
from bevt_core.storage.files import clean_staging, remove, write_atomic
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.parquet_file import read_table
from schemas.errors import UserError

MIN_NAMES = 10_000  # below a root, from which they are kept: fewer are read in a moment
MAX_NAME_BYTES = 256 << 20  # of a root; with more, such as those of a data set of frame files, nothing is kept
SETTLED_S = 60.0  # since a folder's last change, from which it is kept: clocks of file servers differ
FOLDERS_AT_ONCE = 64  # written to the cache
MOUNTS = Path("/proc/self/mountinfo")

_SCHEMA = pa.schema(
    [
        pa.field("folder", pa.large_string(), nullable=False),  # path below the root
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("names", pa.large_string(), nullable=False),  # joined by NUL; those of folders end with a slash
    ]
)


class _Kept(NamedTuple):
    """The content of a cache file."""

    rows: Mapping[str, int]  # folder -> row
    table: pa.RecordBatch
    began: str  # date and time of its first listing


_NOTHING = _Kept({}, pa.RecordBatch.from_pylist([], schema=_SCHEMA), "")


class KeptFolders:
    """The entries of folders below a local root: those kept earlier, and those added since."""

    def __init__(self, root: Path) -> None:
        self._file = _file_of(root)
        self._root = root
        self._added: dict[str, tuple[str, str]] = {}  # folder -> its stamp and names
        self._num_added = self._added_bytes = 0
        self._used: dict[str, int] = {}  # folder -> the number of its names

    def stamp(self, folder: str) -> str | None:
        """The stamp of a folder; None if its entries may change without it, or have changed just now."""
        try:
            status = os.stat(self._root / folder)  # noqa: PTH116 - called for every folder
        except OSError:
            return None
        changed = max(status.st_mtime, status.st_ctime)
        if changed > time.time() - SETTLED_S or _is_fuse(status.st_dev):
            return None
        return f"{status.st_mtime_ns},{status.st_ctime_ns},{status.st_ino}"

    def entries(self, folder: str, stamp: str | None) -> dict[str, bool] | None:
        """name -> whether it is a folder, in the order of `add`; None if they are not kept with this stamp."""
        kept = self._kept
        row = kept.rows.get(folder)
        if stamp is None or row is None or kept.table["stamp"][row].as_py() != stamp:
            return None
        names = kept.table["names"][row].as_py()
        entries = {name.removesuffix("/"): name.endswith("/") for name in names.split("\0")} if names else {}
        self._used[folder] = len(entries)
        return entries

    def add(self, folder: str, stamp: str | None, entries: Mapping[str, bool]) -> None:
        """Keep the entries of a folder that has no links in it, which were read after its stamp."""
        if stamp is None or self._added_bytes > MAX_NAME_BYTES:
            return
        names = "\0".join(f"{name}/" if is_folder else name for name, is_folder in entries.items())
        self._added[folder] = stamp, names
        self._num_added += len(entries)
        self._added_bytes += len(names)

    def write(self) -> None:
        """Write what was added, if it is much; note what was used. A cache that cannot be written is a warning."""
        num_used = sum(self._used.values())
        if num_used:
            note(
                f"{self._root}: {len(self._used)} unchanged folders with {num_used} entries were not read again, since "
                f"they are kept since {self._kept.began}; `bevt scan --relist` reads them"
            )
        _read.cache_clear()  # the names of a million files are 60 MB
        if not self._added or self._added_bytes > MAX_NAME_BYTES or num_used + self._num_added < MIN_NAMES:
            return
        began = self._kept.began or datetime.now().isoformat(sep=" ", timespec="minutes")
        try:
            with pa.BufferOutputStream() as written:
                schema = _SCHEMA.with_metadata({"began": began})
                with pq.ParquetWriter(written, schema, compression="zstd", use_dictionary=False) as writer:
                    for batch in self._batches():
                        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
                write_atomic(self._file, written.getvalue())
            clean_staging(self._file.parent)
        except (OSError, UserError) as error:
            warn(f"the list of files is not kept: {error}")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """The rows to write. What was added is forgotten on the way, so that it is in memory only once."""
        old = [row for folder, row in self._kept.rows.items() if self._is_wanted(folder)]
        for first in range(0, len(old), FOLDERS_AT_ONCE):
            yield self._kept.table.take(pa.array(old[first : first + FOLDERS_AT_ONCE], pa.int64()))
        while self._added:
            some = [self._added.popitem() for _ in range(min(len(self._added), FOLDERS_AT_ONCE))]
            rows = [dict(zip(_SCHEMA.names, (folder, *kept), strict=True)) for folder, kept in some]
            yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    def _is_wanted(self, folder: str) -> bool:
        return folder not in self._added and (folder in self._used or (self._root / folder).is_dir())

    @functools.cached_property
    def _kept(self) -> _Kept:
        try:
            status = self._file.stat()
            return _read(self._file, (status.st_mtime_ns, status.st_ino))
        except OSError:
            return _NOTHING


def forget_folders(root: AnyPath) -> None:
    """Remove what is kept of a root, so that all of its folders are read again."""
    if isinstance(root, Path):
        remove(_file_of(root))


def listings() -> Path:
    """$BEVT_LISTINGS, or ~/.cache/bevt/listings."""
    return Path(os.environ.get("BEVT_LISTINGS", Path.home() / ".cache" / "bevt" / "listings"))


def _file_of(root: Path) -> Path:
    name = os.fsencode(os.path.realpath(root))
    return listings() / f"{hashlib.sha256(name).hexdigest()[:32]}.parquet"


@functools.lru_cache(maxsize=1)
def _read(path: Path, version: object) -> _Kept:
    """The content of a cache file; nothing for a damaged one, which is then written again. Raises OSError."""
    try:
        table = read_table(path)
        if not table.schema.equals(_SCHEMA) or not table.num_rows:
            return _NOTHING
    except UserError:
        return _NOTHING
    batch = pa.RecordBatch.from_arrays([pa.concat_arrays(column.chunks) for column in table.columns], schema=_SCHEMA)
    began = (table.schema.metadata or {}).get(b"began", b"").decode(errors="replace")
    return _Kept({folder: row for row, folder in enumerate(batch["folder"].to_pylist())}, batch, began)


@functools.cache
def _is_fuse(device: int) -> bool:
    """Whether a device is a file system in user space: some never change the times of a folder."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = [line.split() for line in MOUNTS.read_text(errors="replace").splitlines()]
    except OSError:  # not Linux
        return False
    return any(words[2] == number and words[words.index("-") + 1].startswith("fuse") for words in lines)
