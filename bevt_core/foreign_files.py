"""Files that others wrote: lists, CSV, JSON, Parquet, MATLAB files.

Whatever is wrong with one ends in a UserError that names the file, the line (or the entry) and what was expected.
Trouble of the disk or the network is a StorageError.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from bevt_core.files import size_of
from bevt_core.isolation import ChildCrash, ChildTimeout, IsolatedFunction
from bevt_core.objects import AnyPath
from bevt_core.probing import raise_storage_trouble
from bevt_core.tables import read_table
from schemas.errors import StorageError, UserError
from schemas.plain_text import SHOWN_CHARACTERS, lines_of, shown, text_of

MAX_BYTES = 1 << 30  # of a text that is read whole; the largest official list has 80 MB
MAT_LIMIT_S = 30.0  # of reading a MATLAB file; ImageNet's has 1 MB
LARGEST_NUMBER = 10**9  # of labels, seconds and frames
KINDS: dict[type, str] = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


def read_text(path: AnyPath) -> str:
    """The text of a file; see `text_of` for what is text. Raises UserError, StorageError."""
    try:
        if size_of(path) > MAX_BYTES:
            raise UserError(
                f"{path}: {size_of(path) / 1e9:.1f} GB, expected a text of at most {MAX_BYTES / 1e9:.1f} GB"
            )
        data = path.read_bytes()
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(error, path) from None
    return text_of(data, path)


def unreadable(error: OSError, path: AnyPath) -> UserError:
    """The error for a file or folder that cannot be opened. Raises StorageError where its disk or network fails."""
    raise_storage_trouble(error, path)
    if isinstance(error, PermissionError):
        return UserError(f"{path}: no permission to read it; allow it with `chmod a+rX` on it and the folders above")
    return UserError(f"{path}: cannot be read: {error.strerror or error}")


def read_lines(path: AnyPath) -> Iterator[tuple[str, str]]:
    """(`FILE, line N`, the line) of every line that is not blank."""
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        if line.strip():
            yield f"{path}, line {number}", line


def read_csv(path: AnyPath, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(`FILE, line N`, the row by column) of a CSV file whose header has at least `columns`."""
    rows = read_rows(path)
    where, header = next(rows, (f"{path}, line 1", []))
    lacking = [column for column in columns if column not in header]
    if lacking:
        raise UserError(f"{where}: no column {lacking[0]!r} in the header {shown(','.join(header))}")
    for where, row in rows:
        if len(row) < len(header) or any(row[len(header) :]):
            raise UserError(
                f"{where}: {len(row)} fields, expected {len(header)} ({shown(','.join(header))}); a line that was "
                "cut, or a comma in a field without quotes?"
            )
        yield where, dict(zip(header, row, strict=False))


def read_rows(path: AnyPath, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """(`FILE, line N`, the fields) of every row of a CSV file; blank lines are left out."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {first}: not CSV: {error}") from None
        if row is None:
            return
        if row:
            yield f"{path}, line {first}", row


def read_json(path: AnyPath, kind: type) -> Any:
    """What a JSON file holds, which is a `kind`: list or dict."""
    text = read_text(path)
    try:
        value = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        if not text[error.pos :].strip() or error.msg.startswith("Unterminated string"):
            raise UserError(f"{path}, line {error.lineno}: JSON that ends early; get the whole file") from None
        raise UserError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: JSON that nests too deeply, expected {KINDS[kind]}") from None
    except ValueError as error:  # a number of thousands of digits, NaN
        raise UserError(f"{path}: not JSON: {shown(str(error))}") from None
    return typed(value, kind, str(path))


def read_json_rows(path: AnyPath, fields: Mapping[str, type]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`FILE, entry N`, the object) of a JSON list of objects that have `fields` of these types."""
    for number, row in enumerate(read_json(path, list), start=1):
        where = f"{path}, entry {number}"
        typed(row, dict, where)
        for name, kind in fields.items():
            if name not in row:
                raise UserError(f"{where}: no {name!r} in {shown(row)}")
            typed(row[name], kind, where, name)
        yield where, row


def read_parquet(path: AnyPath, schema: pa.Schema, made_by: str) -> pa.Table:
    """The table of a Parquet file with the columns of `schema`, and the file's metadata. `made_by`: the command."""
    try:
        table = read_table(path)
    except StorageError:
        raise
    except OSError as error:  # also what pyarrow raises for broken files
        if error.errno is None:
            raise UserError(f"{path}: not a Parquet file, or cut ({shown(str(error))}); {made_by} writes it") from None
        raise unreadable(error, path) from None
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise UserError(f"{path}: not a Parquet file, or cut ({shown(str(error))}); {made_by} writes it") from None
    lacking = [name for name in schema.names if name not in table.column_names]
    if lacking:
        raise UserError(f"{path}: no column {lacking[0]!r} in {shown(table.column_names)}; {made_by} writes it")
    metadata = table.schema.metadata
    try:
        table = table.select(schema.names).cast(schema)
        table.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        columns = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise UserError(f"{path}: columns {columns} expected: {shown(str(error))}") from None
    return table.replace_schema_metadata(metadata)


def read_mat(path: AnyPath, variable: str) -> Any:
    """A variable of a MATLAB file, read by scipy in a child process: a damaged file can kill its reader."""
    child = IsolatedFunction("bevt_core.mat_file:load_mat")
    try:
        return child(path.read_bytes(), variable, limit_s=MAT_LIMIT_S)
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(error, path) from None
    except (ValueError, ChildCrash, ChildTimeout) as error:
        raise UserError(f"{path}: not a MATLAB file with a variable {variable!r} ({shown(str(error))})") from None
    finally:
        child.close()


def typed(value: Any, kind: type, where: str, name: str = "the content") -> Any:
    """Return `value` if it is a `kind`, as JSON has them; otherwise UserError."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}: {name} is {shown(value)}, expected {KINDS[kind]}")


def whole_number(text: str, where: str, name: str) -> int:
    """The number that a field holds, from 0: `10`, and `10.0` as programs for tables write it; fractions are cut off.

    Raises UserError, naming the field, for anything else.
    """
    try:
        value = float(text) if len(text) < SHOWN_CHARACTERS else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= LARGEST_NUMBER:
        raise UserError(f"{where}: {name} is {shown(text)}, expected a number from 0")
    return int(value)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")
