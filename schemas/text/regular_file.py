"""Opens and reads regular files only: in an untrusted folder a name may be a pipe, a device or a link into /proc."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import UserError

# Errors of opening or reading sockets, link loops and kernel files; other errors are the disk's.
_NO_FILE = (errno.ENXIO, errno.EOPNOTSUPP, errno.ELOOP, errno.EINVAL, errno.EAGAIN, errno.EPERM)
_KERNEL = ("/proc", "/sys")


class NotRegularError(OSError):
    """A folder, pipe, device or kernel file where a regular file was expected."""


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file without blocking on a pipe; return the descriptor. Raises NotRegularError, OSError."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise NotRegularError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))


def is_irregular(path: Path) -> bool:
    """Whether `path` exists and is not a regular file. Links are followed."""
    return path.exists() and not path.is_file()


def read_regular(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes; never blocks on a pipe.

    Raises UserError for a larger file, a pipe, a device or a kernel file. Raises OSError.
    """
    with _opened(path) as descriptor:
        check_size(path, os.fstat(descriptor).st_size, most)
        data = _read(descriptor, most + 1)
    check_size(path, len(data), most)  # some file systems report no size, and a file may grow
    return data


def read_end(path: Path, most: int) -> tuple[int, bytes]:
    """The last `most` bytes of a file, or fewer, and their position in it. Raises as `read_regular`."""
    with _opened(path) as descriptor:
        start = max(0, os.fstat(descriptor).st_size - most)
        os.lseek(descriptor, start, os.SEEK_SET)
        return start, _read(descriptor, most)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of the file, to read from."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
        try:
            if os.fstat(descriptor).st_dev in _kernel_devices():
                raise NotRegularError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
            yield descriptor
        finally:
            os.close(descriptor)
    except NotRegularError:
        raise UserError(f"{path}: a device or pipe, expected a file") from None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise UserError(f"{path}: cannot be read, expected a file: {error.strerror}") from None


def check_size(path: object, size: int, most: int) -> None:
    """Raise UserError for a file of more than `most` bytes."""
    if size > most:
        raise UserError(f"{path}: {size / 1e6:.1f} MB, expected a file of at most {most / 1e6:.1f} MB")


def _read(descriptor: int, most: int) -> bytes:
    chunks = []
    while most and (chunk := os.read(descriptor, min(most, 1 << 20))):
        chunks.append(chunk)
        most -= len(chunk)
    return b"".join(chunks)


def _kernel_devices() -> set[int]:
    """Device numbers of /proc and /sys: reading their files may block or never end."""
    devices = set()
    for folder in _KERNEL:
        with contextlib.suppress(OSError):
            devices.add(Path(folder).stat().st_dev)
    devices.discard(Path("/").stat().st_dev)  # if they are not mounted
    return devices
