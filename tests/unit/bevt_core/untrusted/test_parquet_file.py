"""Parquet files that unpack to gigabytes are refused by their page headers; all others read as with pyarrow."""

import io
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bevt_core.untrusted import parquet_file
from bevt_core.untrusted.parquet_file import ParquetFile, read_table
from bevt_core.untrusted.parquet_pages import count_schema_elements, pages_of
from schemas.errors import UserError
from tests.support.builders import make_token_set
from tests.support.parquet_bombs import BOMBS


@pytest.mark.parametrize(("make", "message"), BOMBS.values(), ids=BOMBS)
def test_bombs(tmp_path: Path, make: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "MAX_BYTES", 8 << 20)
    path = tmp_path / "x.parquet"
    make(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as error:
        read_table(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kB


@pytest.mark.parametrize("compression, version", [("zstd", "1.0"), ("snappy", "2.0"), ("none", "1.0")])
def test_other_files_read_as_pyarrow_reads_them(tmp_path: Path, version: str, compression: str) -> None:
    rows = 10_000
    table = pa.table(
        {
            "name": [f"class_{i % 100}/video_{i:08d}.mp4" for i in range(rows)],
            "label": pa.array([None if i % 7 == 0 else i % 100 for i in range(rows)], pa.int32()),
            "times": [[0.5] * (i % 5) for i in range(rows)],
            "notes": [["a note", None] * (i % 3) for i in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "x", compression=compression, data_page_version=version, row_group_size=4000)
    assert read_table(tmp_path / "x").equals(pq.read_table(tmp_path / "x"))
    assert read_table(tmp_path / "x", ["label"]).equals(table.select(["label"]))
    with ParquetFile(tmp_path / "x") as file:
        assert len(file.read_row_group(2)) == 2000
        with pytest.raises(IndexError, match="row group 3 of 3"):
            file.read_row_group(3)


def test_a_field_is_read_and_checked_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a struct count only where they are read."""
    monkeypatch.setattr(parquet_file, "MAX_BYTES", 8 << 20)
    structs = [{"a": b"x" * 1_000_000, "b": str(i)} for i in range(20)]
    pq.write_table(pa.table({"s": structs}), tmp_path / "x", use_dictionary=False, compression="zstd")
    with ParquetFile(tmp_path / "x") as file:
        assert file.read(["s.b"])["s"].to_pylist()[19] == {"b": "19"}
        for column in ("s", "s.a"):
            with pytest.raises(UserError, match="it unpacks to more than 8 MB"):
                file.read([column])
        with pytest.raises(UserError, match="it unpacks to more than 2 MB"):
            file.read_values("s.a", 0, 2_000_000)
        assert file.read_values("s.b", 0, 2_000_000)[3].as_py() == "3"


def test_long_texts_in_a_dictionary_are_no_bomb(tmp_path: Path) -> None:
    names = pa.array([f"{i:07d}" * 30 for i in range(3000)])
    pq.write_table(pa.table({"x": names.take(pa.array(np.arange(9000) % 3000))}), tmp_path / "x")
    assert len(read_table(tmp_path / "x")) == 9000


def test_pages_are_read_from_their_headers(tmp_path: Path) -> None:
    token_set = make_token_set(tmp_path, num_samples=4)
    path = token_set.path / "part-00000.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(9)
    with path.open("rb") as file:
        (page,) = pages_of(file, chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size)
    assert (page.num_values, page.is_dictionary) == (4 * 10 * 16, False)
    footer = path.read_bytes()[-8 - int.from_bytes(path.read_bytes()[-8:-4], "little") : -8]
    assert count_schema_elements(footer) == 18


@pytest.mark.parametrize(
    "data", [b"", b"\x15", b"\x15\x00\x15\x80", b"\x1c" * 5000, b"\x15\x00\x15\x02\x15\x01\x00", b"\xff" * 100]
)
def test_what_is_no_page(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(a |structs nested)"):
        list(pages_of(io.BytesIO(data), 0, 10))


@pytest.mark.parametrize("seed", range(5))
def test_damage_ends_in_an_error_or_a_table(tmp_path: Path, seed: int) -> None:
    token_set = make_token_set(tmp_path, num_samples=2, frames=2)
    path = token_set.path / "part-00000.parquet"
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for at in rng.integers(0, len(data), 3):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    try:
        read_table(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_pages_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "MAX_PAGES", 5)
    pq.write_table(pa.table({"x": range(100)}), tmp_path / "x", row_group_size=10)  # a dictionary and a page each
    with ParquetFile(tmp_path / "x") as file:
        assert len(file.read_row_group(0)) == 10
        with pytest.raises(UserError, match="more than 5 pages"):
            file.read()


def test_columns_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """As in a footer with a thousand row groups that all refer to the same pages."""
    pq.write_table(pa.table({"x": range(1000)}), tmp_path / "x")
    with ParquetFile(tmp_path / "x") as file, pytest.raises(UserError, match="overlap"):
        file.read(groups=[0] * 10)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UserError, match="not a regular file"):
        ParquetFile(tmp_path / "x")


def test_long_texts_of_an_extension_type_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "MAX_BYTES", 8 << 20)
    texts = pa.json_(pa.string()).wrap_array(pa.array(["x" * 100_000] * 400))
    pq.write_table(pa.table({"x": texts}), tmp_path / "x", compression="zstd")
    with pytest.raises(UserError, match="expected plain text"):
        read_table(tmp_path / "x")
