"""One writer for what a command writes, and none who removes what others read.

The locks are those of `locks`: they end with their process, so none is ever stale. They are removed at the end; one
that a killed process left means nothing. Object stores have none.
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
    """Be the only writer of `directory`, which is made where it is absent, for the block; clean up after killed ones.

    Inside of such a block the same thread may hold it again. Raises UserError, naming the other process, where it has a
    writer; StorageError where it cannot be written. Some file systems have no locks: a warning, and the block runs. So
    it does on an object store, where two writers of a dataset put the same bytes.
    """
    return storage_of(directory).hold(command)


def writes(place: Callable[..., AnyPath], command: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function to `hold` the directory that `place` finds in its arguments, for as long as it runs."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def held(*args: P.args, **kwargs: P.kwargs) -> R:
            with hold(place(*args, **kwargs), command):
                return function(*args, **kwargs)

        return held

    return decorate


def owner(directory: AnyPath) -> Owner | None:
    """Return who writes `directory` now; None where nobody does, and where that cannot be known."""
    return storage_of(directory).owner()


def is_written(directory: Path, known: Path) -> bool | None:
    """Whether a process writes `directory` now; None where that cannot be known.

    It cannot where the file system has no locks, which is tried on the file `known`, and where a process of another
    host left its lock file: some network file systems show locks only on the host that took them.
    """
    if owner(directory) is not None:
        return True
    try:
        with contextlib.suppress(FileNotFoundError), opened(directory / WRITER) as descriptor:
            if last_noted(descriptor).host != socket.gethostname():
                return None
        with opened(known) as descriptor:
            is_taken(descriptor)
    except OSError:
        return None
    return False


@contextmanager
def reading(stores: Iterable[AnyPath], command: str) -> Iterator[None]:
    """Keep `removing` from these frame stores and token sets for the block.

    Where they cannot be locked, as on a read-only disk, the block runs as well. Raises UserError where parts are being
    removed from one.
    """
    with contextlib.ExitStack() as stack:
        for store in dict.fromkeys(stores):
            stack.enter_context(storage_of(store).reading(command))
        yield


@contextmanager
def removing(stores: Iterable[AnyPath], command: str) -> Iterator[None]:
    """Be sure that nobody reads these frame stores and token sets, and that nobody begins to, for the block.

    Raises UserError where one is being read. Of object stores, which have no locks, that is not known: a warning.
    """
    with contextlib.ExitStack() as stack:
        for store in dict.fromkeys(stores):
            stack.enter_context(storage_of(store).removing(command))
        yield
