"""A Parquet file that many processes write in parts: each part appears whole, and the file when all are there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.files import write_atomic
from schemas.base import Record


def changes(then: Record, now: Record) -> str:
    """Name the fields in which two records of one kind differ, with both values."""
    old, new = then.model_dump(), now.model_dump()
    return "; ".join(f"{key}: {old[key]} there, {new[key]} now" for key in old if old[key] != new[key])


class PartFiles:
    """The parts of `target`, in the folder `<target>.parts` beside it."""

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        self.target, self.schema = target, schema
        self.folder = target.with_name(f"{target.name}.parts")

    def done(self) -> set[int]:
        """The parts that need not be done again: no row has an `error`, which may have been a passing one."""
        return {part for part in self.there() if not any(row["error"] for row in self.read(part, ["error"]))}

    def there(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.parquet"))

    def write(self, part: int, rows: Sequence[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=self.schema), sink, compression="zstd")
        write_atomic(self._path(part), sink.getvalue().to_pybytes())

    def read(self, part: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        return pq.read_table(self._path(part), columns=list(columns)).to_pylist()

    def merge(self) -> None:
        """Put all parts together as `target`, in order, a row group each. Memory: one part."""
        staged = self.target.with_name(f".{self.target.name}.merging")
        with pq.ParquetWriter(staged, self.schema, compression="zstd") as writer:
            for part in self.there():
                writer.write_table(pq.read_table(self._path(part)))
        staged.replace(self.target)

    def clear(self) -> None:
        """Remove the parts, once all that is made of them is there."""
        for part in self.there():
            self._path(part).unlink()
        if self.folder.is_dir():
            self.folder.rmdir()

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.parquet"
