"""The table of all samples: it equals the parts, is not needed, and is refused if it is stale, damaged or crafted."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest

from bevt_core.dataset import sample_table
from bevt_core.dataset.frame_rows import BadRow
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.sample_table import COMMIT, TABLE, has_sample_table, samples_in_parts, write_sample_table
from bevt_core.storage.files import read_record, write_record
from pipeline.check.verify import verify
from schemas.errors import UserError
from schemas.frames import LARGE_INDEX_SCHEMA, SAMPLES_SCHEMA, SamplesCommit
from tests.support.builders import make_token_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    make_token_set(root, num_samples=5, sources_per_part=2, frames=4, stride=3)
    return root


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def test_it_has_the_rows_of_the_parts(dataset: Path) -> None:
    store = FrameStore(dataset / "frames")
    samples = store.samples
    assert samples.schema == SAMPLES_SCHEMA and samples.equals(samples_in_parts(store.path, store.manifest))
    shared = [field.name for field in SAMPLES_SCHEMA if field.name != "span"]
    assert samples.select(shared).to_pylist() == store.index.select(shared).to_pylist()
    assert samples["span"].to_pylist() == [9] * 5 and samples["part"].to_pylist() == [0, 0, 1, 1, 2]
    assert [store.row(3)[name] for name in ("sample_id", "part", "frame_indices")] == ["0003.mp4", 1, [0, 3, 6, 9]]


def test_no_part_is_read_to_open_it_and_its_memory_is_mapped(dataset: Path) -> None:
    for path in dataset.glob("frames/part-*/index.parquet"):
        path.unlink()
    before = pa.total_allocated_bytes()
    samples = FrameStore(dataset / "frames").samples
    assert len(samples) == 5 and pa.total_allocated_bytes() == before
    assert f"{dataset}/frames/{TABLE}" in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("gone", [[TABLE, COMMIT], [COMMIT]])
def test_a_store_of_an_older_version_is_read_part_by_part(dataset: Path, gone: list[str]) -> None:
    expected = FrameStore(dataset / "frames").samples
    for name in gone:
        (dataset / "frames" / name).unlink()
    assert FrameStore(dataset / "frames").samples.equals(expected)


def test_a_table_of_other_parts_is_not_used(dataset: Path) -> None:
    expected = FrameStore(dataset / "frames").samples
    write_sample_table(dataset / "frames", expected.slice(0, 3), "0" * 64)
    assert FrameStore(dataset / "frames").samples.equals(expected)
    (problem,) = verify(dataset, sample=0)["problems"]
    assert problem["path"].endswith(TABLE) and "belongs to other parts" in problem["problem"]
    assert "bevt tokenize" in problem["mend"]


def test_a_writer_killed_between_table_and_commit_leaves_a_readable_store(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FrameStore(dataset / "frames")
    expected, digest = store.samples, store.manifest.parts_digest

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("write_atomic", "write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(sample_table, step, killed)
            with pytest.raises(KeyboardInterrupt):
                write_sample_table(store.path, expected.slice(0, 2), digest)
        assert FrameStore(store.path).samples.equals(expected)
    write_sample_table(store.path, expected, digest)
    assert verify(dataset, sample=0)["ok"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a flipped bit": (TABLE, flip),
    "a truncated table": (TABLE, lambda path: os.truncate(path, 100)),
    "no table": (TABLE, Path.unlink),
    "a truncated commit": (COMMIT, lambda path: os.truncate(path, 10)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_error_and_is_reported(dataset: Path, damage: str) -> None:
    name, do = DAMAGE[damage]
    store = FrameStore(dataset / "frames")
    do(store.path / name)
    with pytest.raises(UserError, match=rf"frames/{name}\b"):
        _ = store.samples
    assert not has_sample_table(store.path, store.manifest.parts_digest)
    (problem,) = verify(dataset, sample=0)["problems"]
    assert problem["path"] == str(store.path / name) and "bevt repair" in problem["mend"]


def rewrite(frames_dir: Path, data: bytes) -> None:
    """Replace the table, with its digest: as somebody who offers a crafted dataset would."""
    (frames_dir / TABLE).write_bytes(data)
    commit = read_record(frames_dir / COMMIT, SamplesCommit)
    assert commit is not None
    digest = hashlib.sha256(data).hexdigest()
    write_record(frames_dir / COMMIT, commit.model_copy(update={"sha256": digest, "num_bytes": len(data)}))


def file_of(*batches: pa.RecordBatch, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def edited(samples: pa.RecordBatch, name: str, row: int, value: object) -> pa.RecordBatch:
    rows = samples.to_pylist()
    rows[row][name] = value
    columns = [pa.array([each[field.name] for each in rows], field.type) for field in SAMPLES_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=SAMPLES_SCHEMA)


EDITS = {
    "label": (1, 2, "row 1, sample '0001.mp4', has label 2, expected 0 to 1"),
    "num_frames": (0, -1, "num_frames -1, expected 0 to"),
    "frame_start": (1, 5, "frame_start 5, expected 4"),
    "height": (4, 0, "height 0, expected at least 1"),
    "width": (2, None, "5 rows, expected 5 without nulls"),
    "part": (1, 3, "part 3, expected 0 to 2"),
    "span": (0, -4, "span -4, expected at least 0"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_row_that_cannot_be_is_one_error(dataset: Path, name: str) -> None:
    row, value, message = EDITS[name]
    store = FrameStore(dataset / "frames")
    rewrite(store.path, file_of(edited(store.samples, name, row, value)))
    with pytest.raises(BadRow, match=rf"frames/{TABLE}: .*{message}"):
        _ = FrameStore(store.path).samples


def test_parts_out_of_order_are_one_error(dataset: Path) -> None:
    store = FrameStore(dataset / "frames")
    rewrite(store.path, file_of(edited(store.samples, "part", 1, 2)))
    with pytest.raises(BadRow, match=r"row 2, sample '0002\.mp4', has part 1 after 2"):
        _ = FrameStore(store.path).samples


def test_other_contents_are_refused(dataset: Path) -> None:
    store = FrameStore(dataset / "frames")
    samples = store.samples
    offsets = pa.py_buffer(b"".join(at.to_bytes(8, "little", signed=True) for at in (0, 8, 1 << 40, 24, 32, 40)))
    strings = pa.Array.from_buffers(pa.large_string(), 5, [None, offsets, samples["sample_id"].buffers()[2]])
    wild = pa.RecordBatch.from_arrays([strings, *samples.columns[1:]], schema=SAMPLES_SCHEMA)
    other = samples.rename_columns(["id", *SAMPLES_SCHEMA.names[1:]])
    dictionary = pa.record_batch({"sample_id": samples["sample_id"].dictionary_encode()})
    whole = file_of(samples)
    crafted = {
        "compressed": (file_of(samples, compression="zstd"), "one uncompressed record batch"),
        "another schema": (file_of(other), "the columns are not those"),
        "a dictionary": (file_of(dictionary), "the columns are not those"),
        "rows missing": (file_of(samples.slice(1)), "4 rows, expected 5"),
        "offsets outside": (file_of(wild), "not a table of samples"),
        "truncated": (whole[: len(whole) // 2], "not a table of samples"),
        "no Arrow file": (b"x" * 100, "not a table of samples"),
        "empty": (b"", "not a table of samples"),
    }
    for name, (data, message) in crafted.items():
        rewrite(store.path, data)
        with pytest.raises(BadRow, match=message):
            pytest.fail(f"{name}: {FrameStore(store.path).samples}")


def test_verify_compares_it_with_the_parts(dataset: Path) -> None:
    store = FrameStore(dataset / "frames")
    assert verify(dataset, sample=0)["ok"]
    rewrite(store.path, file_of(edited(store.samples, "source", 2, "other.mp4")))
    (problem,) = verify(dataset, sample=0)["problems"]
    assert problem["problem"] == "its rows are not those of the parts" and "bevt repair" in problem["mend"]


def test_lists_of_many_parts_exceed_32_bit_offsets() -> None:
    """Three chunks of 2^30 values; those of type null take no memory."""
    big = pa.ListArray.from_arrays(pa.array([0, 1 << 30], pa.int32()), pa.nulls(1 << 30))
    column = pa.chunked_array([big] * 3)
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        column.combine_chunks()
    large = column.cast(pa.large_list(pa.null())).combine_chunks()
    assert len(large) == 3 and len(large.flatten()) == 3 << 30
    for schema in (LARGE_INDEX_SCHEMA, SAMPLES_SCHEMA):
        assert not any(pa.types.is_list(field.type) or pa.types.is_string(field.type) for field in schema)
