"""Files that are the volumes of one archive, read as their concatenation."""

import bisect
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast


def open_volumes(paths: Sequence[Path]) -> BinaryIO:
    """Open one file, or the concatenation of several, for reading. Raises OSError."""
    if len(paths) == 1:
        return paths[0].open("rb")
    return cast(BinaryIO, io.BufferedReader(_Volumes(paths)))


def size_of_volumes(paths: Sequence[Path]) -> int:
    """The size of the concatenation in bytes. Raises OSError."""
    return sum(path.stat().st_size for path in paths)


class _Volumes(io.RawIOBase):
    """The concatenation of files; one of them is open at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.starts = [0, *itertools.accumulate(path.stat().st_size for path in paths)]
        self.at = 0
        self.opened = -1
        self.file: io.FileIO | None = None

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
            self.file, self.opened = io.FileIO(self.paths[number]), number
        assert self.file is not None
        self.file.seek(self.at - self.starts[number])
        count = self.file.readinto(memoryview(buffer)[: self.starts[number + 1] - self.at]) or 0
        self.at += count
        return count

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        super().close()
