"""How much the pages of a Parquet file unpack to, read from their headers, before pyarrow allocates anything for them.

A footer says how large a column is, but nothing makes it true; each page's own header decides what a reader allocates.
Headers are structs of Thrift's compact protocol (github.com/apache/parquet-format, src/main/thrift/parquet.thrift).
"""

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

HEADER_BYTES = (
    1 << 10,
    1 << 16,
)  # of a page's header, at first and at most: it may hold texts
MAX_NESTED = 8  # structs in a header
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_SCHEMA = 2  # field of FileMetaData


class Page(NamedTuple):
    """What a page's header says."""

    is_dictionary: bool
    num_bytes: int  # unpacked
    num_values: int
    encoding: int


class _Compact:
    """A reader of Thrift's compact protocol. Raises ValueError for what is none."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise EOFError
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number of more than 64 bits")

    def fields(self) -> Iterator[tuple[int, int]]:
        """(id, type) of each field of a struct; the caller reads the value before the next one."""
        number = 0
        while (head := self.byte()) & 0x0F:
            delta, kind = head >> 4, head & 0x0F
            number = number + delta if delta else self.zigzag()
            yield number, kind

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def size(self) -> tuple[int, int]:
        """How many elements a list has, and of which type."""
        head = self.byte()
        return (self.varint() if head >> 4 == 15 else head >> 4), head & 0x0F

    def value(self, kind: int, depth: int = 0) -> Any:
        """A number; a struct as a dict by field; None for text and lists, which are skipped."""
        if depth > MAX_NESTED:
            raise ValueError(f"more than {MAX_NESTED} structs in each other")
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self.byte()
        if kind == _STRUCT:
            return {number: self.value(inner, depth + 1) for number, inner in self.fields()}
        if kind in (_DOUBLE, _BINARY):
            length = 8 if kind == _DOUBLE else self.varint()
            self.at += length
            if self.at > len(self.data):
                raise EOFError
            return None
        if kind in (_LIST, _SET):
            count, inner = self.size()
            for _ in range(count):
                self.value(_BYTE if inner in (_TRUE, _FALSE) else inner, depth + 1)
            return None
        if kind == _MAP:
            raise ValueError("a map")
        return self.zigzag()


def schema_elements(footer: bytes) -> int:
    """How many columns and groups the schema in a file's footer has. Raises ValueError for what is no footer."""
    reader = _Compact(footer)
    try:
        for number, kind in reader.fields():
            if number == _SCHEMA and kind == _LIST:
                return reader.size()[0]
            reader.value(kind)
    except EOFError:
        pass
    raise ValueError("no schema in its footer")


def pages_of(file: io.BufferedIOBase, start: int, stop: int) -> Iterator[Page]:
    """The pages of a column chunk, in the bytes [start, stop) of the file. Raises ValueError where there are none."""
    while start < stop:
        header, length = _page_header(file, start)
        kind, packed = _natural(header.get(1)), _natural(header.get(3))
        content = header.get({0: 5, 2: 7, 3: 8}.get(kind, 0), {})  # data, dictionary, data of version 2
        encoding = content.get(4 if kind == 3 else 2, 0)
        yield Page(kind == 2, _natural(header.get(2)), _natural(content.get(1, 0)), _natural(encoding))
        start += length + packed


def _natural(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("a negative size")
    return value


def _page_header(file: io.BufferedIOBase, start: int) -> tuple[dict[int, Any], int]:
    """A page's header by field, and its length in bytes."""
    for size in HEADER_BYTES:
        file.seek(start)
        reader = _Compact(file.read(size))
        try:
            return reader.value(_STRUCT), reader.at
        except EOFError:
            continue
    raise ValueError("a page without a whole header")
