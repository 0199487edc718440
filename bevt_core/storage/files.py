"""Write, fsync, rename: a file or a folder appears whole under its name, or not at all.

On an object store there is no rename: an object appears whole by one put, and a folder is whole when its last file, the
commit, is there.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from bevt_core.storage.contained import contained
from bevt_core.storage.objects import CONNECTIONS, AnyPath, ObjectPath
from bevt_core.storage.regular_file import check_size, read_regular
from bevt_core.storage.s3.download_limit import TooLong
from bevt_core.storage.staging import clean_staging, discard, scratch_folder, staged_file, staged_folder
from schemas.errors import StorageError, UserError
from schemas.text.json_text import parse_json
from schemas.text.plain import text_of
from schemas.text.validation import describe

R = TypeVar("R", bound=BaseModel)
A = TypeVar("A")
B = TypeVar("B")

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)  # what file systems without hard links say
MAX_RECORD_BYTES = 4 << 20  # of a record; the names of ImageNet-21k's classes have 1 MB


def write_atomic(path: AnyPath, data: bytes) -> None:
    """Put `data` under `path` so that a reader, or a crash, sees the old file or the new one, never a part."""
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
        return
    with staged_file(path) as file:
        file.write(data)


def create_record(path: AnyPath, record: R) -> R:
    """`write_record`, unless there is one, which stays. Returns the record that is there: of writers at once, one's."""
    data = _record_bytes(record)
    if path.create_bytes(data) if isinstance(path, ObjectPath) else _create(path, data):
        return record
    there = read_record(path, type(record))
    if there is None:
        raise StorageError(errno.ENOENT, f"{path}: it was there, and was removed just now; run the same command again")
    return there


def _create(path: Path, data: bytes) -> bool:
    """False where there is a file already. On a file system without hard links it may be replaced, by a rare chance."""
    try:
        with staged_file(path, os.link) as file:
            file.write(data)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            return False
        write_atomic(path, data)
    return True


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


def read_bounded(path: AnyPath, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises UserError for a larger one and for a pipe or device."""
    if isinstance(path, Path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        return read_regular(path, most)
    check_size(path, path.size(), most)
    return path.read_bytes()


@contextmanager
def committed_folder(target: AnyPath, commit: str, is_done: Callable[[], bool]) -> Iterator[Path]:
    """`staged_folder` for a target that may be on an object store, where the file `commit` goes up last.

    Nothing goes up if `is_done` says that another writer was faster. What an interrupted upload left there is
    overwritten, or removed if it has another name.
    """
    if isinstance(target, Path):
        with staged_folder(target) as staging:
            yield staging
        return
    clean_staging(target)
    with scratch_folder(target.name) as staging:
        yield staging
        if is_done():
            return
        names = [str(path.relative_to(staging)) for path in sorted(staging.rglob("*")) if path.is_file()]
        for stray in sorted(target.sizes().keys() - set(names)):
            (target / stray).unlink(missing_ok=True)
        for name in sorted(names, key=lambda name: name == commit):
            (target / name).upload(staging / name)


@contextmanager
def fetched(root: AnyPath, name: str) -> Iterator[Path]:
    """A local folder that has the file or folder `name` as `root` has it: `root` itself, or a copy for the block.

    What `root` does not have is not there either.
    """
    if isinstance(root, Path):
        yield root
        return
    with scratch_folder("fetched") as folder:
        download(root, {name: None}, folder)
        if not (folder / name).exists():
            download(root, {f"{name}/{below}": size for below, size in (root / name).sizes().items()}, folder)
        yield folder


def download(root: ObjectPath, sizes: Mapping[str, int | None], folder: Path) -> None:
    """Copy objects below `root` into `folder`, under the same names: `sizes` are their bytes, None for any number.

    Those that are missing, or longer, are not copied. Raises UserError for a name that leads out of the folder.
    """
    for name, size in sizes.items():
        target = contained(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError, TooLong):
            (root / name).download(target, size)


def sha256_of(path: AnyPath) -> str:
    if isinstance(path, ObjectPath):
        digest = hashlib.sha256()
        for chunk in path.chunks():
            digest.update(chunk)
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: AnyPath) -> int:
    """Bytes of a file; -1 where there is none."""
    if isinstance(path, ObjectPath):
        return path.size()
    return path.stat().st_size if path.is_file() else -1


def sizes_in(folder: AnyPath) -> dict[str, int]:
    """Bytes of every file below `folder`, by its path in it; empty for a folder that is not there."""
    if isinstance(folder, ObjectPath):
        return folder.sizes()
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def remove(path: AnyPath) -> None:
    """Remove a file, or a folder with all that is in it, at once. What is not there stays so."""
    if isinstance(path, ObjectPath):
        for name in path.sizes():
            (path / name).unlink(missing_ok=True)
    elif path.is_dir() and not path.is_symlink():
        discard(path)
        return
    path.unlink(missing_ok=True)


def each(function: Callable[[A], B], items: Iterable[A], where: AnyPath) -> Iterator[B]:
    """`map`, but many at a time where `where` is an object store: a request waits far longer than it works."""
    if isinstance(where, Path):
        yield from map(function, items)
        return
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="objects") as pool:
        yield from pool.map(function, items)
