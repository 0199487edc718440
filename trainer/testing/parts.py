"""A Parquet file that many processes write in parts: each part appears atomically, the file after all parts."""

import errno
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.console.terminal import note
from bevt_core.storage.files import remove, write_atomic
from bevt_core.storage.staging import staged_file
from bevt_core.untrusted.parquet_file import read_table
from schemas.base import Record, differing_fields
from schemas.errors import StorageError
from schemas.text.plain import short

CAUSES = {  # of a difference between two records, by field
    "data_digest": "made from other clips (files, labels or classes)",
    "weights_sha256": "made with other weights",
}


def changes(then: Record, now: Record) -> str:
    """Describe the fields that differ between two records of the same type, with both values."""
    return "; ".join(
        f"{CAUSES.get(key, key)}: {short(old)} stored, {short(new)} now"
        for key, (old, new) in differing_fields(then, now).items()
    )


def stored_since(result: Path) -> dict[str, str]:
    """Return `stored_since`, the time at which an earlier call wrote the file `result`, to add to a result."""
    return {"stored_since": datetime.fromtimestamp(result.stat().st_mtime, UTC).isoformat(timespec="seconds")}


def note_stored(out: Path, result: Path, num_failed: int) -> None:
    """Print to stderr that an earlier call finished `out` by writing `result`, and how to compute it again."""
    when = stored_since(result)["stored_since"]
    failed = f", {num_failed} of its videos could not be read then" if num_failed else ""
    note(
        f"{out}: stored result of {when}, nothing computed now{failed}; remove it, or choose another folder, to "
        "compute it again"
    )


class PartFiles:
    """The parts of `target`, in the folder `<target>.parts` beside it."""

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        self.target, self.schema = target, schema
        self.folder = target.with_name(f"{target.name}.parts")

    def todo(self, sizes: Sequence[int]) -> list[int]:
        """Return the missing parts, then those with an `error` in a row, as it may have been transient.

        `sizes` are the numbers of rows of all parts; a part of a different size counts as missing.
        """
        complete = [part for part in self.existing() if self._num_rows(part) == sizes[part]]
        failed = [part for part in complete if any(row["error"] is not None for row in self.read(part, ["error"]))]
        return sorted(set(range(len(sizes))) - set(complete)) + failed

    def existing(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.parquet"))

    def write(self, part: int, rows: Sequence[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=self.schema), sink, compression="zstd")
        write_atomic(self._path(part), sink.getvalue().to_pybytes())

    def read(self, part: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = read_table(self._path(part), columns=list(columns)).to_pylist()
        return rows

    def merge(self, sizes: Sequence[int]) -> None:
        """Merge all parts into `target`, in order, a row group each. Only one part is in memory at a time.

        `sizes` are the numbers of rows of all parts. Raises StorageError, without writing `target`, if a part is
        missing or has a different size.
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
                        f"{self._path(part)}: {num_rows} of {size} rows; another program changes this folder. Stop it, "
                        "and run this command again",
                    )
                writer.write_table(read_table(self._path(part)))

    def clear(self) -> None:
        """Remove the parts and the leftovers of killed writers, once all results of the parts are written."""
        remove(self.folder)

    def _num_rows(self, part: int) -> int:
        """The number of rows of a part; 0 if it is missing."""
        try:
            return len(read_table(self._path(part), columns=["video"]))
        except FileNotFoundError:
            return 0

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.parquet"
