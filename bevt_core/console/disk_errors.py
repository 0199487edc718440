"""Readable messages for disk errors."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import StorageError, UserError

_FIXES = {
    errno.ENOSPC: "the disk is full{space}; free some space and run the same command again: finished work is kept",
    errno.EDQUOT: "the disk quota is used up{space}; free some space and run the same command again",
    errno.EFBIG: "larger than this process may write (`ulimit -f`); raise the limit and run the same command again",
    errno.EROFS: "the file system is read-only; choose a writable path",
    errno.EACCES: "no permission to write here; choose a writable path",
    errno.EPERM: "no permission to write here; choose a writable path",
}

FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # never caused by a bad input


def explained(error: OSError, path: Path) -> OSError:
    """A disk error as a StorageError that names `path` and the free space; other errors unchanged."""
    if error.errno not in _FIXES or isinstance(error, StorageError):
        return error
    return StorageError(error.errno, f"{path}: {_FIXES[error.errno].format(space=_space(path))}")


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Replace disk errors raised in the block by those of `explained`."""
    try:
        yield
    except OSError as error:
        raise explained(error, path) from error


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents if needed. Raises UserError if a file or a broken link has one of their names."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        for path in (folder, *folder.parents):
            if os.path.lexists(path) and not path.is_dir():
                what = "a file" if path.exists() else "a broken link"
                raise UserError(f"{path}: {what}, expected a folder; give another path") from None
        raise  # another process removed one meanwhile


def _space(path: Path) -> str:
    """Free and total space of the disk with `path`; empty if unknown."""
    for folder in (path, *path.parents):
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        return f" ({_size(usage.free)} of {_size(usage.total)} free)"
    return ""


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
