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
        return {int(path.stem) for path in self.folder.glob("[0-9]*.parquet")}

    def write(self, part: int, rows: Sequence[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=self.schema), sink, compression="zstd")
        write_atomic(self._path(part), sink.getvalue().to_pybytes())

    def read(self, part: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        return pq.read_table(self._path(part), columns=list(columns)).to_pylist()

    def merge(self) -> None:
        """Put all parts together as `target`, in order, a row group each, and remove them. Memory: one part."""
        parts = sorted(self.done())
        staged = self.target.with_name(f".{self.target.name}.merging")
        with pq.ParquetWriter(staged, self.schema, compression="zstd") as writer:
            for part in parts:
                writer.write_table(pq.read_table(self._path(part)))
        staged.replace(self.target)
        for part in parts:
            self._path(part).unlink()
        if self.folder.is_dir():
            self.folder.rmdir()

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.parquet"
