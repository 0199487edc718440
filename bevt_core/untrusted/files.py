"""Readers of untrusted files: lists, CSV, JSON, Parquet, MATLAB.

Any fault of a file raises a UserError that names the file, the line (or entry) and what was expected. Failures of the
disk or network raise a StorageError.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from bevt_core.storage.files import read_bounded
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.read_errors import raise_storage_trouble
from bevt_core.untrusted.isolation import ChildCrash, ChildTimeout, IsolatedFunction
from bevt_core.untrusted.parquet_file import read_table
from schemas.errors import StorageError, UserError
from schemas.text.json_text import parse_json, typed
from schemas.text.plain import SHOWN_CHARACTERS, shown, text_of

MAX_BYTES = 90 << 20  # of a text file, which is read as a whole; the largest official list has 80 MB
MAX_LINES = 3_000_000  # of a text file; the list above has 1.2 million
MAX_LINE_CHARACTERS = 1 << 20  # of a CSV row
NOT_BLANK = re.compile(r"^[^\S\n]*\S[^\n]*", re.MULTILINE)
CSV_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
MAX_MAT_BYTES = 64 << 20  # ImageNet's MATLAB file has 1 MB
MAT_BYTES = 400 << 20  # memory limit of its reader
MAT_LIMIT_S = 30.0  # time limit of its reader
LARGEST_NUMBER = 10**9  # for labels, seconds and frames


def read_text(path: AnyPath) -> str:
    """The text of a file, decoded by `text_of`. Raises UserError, StorageError."""
    return text_of(read_bytes(path, MAX_BYTES), path)


def read_bytes(path: AnyPath, max_bytes: int) -> bytes:
    """The content of a file of at most `max_bytes`. Raises UserError, e.g. for a pipe or device, and StorageError."""
    try:
        return read_bounded(path, max_bytes)
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(error, path) from None


def unreadable(error: OSError, path: AnyPath) -> UserError:
    """The error for a file or folder that cannot be opened. Raises StorageError if the disk or network failed."""
    raise_storage_trouble(error, path)
    if isinstance(error, PermissionError):
        return UserError(f"{path}: no permission to read it; allow it with `chmod a+rX` on it and the folders above")
    return UserError(f"{path}: cannot be read: {error.strerror or error}")


def _check_lines(path: AnyPath, count: int) -> None:
    if count > MAX_LINES:
        raise UserError(
            f"{path}: {count} lines, expected at most {MAX_LINES}; write longer lists as Parquet, with "
            "`bevt scan --write`"
        )


class Lines:
    """Iterates over the lines of a text file that are not blank, as (`FILE, line N`, the line)."""

    def __init__(self, path: AnyPath) -> None:
        """Raises UserError, StorageError."""
        self.path = path
        self.text = read_text(path)
        if "\r" in self.text:
            self.text = self.text.replace("\r\n", "\n").replace("\r", "\n")
        _check_lines(path, self.count)

    @property
    def count(self) -> int:
        """Number of lines, including blank ones."""
        return self.text.count("\n") + 1

    def __iter__(self) -> Iterator[tuple[str, str]]:
        number, before = 1, 0
        for found in NOT_BLANK.finditer(self.text):
            number += self.text.count("\n", before, found.start())
            before = found.start()
            yield f"{self.path}, line {number}", found[0]


def read_csv(path: AnyPath, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (`FILE, line N`, row by column name) from a CSV file whose header has at least `columns`."""
    rows = read_rows(path)
    where, header = next(rows, (f"{path}, line 1", []))
    lacking = [column for column in columns if column not in header]
    if lacking:
        raise UserError(f"{where}: no column {lacking[0]!r} in the header {shown(','.join(header))}")
    for where, row in rows:
        if len(row) < len(header) or any(row[len(header) :]):
            raise UserError(
                f"{where}: {len(row)} fields, expected {len(header)} ({shown(','.join(header))}); is the line "
                "truncated, or a field with a comma not quoted?"
            )
        yield where, dict(zip(header, row, strict=False))


def read_rows(path: AnyPath, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """Yield (`FILE, line N`, fields) for every row of a CSV file, without blank lines."""
    lines = _CsvLines(path)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        lines.characters = 0
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {first}: not CSV: {error}") from None
        if row is None:
            return
        if row:
            yield f"{path}, line {first}", row


class _CsvLines:
    """The lines of a CSV file with their line ends, for `csv.reader`, which does not limit the length of a row."""

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        text = read_text(path)
        _check_lines(path, text.count("\n") + 1)
        self.lines = CSV_LINE.finditer(text)
        self.characters = 0  # of the current row

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)[0]
        self.characters += len(line)
        if self.characters >= MAX_LINE_CHARACTERS:
            raise csv.Error(f"a row of more than {MAX_LINE_CHARACTERS} characters")
        return line


def read_json(path: AnyPath, kind: type) -> Any:
    """The content of a JSON file, which must be a `kind`: list or dict."""
    return parse_json(read_text(path), kind, path)


def read_json_rows(path: AnyPath, fields: Mapping[str, type]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`FILE, entry N`, object) from a JSON list of objects that have `fields` (name -> type)."""
    for number, row in enumerate(read_json(path, list), start=1):
        where = f"{path}, entry {number}"
        typed(row, dict, where)
        for name, kind in fields.items():
            if name not in row:
                raise UserError(f"{where}: no {name!r} in {shown(row)}")
            typed(row[name], kind, where, name)
        yield where, row


def read_parquet(path: AnyPath, schema: pa.Schema, made_by: str) -> pa.Table:
    """The columns of `schema` from a Parquet file, with its metadata. `made_by`: the command that writes such files."""
    try:
        table = read_table(path)
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(error, path) from None
    except UserError as error:
        raise UserError(f"{error}; {made_by} writes it") from None
    lacking = [name for name in schema.names if name not in table.column_names]
    if lacking:
        raise UserError(f"{path}: no column {lacking[0]!r} in {shown(table.column_names)}; {made_by} writes it")
    metadata = table.schema.metadata
    try:
        table = table.select(schema.names).cast(schema)
        table.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        columns = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise UserError(f"{path}: {shown(str(error))}, expected the columns {columns}") from None
    return table.replace_schema_metadata(metadata)


def read_mat(path: AnyPath, variable: str) -> Any:
    """A variable of a MATLAB file, read by scipy in a child process, because a damaged file can crash scipy."""
    child = IsolatedFunction("bevt_core.untrusted.mat_file:load_mat", MAT_BYTES)
    try:
        return child(read_bytes(path, MAX_MAT_BYTES), variable, limit_s=MAT_LIMIT_S)
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(error, path) from None
    except (ValueError, ChildCrash, ChildTimeout) as error:
        raise UserError(f"{path}: not a MATLAB file with a variable {variable!r} ({shown(str(error))})") from None
    finally:
        child.close()


def whole_number(text: str, where: str, name: str) -> int:
    """The number in a field, at least 0: `10`, or `10.0` as spreadsheets write it; fractions are truncated.

    Raises UserError, naming the field, for anything else.
    """
    try:
        value = float(text) if len(text) < SHOWN_CHARACTERS else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= LARGEST_NUMBER:
        raise UserError(f"{where}: {name} is {shown(text)}, expected a number from 0 to {LARGEST_NUMBER}")
    return int(value)
