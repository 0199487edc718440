"""Files that are the volumes of one archive, read as their concatenation."""

import bisect
import errno
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath

RANGE_BYTES = 1 << 20  # of an object, per request


def open_volumes(paths: Sequence[AnyPath]) -> BinaryIO:
    """Open one file, or the concatenation of several, for reading. Raises OSError."""
    if len(paths) == 1:
        return cast(BinaryIO, storage_of(paths[0]).reader(RANGE_BYTES))
    return cast(BinaryIO, io.BufferedReader(_Volumes(paths)))


def size_of_volumes(paths: Sequence[AnyPath]) -> int:
    """The size of the concatenation in bytes. Raises OSError."""
    return sum(map(_size, paths))


def _size(path: AnyPath) -> int:
    if isinstance(path, Path):
        return path.stat().st_size  # of a pipe too, which its reader refuses
    size = path.size()
    if size < 0:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return size


class _Volumes(io.RawIOBase):
    """The concatenation of files; one of them is open at a time."""

    def __init__(self, paths: Sequence[AnyPath]) -> None:
        self.paths = paths
        self.starts = [0, *itertools.accumulate(map(_size, paths))]
        self.at = 0
        self.opened = -1
        self.file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.starts[-1]}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if self.at >= self.starts[-1]:
            return 0
        number = bisect.bisect_right(self.starts, self.at) - 1
        if number != self.opened:
            if self.file is not None:
                self.file.close()
            self.file, self.opened = storage_of(self.paths[number]).reader(RANGE_BYTES), number
        assert self.file is not None
        self.file.seek(self.at - self.starts[number])
        wanted = memoryview(buffer)[: self.starts[number + 1] - self.at]
        count: int = self.file.readinto(wanted) or 0  # type: ignore[attr-defined]
        self.at += count
        return count

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        super().close()
