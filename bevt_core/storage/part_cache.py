"""The part cache: local copies of parts on object stores, bounded in size and shared by all processes of a machine.

    <cache>/<key>/            an entry: the part's files and files.json; it appears by one rename
    <cache>/locks/<key>       locked shared while an entry is read, exclusively while it is fetched or removed
    <cache>/.staging/         entries that are being fetched; their final size counts towards the limit

A key contains the digest of the set, so an entry never becomes stale. Every file is checked against the sha256 in its
part's commit before the entry appears, and against its size when a process first uses it. The least recently used entry
is removed first. The locks are flock's, which the kernel releases when a process ends: do not put the cache on a
network file system.
"""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bevt_core.storage.files import clean_staging, read_record, sha256_of, write_record
from bevt_core.storage.remote import Entry, download
from bevt_core.storage.staging import STAGING, discard, staged_folder
from schemas.base import Record
from schemas.errors import DAMAGED, StorageError, UserError
from schemas.frames import FileDigest

DEFAULT_BYTES = 32 << 30
FILES = "files.json"
LOCKS = "locks"
TRIES = 3  # attempts at a download whose bytes differ from the commit
ROOM_WAIT_S = 60.0  # how long to wait for readers to release an entry

PartLocation = Path | Entry  # a folder to read from, or an entry to fetch first


class _Files(Record):
    files: dict[str, FileDigest]

    @property
    def num_bytes(self) -> int:
        return sum(digest.num_bytes for digest in self.files.values())


def cache_folder() -> Path:
    """$BEVT_CACHE, or ~/.cache/bevt/parts."""
    return Path(os.environ.get("BEVT_CACHE", Path.home() / ".cache" / "bevt" / "parts"))


def cache_bytes() -> int:
    """$BEVT_CACHE_BYTES, or DEFAULT_BYTES. Raises UserError if it is not a number."""
    text = os.environ.get("BEVT_CACHE_BYTES", str(DEFAULT_BYTES))
    try:
        return int(float(text))
    except ValueError:
        raise UserError(f"BEVT_CACHE_BYTES is {text!r}; expected a number of bytes, such as 50e9") from None


@contextmanager
def local_files(location: PartLocation) -> Iterator[Path]:
    """The local folder of `location`, fetched if needed; it is not removed during the block."""
    if isinstance(location, Path):
        yield location
        return
    folder = cache_folder() / location.key
    while True:
        with _lock(location.key, fcntl.LOCK_SH):
            if _is_whole(folder):
                os.utime(folder)
                yield folder
                return
        with _lock(location.key, fcntl.LOCK_EX):
            _fetch(location)


class ReadAhead:
    """Prefetches entries in a daemon thread; skips those that another process is reading or fetching."""

    def __init__(self) -> None:
        self._wanted: Sequence[Entry] = ()
        self._thread: threading.Thread | None = None

    def want(self, entries: Sequence[Entry]) -> None:
        """Fetch `entries` in this order; replaces the earlier list."""
        if entries == self._wanted:
            return
        self._wanted = entries
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        done: set[str] = set()
        while left := [entry for entry in self._wanted if entry.key not in done]:
            done.add(left[0].key)
            lock = _lock(left[0].key, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a reader that needs the entry fetches it again, and raises if that fails too
            with suppress(BlockingIOError, StorageError), lock:
                _fetch(left[0])


def _fetch(entry: Entry) -> None:
    """Copy an entry into the cache, unless another process has done so. The caller has its exclusive lock."""
    folder = cache_folder() / entry.key
    if _is_whole(folder):
        return
    if folder.exists():
        discard(folder)
    files = _Files(files=entry.files())
    with staged_folder(folder) as staging:
        with _lock("room", fcntl.LOCK_EX):
            _make_room(files.num_bytes, entry)
            write_record(staging / FILES, files)  # from now on `_used` counts it
        left: Mapping[str, FileDigest] = files.files
        for _ in range(TRIES):
            download(entry.source, {name: digest.num_bytes for name, digest in left.items()}, staging)
            left = {name: digest for name, digest in left.items() if not _is_committed(staging / name, digest)}
            if not left:
                return
        torn = f"{entry.source / min(left)}: its content differs from its commit"
        raise StorageError(errno.EIO, f"{torn}; {DAMAGED}")


def _make_room(num_bytes: int, entry: Entry) -> None:
    """Remove entries until `num_bytes` more fit. The caller has the lock `room`."""
    limit = cache_bytes()
    if num_bytes > limit:
        raise UserError(f"{entry.source} needs {num_bytes} bytes, BEVT_CACHE_BYTES is {limit}; raise it")
    clean_staging(cache_folder())
    deadline = time.monotonic() + ROOM_WAIT_S
    while True:
        used = _used()
        excess = sum(used.values()) + num_bytes - limit
        for folder in sorted((path for path in used if path.parent.name != STAGING), key=_last_use):
            if excess <= 0:
                return
            with suppress(BlockingIOError), _lock(folder.name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                discard(folder)
                excess -= used[folder]
        if excess <= 0:
            return
        if time.monotonic() > deadline:
            raise UserError(f"{cache_folder()}: {limit} bytes are too few for the parts in use; raise BEVT_CACHE_BYTES")
        time.sleep(0.02)


def _used() -> dict[Path, int]:
    """Bytes of every entry, including those being fetched."""
    records = [*cache_folder().glob(f"*/{FILES}"), *cache_folder().glob(f"{STAGING}/*/{FILES}")]
    found = {path.parent: read_record(path, _Files) for path in records}
    return {folder: files.num_bytes for folder, files in found.items() if files is not None}


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_committed(path: Path, digest: FileDigest) -> bool:
    return path.is_file() and path.stat().st_size == digest.num_bytes and sha256_of(path) == digest.sha256


_seen: dict[Path, int] = {}  # entry -> inode of its folder when this process last checked its files


def _is_whole(folder: Path) -> bool:
    """Whether the entry exists and all its files have the right size. Checked once per process and copy."""
    try:
        inode = folder.stat().st_ino
    except FileNotFoundError:
        return False
    if _seen.get(folder) != inode:
        files = read_record(folder / FILES, _Files)
        if files is None or any(
            not (folder / name).is_file() or (folder / name).stat().st_size != digest.num_bytes
            for name, digest in files.files.items()
        ):
            return False
        _seen[folder] = inode
    return True


@contextmanager
def _lock(name: str, operation: int) -> Iterator[None]:
    """Take flock's lock on `locks/<name>` for the block. With LOCK_NB, raises BlockingIOError if it is taken."""
    path = cache_folder() / LOCKS / name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)
