"""A Parquet file that many processes write in parts: each part appears whole, and the file when all are there."""

import errno
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.console.terminal import note
from bevt_core.foreign.parquet_file import read_table
from bevt_core.storage.files import remove, write_atomic
from bevt_core.storage.staging import staged_file
from schemas.base import Record
from schemas.errors import StorageError


def changes(then: Record, now: Record) -> str:
    """Name the fields in which two records of one kind differ, with both values."""
    pairs = {key: (getattr(then, key), getattr(now, key)) for key in type(then).model_fields}
    return "; ".join(f"{key}: {old} there, {new} now" for key, (old, new) in pairs.items() if old != new)


def stored_since(result: Path) -> dict[str, str]:
    """`stored_since`, the time of a file that an earlier call wrote, for the result of a call that returns it."""
    return {"stored_since": datetime.fromtimestamp(result.stat().st_mtime, UTC).isoformat(timespec="seconds")}


def note_stored(out: Path, result: Path, num_failed: int) -> None:
    """Print to stderr that `out` was finished by an earlier call, which wrote `result`, and how to do it anew."""
    when = stored_since(result)["stored_since"]
    failed = f", {num_failed} of its videos could not be read then" if num_failed else ""
    note(f"{out}: stored result of {when}, nothing was computed now{failed}; remove it or change --out to compute anew")


class PartFiles:
    """The parts of `target`, in the folder `<target>.parts` beside it."""

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        self.target, self.schema = target, schema
        self.folder = target.with_name(f"{target.name}.parts")

    def todo(self, sizes: Sequence[int]) -> list[int]:
        """The parts that are not there, then those with a row that has an `error`: it may have been a passing one.

        `sizes` are the rows of every part; one of another size counts as not there.
        """
        there = [part for part in self.there() if self._num_rows(part) == sizes[part]]
        failed = [part for part in there if any(row["error"] is not None for row in self.read(part, ["error"]))]
        return sorted(set(range(len(sizes))) - set(there)) + failed

    def there(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.parquet"))

    def write(self, part: int, rows: Sequence[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=self.schema), sink, compression="zstd")
        write_atomic(self._path(part), sink.getvalue().to_pybytes())

    def read(self, part: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        return read_table(self._path(part), columns=list(columns)).to_pylist()

    def merge(self, sizes: Sequence[int]) -> None:
        """Put all parts together as `target`, in order, a row group each. Memory: one part.

        `sizes` are the rows of every part. Raises StorageError, and makes no `target`, where one lacks or has others.
        """
        with (
            staged_file(self.target) as file,
            pq.ParquetWriter(file, self.schema, compression="zstd") as writer,
        ):
            for part, size in enumerate(sizes):
                num_rows = self._num_rows(part)
                if num_rows != size:
                    raise StorageError(
                        errno.ENOENT,
                        f"{self._path(part)}: {num_rows} of {size} rows; another program changes this folder. Keep it "
                        "to this command, and run it again",
                    )
                writer.write_table(read_table(self._path(part)))

    def clear(self) -> None:
        """Remove the parts, once all that is made of them is there, with what a killed writer left among them."""
        remove(self.folder)

    def _num_rows(self, part: int) -> int:
        """0 of a part that is not there."""
        try:
            return len(read_table(self._path(part), columns=["video"]))
        except FileNotFoundError:
            return 0

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.parquet"
