"""Lance's format: a row per sample, with lists of the stored JPEG frames, and of tokens and views of every token set.

Each part is written as a fragment; one commit at the end makes the dataset of all fragments visible.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bevt_core.console.installation import install_command
from bevt_core.dataset.commits import digest_file
from pipeline.export.samples import FACTS, Dataset, Sample
from schemas.errors import StorageError, UserError
from schemas.exports import ExportCommit
from schemas.frames import INDEX_SCHEMA, FileDigest
from schemas.text.json_text import json_text

DATASET = "samples.lance"
READ_ROWS = 16  # at a time, when a file is read back
VIEW = pa.struct(
    [
        ("short_side_px", pa.int32()),
        ("top_px", pa.int32()),
        ("left_px", pa.int32()),
        ("crop_px", pa.int32()),
        ("flip", pa.bool_()),
        ("jitter", pa.list_(pa.struct([("op", pa.string()), ("factor", pa.float64())]))),
    ]
)


def require_lance() -> Any:
    """Return the module `lance`. Raises UserError if it is not installed."""
    os.environ.setdefault("LANCE_LOG", "error")  # otherwise it warns that the dataset does not exist yet
    try:
        import lance
    except ImportError:
        raise UserError(f"lance is not installed; run `{install_command('lance')}`") from None
    return lance


def schema_of(dataset: Dataset) -> pa.Schema:
    """Return the columns of an export; `tokens_NAME` has a list per view, of a list per frame."""
    fields = [INDEX_SCHEMA.field(name) for name in FACTS]
    fields += [pa.field("class_name", pa.string()), pa.field("jpegs", pa.list_(pa.large_binary()), nullable=False)]
    for name, tokens in dataset.token_sets.items():
        rows, columns = tokens.manifest.tokenizer.grid
        frames = pa.list_(pa.list_(pa.uint16(), rows * columns))
        fields += [pa.field(f"tokens_{name}", pa.list_(frames)), pa.field(f"views_{name}", pa.list_(VIEW))]
    return pa.schema(fields)


def write_part(
    out: Path, samples: Iterable[Sample], schema: pa.Schema
) -> tuple[dict[str, FileDigest], tuple[str, ...]]:
    """Write the samples of a part as fragments, read them back, and return their files and their metadata.

    Raises StorageError if a file does not have the rows that were written, and what reading the samples raises.
    """
    require_lance()
    from lance.fragment import write_fragments

    written: list[str] = []
    failed: list[Exception] = []  # Lance raises its own error, with a traceback as its text

    def rows() -> Iterator[pa.RecordBatch]:
        try:
            for sample in samples:
                row = row_of(sample, schema)
                written.append(row_digest(row))
                yield row
        except Exception as error:
            failed.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(schema, rows())
    try:
        fragments = write_fragments(reader, str(out / DATASET), schema=schema)
    except Exception:
        if failed:
            raise failed[0] from None
        raise
    names = [f"{DATASET}/data/{file.path}" for fragment in fragments for file in fragment.files]
    stored = [digest for name in names for digest in row_digests(out / name)]
    if stored != written:
        raise StorageError(errno.EIO, f"{out / DATASET}: not stored as written; check the disk, then run again")
    return {name: digest_file(out / name) for name in names}, tuple(json_text(each.to_json()) for each in fragments)


def row_digests(path: Path) -> Iterator[str]:
    """Return the digest of every row of a Lance file."""
    from lance.file import LanceFileReader

    for batch in LanceFileReader(str(path)).read_all(batch_size=READ_ROWS).to_batches():
        for number in range(batch.num_rows):
            yield row_digest(batch.slice(number, 1))


def row_digest(row: pa.RecordBatch) -> str:
    """SHA-256 over the values of a batch of one row, however Arrow lays them out."""
    sha256 = hashlib.sha256()
    for name, column in zip(row.schema.names, row.columns, strict=True):
        if name == "jpegs":
            for jpeg in column.flatten():
                sha256.update(jpeg.as_buffer())
        elif name.startswith("tokens_"):
            sha256.update(column.flatten().flatten().flatten().to_numpy(zero_copy_only=False).tobytes())
        else:
            sha256.update(json_text(column.to_pylist()).encode())
    return sha256.hexdigest()


def publish(out: Path, commits: Sequence[ExportCommit], schema: pa.Schema) -> None:
    """Make the dataset of all parts visible, by one commit; first remove files that killed exports left."""
    lance = require_lance()
    from lance.fragment import FragmentMetadata

    kept = {name for commit in commits for name in commit.files}
    for path in (out / DATASET / "data").glob("*.lance"):
        if f"{DATASET}/data/{path.name}" not in kept:
            path.unlink()
    parts = [FragmentMetadata.from_json(each) for commit in commits for each in commit.fragments]
    lance.LanceDataset.commit(str(out / DATASET), lance.LanceOperation.Overwrite(schema, parts))


def row_of(sample: Sample, schema: pa.Schema) -> pa.RecordBatch:
    """Return a sample as a batch of one row."""
    columns: dict[str, Any] = {name: [sample.facts[name]] for name in (*FACTS, "class_name")}
    columns["jpegs"] = [sample.jpegs]
    for name, views in sample.views.items():
        columns[f"tokens_{name}"] = _nested(sample.tokens[name])
        jitters = [[{"op": op, "factor": factor} for op, factor in view.jitter] for view in views]
        columns[f"views_{name}"] = [
            [view.model_dump() | {"jitter": jitter} for view, jitter in zip(views, jitters, strict=True)]
        ]
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value, field.type)
        for field, value in ((field, columns[field.name]) for field in schema)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _nested(tokens: Sequence[np.ndarray]) -> pa.Array:
    """One row of tokens: a list per view, of a list per frame, of all tokens of the frame."""
    flat = pa.array(np.concatenate([each.reshape(-1) for each in tokens]), pa.uint16())
    grid = tokens[0].shape[1] * tokens[0].shape[2]
    frames = pa.FixedSizeListArray.from_arrays(flat, grid)
    ends = np.cumsum([0, *(len(each) for each in tokens)])
    views = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), frames)
    return pa.ListArray.from_arrays(pa.array([0, len(tokens)], pa.int32()), views)
