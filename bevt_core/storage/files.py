"""Files and folders that appear whole under their name, or not at all, and the records in them.

Paths may be local or on an object store: each function asks the path's `Storage`. Not here: how each of the two works
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

MAX_RECORD_BYTES = 4 << 20  # of a record; the names of ImageNet-21k's classes have 1 MB


def write_atomic(path: AnyPath, data: bytes) -> None:
    """Put `data` under `path` so that a reader, or a crash, sees the old file or the new one, never a part."""
    storage_of(path).write_atomic(data)


def create_record(path: AnyPath, record: R) -> R:
    """`write_record`, unless a record exists. Returns the stored one: of concurrent writers, that of the first."""
    data = _record_bytes(record)
    if storage_of(path).create(data):
        return record
    there = read_record(path, type(record))
    if there is None:
        raise StorageError(errno.ENOENT, f"{path}: it was there, and was removed just now; run the same command again")
    return there


def write_record(path: AnyPath, record: BaseModel) -> None:
    """A record as indented JSON with a final newline, atomically."""
    write_atomic(path, _record_bytes(record))


def _record_bytes(record: BaseModel) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()


def read_record(path: AnyPath, kind: type[R]) -> R | None:
    """The record in `path`, or None where there is no such file. UserError for one that cannot be read as `kind`."""
    try:
        data = read_bounded(path, MAX_RECORD_BYTES)
    except FileNotFoundError:
        return None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: cannot be read, expected a {kind.__name__}: {error.strerror}") from None
    try:
        return kind.model_validate(parse_json(text_of(data, "its content"), dict, "its content"))
    except ValidationError as error:
        reason = describe(error, kind)
    except UserError as error:
        reason = str(error)
    raise UserError(f"{path}: not a {kind.__name__} of this version of bevt: {reason}")


def read_json_file(path: AnyPath, kind: type) -> Any:
    """The content of a JSON file of ours, a `kind`: list or dict. Raises UserError for anything else, and OSError."""
    return parse_json(text_of(read_bounded(path, MAX_BYTES), path), kind, path)


def read_bounded(path: AnyPath, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises UserError for a larger one and for a pipe or device."""
    return storage_of(path).read_bounded(most)


def committed_folder(target: AnyPath, commit: str, is_done: Callable[[], bool]) -> AbstractContextManager[Path]:
    """`staged_folder` for a target that may be on an object store, where the file `commit` goes up last.

    Nothing goes up if `is_done` says that another writer was faster. What an interrupted upload left there is
    overwritten, or removed if it has another name.
    """
    return storage_of(target).committed_folder(commit, is_done)


def clean_staging(folder: AnyPath) -> None:
    """Remove what writers of `folder` that are no longer alive left half-written, and their lock files.

    For an object store that is what they left on the local disk.
    """
    storage_of(folder).clean_staging()


def fetched(root: AnyPath, name: str) -> AbstractContextManager[Path]:
    """A local folder with the file or folder `name` of `root`: `root` itself, or a copy for the block.

    A name that `root` lacks is absent from the copy too.
    """
    return storage_of(root).fetched(name)


def sha256_of(path: AnyPath) -> str:
    """The hash of a file's content, in hexadecimal digits."""
    return storage_of(path).sha256()


def size_of(path: AnyPath) -> int:
    """Bytes of a file; -1 where there is none."""
    return storage_of(path).size()


def sizes_in(folder: AnyPath) -> dict[str, int]:
    """Bytes of every file below `folder`, by its path in it; empty for an absent folder."""
    return storage_of(folder).sizes()


def remove(path: AnyPath) -> None:
    """Remove a file, or a folder with its content, at once. Does nothing where nothing exists."""
    storage_of(path).remove()


def each(function: Callable[[A], B], items: Iterable[A], where: AnyPath) -> Iterator[B]:
    """`map`, but many at a time where `where` is an object store: a request waits far longer than it works."""
    threads = storage_of(where).request_threads
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="objects") as pool:
        yield from pool.map(function, items)
