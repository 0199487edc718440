"""One writer for what a command writes, and none who removes what others read.

    <directory>/.writer        locked by who writes the directory
    <folder>/.<name>.writer    locked by who writes the file, or the folder that appears whole, `name`
    <store>/.readers           shared by those who read a frame store or a token set, or locked by who removes parts

The locks are those of `file_locks`: they end with their process, so none is ever stale. What the files say is for
messages only. They are removed at the end; one that a killed process left means nothing.
"""

import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import ValidationError

from bevt_core.console.disk_errors import explained, explaining
from bevt_core.console.terminal import warn
from bevt_core.storage.locks.file_locks import (
    EXCLUSIVE,
    SHARED,
    TRIES,
    NoLockFileError,
    NoLocksError,
    is_mine,
    is_taken,
    mine,
    open_lock_file,
    remove_and_let_go,
    take,
)
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.staging import READERS, WRITER, clean_staging
from schemas.base import Record
from schemas.errors import UserError
from schemas.ranges import Count

P = ParamSpec("P")
R = TypeVar("R")

MOST_BYTES = 64 << 10  # of a lock file that are read
SHOWN = 160  # characters of a command in a message
NOTE_TRIES, NOTE_WAIT_S = 5, 0.02  # for the owner of a lock to say who it is

_held_here: ContextVar[frozenset[Path]] = ContextVar("_held_here", default=frozenset())  # by this thread


class Owner(Record):
    """Who has a lock: what the lock file says."""

    host: str
    pid: Count
    command: str
    since: str  # ISO 8601, UTC

    def __str__(self) -> str:
        """Without what a terminal would act on, and not too long: the file may come from anywhere."""
        command = self.command if len(self.command) <= SHOWN else f"{self.command[: SHOWN - 3]}..."
        text = f"`{command}` (process {self.pid} on {self.host}, since {self.since})"
        return "".join(character if character.isprintable() else "?" for character in text)


@contextmanager
def hold(directory: AnyPath, command: str) -> Iterator[None]:
    """Be the only writer of `directory`, which is made where it is absent, for the block; clean up after killed ones.

    Inside of such a block the same thread may hold it again. Raises UserError, naming the other process, where it has a
    writer; StorageError where it cannot be written. Some file systems have no locks: a warning, and the block runs. So
    it does on an object store, where two writers of a dataset put the same bytes.
    """
    if not isinstance(directory, Path):
        yield
        return
    with _held(directory / WRITER, directory, command):
        yield


@contextmanager
def hold_file(target: Path, command: str) -> Iterator[None]:
    """`hold` for a file, or for a folder that appears whole by a rename."""
    with _held(_beside(target), target, command):
        yield


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
    return _owner(directory / WRITER) if isinstance(directory, Path) else None


def is_written(directory: Path, known: Path) -> bool | None:
    """Whether a process writes `directory` now; None where that cannot be known.

    It cannot where the file system has no locks, which is tried on the file `known`, and where a process of another
    host left its lock file: some network file systems show locks only on the host that took them.
    """
    if owner(directory) is not None:
        return True
    try:
        with contextlib.suppress(FileNotFoundError), _opened(directory / WRITER) as descriptor:
            if _last_noted(descriptor).host != socket.gethostname():
                return None
        with _opened(known) as descriptor:
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
        for store in dict.fromkeys(store for store in stores if isinstance(store, Path)):
            stack.enter_context(_read(store, command))
        yield


@contextmanager
def removing(stores: Iterable[AnyPath], command: str) -> Iterator[None]:
    """Be sure that nobody reads these frame stores and token sets, and that nobody begins to, for the block.

    Raises UserError where one is being read. Of object stores, which have no locks, that is not known: a warning.
    """
    with contextlib.ExitStack() as stack:
        for store in dict.fromkeys(stores):
            if not isinstance(store, Path):
                _warn_of_no_locks(store)
            elif store.is_dir():
                what = "reads", "wait until it ends, or stop it"
                stack.enter_context(_locked(store / READERS, store, command, *what))
        yield


def content_of(directory: Path) -> list[str]:
    """Return the names of what is in `directory`, sorted, but for locks."""
    return sorted(entry.name for entry in directory.iterdir() if entry.name not in (WRITER, READERS))


@contextmanager
def _held(lock: Path, subject: Path, command: str) -> Iterator[None]:
    if lock.absolute() in _held_here.get():
        yield
        return
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    before = _held_here.set(_held_here.get() | {lock.absolute()})
    try:
        with _locked(lock, subject, command, "writes", "wait until it ends or stop it, or give another --out"):
            clean_staging(lock.parent)
            yield
    finally:
        _held_here.reset(before)
        for folder in made:
            with contextlib.suppress(OSError):  # something was written, or it is gone
                folder.rmdir()


@contextmanager
def _locked(lock: Path, subject: Path, command: str, does: str, advice: str) -> Iterator[None]:
    """Hold the file `lock` alone. UserError where another does what `does` says with `subject`."""
    try:
        descriptor = _taken(lock)
    except NoLocksError:
        _warn_of_no_locks(subject)
        with contextlib.suppress(OSError):  # other hosts may see locks, and must not take its absence for an answer
            lock.unlink(missing_ok=True)  # it may be another name of somebody's file
            with lock.open("x") as file:
                file.write(_noted(command))
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
        return
    except NoLockFileError:
        raise UserError(f"{lock}: a folder, a link or a pipe, expected bevt's lock file; remove it") from None
    except OSError as error:
        raise explained(error, subject) from error
    if descriptor is None:
        raise UserError(f"{subject}: {_owner(lock) or 'another process'} {does} it; {advice}")
    try:
        with explaining(subject):
            if not _has_other_names(descriptor):  # else it may be somebody's file: locked, but not written
                os.truncate(descriptor, 0)
                _note(descriptor, command)
        yield
    finally:
        remove_and_let_go(lock, descriptor)


@contextmanager
def _read(store: Path, command: str) -> Iterator[None]:
    lock, descriptor = store / READERS, None
    if not is_mine(lock):
        with contextlib.suppress(OSError):  # another user's store, or a disk without locks: it is only not guarded
            descriptor = take(lock, SHARED)
            if descriptor is None:
                raise UserError(f"{store}: {_owner(lock) or 'another process'} removes parts of it; wait until it ends")
            if not _has_other_names(descriptor):
                _note(descriptor, command)
    try:
        yield
    finally:
        if descriptor is not None:
            remove_and_let_go(lock, descriptor)


def _taken(lock: Path) -> int | None:
    """`take` alone, in a folder that another process may remove in between."""
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            return take(lock, EXCLUSIVE)
    lock.parent.mkdir(parents=True, exist_ok=True)
    return take(lock, EXCLUSIVE)


def _has_other_names(descriptor: int) -> bool:
    return os.fstat(descriptor).st_nlink > 1


def _note(descriptor: int, command: str) -> None:
    """Add a line that says who we are."""
    os.lseek(descriptor, 0, os.SEEK_END)
    os.write(descriptor, _noted(command).encode())
    os.fsync(descriptor)  # for readers on other hosts


def _noted(command: str) -> str:
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = command.encode(errors="replace").decode()  # an argument may be no UTF-8
    return Owner(host=socket.gethostname(), pid=os.getpid(), command=text, since=since).model_dump_json() + "\n"


def _owner(lock: Path) -> Owner | None:
    """Who noted itself last in a lock file, if the lock is held."""
    with contextlib.suppress(OSError):  # it is gone, or may not be read
        held = mine(lock)
        if held is not None:
            return _last_noted(held)
        with _opened(lock) as descriptor:
            return _last_noted(descriptor) if is_taken(descriptor) else None
    return None


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    descriptor = open_lock_file(file, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _last_noted(descriptor: int) -> Owner:
    for _ in range(NOTE_TRIES):
        size = os.fstat(descriptor).st_size
        lines = os.pread(descriptor, MOST_BYTES, max(0, size - MOST_BYTES)).splitlines()
        with contextlib.suppress(IndexError, ValidationError):
            return Owner.model_validate_json(lines[-1])
        time.sleep(NOTE_WAIT_S)  # it has its lock, and will say in a moment who it is
    return Owner(host="an unknown host", pid=0, command="unknown", since="unknown")


def _beside(target: Path) -> Path:
    return target.absolute().parent / f".{target.absolute().name}{WRITER}"


_warned: set[str] = set()


def _warn_of_no_locks(subject: AnyPath) -> None:
    if str(subject) not in _warned:
        _warned.add(str(subject))
        warn(f"{subject}: no locks there, so other commands that use it are not noticed; start only one at a time")
