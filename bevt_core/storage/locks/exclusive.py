"""A lock file that one process has alone, with its name in it."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bevt_core.console.disk_errors import explained, explaining
from bevt_core.console.terminal import warn
from bevt_core.storage.locks.file_locks import (
    EXCLUSIVE,
    TRIES,
    NoLockFileError,
    NoLocksError,
    remove_and_let_go,
    take,
)
from bevt_core.storage.locks.owners import line_of, note_alone, owner_of
from schemas.errors import UserError


@contextmanager
def locked(lock: Path, subject: Path, command: str, does: str, advice: str) -> Iterator[None]:
    """Have the file `lock` alone for the block.

    Raises UserError where another process has it, which `does` something with `subject`. Where the file system has no
    locks: a warning, and the block runs.
    """
    try:
        descriptor = _taken(lock)
    except NoLocksError:
        warn_of_no_locks(subject)
        with contextlib.suppress(OSError):  # other hosts may see locks, and must not take its absence for an answer
            lock.unlink(missing_ok=True)  # it may be another name of somebody's file
            with lock.open("x") as file:
                file.write(line_of(command))
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
        raise taken(subject, owner_of(lock), does, advice)
    try:
        with explaining(subject):
            note_alone(descriptor, command)
        yield
    finally:
        remove_and_let_go(lock, descriptor)


def taken(subject: object, owner: object, does: str, advice: str) -> UserError:
    """The error for a lock that another process has; `owner` is None where nobody knows which."""
    return UserError(f"{subject}: {owner or 'another process'} {does} it; {advice}")


_warned: set[str] = set()


def warn_of_no_locks(subject: object) -> None:
    """Warn, once per `subject`, that nothing can be locked there."""
    if str(subject) not in _warned:
        _warned.add(str(subject))
        warn(f"{subject}: no locks there, so other commands that use it are not noticed; start only one at a time")


def _taken(lock: Path) -> int | None:
    """`take` alone, in a folder that another process may remove in between."""
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            return take(lock, EXCLUSIVE)
    lock.parent.mkdir(parents=True, exist_ok=True)
    return take(lock, EXCLUSIVE)
