"""One interface to local disks and object stores. Only `storage_of` chooses between them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from bevt_core.storage.clouds.ranges import READ_BYTES
from bevt_core.storage.local import LocalStorage
from bevt_core.storage.locks.owners import Owner
from bevt_core.storage.objects import AnyPath, ObjectPath
from bevt_core.storage.remote import Entry, ObjectStorage
from schemas.frames import FileDigest


class Storage(Protocol):
    """A path, and the operations on the file or folder at it."""

    @property
    def is_remote(self) -> bool:
        """Whether every read is a network request, so that parts are read from local copies."""

    @property
    def replaces_folders(self) -> bool:
        """Whether a writer overwrites an existing folder of a part; if not, it leaves the folder unchanged."""

    @property
    def retry_s(self) -> float:
        """Seconds for which a read may be retried."""

    @property
    def request_threads(self) -> int:
        """Threads to use for many small reads; 1: the calling thread."""

    @property
    def hash_threads(self) -> int:
        """Threads to use for hashing many files."""

    # ---- queries

    def exists(self) -> bool: ...
    def is_folder(self) -> bool:
        """Whether the path is a folder. Always False on an object store: a prefix does not block a name."""

    def is_irregular(self) -> bool:
        """Whether the path exists and is not a regular file, e.g. a pipe, on which a reader would block."""

    def size(self) -> int:
        """Size of the file in bytes; -1 if it does not exist."""

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file below this folder, by relative path; empty if the folder does not exist."""

    def names(self) -> list[str] | None:
        """Sorted names in this folder, without lock files; None if listing needs a request. Raises OSError."""

    def why_empty(self) -> str | None:
        """Why nothing can be read below this folder, such as "an empty folder"; None if there is something to read."""

    # ---- untrusted names

    def contained(self, name: str) -> AnyPath:
        """The path `name` below this folder. Raises UserError if it leads out of the folder, directly or by a link."""

    def outside(self, path: AnyPath) -> str | None:
        """The real path of `path` if links lead it out of this folder, else None."""

    def links(self) -> list[str]:
        """Names of the links in this folder; empty if it is not a folder."""

    # ---- reading

    def read_bounded(self, max_bytes: int) -> bytes:
        """The content of a file of at most `max_bytes`. Raises UserError for a larger file, a pipe or a device."""

    def read_start(self, count: int) -> bytes:
        """The first `count` bytes, or fewer."""

    def last_bytes(self, count: int) -> bytes | None:
        """The last `count` bytes; None if reading them needs a request."""

    def version(self) -> str:
        """What changes if the file is replaced: its size and its time of change, or an object's tag. Raises OSError."""

    def reader(self, range_bytes: int = READ_BYTES) -> IO[bytes]:
        """A seekable file object that reads only the requested bytes, from an object store by `range_bytes`."""

    def native_input(self) -> str | IO[bytes]:
        """What to pass to a C library: the file's name, or a `reader`."""

    def sha256(self) -> str:
        """The SHA-256 of the file's content, in hex."""

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """A local folder that contains the file or folder `name`: this one, or a copy that lasts for the block."""

    def copied(self, sizes: Mapping[str, int]) -> AbstractContextManager[Path]:
        """A local folder that contains the files in `sizes` (name -> bytes): this one, or a copy for the block."""

    def cached(self, key: str, files: Callable[[], dict[str, FileDigest]]) -> Path | Entry:
        """Where to read the files below this folder: here, or in the entry `key` of the part cache."""

    # ---- writing

    def write_atomic(self, data: bytes | memoryview) -> None:
        """Write the file atomically: readers, also after a crash, see the old content or the new."""

    def create(self, data: bytes) -> bool:
        """`write_atomic` if the file does not exist; returns whether it was written."""

    def committed_folder(self, commit: str, is_done: Callable[[], bool]) -> AbstractContextManager[Path]:
        """A local folder that becomes this one when the block ends normally; its file `commit` is put last."""

    def remove(self) -> None:
        """Remove the file, or the folder with its content. Does nothing if the path does not exist."""

    def clean_staging(self) -> None:
        """Remove half-written files that dead writers of this folder left on the local disk."""

    # ---- locks, see `one_writer`

    def hold(self, command: str) -> AbstractContextManager[None]: ...
    def owner(self) -> Owner | None: ...
    def reading(self, command: str) -> AbstractContextManager[None]: ...
    def removing(self, command: str) -> AbstractContextManager[None]: ...


def storage_of(path: AnyPath) -> Storage:
    """The storage of a path."""
    return ObjectStorage(path) if isinstance(path, ObjectPath) else LocalStorage(path)
