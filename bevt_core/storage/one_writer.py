"""Locks around commands: one writer per output, and no removal of data that another process reads.

The locks (see `locks`) end with their process, so they are never stale. Lock files are removed at the end; one that a
killed process left has no effect. Object stores have no locks.
"""

import contextlib
import functools
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from bevt_core.storage.interface import storage_of
from bevt_core.storage.locks.file_locks import is_taken
from bevt_core.storage.locks.owners import Owner, last_noted, opened
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.staging import WRITER

P = ParamSpec("P")
R = TypeVar("R")


def hold(directory: AnyPath, command: str) -> AbstractContextManager[None]:
    """Be the only writer of `directory` for the block; make it if needed, and clean up after killed writers.

    The same thread may hold it again inside the block. Raises UserError, naming the other process, if there is another
    writer; StorageError if the directory cannot be written. On a file system without locks the block runs after a
    warning. It also runs without a lock on an object store, where two writers of a dataset put the same bytes.
    """
    return storage_of(directory).hold(command)


def writes(output: Callable[..., AnyPath], command: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function to `hold` the directory that `output` returns for its arguments, while it runs."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def held(*args: P.args, **kwargs: P.kwargs) -> R:
            with hold(output(*args, **kwargs), command):
                return function(*args, **kwargs)

        return held

    return decorate


def owner(directory: AnyPath) -> Owner | None:
    """Return the process that is writing `directory`; None if there is none or if it cannot be determined."""
    return storage_of(directory).owner()


def is_written(directory: Path, existing_file: Path) -> bool | None:
    """Whether a process is writing `directory`; None if that cannot be determined.

    It cannot on a file system without locks, which `existing_file` (any file on it) is used to find out, or if the lock
    file is from another host: some network file systems show locks only on the host that took them.
    """
    if owner(directory) is not None:
        return True
    try:
        with contextlib.suppress(FileNotFoundError), opened(directory / WRITER) as descriptor:
            if last_noted(descriptor).host != socket.gethostname():
                return None
        with opened(existing_file) as descriptor:
            is_taken(descriptor)
    except OSError:
        return None
    return False


@contextmanager
def reading(stores: Iterable[AnyPath], command: str) -> Iterator[None]:
    """Prevent other processes from `removing` parts of these frame stores and token sets during the block.

    If they cannot be locked, as on a read-only disk, the block runs without locks. Raises UserError if parts are being
    removed from one of them.
    """
    with contextlib.ExitStack() as stack:
        for store in dict.fromkeys(stores):
            stack.enter_context(storage_of(store).reading(command))
        yield


@contextmanager
def removing(stores: Iterable[AnyPath], command: str) -> Iterator[None]:
    """Keep readers out of these frame stores and token sets for the block.

    Raises UserError if one is being read. Object stores have no locks: there it only warns.
    """
    with contextlib.ExitStack() as stack:
        for store in dict.fromkeys(stores):
            stack.enter_context(storage_of(store).removing(command))
        yield
