"""What a local disk and an object store do differently: one interface, chosen once, by `storage_of`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from bevt_core.storage.local import LocalStorage
from bevt_core.storage.locks.owners import Owner
from bevt_core.storage.objects import AnyPath, ObjectPath
from bevt_core.storage.remote import Entry, ObjectStorage
from schemas.frames import FileDigest


class Storage(Protocol):
    """One path and what is there."""

    @property
    def is_remote(self) -> bool:
        """Whether every read is a request over the network, so that parts are read from local copies."""

    @property
    def replaces_folders(self) -> bool:
        """Whether a writer overwrites an existing folder; if not, it leaves the folder alone."""

    @property
    def retry_s(self) -> float:
        """Seconds for which a read may be retried."""

    @property
    def request_threads(self) -> int:
        """Threads that make many small reads fast; 1 for the calling thread."""

    @property
    def hash_threads(self) -> int:
        """Threads that make hashing of many files fast."""

    # ---- looking

    def exists(self) -> bool: ...
    def is_folder(self) -> bool:
        """Whether a folder is in the place of a file; never on an object store, where a prefix takes no name."""

    def is_irregular(self) -> bool:
        """Whether something is there that is no regular file, such as a pipe, which a reader would wait for."""

    def size(self) -> int:
        """Bytes of a file; -1 where there is none."""

    def sizes(self) -> dict[str, int]:
        """Bytes of every file below this folder, by its path in it; empty for a folder that is absent."""

    def names(self) -> list[str] | None:
        """Sorted names in this folder, without locks; None where listing takes a request. Raises OSError."""

    def absence(self) -> str | None:
        """Why nothing can be read below this folder, such as "an empty folder"; None where something can."""

    # ---- names that others wrote

    def contained(self, name: str) -> AnyPath:
        """The path `name` below this folder. Raises UserError where it, or a link, leads out."""

    def outside(self, path: AnyPath) -> str | None:
        """The real path of `path` where links lead it out of this folder; else None."""

    def links(self) -> list[str]:
        """Names of the links in this folder; empty where it is none."""

    # ---- reading

    def read_bounded(self, most: int) -> bytes:
        """The content of a file of at most `most` bytes. Raises UserError for a larger one, a pipe or a device."""

    def read_start(self, count: int) -> bytes:
        """The first `count` bytes, or fewer."""

    def last_bytes(self, count: int) -> bytes | None:
        """The last `count` bytes; None where that takes a request."""

    def reader(self) -> IO[bytes]:
        """A seekable file that reads only what is asked for."""

    def native_input(self) -> str | IO[bytes]:
        """What a C library opens: the file's name, or a `reader`."""

    def sha256(self) -> str:
        """The hash of a file's content, in hexadecimal digits."""

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """A local folder with the file or folder `name`: this one, or a copy for the block."""

    def copied(self, sizes: Mapping[str, int]) -> AbstractContextManager[Path]:
        """A local folder with the files whose bytes are `sizes`: this one, or a copy for the block."""

    def cached(self, key: str, files: Callable[[], dict[str, FileDigest]]) -> Path | Entry:
        """Where the files below this folder are read: here, or in the entry `key` of the cache of parts."""

    # ---- writing

    def write_atomic(self, data: bytes) -> None:
        """Put a file so that a reader, or a crash, sees the old one or the new one."""

    def create(self, data: bytes) -> bool:
        """`write_atomic`, unless there is a file: then False."""

    def committed_folder(self, commit: str, is_done: Callable[[], bool]) -> AbstractContextManager[Path]:
        """A local folder that appears here as a whole when the block ends well; its file `commit` comes last."""

    def remove(self) -> None:
        """Remove a file, or a folder with its content. Does nothing where nothing exists."""

    def clean_staging(self) -> None:
        """Remove what writers of this folder that are no longer alive left half-written on the local disk."""

    # ---- locks, see `one_writer`

    def hold(self, command: str) -> AbstractContextManager[None]: ...
    def owner(self) -> Owner | None: ...
    def reading(self, command: str) -> AbstractContextManager[None]: ...
    def removing(self, command: str) -> AbstractContextManager[None]: ...


def storage_of(path: AnyPath) -> Storage:
    """The storage that a path is on."""
    return ObjectStorage(path) if isinstance(path, ObjectPath) else LocalStorage(path)
