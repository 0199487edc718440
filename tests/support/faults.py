"""Faults at every point where a command touches the disk: kill -9, and disks that are full or allow small files only.

The points are the calls that make files durable, put them in place or take them away. Jobs run in forks.
"""

import errno
import io
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import StorageError, UserError
from tests.support.tiny_jobs import digests

CALLS = ("fsync", "replace", "rename", "link", "unlink", "rmdir", "mkdir")  # of os
HUNG_S = 120

Job = Callable[[Path], object]  # what it writes is below the path


@contextmanager
def at_each_call(act: Callable[[int, str], None], names: tuple[str, ...] = CALLS) -> Iterator[None]:
    """In the block, `act(number, name)` before each of these calls of `os`, which are numbered from 0."""
    number = 0
    real = {name: getattr(os, name) for name in names}

    def patched(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal number
            number += 1
            act(number - 1, name)
            return real[name](*args, **kwargs)

        return call

    for name in names:
        setattr(os, name, patched(name))
    try:
        yield
    finally:
        for name in names:
            setattr(os, name, real[name])


def calls_of(job: Job, place: Path) -> list[str]:
    """The names of such calls that the job makes, in their order."""
    names: list[str] = []
    with at_each_call(lambda number, name: names.append(name)):
        job(place)
    return names


def killed_at(job: Job, place: Path, point: int) -> None:
    """Run the job in a fork that is killed before the call `point`."""

    def kill(number: int, name: str) -> None:
        if number == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        with at_each_call(kill):
            job(place)

    assert in_a_fork(work) == -signal.SIGKILL


def full_at(job: Job, place: Path, point: int) -> str:
    """Run the job on a disk that is full from its `point`-th fsync on; its error, empty where it met none."""

    def refuse(number: int, name: str) -> None:
        if number >= point:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with at_each_call(refuse, ("fsync",)):
        try:
            job(place)
        except (StorageError, UserError) as error:
            return str(error)
    return ""


def limited_to(job: Job, place: Path, num_bytes: int) -> str:
    """Run the job in a fork that may write no file of more than `num_bytes`; its error, empty where it met none."""
    read, write = os.pipe()

    def work() -> None:
        sys.stdout = sys.stderr = io.StringIO()  # pytest has files there
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
        try:
            job(place)
        except (StorageError, UserError) as error:
            os.write(write, str(error).encode())
        except BaseException:
            os.write(write, traceback.format_exc().encode())
            raise

    status = in_a_fork(work)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    assert status == 0, said
    return said


def in_a_fork(work: Callable[[], None]) -> int:
    """The exit status of `work` in a fork: 1 after another error than it handles; minus the signal that ended it."""
    pid = os.fork()
    if not pid:
        signal.alarm(HUNG_S)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def copy_of(before: Path, place: Path) -> Path:
    """A fresh copy of what is there before the job."""
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(before, place))


def left_over(place: Path) -> list[str]:
    """What is half-written or a lock."""
    return [name for name in digests(place) if "/." in f"/{name}"]
