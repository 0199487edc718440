"""Separates failures of the storage (disk, network, limits of this process) from faults of the file being read."""

import errno
import os

import av

from bevt_core.storage.objects import AnyPath
from schemas.errors import StorageError

# Errors of a disk, a network or this process. The content of a file never causes them, so no source is rejected.
STORAGE_TROUBLE = frozenset(
    {
        errno.EIO,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.ENODEV,
        errno.ENXIO,
        getattr(errno, "EREMOTEIO", errno.EIO),  # not on macOS
        errno.ENOLINK,
        errno.ENOLCK,
        errno.ESHUTDOWN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
ALSO_DAMAGED_FILES = frozenset({errno.EIO, errno.ENOMEM})  # FFmpeg reports these for damaged files too


def raise_storage_trouble(error: BaseException, path: AnyPath) -> None:
    """Raise StorageError if `error`, raised while reading `path`, comes from the disk, the network or this process."""
    number = getattr(error, "errno", None)
    if number not in STORAGE_TROUBLE or (isinstance(error, av.FFmpegError) and number in ALSO_DAMAGED_FILES):
        return
    raise StorageError(
        number,
        f"{path}: cannot be read: {os.strerror(number)}. Check the disk, its mount and the network, then run the same "
        "command again: finished work is kept",
    ) from error
