"""Reading of untrusted Parquet files: their unpacked size is checked before pyarrow unpacks them.

A file may unpack to MAX_BYTES, or to MAX_EXPANSION times its size if that is more; lists of numbered names reach 60.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.parquet_pages import count_schema_elements, pages_of
from schemas.errors import StorageError, UserError
from schemas.text.plain import shown

MAX_BYTES, MAX_EXPANSION = 256 << 20, 100
MAX_ELEMENTS = 64  # of a schema; the largest here, that of a token set, has 18
MAX_FOOTER_BYTES = 8 << 20  # of a token set of 4096 views
MAX_PAGES = 300_000  # per read, which takes about a second to check; 4096 views have half as many
MAGIC, TAIL_BYTES = b"PAR1", 8
VALUE_BYTES = {"INT64": 8, "DOUBLE": 8, "INT96": 12}  # in memory, per value of a type; others (and text offsets): 4
# Encodings in which a value may repeat the one before it and take no bytes: a page's size does not bound its values.
REPEATING = {7: "DELTA_BYTE_ARRAY"}


class ParquetFile:
    """An open Parquet file. Each `read` first checks the unpacked size of the columns and row groups it reads."""

    def __init__(self, path: AnyPath) -> None:
        """Raises OSError, and UserError for a file that is not Parquet or whose footer is too large."""
        self.path = path
        if storage_of(path).is_irregular():  # opening a pipe would block
            raise UserError(f"{path}: not a regular file, expected Parquet")
        with _errors_name(path):
            self._file: Any = path.open("rb")
            try:
                self._num_bytes = _size(self._file)
                _check_footer(self._file, self._num_bytes)
                self._opened = self._reader()
            except BaseException:
                self._file.close()
                raise
        self.metadata: pq.FileMetaData = self._opened.metadata

    def __enter__(self) -> "ParquetFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def schema_arrow(self) -> pa.Schema:
        return self._opened.schema_arrow

    @property
    def num_row_groups(self) -> int:
        return int(self._opened.num_row_groups)

    def read_row_group(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """`read` one row group. Raises IndexError if it does not exist."""
        if not 0 <= group < self.num_row_groups:
            raise IndexError(f"{self.path}: row group {group} of {self.num_row_groups}")
        return self.read(columns, [group])

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> pa.Table:
        """Read columns, or fields such as `a.b`, of row groups (default: all).

        Raises UserError if the file is truncated or unpacks to too much.
        """
        groups = list(range(self.num_row_groups) if groups is None else groups)
        names = None if columns is None else list(columns)
        with _errors_name(self.path):
            self._check_size(groups, names)
            return self._opened.read_row_groups(groups, columns=names)

    def read_values(self, column: str, group: int, max_bytes: int) -> pa.DictionaryArray:
        """The values of a column or field of bytes in a row group; a value that is repeated takes memory only once.

        Raises UserError if the file is truncated or the column chunk unpacks to more than `max_bytes`.
        """
        with _errors_name(self.path):
            meta = self.metadata.row_group(group)
            chunks = [meta.column(at) for at in range(meta.num_columns)]
            for chunk in chunks:
                if chunk.path_in_schema == column:
                    self._measure_chunk(chunk, max_bytes, MAX_PAGES, set())
            reader = self._reader(read_dictionary=[column], metadata=self.metadata)
            values = reader.read_row_groups([group], columns=[column]).column(0).combine_chunks()
            for name in column.split(".")[1:]:
                values = values.field(name)
            return values

    def _check_size(self, groups: Sequence[int], names: Sequence[str] | None) -> None:
        """Raise pa.ArrowInvalid if these columns of these row groups unpack to too much.

        The sizes of pages bound all values but texts of a dictionary, which one page stores and others repeat. Where
        those could exceed the limit, the column is read as a dictionary, which is small, and its texts are added up.
        """
        limit = max(MAX_BYTES, MAX_EXPANSION * self._num_bytes)
        total, stored, pages, repeated = 0, 0, 0, set[str]()
        for group in groups:
            meta = self.metadata.row_group(group)
            if not 0 <= meta.num_rows <= limit:
                raise pa.ArrowInvalid(f"row group {group} of {meta.num_rows} rows")
            if not meta.num_rows:  # pyarrow reads no pages of such a row group
                continue
            for at in range(meta.num_columns):
                chunk = meta.column(at)
                if names is None or any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in names):
                    stored += chunk.total_compressed_size
                    if stored > self._num_bytes:
                        raise pa.ArrowInvalid("columns that overlap")
                    num_bytes, num_pages = self._measure_chunk(chunk, limit, MAX_PAGES - pages, repeated)
                    total, pages = total + num_bytes, pages + num_pages
                    _check_total(total, limit)
        for path in sorted(repeated):
            kind = self.schema_arrow.field(path.split(".")[0]).type
            if isinstance(kind, pa.BaseExtensionType):  # such columns cannot be read as a dictionary
                raise pa.ArrowInvalid(f"column {path} of {kind} with long texts, expected plain text")
            reader = self._reader(read_dictionary=[path], metadata=self.metadata)
            table = reader.read_row_groups(groups, columns=[path])
            total += sum(_text_bytes(chunk) for column in table.columns for chunk in column.chunks)
            _check_total(total, limit)

    def _measure_chunk(self, chunk: Any, limit: int, max_pages: int, repeated: set[str]) -> tuple[int, int]:
        """Unpacked bytes and number of pages of a column chunk, without the repetitions of texts in its dictionary.

        If those could exceed `limit`, the column is added to `repeated`. Raises pa.ArrowInvalid if the chunk is
        damaged, or exceeds `limit` bytes or `max_pages`.
        """
        start = chunk.data_page_offset
        if chunk.dictionary_page_offset:
            start = min(start, chunk.dictionary_page_offset)
        stop = start + chunk.total_compressed_size
        if not 0 < start <= stop <= self._num_bytes:
            raise pa.ArrowInvalid(f"column {chunk.path_in_schema} in the bytes {start} to {stop}")
        total = largest = values = dictionary = pages = 0
        try:
            for page in pages_of(self._file, start, stop):
                pages += 1
                if pages > max_pages:
                    raise ValueError(f"more than {MAX_PAGES} pages in one read")
                if page.encoding in REPEATING:
                    raise ValueError(f"the encoding {REPEATING[page.encoding]}; write it as PLAIN")
                dictionary = max(dictionary, page.num_bytes * page.is_dictionary)
                values += page.num_values
                largest = max(largest, page.num_bytes)
                total += page.num_bytes + VALUE_BYTES.get(chunk.physical_type, 4) * page.num_values
                _check_total(total + largest, limit)
        except ValueError as error:
            raise pa.ArrowInvalid(f"column {chunk.path_in_schema}: {error}") from None
        if chunk.physical_type == "BYTE_ARRAY" and dictionary * values > limit:
            repeated.add(chunk.path_in_schema)
        return total, pages

    def _reader(self, **options: Any) -> pq.ParquetFile:
        limits = {"thrift_string_size_limit": MAX_FOOTER_BYTES, "thrift_container_size_limit": MAX_FOOTER_BYTES}
        return pq.ParquetFile(self._file, **limits, **options)


@contextmanager
def _errors_name(path: AnyPath) -> Iterator[None]:
    """Turn pyarrow's exceptions for broken files into a UserError that names the file."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, pa.ArrowException, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path}: not a Parquet file, truncated, or too large ({shown(str(error))})") from None


def _size(file: Any) -> int:
    file.seek(0, os.SEEK_END)
    return int(file.tell())


def _check_footer(file: Any, num_bytes: int) -> None:
    """Raise pa.ArrowInvalid for a file without Parquet's magic number, and for a footer or schema that is too large."""
    file.seek(max(0, num_bytes - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length + TAIL_BYTES > num_bytes:
        raise pa.ArrowInvalid("no Parquet footer at its end")
    if length > MAX_FOOTER_BYTES:
        raise pa.ArrowInvalid(f"a footer of {length} bytes, expected at most {MAX_FOOTER_BYTES}")
    file.seek(num_bytes - TAIL_BYTES - length)
    try:
        elements = count_schema_elements(file.read(length))
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from None
    if elements > MAX_ELEMENTS:
        raise pa.ArrowInvalid(f"a schema of {elements} elements, expected at most {MAX_ELEMENTS}")


def _check_total(total: int, limit: int) -> None:
    if total > limit:
        raise pa.ArrowInvalid(f"it unpacks to more than {limit / 1e6:.0f} MB")


def _text_bytes(values: Any) -> int:
    """Bytes of the texts of a dictionary array, which may be nested in lists."""
    while not isinstance(values, pa.DictionaryArray):
        values = values.flatten()
        values = values[0] if isinstance(values, list) else values
    lengths = pc.binary_length(values.dictionary).cast(pa.int64())
    return pc.sum(pc.take(lengths, values.indices)).as_py() or 0


def parquet_bytes(table: pa.Table) -> bytes:
    """The content of a Parquet file with the table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_table(path: AnyPath, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file. Raises OSError, and UserError for one that is truncated or unpacks to too much."""
    with ParquetFile(path) as file:
        return file.read(columns)
