"""Small Parquet files that unpack to 16 MB and more, up to a terabyte, or hold what no file of ours does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def zeros(path: Path) -> None:
    """64 MB of numbers in pages that compress well."""
    table = pa.table({"x": np.zeros(2_000_000, np.int64)})
    with pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(4):
            writer.write_table(table)


def one_number(path: Path) -> None:
    """16 million rows of one number, a few bytes each million."""
    table = pa.table({"x": np.zeros(4_000_000, np.int32)})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(4):
            writer.write_table(table)


def repeated_text(path: Path) -> None:
    """A million times a text of a megabyte, which is stored once."""
    pq.write_table(pa.table({"x": _repeated(1_000_000)}), path, compression="zstd", store_schema=False)


def repeated_text_in_lists(path: Path) -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 1_000_000], pa.int32()), _repeated(1_000_000))
    pq.write_table(pa.table({"x": lists}), path, compression="zstd", store_schema=False)


def growing_text(path: Path) -> None:
    """Texts that are stored as what they share with the one before."""
    table = pa.table({"x": ["x" * 100_000] * 20})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"x": "DELTA_BYTE_ARRAY"})


def long_text(path: Path) -> None:
    pq.write_table(pa.table({"x": ["x" * (20 << 20)]}), path, compression="zstd", use_dictionary=False)


def many_columns(path: Path) -> None:
    pq.write_table(pa.table({f"c{i}": [1] for i in range(100)}), path)


def deep_lists(path: Path) -> None:
    kind = pa.int8()
    for _ in range(40):
        kind = pa.list_(kind)
    pq.write_table(pa.table({"x": pa.array([None], kind)}), path)


def long_footer(path: Path) -> None:
    table = pa.table({"x": [1]}).replace_schema_metadata({"x": "x" * (9 << 20)})
    pq.write_table(table, path)


def cut(path: Path) -> None:
    zeros(path)
    path.write_bytes(path.read_bytes()[:-1])


def _repeated(times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, np.int32)), ["x" * 1_000_000])


UNPACKS = r"it unpacks to more than \d+ MB"
BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "zeros": (zeros, UNPACKS),
    "one number": (one_number, UNPACKS),
    "repeated text": (repeated_text, UNPACKS),
    "repeated text in lists": (repeated_text_in_lists, UNPACKS),
    "growing text": (growing_text, "the encoding DELTA_BYTE_ARRAY; write it as PLAIN"),
    "long text": (long_text, UNPACKS),
    "many columns": (many_columns, "a schema of 101 elements, expected at most 64"),
    "deep lists": (deep_lists, "a schema of 82 elements, expected at most 64"),
    "long footer": (long_footer, "a footer of .* bytes, expected at most"),
    "cut": (cut, "no Parquet footer at its end"),
}
