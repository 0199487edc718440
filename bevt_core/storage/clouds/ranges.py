"""A file object that reads an object by ranges."""

import functools
import io
from collections.abc import Callable
from typing import Any

READ_BYTES, READ_RANGES = 256 << 10, 8  # size of a range, and how many ranges a reader keeps


class Ranges(io.RawIOBase):
    """The bytes of an object, fetched in ranges of `range_bytes`; the READ_RANGES most recently used are kept."""

    def __init__(
        self, name: str, size: int, read_range: Callable[[int, int], bytes], range_bytes: int = READ_BYTES
    ) -> None:
        super().__init__()
        self.name = name
        self._size = size
        self._at = 0
        self._range_bytes = range_bytes
        self._range = functools.lru_cache(maxsize=READ_RANGES)(
            lambda i: read_range(i * range_bytes, min((i + 1) * range_bytes, size))
        )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read at most to the end of a range, as a raw file may; 0 at the end."""
        if self._at >= self._size:
            return 0
        number, start = divmod(self._at, self._range_bytes)
        piece = self._range(number)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
