"""Unpacked sizes of a Parquet file's pages, read from the page headers before pyarrow allocates memory for them.

A footer states the size of each column, but it may be wrong; a reader allocates by the header of each page. Headers
are structs of Thrift's compact protocol (github.com/apache/parquet-format, src/main/thrift/parquet.thrift).
"""

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

# Read for a page's header: in the first attempt, and at most; statistics in a header may contain long texts.
HEADER_BYTES = (1 << 10, 1 << 16)
MAX_NESTED = 8  # structs in a header
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_SCHEMA = 2  # field of FileMetaData


class Page(NamedTuple):
    """The fields of a page's header."""

    is_dictionary: bool
    num_bytes: int  # unpacked
    num_values: int
    encoding: int


class _Compact:
    """A reader of Thrift's compact protocol. Raises ValueError for malformed data, EOFError at the end of the data."""

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
        """Yield (id, type) of each field of a struct; the caller reads the value before it takes the next field."""
        number = 0
        while (head := self.byte()) & 0x0F:
            delta, kind = head >> 4, head & 0x0F
            number = number + delta if delta else self.zigzag()
            yield number, kind

    def zigzag(self) -> int:
        """Read a signed number: 0, -1, 1, -2, ... are stored as 0, 1, 2, 3, ..."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def size(self) -> tuple[int, int]:
        """Read the length and the element type of a list."""
        head = self.byte()
        return (self.varint() if head >> 4 == 15 else head >> 4), head & 0x0F

    def value(self, kind: int, depth: int = 0) -> Any:
        """Read a number, or a struct as a dict by field id; skip text and lists, returning None."""
        if depth > MAX_NESTED:
            raise ValueError(f"structs nested more than {MAX_NESTED} deep")
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


def count_schema_elements(footer: bytes) -> int:
    """Number of columns and groups in the schema of a file's footer. Raises ValueError for a malformed footer."""
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
    """The pages of a column chunk, in the bytes [start, stop) of the file. Raises ValueError for a malformed header."""
    while start < stop:
        header, length = _page_header(file, start)
        # fields of PageHeader: 1 type, 2 unpacked size, 3 packed size, 5 / 7 / 8 the header of the type
        kind, packed = _non_negative(header.get(1)), _non_negative(header.get(3))
        content = header.get({0: 5, 2: 7, 3: 8}.get(kind, 0), {})  # data, dictionary, data of version 2
        encoding = content.get(4 if kind == 3 else 2, 0)
        yield Page(kind == 2, _non_negative(header.get(2)), _non_negative(content.get(1, 0)), _non_negative(encoding))
        start += length + packed


def _non_negative(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("a negative size")
    return value


def _page_header(file: io.BufferedIOBase, start: int) -> tuple[dict[int, Any], int]:
    """A page's header by field id, and its length in bytes."""
    for size in HEADER_BYTES:
        file.seek(start)
        reader = _Compact(file.read(size))
        try:
            return reader.value(_STRUCT), reader.at
        except EOFError:
            continue
    raise ValueError("a page with an incomplete header")
