"""An exclusive lock file, in which its owner is noted."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bevt_core.console.disk_errors import explained, explaining, make_folder
from bevt_core.console.terminal import warn
from bevt_core.storage.locks.file_locks import (
    EXCLUSIVE,
    TRIES,
    NoLocksError,
    NotALockFileError,
    remove_and_release,
    take,
)
from bevt_core.storage.locks.owners import line_of, note_alone, owner_of
from schemas.errors import UserError


@contextmanager
def locked(lock: Path, subject: Path, command: str, does: str, advice: str) -> Iterator[None]:
    """Hold the exclusive lock file `lock` for the block.

    Raises UserError if another process has it; `does` describes what that process does with `subject`: "is writing".
    On a file system without locks the block runs after a warning.
    """
    try:
        descriptor = _taken(lock)
    except NoLocksError:
        warn_of_no_locks(subject)
        # without a lock, the file still shows hosts on which locks work that there may be a writer (`is_written`)
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)  # it may be a hard link to another file
            with lock.open("x") as file:
                file.write(line_of(command))
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
        return
    except NotALockFileError:
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
        remove_and_release(lock, descriptor)


def taken(subject: object, owner: object, does: str, advice: str) -> UserError:
    """The error for a lock that another process has; `owner` is None if that process is unknown."""
    return UserError(f"{subject}: {owner or 'another process'} {does} it; {advice}")


_warned: set[str] = set()


def warn_of_no_locks(subject: object) -> None:
    """Warn, once per `subject`, that it cannot be locked."""
    if str(subject) not in _warned:
        _warned.add(str(subject))
        warn(f"{subject}: locks are not supported here, so other commands on it go unnoticed; run one at a time")


def _taken(lock: Path) -> int | None:
    """`take` exclusively, in a folder that another process may remove meanwhile."""
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError):
            make_folder(lock.parent)
            return take(lock, EXCLUSIVE)
    make_folder(lock.parent)
    return take(lock, EXCLUSIVE)
