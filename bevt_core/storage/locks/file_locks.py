"""File locks that end with their process, however it dies. They work between hosts over NFS.

They are the kernel's open-file-description (OFD) locks, or POSIX locks on kernels without those. An OFD lock belongs to
the open file: a forked child would keep its parent's locks, so it drops them at once. A POSIX lock ends when the
process closes the file through any descriptor, so a file that this process has locked is never opened again. The locks
are advisory.
"""

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import NamedTuple

from bevt_core.system import kind_of_lock, pack_lock
from schemas.text.regular_file import NotRegularError, open_regular

EXCLUSIVE, SHARED = fcntl.F_WRLCK, fcntl.F_RDLCK
TRIES = 100  # attempts to open a file that others keep removing
# from file systems without locks, or when the lock server is unreachable
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
# from opening a folder, a link, a socket (macOS: EOPNOTSUPP) or a pipe
_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP)
_TAKEN = (errno.EACCES, errno.EAGAIN)


class NoLocksError(OSError):
    """The file system does not support locks."""


class NotALockFileError(OSError):
    """The lock file's path is a folder, a link, a pipe or a device."""


class FileId(NamedTuple):
    device: int
    inode: int


_mutex = threading.Lock()
_held: dict[int, FileId] = {}  # descriptor -> file, for the locks of this process


def take(path: Path, kind: int) -> int | None:
    """Open `path`, made if needed, and lock it; return the descriptor, or None if the lock is taken.

    `kind` is EXCLUSIVE or SHARED. Raises NoLocksError, after making the file, if the file system does not support
    locks; NotALockFileError if `path` is not a regular file; OSError.
    """
    for _ in range(TRIES):
        if is_held_here(path):
            return None
        try:
            descriptor = open_lock_file(path, os.O_RDWR | os.O_CREAT)
        except PermissionError:
            if not _removed(path):
                return None
            continue
        state = _lock_at(descriptor, path, kind)
        if state == "locked":
            return descriptor
        os.close(descriptor)
        if state == "taken":
            return None
    raise OSError(errno.EBUSY, f"{path}: other processes keep making and removing it", str(path))


def take_new(path: Path) -> int | None:
    """Make `path`, which must not exist, and lock it; None if a process that cleans up locked or removed it first.

    On a file system without locks the descriptor is that of the unlocked file. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        state = _lock_at(descriptor, path, EXCLUSIVE)
    except NoLocksError:
        return open_lock_file(path, os.O_RDWR)
    if state == "locked":
        return descriptor
    os.close(descriptor)
    return None


def open_lock_file(path: Path, flags: int) -> int:
    """Open a regular file, without following links or blocking. Raises NotALockFileError for anything else, OSError."""
    try:
        return open_regular(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if isinstance(error, NotRegularError) or error.errno in _NO_FILE:
            raise NotALockFileError(error.errno, os.strerror(error.errno or 0), str(path)) from None
        raise


def release(descriptor: int) -> None:
    """Close a descriptor from `take` or `take_new`, which releases its lock."""
    with _mutex:
        _held.pop(descriptor, None)
        os.close(descriptor)


def remove_and_release(path: Path, descriptor: int) -> None:
    """Remove the locked file, unless others share the lock or this is a forked child without it; then close it."""
    try:
        if descriptor in _held and _locked(descriptor, EXCLUSIVE) and _is_at(descriptor, path):
            path.unlink()
    except OSError:  # the disk is gone or read-only by now: the file stays, and has no effect without its lock
        pass
    finally:
        release(descriptor)


def is_held_here(path: Path) -> bool:
    """Whether this process holds a lock on the file."""
    return held_descriptor(path) is not None


def held_descriptor(path: Path) -> int | None:
    """The descriptor with this process's lock on the file; None if it has none."""
    try:
        found = path.stat()
    except OSError:
        return None
    with _mutex:
        return next((held for held, file in _held.items() if file == (found.st_dev, found.st_ino)), None)


def is_taken(descriptor: int) -> bool:
    """Whether an exclusive lock would have to wait. The descriptor may be read-only. Raises NoLocksError, OSError."""
    try:
        return _request(descriptor, "F_OFD_GETLK", fcntl.F_GETLK, EXCLUSIVE) != fcntl.F_UNLCK
    except OSError as error:
        raise NoLocksError(error.errno, os.strerror(error.errno)) if error.errno in _NO_LOCKS else error from None


def _lock_at(descriptor: int, path: Path, kind: int) -> str:
    """Lock an open file: "locked", "taken", or "gone" if it is no longer the file at `path`."""
    try:
        if not _locked(descriptor, kind):
            return "taken"
        if not _is_at(descriptor, path):
            return "gone"
    except OSError as error:
        if error.errno == errno.ESTALE:  # NFS: removed on another host
            return "gone"
        os.close(descriptor)
        raise NoLocksError(error.errno, os.strerror(error.errno)) if error.errno in _NO_LOCKS else error from None
    found = os.fstat(descriptor)
    with _mutex:
        _held[descriptor] = FileId(found.st_dev, found.st_ino)
    return "locked"


def _locked(descriptor: int, kind: int) -> bool:
    try:
        _request(descriptor, "F_OFD_SETLK", fcntl.F_SETLK, kind)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _request(descriptor: int, ofd_command: str, posix_command: int, kind: int) -> int:
    """Make one lock request for the whole file: `ofd_command` by name, or `posix_command` on kernels without OFD locks.

    Returns the kind of lock in the reply: F_UNLCK if F_GETLK found no conflicting lock.
    """
    wanted = pack_lock(kind)
    if hasattr(fcntl, ofd_command):
        try:
            return kind_of_lock(fcntl.fcntl(descriptor, getattr(fcntl, ofd_command), wanted))
        except OSError as error:
            if error.errno != errno.EINVAL:  # from a kernel without OFD locks
                raise
    return kind_of_lock(fcntl.fcntl(descriptor, posix_command, wanted))


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        current = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    found = os.fstat(descriptor)
    return found.st_nlink > 0 and (found.st_dev, found.st_ino) == (current.st_dev, current.st_ino)


def _removed(path: Path) -> bool:
    """Remove a lock file of another user, which this one may not open for writing; False if it is locked.

    Raises PermissionError if it cannot be removed.
    """
    try:
        descriptor = open_lock_file(path, os.O_RDONLY)
    except FileNotFoundError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
    try:
        if not _locked(descriptor, SHARED):
            return False
        if _is_at(descriptor, path):
            path.unlink()
        return True
    finally:
        os.close(descriptor)


def _leave_to_the_parent() -> None:
    """In a forked child: point the descriptors of the parent's locks at /dev/null.

    If they were closed, their numbers could be reused while the child's code still refers to them.
    """
    if _held:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in _held:
            os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)
        _held.clear()


os.register_at_fork(before=_mutex.acquire, after_in_parent=_mutex.release, after_in_child=_mutex.release)
os.register_at_fork(after_in_child=_leave_to_the_parent)
