"""`Storage` for object stores."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bevt_core.storage.clouds.clients import CONNECTIONS
from bevt_core.storage.clouds.ranges import READ_BYTES
from bevt_core.storage.clouds.requests import retry_s
from bevt_core.storage.clouds.transfers import TooLong
from bevt_core.storage.local import LocalStorage
from bevt_core.storage.locks.exclusive import warn_of_no_locks
from bevt_core.storage.locks.owners import Owner
from bevt_core.storage.objects import ObjectPath
from bevt_core.storage.staging import clean_local_staging, scratch, scratch_folder
from schemas.frames import FileDigest
from schemas.text.names import check_below
from schemas.text.regular_file import check_size


@dataclass(frozen=True)
class Entry:
    """Files below `source` that the part cache copies together under `key`.

    `files` returns their digests by relative path; it is called only if the entry must be fetched.
    """

    key: str
    source: ObjectPath
    files: Callable[[], dict[str, FileDigest]]


@dataclass(frozen=True)
class ObjectStorage:
    """An object, or the prefix of several."""

    path: ObjectPath
    is_remote = True
    replaces_folders = True
    request_threads = hash_threads = CONNECTIONS  # requests spend most of their time waiting

    @property
    def retry_s(self) -> float:
        return retry_s()

    # ---- queries --------------------------------------------------------------------------------

    def exists(self) -> bool:
        return self.path.exists()

    def is_folder(self) -> bool:
        return False

    def is_irregular(self) -> bool:
        return False

    def size(self) -> int:
        return self.path.size()

    def sizes(self) -> dict[str, int]:
        return self.path.sizes()

    def names(self) -> list[str] | None:
        return None

    def why_empty(self) -> str | None:
        return None if self.path.is_dir() else "no objects below it"

    # ---- untrusted names ------------------------------------------------------------------------

    def contained(self, name: str) -> ObjectPath:
        check_below(name, self.path)
        return self.path / name

    def outside(self, path: object) -> str | None:
        return None

    def links(self) -> list[str]:
        return []

    # ---- reading --------------------------------------------------------------------------------

    def read_bounded(self, max_bytes: int) -> bytes:
        check_size(self.path, self.path.size(), max_bytes)
        return self.path.read_bytes()

    def read_start(self, count: int) -> bytes:
        size = self.path.size()
        return self.path.read_range(0, min(size, count)) if size > 0 else b""

    def last_bytes(self, count: int) -> bytes | None:
        return None

    def version(self) -> str:
        return self.path.version()

    def reader(self, range_bytes: int = READ_BYTES) -> IO[bytes]:
        return self.path.reader(range_bytes)

    def native_input(self) -> str | IO[bytes]:
        return self.path.reader()

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.path.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        with scratch_folder("fetched") as folder:
            download(self.path, {name: None}, folder)
            if not (folder / name).exists():
                download(
                    self.path, {f"{name}/{below}": size for below, size in (self.path / name).sizes().items()}, folder
                )
            yield folder

    @contextmanager
    def copied(self, sizes: Mapping[str, int]) -> Iterator[Path]:
        with scratch_folder("fetched") as folder:
            download(self.path, sizes, folder)
            yield folder

    def cached(self, key: str, files: Callable[[], dict[str, FileDigest]]) -> Entry:
        return Entry(key, self.path, files)

    # ---- writing --------------------------------------------------------------------------------

    def write_atomic(self, data: bytes | memoryview) -> None:
        self.path.write_bytes(data)

    def create(self, data: bytes) -> bool:
        return self.path.create_bytes(data)

    @contextmanager
    def committed_folder(self, commit: str, is_done: Callable[[], bool]) -> Iterator[Path]:
        self.clean_staging()
        with scratch_folder(self.path.name) as staging:
            yield staging
            if is_done():
                return
            names = [str(path.relative_to(staging)) for path in sorted(staging.rglob("*")) if path.is_file()]
            for stray in sorted(self.path.sizes().keys() - set(names)):
                (self.path / stray).unlink(missing_ok=True)
            for name in sorted(names, key=lambda name: name == commit):
                (self.path / name).upload(staging / name)

    def remove(self) -> None:
        for name in self.path.sizes():
            (self.path / name).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def clean_staging(self) -> None:
        clean_local_staging(scratch())

    # ---- locks: object stores have none ---------------------------------------------------------

    def hold(self, command: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def owner(self) -> Owner | None:
        return None

    def reading(self, command: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def removing(self, command: str) -> AbstractContextManager[None]:
        warn_of_no_locks(self.path)
        return contextlib.nullcontext()


def download(root: ObjectPath, sizes: Mapping[str, int | None], folder: Path) -> None:
    """Copy objects from below `root` into `folder`. `sizes` is name -> expected size in bytes, or None for any size.

    Missing and larger objects are skipped. Raises UserError for a name that leads out of the folder.
    """
    for name, size in sizes.items():
        target = LocalStorage(folder).contained(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError, TooLong):
            (root / name).download(target, size)
