"""The table of all samples of a frame store in one file, so that it opens without reading every part.

    <dataset>/frames/samples.arrow   an Arrow IPC file: one uncompressed record batch of SAMPLES_SCHEMA
    <dataset>/frames/samples.json    SamplesCommit, written after it

Both are made from the `index.parquet` of all parts and can be made again. A reader maps the file into memory, which all
processes of a machine share, and checks its digest and its rows. A store without them is read part by part.
"""

import functools
import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_rows import BadRow, check_ids, check_index, check_samples
from bevt_core.storage.files import (
    map_in_threads,
    read_record,
    remove,
    sha256_of,
    size_of,
    write_atomic,
    write_record,
)
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.part_cache import local_files
from bevt_core.untrusted.parquet_file import read_table
from schemas.errors import DAMAGED, UserError
from schemas.frames import SAMPLES_SCHEMA, FileDigest, FrameStoreManifest, SamplesCommit

TABLE, COMMIT = "samples.arrow", "samples.json"
_MAGIC_BYTES = 8  # of an Arrow IPC file: "ARROW1" and padding; a stream of messages follows


def samples_of(index: pa.Table, part: int) -> pa.RecordBatch:
    """The rows of one part, from its checked index, as columns of SAMPLES_SCHEMA."""
    lists = index["frame_indices"].combine_chunks()
    last, values = lists.offsets.to_numpy()[1:] - 1, lists.values.to_numpy()
    first = lists.offsets.to_numpy()[:-1]
    span = np.zeros(len(index), np.int32)
    some = last >= first
    span[some] = values[last[some]] - values[first[some]]
    columns = {
        **{name: index[name] for name in SAMPLES_SCHEMA.names if name in index.column_names},
        "part": pa.array(np.full(len(index), part, np.int32)),
        "span": pa.array(span),
    }
    return pa.RecordBatch.from_arrays(
        [_array(columns[field.name]).cast(field.type) for field in SAMPLES_SCHEMA], schema=SAMPLES_SCHEMA
    )


def _array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def joined(parts: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of all parts in one record batch."""
    table = pa.Table.from_batches(list(parts), schema=SAMPLES_SCHEMA).combine_chunks()
    return pa.RecordBatch.from_arrays(
        [_array(column) if len(table) else pa.array([], column.type) for column in table.columns], schema=SAMPLES_SCHEMA
    )


def write_sample_table(frames_dir: AnyPath, samples: pa.RecordBatch, parts_digest: str) -> None:
    """Write the table of the parts with this digest, then its commit. Without a commit, readers use the parts."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SAMPLES_SCHEMA) as writer:
        writer.write_batch(samples)
    data = sink.getvalue().to_pybytes()
    remove(frames_dir / COMMIT)  # of an earlier table
    write_atomic(frames_dir / TABLE, data)
    commit = SamplesCommit(
        parts_digest=parts_digest,
        num_rows=len(samples),
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
    )
    write_record(frames_dir / COMMIT, commit)


def read_samples_commit(frames_dir: AnyPath, parts_digest: str) -> SamplesCommit | None:
    """The commit of the table; None if there is none, or if it was made from other parts. Raises UserError."""
    commit = read_record(frames_dir / COMMIT, SamplesCommit)
    return commit if commit is not None and commit.parts_digest == parts_digest else None


def has_sample_table(frames_dir: AnyPath, parts_digest: str) -> bool:
    """Whether an undamaged table of these parts exists, so that it need not be written."""
    try:
        commit = read_samples_commit(frames_dir, parts_digest)
    except UserError:  # damaged: it is replaced
        return False
    path = frames_dir / TABLE
    return commit is not None and size_of(path) == commit.num_bytes and sha256_of(path) == commit.sha256


def read_sample_table(frames_dir: AnyPath, manifest: FrameStoreManifest) -> pa.RecordBatch | None:
    """All samples of a store, memory-mapped; None without a table of its parts. Raises UserError for a damaged one.

    A table on an object store is copied to the part cache of this machine first.
    """
    commit = read_samples_commit(frames_dir, manifest.parts_digest)
    if commit is None:
        return None
    files = {TABLE: FileDigest(sha256=commit.sha256, num_bytes=commit.num_bytes)}
    location = storage_of(frames_dir).cached(f"{manifest.digest()}-samples", functools.partial(dict, files))
    with local_files(location) as folder:
        path = folder / TABLE  # once mapped, it may be removed from the cache
        if size_of(path) != commit.num_bytes or sha256_of(path) != commit.sha256:
            raise UserError(f"{frames_dir / TABLE}: missing, or its content differs from {COMMIT}; {DAMAGED}")
        samples = _mapped(path, frames_dir / TABLE)
    check_samples(samples, frames_dir / TABLE, manifest)
    return samples


def _mapped(path: Path, name: AnyPath) -> pa.RecordBatch:
    """Map the file `path` into memory; errors call it `name`. Raises BadRow unless it has the writer's layout.

    The messages are read in order, not through the footer, so that what is checked is what is read. A compressed one
    is refused before pyarrow unpacks it, which could take any amount of memory.
    """
    try:
        with pa.memory_map(str(path)) as file:
            file.seek(_MAGIC_BYTES)
            schema = pa.ipc.read_schema(pa.ipc.read_message(file))
            message = pa.ipc.read_message(file)
            if not schema.equals(SAMPLES_SCHEMA, check_metadata=True):
                raise BadRow(f"{name}: the columns are not those of a table of samples; {DAMAGED}")
            if message.type != "record batch" or is_compressed(message.metadata.to_pybytes()):
                raise BadRow(f"{name}: expected one uncompressed record batch; {DAMAGED}")
            samples = pa.ipc.read_record_batch(message, schema)
        samples.validate(full=True)
    except (pa.ArrowException, OSError, EOFError, struct.error) as error:
        raise BadRow(f"{name}: not a table of samples, or damaged ({error}); {DAMAGED}") from None
    return samples


def is_compressed(metadata: bytes) -> bool:
    """Whether a record batch is compressed, from the flatbuffer of its message. Raises struct.error if that is damaged.

    The tables and the order of their fields are those of Message and RecordBatch in Arrow's format/Message.fbs.
    """

    def field(table: int, number: int) -> int:
        """The position of a field of the table at `table`; 0 if it is absent."""
        (to_vtable,) = struct.unpack_from("<i", metadata, table)
        vtable = table - to_vtable
        (size,) = struct.unpack_from("<H", metadata, vtable)
        at = 4 + 2 * number
        (offset,) = struct.unpack_from("<H", metadata, vtable + at) if at < size else (0,)
        return table + offset if offset else 0

    (message,) = struct.unpack_from("<I", metadata, 0)
    header = field(message, 2)
    (to_batch,) = struct.unpack_from("<I", metadata, header)
    return field(header + to_batch, 3) != 0


def samples_in_parts(frames_dir: AnyPath, manifest: FrameStoreManifest) -> pa.RecordBatch:
    """All samples in (part, row) order, columns of SAMPLES_SCHEMA, from the index of every part. Raises BadRow."""

    def of_part(part: int) -> pa.RecordBatch:
        return samples_of(read_index(frames_dir, part, len(manifest.classes)), part)

    samples = joined(map_in_threads(of_part, range(manifest.num_parts), frames_dir))
    check_ids(samples, lambda part: index_path(frames_dir, part))
    return samples


def read_index(frames_dir: AnyPath, part: int, num_classes: int) -> pa.Table:
    """The samples of one part: the columns of INDEX_SCHEMA. Raises BadRow."""
    path = index_path(frames_dir, part)
    return check_index(read_table(path), path, num_classes)


def index_path(frames_dir: AnyPath, part: int) -> AnyPath:
    return frames_dir / part_name(part) / "index.parquet"
