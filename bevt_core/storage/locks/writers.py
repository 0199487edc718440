"""One writer per local folder, and per file or folder that appears as a whole.

    <folder>/.writer           locked by the process that writes into the folder
    <parent>/.<name>.writer    locked by the process that makes the file or folder `name`

The two exclude each other for the same folder. A link is locked under its own name and under its target's.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from bevt_core.storage.locks.exclusive import locked, taken
from bevt_core.storage.locks.owners import owner_of
from bevt_core.storage.staging import WRITER, clean_local_staging

_WRITES = "is writing", "wait until it ends or stop it, or give another --out"

# lock files that this thread has locked
_held_here: ContextVar[frozenset[Path]] = ContextVar("_held_here", default=frozenset())


@contextmanager
def hold_folder(directory: Path, command: str) -> Iterator[None]:
    """Be the only writer of `directory` for the block; make it if needed.

    Raises UserError if another process writes or makes it; StorageError if it cannot be written.
    """
    with _held(directory / WRITER, directory, command):
        _check_free(_beside(Path(os.path.realpath(directory))), directory)
        yield


@contextmanager
def hold_file(target: Path, command: str) -> Iterator[None]:
    """`hold_folder` for a file, or for a folder that appears by a rename."""
    real = Path(os.path.realpath(target))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_held(_beside(target), target, command))
        if target.is_symlink():
            with contextlib.suppress(OSError):  # no write permission beside the target; only the link is replaced
                stack.enter_context(_held(_beside(real), target, command))
        _check_free(real / WRITER, target)
        yield


@contextmanager
def _held(lock: Path, subject: Path, command: str) -> Iterator[None]:
    key = _key(lock)
    if key in _held_here.get():
        yield
        return
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    before = _held_here.set(_held_here.get() | {key})
    try:
        with locked(lock, subject, command, *_WRITES):
            clean_local_staging(lock.parent)
            yield
    finally:
        _held_here.reset(before)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty, or already removed
                folder.rmdir()


def _check_free(lock: Path, subject: Path) -> None:
    """Raise UserError if another process has `lock`.

    Each of two writers takes its own lock before it checks the other's, so at most one of them continues.
    """
    if _key(lock) not in _held_here.get() and (owner := owner_of(lock)) is not None:
        raise taken(subject, owner, *_WRITES)


def _key(lock: Path) -> Path:
    return Path(os.path.realpath(lock.parent), lock.name)


def _beside(target: Path) -> Path:
    return target.absolute().parent / f".{target.absolute().name}{WRITER}"
