"""Failures to read that are of the storage, and not of the file: the disk, the network, this process."""

import errno
import os

import av

from bevt_core.storage.objects import AnyPath
from schemas.errors import StorageError

# What a disk, a network or this process says, and no file ever does: a source that met it is not to blame.
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
        errno.EREMOTEIO,
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


SAID_OF_FILES = frozenset({errno.EIO, errno.ENOMEM})  # by FFmpeg, which has these for damaged files too


def raise_storage_trouble(error: BaseException, path: AnyPath) -> None:
    """Raise StorageError where `error`, met in reading `path`, is of the disk, the network or this process."""
    number = getattr(error, "errno", None)
    if number not in STORAGE_TROUBLE or (isinstance(error, av.FFmpegError) and number in SAID_OF_FILES):
        return
    raise StorageError(
        number,
        f"{path}: cannot be read: {os.strerror(number)}; a lost network, a disk that fails or is unmounted? "
        "Mend it and run the same command again: what is finished is kept",
    ) from error
