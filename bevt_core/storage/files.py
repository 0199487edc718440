"""Atomic writes of files, folders and records, and bounded reads.

Paths may be local or on an object store: each function calls the path's `Storage`. Not here: the implementations
(`local`, `remote`).
"""

import errno
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from schemas.errors import StorageError, UserError
from schemas.text.json_text import MAX_BYTES, parse_json
from schemas.text.plain import text_of
from schemas.text.validation import describe

R = TypeVar("R", bound=BaseModel)
A = TypeVar("A")
B = TypeVar("B")

MAX_RECORD_BYTES = 4 << 20  # of a record; the class names of ImageNet-21k take 1 MB


def write_atomic(path: AnyPath, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically: readers, also after a crash, see the old file or the new one, never a mix."""
    storage_of(path).write_atomic(data)


def create_record(path: AnyPath, record: R) -> R:
    """`write_record`, unless the file exists. Returns the stored record, which is the first writer's.

    Raises UserError if an existing file cannot be read as such a record, StorageError.
    """
    data = _record_bytes(record)
    if storage_of(path).create(data):
        return record
    stored = read_record(path, type(record))
    if stored is None:
        raise StorageError(errno.ENOENT, f"{path}: removed by another process just now; run the same command again")
    return stored


def write_record(path: AnyPath, record: BaseModel) -> None:
    """Write a record atomically, as indented JSON with a final newline."""
    write_atomic(path, _record_bytes(record))


def _record_bytes(record: BaseModel) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()


def read_record(path: AnyPath, kind: type[R]) -> R | None:
    """The record in `path`; None if the file does not exist. Raises UserError if it cannot be read as `kind`."""
    try:
        data = read_bounded(path, MAX_RECORD_BYTES)
    except FileNotFoundError:
        return None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: cannot be read, expected a {kind.__name__}: {error.strerror}") from None
    try:
        return kind.model_validate(parse_json(text_of(data, path), dict, path))
    except ValidationError as error:
        raise UserError(
            f"{path}: {describe(error, kind)}; expected a {kind.__name__} of this version of bevt"
        ) from None


def read_json_file(path: AnyPath, kind: type) -> Any:
    """The content of a JSON file, which must be a `kind` (list or dict). Raises UserError and OSError."""
    return parse_json(text_of(read_bounded(path, MAX_BYTES), path), kind, path)


def read_bounded(path: AnyPath, max_bytes: int) -> bytes:
    """The content of a file of at most `max_bytes`. Raises UserError for a larger file, a pipe or a device."""
    return storage_of(path).read_bounded(max_bytes)


def committed_folder(target: AnyPath, commit: str, is_done: Callable[[], bool]) -> AbstractContextManager[Path]:
    """`staged_folder` for a target that may be on an object store, where the file `commit` is uploaded last.

    Nothing is uploaded if `is_done` returns True: another writer was faster. Objects that an interrupted upload left
    are overwritten, or removed if no new file has their name.
    """
    return storage_of(target).committed_folder(commit, is_done)


def clean_staging(folder: AnyPath) -> None:
    """Remove half-written files that dead writers of `folder` left, and their lock files.

    For an object store these are on the local disk.
    """
    storage_of(folder).clean_staging()


def fetched(root: AnyPath, name: str) -> AbstractContextManager[Path]:
    """A local folder that contains the file or folder `name` of `root`: `root` itself, or a copy for the block.

    If `root` does not contain the name, neither does the copy.
    """
    return storage_of(root).fetched(name)


def sha256_of(path: AnyPath) -> str:
    """The SHA-256 of a file's content, in hex."""
    return storage_of(path).sha256()


def size_of(path: AnyPath) -> int:
    """Size of a file in bytes; -1 if it does not exist."""
    return storage_of(path).size()


def sizes_in(folder: AnyPath) -> dict[str, int]:
    """Size in bytes of every file below `folder`, by relative path; empty if the folder does not exist."""
    return storage_of(folder).sizes()


def remove(path: AnyPath) -> None:
    """Remove a file, or a folder with its content. Does nothing if the path does not exist."""
    storage_of(path).remove()


def map_in_threads(function: Callable[[A], B], items: Iterable[A], where: AnyPath) -> Iterator[B]:
    """`map`, in parallel threads if `where` is on an object store: its requests spend most of their time waiting."""
    threads = storage_of(where).request_threads
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="objects") as pool:
        yield from pool.map(function, items)
