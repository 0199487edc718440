"""Ranges of the JPEG array: the same bytes as zarr reads, and an error for damage, even if zarr would miss it."""

import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bevt_core.dataset import jpeg_array, jpeg_layout
from bevt_core.dataset.jpeg_array import JpegStore, open_jpegs, write_jpegs
from bevt_core.rng import rng_for
from schemas.errors import UserError
from tests.support.tiny_jobs import digests

CHUNK, SHARD = 64, 256  # small enough for frames to cross both


@pytest.fixture
def jpegs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    monkeypatch.setattr(jpeg_layout, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(jpeg_layout, "SHARD_BYTES", SHARD)
    rng = rng_for("jpegs")
    jpegs = [rng.bytes(int(rng.integers(1, 200))) for _ in range(20)]
    write_jpegs(tmp_path / "frames.zarr", jpegs)
    return jpegs


def test_a_part_that_was_made_again_is_opened_again(jpegs: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "frames.zarr"
    assert [frame.tobytes() for frame in open_jpegs(str(path)).read(0, 2)] == jpegs[:2]
    assert open_jpegs(str(path)) is open_jpegs(str(path))
    write_jpegs(tmp_path / "new", jpegs[5:])
    shutil.rmtree(path)
    (tmp_path / "new").rename(path)
    assert [frame.tobytes() for frame in open_jpegs(str(path)).read(0, 2)] == jpegs[5:7]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(first=st.integers(0, 20), count=st.integers(0, 20))
def test_a_range_is_what_zarr_reads(first: int, count: int, jpegs: list[bytes], tmp_path: Path) -> None:
    store = JpegStore(tmp_path / "frames.zarr")
    if first + count > len(jpegs):
        with pytest.raises(IndexError):
            store.read(first, count)
        return
    array = zarr.open_group(tmp_path / "frames.zarr", mode="r", zarr_format=3)["jpeg"]
    bounds = store.offsets[first : first + count + 1]
    assert [frame.tobytes() for frame in store.read(first, count)] == jpegs[first : first + count]
    assert np.concatenate([np.empty(0, np.uint8), *store.read(first, count)]).tobytes() == (
        array[bounds[0] : bounds[-1]].tobytes()
    )


def test_all_frames_at_once(jpegs: list[bytes], tmp_path: Path) -> None:
    assert [frame.tobytes() for frame in JpegStore(tmp_path / "frames.zarr")[:]] == jpegs


def test_a_part_without_frames(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "frames.zarr", [])
    assert JpegStore(tmp_path / "frames.zarr").read(0, 0) == []


def test_files_that_waited_on_disk_are_stored_as_if_zarr_wrote_them_at_once(
    jpegs: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg_array, "WAITING_BYTES", 100)
    assert write_jpegs(tmp_path / "waited.zarr", iter(jpegs)) == len(jpegs)
    path = tmp_path / "at-once.zarr"
    shutil.copytree(tmp_path / "waited.zarr", path)
    shutil.rmtree(path / "jpeg" / "c")
    zarr.open_group(path, mode="r+", zarr_format=3)["jpeg"][:] = np.frombuffer(b"".join(jpegs), np.uint8)
    waited, at_once = (digests(tmp_path / name) for name in ("waited.zarr", path.name))
    assert len(list((path / "jpeg" / "c").iterdir())) > 3
    assert waited == at_once == digests(tmp_path / "frames.zarr")


def test_frames_of_a_large_part_are_never_in_memory_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((jpeg_array, "WAITING_BYTES"), (jpeg_layout, "SHARD_BYTES")):
        monkeypatch.setattr(module, name, 1 << 20)

    def jpegs() -> Iterator[bytes]:
        for number in range(32):
            yield bytes([number % 255 + 1]) * (1 << 19)

    write_jpegs(tmp_path / "small.zarr", [b"imports"])
    tracemalloc.start()
    write_jpegs(tmp_path / "frames.zarr", jpegs())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20 < (16 << 20) == JpegStore(tmp_path / "frames.zarr").layout.num_bytes


@pytest.mark.parametrize("at", [0, CHUNK, -8])
def test_a_flipped_byte_is_an_error(at: int, jpegs: list[bytes], tmp_path: Path) -> None:
    shard = tmp_path / "frames.zarr" / "jpeg" / "c" / "0"
    data = bytearray(shard.read_bytes())
    data[at] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"checksum .*`bevt repair"):
        JpegStore(tmp_path / "frames.zarr").read(0, 4)


def test_a_missing_file_is_an_error_and_not_zeros(jpegs: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "frames.zarr" / "jpeg" / "c" / "1").unlink()
    with pytest.raises(FileNotFoundError):
        JpegStore(tmp_path / "frames.zarr").read(0, 20)


def test_an_array_of_another_layout_is_refused(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path, zarr_format=3)
    for name in ("jpeg", "offsets"):
        group.create_array(name, shape=(8,), dtype="uint8", chunks=(8,))
    with pytest.raises(UserError, match=r"jpeg/zarr.json: chunk_grid.configuration.chunk_shape\[0\] is 8, expected"):
        JpegStore(tmp_path)
