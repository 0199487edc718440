"""Parts of object stores on a local disk: a bounded cache that all processes of a machine share.

    <cache>/<key>/            an entry: the part's files and files.json; it appears by one rename
    <cache>/locks/<key>       held shared while an entry is read, exclusively while it is fetched or removed
    <cache>/.staging/         what is being fetched; it counts as much as it will be

A key holds the digest of the set, so an entry never grows stale. Every file is held against the sha256 of its part's
commit before the entry appears, and against its size when a process first uses it. What was used least recently goes
first. The locks are flock's, which the kernel drops with their process: keep the cache off network file systems.
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
from schemas.errors import StorageError, UserError
from schemas.frames import FileDigest

DEFAULT_BYTES = 32 << 30
FILES = "files.json"
LOCKS = "locks"
TRIES = 3  # of a download whose bytes are not those that were committed
ROOM_WAIT_S = 60.0  # for readers to let go of an entry


Place = Path | Entry  # a folder to read in, or what has to be copied first


class _Files(Record):
    files: dict[str, FileDigest]

    @property
    def num_bytes(self) -> int:
        return sum(digest.num_bytes for digest in self.files.values())


def cache_folder() -> Path:
    """$BEVT_CACHE, or ~/.cache/bevt/parts."""
    return Path(os.environ.get("BEVT_CACHE", Path.home() / ".cache" / "bevt" / "parts"))


def cache_bytes() -> int:
    """$BEVT_CACHE_BYTES, or DEFAULT_BYTES. Raises UserError for what is no number."""
    text = os.environ.get("BEVT_CACHE_BYTES", str(DEFAULT_BYTES))
    try:
        return int(float(text))
    except ValueError:
        raise UserError(f"BEVT_CACHE_BYTES is {text!r}; expected a number of bytes, such as 50e9") from None


@contextmanager
def hold(place: Place) -> Iterator[Path]:
    """The folder of `place`, which stays there for the length of the block; fetched if need be."""
    if isinstance(place, Path):
        yield place
        return
    folder = cache_folder() / place.key
    while True:
        with _lock(place.key, fcntl.LOCK_SH):
            if _is_whole(folder):
                os.utime(folder)
                yield folder
                return
        with _lock(place.key, fcntl.LOCK_EX):
            _fetch(place)


class ReadAhead:
    """Fetches entries in a thread, those that nobody else is fetching. It ends with its process."""

    def __init__(self) -> None:
        self._wanted: Sequence[Entry] = ()
        self._thread: threading.Thread | None = None

    def want(self, entries: Sequence[Entry]) -> None:
        """Fetch these, in this order, in place of what was wanted before."""
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
            with suppress(BlockingIOError, StorageError), lock:  # what cannot be read fails again where it is needed
                _fetch(left[0])


def _fetch(entry: Entry) -> None:
    """Copy an entry here, unless another process has done so. The caller holds its lock exclusively."""
    folder = cache_folder() / entry.key
    if _is_whole(folder):
        return
    if folder.exists():
        discard(folder)
    files = _Files(files=entry.files())
    with staged_folder(folder) as staging:
        with _lock("room", fcntl.LOCK_EX):
            _make_room(files.num_bytes, entry)
            write_record(staging / FILES, files)  # from here on it counts
        left: Mapping[str, FileDigest] = files.files
        for _ in range(TRIES):
            download(entry.source, {name: digest.num_bytes for name, digest in left.items()}, staging)
            left = {name: digest for name, digest in left.items() if not _is_committed(staging / name, digest)}
            if not left:
                return
        torn = f"{entry.source / min(left)}: its bytes are not those that were committed"
        raise StorageError(errno.EIO, f"{torn}; run bevt verify, then bevt repair")


def _make_room(num_bytes: int, entry: Entry) -> None:
    """Remove entries until `num_bytes` more fit. The caller holds the lock `room`."""
    limit = cache_bytes()
    if num_bytes > limit:
        raise UserError(f"{entry.source} takes {num_bytes} bytes, BEVT_CACHE_BYTES is {limit}; raise it")
    clean_staging(cache_folder())
    given_up = time.monotonic() + ROOM_WAIT_S
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
        if time.monotonic() > given_up:
            raise UserError(
                f"{cache_folder()}: {limit} bytes are too few for what is read at once; raise BEVT_CACHE_BYTES"
            )
        time.sleep(0.02)


def _used() -> dict[Path, int]:
    """Bytes of every entry, and of every one that is being fetched."""
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


_seen: dict[Path, int] = {}  # entry -> the inode of its folder when this process last looked at its files


def _is_whole(folder: Path) -> bool:
    """Is the entry here, and every file as long as it should be? Looked at once per process and copy."""
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
    """flock's on `locks/<name>`. Raises BlockingIOError with LOCK_NB where another holds it."""
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
