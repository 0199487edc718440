"""The content of a lock file: which process has the lock. Used in messages, and to recognise locks of other hosts."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from bevt_core.storage.locks.file_locks import held_descriptor, is_taken, open_lock_file
from schemas.base import Record
from schemas.ranges import Count

MAX_BYTES = 64 << 10  # read from the end of a lock file
SHOWN = 160  # characters of a command in a message
NOTE_TRIES, NOTE_WAIT_S = 5, 0.02  # attempts to read a line that the owner may not have written yet


class Owner(Record):
    """The process that has a lock, as noted in the lock file."""

    host: str
    pid: Count
    command: str
    since: str  # ISO 8601, UTC

    def __str__(self) -> str:
        """Shortened, and without control characters: the file may come from anywhere."""
        command = self.command if len(self.command) <= SHOWN else f"{self.command[: SHOWN - 3]}..."
        text = f"`{command}` (process {self.pid} on {self.host}, since {self.since})"
        return "".join(character if character.isprintable() else "?" for character in text)


def note(descriptor: int, command: str) -> None:
    """Append this process's line, unless the file has other hard links: then it may be another program's file."""
    if not _has_other_names(descriptor):
        _append(descriptor, command)


def note_alone(descriptor: int, command: str) -> None:
    """`note`, replacing the file's content."""
    if not _has_other_names(descriptor):
        os.truncate(descriptor, 0)
        _append(descriptor, command)


def line_of(command: str) -> str:
    """This process's line, with a final newline."""
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = command.encode(errors="replace").decode()  # an argument may not be UTF-8
    return Owner(host=socket.gethostname(), pid=os.getpid(), command=text, since=since).model_dump_json() + "\n"


def owner_of(lock: Path) -> Owner | None:
    """The process in the last line of a lock file; None if the lock is free."""
    with contextlib.suppress(OSError):  # removed, or not readable
        held = held_descriptor(lock)
        if held is not None:
            return last_noted(held)
        with opened(lock) as descriptor:
            return last_noted(descriptor) if is_taken(descriptor) else None
    return None


@contextmanager
def opened(file: Path) -> Iterator[int]:
    """Open a lock file for reading and yield its descriptor. Raises NotALockFileError, OSError."""
    descriptor = open_lock_file(file, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def last_noted(descriptor: int) -> Owner:
    """The owner in the last line of an open lock file; waits briefly, as the owner may be about to write it."""
    for _ in range(NOTE_TRIES):
        size = os.fstat(descriptor).st_size
        lines = os.pread(descriptor, MAX_BYTES, max(0, size - MAX_BYTES)).splitlines()
        with contextlib.suppress(IndexError, ValidationError):
            return Owner.model_validate_json(lines[-1])
        time.sleep(NOTE_WAIT_S)
    return Owner(host="an unknown host", pid=0, command="unknown", since="unknown")


def _has_other_names(descriptor: int) -> bool:
    return os.fstat(descriptor).st_nlink > 1


def _append(descriptor: int, command: str) -> None:
    os.lseek(descriptor, 0, os.SEEK_END)
    os.write(descriptor, line_of(command).encode())
    os.fsync(descriptor)  # for readers on other hosts
