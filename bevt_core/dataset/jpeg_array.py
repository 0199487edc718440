"""The frames of a part on disk: concatenated JPEG files in one sharded Zarr v3 array, and the offset of each one.

    frames.zarr/jpeg     uint8; shards of 64 MiB cut into chunks of 128 KiB, each with a crc32c
    frames.zarr/offsets  int64; frame i is jpeg[offsets[i] : offsets[i + 1]]

zarr writes the arrays. This module reads them, after comparing their metadata with what zarr writes for us
(bevt_core/dataset/jpeg_layout.py), because zarr would open any codec that an untrusted store names. A range of frames
is one read per shard; zarr's event loop would take as long as decoding a small clip (benchmarks/frame_ranges.py).
"""

import functools
import itertools
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import google_crc32c
import numpy as np

from bevt_core.dataset.jpeg_layout import CRC_BYTES, JPEG, OFFSETS, Layout, read_layout
from schemas.errors import DAMAGED, UserError
from schemas.text.regular_file import is_irregular

ABSENT = 2**64 - 1  # the offset, in a shard's index, of a chunk that was never written
WAITING_BYTES = 64 << 20  # of a part that is being written, in memory; the rest waits on disk
MAX_FRAME_BYTES = 192 << 20  # 3 bytes per pixel of MAX_FRAME_PIXELS; noise at JPEG quality 100 takes 2.3


def write_jpegs(path: Path, jpegs: Iterable[bytes]) -> int:
    """Write the JPEG files `jpegs` as the `frames.zarr` at `path`, and return their number.

    `jpegs` may be computed on the way. At most WAITING_BYTES and a shard are in memory: since the layout depends on the
    sum of all sizes, the files wait in a temporary file beside `path`.
    """
    import zarr  # not needed by readers
    from zarr.codecs import Crc32cCodec

    with tempfile.SpooledTemporaryFile(WAITING_BYTES, dir=str(path.parent)) as waiting:
        offsets = np.cumsum([0, *map(waiting.write, jpegs)], dtype=np.int64)
        layout = Layout.of(int(offsets[-1]), len(offsets))
        group = zarr.create_group(path, zarr_format=3)
        common = {"compressors": [Crc32cCodec()], "filters": None, "fill_value": 0}
        shape, chunk, shard = (layout.num_bytes,), (layout.chunk_bytes,), (layout.shard_bytes,)
        array = group.create_array(JPEG, shape=shape, dtype=np.uint8, chunks=chunk, shards=shard, **common)
        waiting.seek(0)
        for start in range(0, layout.num_bytes, layout.shard_bytes):
            values = np.frombuffer(waiting.read(layout.shard_bytes), np.uint8)
            array[start : start + len(values)] = values
    shape = (layout.num_offsets,)
    group.create_array(OFFSETS, shape=shape, dtype=np.int64, chunks=shape, shards=None, **common)[:] = offsets
    read_layout(path)  # another zarr version may write other metadata: fail now, not after the job
    return len(offsets) - 1


class JpegStore:
    """Reader of one `frames.zarr`: ranges of frames by position."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if the layout is not that of `write_jpegs`."""
        self.layout = read_layout(path)
        self.path = path / JPEG
        self.offsets = _read_offsets(path / OFFSETS / "c" / "0", self.layout)
        self._indices: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.offsets) - 1

    def __getitem__(self, frames: slice) -> list[np.ndarray]:
        """`read` of a range of frames, which ends at the last one, as in a list."""
        start, stop, _ = frames.indices(len(self))
        return self.read(start, stop - start)

    def read(self, first: int, count: int) -> list[np.ndarray]:
        """Return the JPEG bytes of `count` frames from `first` on, uint8 arrays.

        Raises IndexError past the end, UserError for a damaged chunk.
        """
        bounds = self.offsets[first : first + count + 1]
        if min(first, count) < 0 or len(bounds) != count + 1:
            raise IndexError(f"{self.path}: frames {first}..{first + count} of {len(self.offsets) - 1}")
        start, stop = int(bounds[0]), int(bounds[-1])
        shard_bytes = self.layout.shard_bytes
        shards = range(start // shard_bytes, -(-stop // shard_bytes))
        for shard in shards:  # check the indices before allocating memory for the data
            if shard not in self._indices:
                self._indices[shard] = self._read_index(shard)
        data = np.empty(stop - start, np.uint8)
        for shard in shards:
            begin = max(start, shard * shard_bytes)
            end = min(stop, (shard + 1) * shard_bytes)
            self._read_shard(shard, begin - shard * shard_bytes, data[begin - start : end - start])
        return [data[a - start : b - start] for a, b in itertools.pairwise(bounds)]

    def _read_shard(self, shard: int, start: int, out: np.ndarray) -> None:
        """Fill `out` with the bytes of `shard` from position `start` on."""
        chunk_bytes = self.layout.chunk_bytes
        first, last = start // chunk_bytes, -(-(start + len(out)) // chunk_bytes)
        entries = self._indices[shard][first:last]
        if (entries == ABSENT).any():
            raise UserError(f"{self.path}: shard {shard} lacks chunks; {DAMAGED}")
        begin, end = int(entries[:, 0].min()), int(entries.sum(axis=1).max())
        with self._path_of(shard).open("rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
        for chunk, (offset, size) in enumerate(entries.tolist(), start=first):
            payload = self._checked(data[offset - begin : offset - begin + size], f"chunk {chunk} of shard {shard}")
            at = chunk * chunk_bytes - start  # position in `out` of the chunk's first byte
            piece = out[max(at, 0) : at + chunk_bytes]
            piece[:] = np.frombuffer(payload, np.uint8)[max(-at, 0) :][: len(piece)]

    def _path_of(self, shard: int) -> Path:
        return self.path / "c" / str(shard)

    def _read_index(self, shard: int) -> np.ndarray:
        """Return (offset, bytes) of every chunk of a shard, from the index at the shard's end."""
        path = self._path_of(shard)
        if is_irregular(path):
            raise UserError(f"{path}: not a regular file; {DAMAGED}")
        size = 16 * self.layout.shard_chunks + CRC_BYTES
        with path.open("rb") as file:
            shard_end = file.seek(0, os.SEEK_END)
            file.seek(max(shard_end - size, 0))
            raw = file.read(size)
        if shard_end > self.layout.most_shard_file_bytes:
            most = self.layout.most_shard_file_bytes
            raise UserError(f"{self.path}: shard {shard} has {shard_end} bytes, expected at most {most}; {DAMAGED}")
        entries = np.frombuffer(self._checked(raw, f"the index of shard {shard}"), "<u8").reshape(-1, 2)
        stored = entries[~(entries == ABSENT).any(axis=1)]
        chunk_bytes = self.layout.chunk_bytes + CRC_BYTES
        if (stored[:, 1] != chunk_bytes).any() or (stored[:, 0] > max(shard_end - size - chunk_bytes, 0)).any():
            raise UserError(f"{self.path}: the index of shard {shard} points outside its file; {DAMAGED}")
        if (np.diff(np.sort(stored[:, 0])) < chunk_bytes).any():  # otherwise a small file could expand to 64 MiB
            raise UserError(f"{self.path}: chunks overlap in the index of shard {shard}; {DAMAGED}")
        return entries

    def _checked(self, raw: bytes, what: str) -> bytes:
        return without_checksum(raw, self.path, what)


def _read_offsets(path: Path, layout: Layout) -> np.ndarray:
    """Return the start of each frame and the end of the last one: int64, non-decreasing from 0 to `num_bytes`."""
    size = 8 * layout.num_offsets + CRC_BYTES
    if not path.exists() and layout.num_offsets == 1:
        offsets = np.zeros(1, np.int64)  # zarr does not write chunks of zeros
    elif not path.is_file() or path.stat().st_size != size:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        raise UserError(f"{path}: {found}, expected {layout.num_offsets} offsets in {size} bytes; {DAMAGED}")
    else:
        offsets = np.frombuffer(without_checksum(path.read_bytes(), path, "the offsets"), "<i8").astype(np.int64)
    falls = (offsets[1:] < offsets[:-1]).any()
    if not len(offsets) or offsets[0] != 0 or falls or offsets[-1] != layout.num_bytes:
        raise UserError(f"{path}: expected increasing offsets from 0 to {layout.num_bytes}; {DAMAGED}")
    sizes = np.diff(offsets)
    if sizes.max(initial=0) > MAX_FRAME_BYTES:
        frame = int(sizes.argmax())
        raise UserError(
            f"{path}: frame {frame} has {sizes[frame]} bytes, expected at most {MAX_FRAME_BYTES}; {DAMAGED}"
        )
    return offsets


def without_checksum(raw: bytes, path: Path, what: str) -> bytes:
    """Return `raw` without the crc32c at its end. Raises UserError if the checksum does not match."""
    payload, crc = raw[:-CRC_BYTES], int.from_bytes(raw[-CRC_BYTES:], "little")
    if google_crc32c.value(payload) != crc:
        raise UserError(f"{path}: the checksum of {what} does not match; {DAMAGED}")
    return payload


def open_jpegs(path: str) -> JpegStore:
    """Return a reader that stays open in this process, with its offsets and shard indices in memory.

    A part that was made again since, by another job or a repair, is opened again.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - called for every clip
    except OSError:
        return opened(path, None)
    return opened(path, (status.st_ino, status.st_mtime_ns))


@functools.lru_cache(maxsize=64)
def opened(path: str, version: object) -> JpegStore:
    """Return the reader of a version of the folder at `path`."""
    return JpegStore(Path(path))
