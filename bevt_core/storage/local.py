"""`Storage` for local paths."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bevt_core.storage.locks.owners import Owner, owner_of
from bevt_core.storage.locks.readers import read_store, remove_from_store
from bevt_core.storage.locks.writers import hold_folder
from bevt_core.storage.staging import READERS, WRITER, clean_local_staging, discard, staged_file, staged_folder
from schemas.errors import UserError
from schemas.text.names import ALLOW, check_below
from schemas.text.regular_file import is_irregular, read_regular

# from file systems without hard links
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)


@dataclass(frozen=True)
class LocalStorage:
    """A file or folder on a local or mounted disk."""

    path: Path
    is_remote = False
    replaces_folders = False
    retry_s = 0.0
    request_threads = 1

    @property
    def hash_threads(self) -> int:
        return os.cpu_count() or 1

    # ---- queries --------------------------------------------------------------------------------

    def exists(self) -> bool:
        return os.path.exists(self.path)  # noqa: PTH110 - a name may be too long

    def is_folder(self) -> bool:
        return self.path.is_dir()

    def is_irregular(self) -> bool:
        return is_irregular(self.path)

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else -1

    def sizes(self) -> dict[str, int]:
        return {
            str(path.relative_to(self.path)): path.stat().st_size for path in self.path.rglob("*") if path.is_file()
        }

    def names(self) -> list[str] | None:
        return content_of(self.path)

    def why_empty(self) -> str | None:
        """An empty folder may be a mount point without its mount."""
        try:
            with os.scandir(self.path) as entries:
                return None if any(not entry.name.startswith(".") for entry in entries) else "an empty folder"
        except FileNotFoundError:
            return "no such folder"
        except OSError as error:
            return error.strerror

    # ---- untrusted names ------------------------------------------------------------------------

    def contained(self, name: str) -> Path:
        check_below(name, self.path)
        target = self.outside(self.path / name)
        if target is not None:
            raise UserError(f"{self.path / name}: a link to {target}, out of {self.path}; {ALLOW}")
        return self.path / name

    def outside(self, path: object) -> str | None:
        target = os.path.realpath(str(path))
        return None if is_below(target, os.path.realpath(self.path)) else target

    def links(self) -> list[str]:
        if not self.path.is_dir():
            return []
        with os.scandir(self.path) as entries:
            return [entry.name for entry in entries if entry.is_symlink()]

    # ---- reading --------------------------------------------------------------------------------

    def read_bounded(self, max_bytes: int) -> bytes:
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        return read_regular(self.path, max_bytes)

    def read_start(self, count: int) -> bytes:
        with self.path.open("rb") as file:
            return file.read(count)

    def last_bytes(self, count: int) -> bytes | None:
        with self.path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - count))
            return file.read()

    def version(self) -> str:
        status = self.path.stat()
        return f"{status.st_size},{status.st_mtime_ns}"

    def reader(self, range_bytes: int = 0) -> IO[bytes]:
        return self.path.open("rb")

    def native_input(self) -> str | IO[bytes]:
        return str(self.path.absolute())

    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(self.path)

    def copied(self, sizes: Mapping[str, int]) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(self.path)

    def cached(self, key: str, files: object) -> Path:
        return self.path

    # ---- writing --------------------------------------------------------------------------------

    def write_atomic(self, data: bytes | memoryview) -> None:
        with staged_file(self.path) as file:
            file.write(data)

    def create(self, data: bytes) -> bool:
        """On a file system without hard links, a concurrent writer's file may, rarely, be replaced."""
        try:
            with staged_file(self.path, os.link) as file:
                file.write(data)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self.path.exists():
                return False
            self.write_atomic(data)
        return True

    @contextmanager
    def committed_folder(self, commit: str, is_done: Callable[[], bool]) -> Iterator[Path]:
        with staged_folder(self.path) as staging:
            yield staging

    def remove(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            discard(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def clean_staging(self) -> None:
        clean_local_staging(self.path)

    # ---- locks ----------------------------------------------------------------------------------

    def hold(self, command: str) -> AbstractContextManager[None]:
        return hold_folder(self.path, command)

    def owner(self) -> Owner | None:
        return owner_of(self.path / WRITER)

    def reading(self, command: str) -> AbstractContextManager[None]:
        return read_store(self.path, command)

    def removing(self, command: str) -> AbstractContextManager[None]:
        return remove_from_store(self.path, command)


def is_below(target: str, folder: str) -> bool:
    """Whether the real path `target` is `folder` or below it."""
    return os.path.commonpath([target, folder]) == folder


def content_of(directory: Path) -> list[str]:
    """Return the sorted names in `directory`, without lock files."""
    return sorted(entry.name for entry in directory.iterdir() if entry.name not in (WRITER, READERS))
