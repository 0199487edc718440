"""The frames of a part on disk: JPEG files end to end in one sharded Zarr v3 array, and where each one begins.

    frames.zarr/jpeg     uint8; shards of 64 MiB cut into chunks of 128 KiB, each with a crc32c
    frames.zarr/offsets  int64; frame i is jpeg[offsets[i] : offsets[i + 1]]

zarr writes them. They are read here, after their metadata has been compared with what zarr writes for us
(bevt_core/dataset/jpeg_layout.py): zarr itself would open whatever codecs a foreign store names. A range of frames is
one read, where zarr goes through an event loop, at the price of decoding a small clip (benchmarks/frame_ranges.py).
"""

import functools
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from bevt_core.dataset.jpeg_layout import CRC_BYTES, JPEG, OFFSETS, REPAIR, Layout, read_layout
from schemas.errors import UserError
from schemas.text.regular_file import is_irregular

ABSENT = 2**64 - 1  # the offset, in a shard's index, of a chunk that was never written
MOST_FRAME_BYTES = 192 << 20  # three for each of MOST_FRAME_PIXELS: noise has 2.3 of them at quality 100


def write_jpegs(path: Path, jpegs: Sequence[bytes]) -> None:
    """Write `frames.zarr` at `path`."""
    import zarr  # readers do without it
    from zarr.codecs import Crc32cCodec

    offsets = np.zeros(len(jpegs) + 1, dtype=np.int64)
    np.cumsum([len(jpeg) for jpeg in jpegs], out=offsets[1:])
    stream = np.frombuffer(b"".join(jpegs), dtype=np.uint8)
    layout = Layout.of(len(stream), len(offsets))
    group = zarr.create_group(path, zarr_format=3)
    for name, values, chunk, shard in (
        (JPEG, stream, layout.chunk_bytes, layout.shard_bytes),
        (OFFSETS, offsets, len(offsets), None),
    ):
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(chunk,),
            shards=None if shard is None else (shard,),
            compressors=[Crc32cCodec()],
            filters=None,
            fill_value=0,
        )
        array[:] = values
    read_layout(path)  # another zarr may write other metadata: better here than when all is made


def read_all_jpegs(path: Path) -> list[np.ndarray]:
    """Every frame of the `frames.zarr` at `path`, in order: uint8 arrays of JPEG bytes."""
    store = JpegStore(path)
    return store.read(0, len(store.offsets) - 1)


class JpegStore:
    """Reads frames of one `frames.zarr` by their positions, each range at once."""

    def __init__(self, path: Path) -> None:
        """Raises UserError where it is not stored as `write_jpegs` does."""
        self.layout = read_layout(path)
        self.path = path / JPEG
        self.offsets = _read_offsets(path / OFFSETS / "c" / "0", self.layout)
        self._indices: dict[int, np.ndarray] = {}

    def read(self, first: int, count: int) -> list[np.ndarray]:
        """The bytes of `count` frames from `first` on. IndexError past the end; UserError for a damaged chunk."""
        bounds = self.offsets[first : first + count + 1]
        if min(first, count) < 0 or len(bounds) != count + 1:
            raise IndexError(f"{self.path}: frames {first}..{first + count} of {len(self.offsets) - 1}")
        start, stop = int(bounds[0]), int(bounds[-1])
        shard_bytes = self.layout.shard_bytes
        shards = range(start // shard_bytes, -(-stop // shard_bytes))
        for shard in shards:  # before memory is reserved for what they should hold
            if shard not in self._indices:
                self._indices[shard] = self._read_index(shard)
        data = np.empty(stop - start, np.uint8)
        for shard in shards:
            begin = max(start, shard * shard_bytes)
            end = min(stop, (shard + 1) * shard_bytes)
            self._read_shard(shard, begin - shard * shard_bytes, data[begin - start : end - start])
        return [data[a - start : b - start] for a, b in itertools.pairwise(bounds)]

    def _read_shard(self, shard: int, start: int, out: np.ndarray) -> None:
        """Fill `out` with the bytes from position `start` of `shard` on."""
        chunk_bytes = self.layout.chunk_bytes
        first, last = start // chunk_bytes, -(-(start + len(out)) // chunk_bytes)
        places = self._indices[shard][first:last]
        if (places == ABSENT).any():
            raise UserError(f"{self.path}: shard {shard} lacks chunks; {REPAIR}")
        begin, end = int(places[:, 0].min()), int(places.sum(axis=1).max())
        with self._path_of(shard).open("rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
        for chunk, (offset, size) in enumerate(places.tolist(), start=first):
            payload = self._checked(data[offset - begin : offset - begin + size], f"chunk {chunk} of shard {shard}")
            at = chunk * chunk_bytes - start  # in `out`, of the chunk's first byte
            piece = out[max(at, 0) : at + chunk_bytes]
            piece[:] = np.frombuffer(payload, np.uint8)[max(-at, 0) :][: len(piece)]

    def _path_of(self, shard: int) -> Path:
        return self.path / "c" / str(shard)

    def _read_index(self, shard: int) -> np.ndarray:
        """(offset, bytes) of every chunk of a shard, from its end."""
        path = self._path_of(shard)
        if is_irregular(path):
            raise UserError(f"{path}: not a regular file; {REPAIR}")
        size = 16 * self.layout.shard_chunks + CRC_BYTES
        with path.open("rb") as file:
            shard_end = file.seek(0, os.SEEK_END)
            file.seek(max(shard_end - size, 0))
            raw = file.read(size)
        if shard_end > self.layout.most_shard_file_bytes:
            most = self.layout.most_shard_file_bytes
            raise UserError(f"{self.path}: shard {shard} has {shard_end} bytes, expected at most {most}; {REPAIR}")
        places = np.frombuffer(self._checked(raw, f"the index of shard {shard}"), "<u8").reshape(-1, 2)
        stored = places[~(places == ABSENT).any(axis=1)]
        chunk_bytes = self.layout.chunk_bytes + CRC_BYTES
        if (stored[:, 1] != chunk_bytes).any() or (stored[:, 0] > max(shard_end - size - chunk_bytes, 0)).any():
            raise UserError(f"{self.path}: the index of shard {shard} leads out of its file; {REPAIR}")
        if (np.diff(np.sort(stored[:, 0])) < chunk_bytes).any():  # or a small file would hold 64 MiB
            raise UserError(f"{self.path}: chunks overlap in the index of shard {shard}; {REPAIR}")
        return places

    def _checked(self, raw: bytes, what: str) -> bytes:
        return without_checksum(raw, self.path, what)


def _read_offsets(path: Path, layout: Layout) -> np.ndarray:
    """Where each frame begins, and where the last one ends: int64, from 0, never decreasing, up to `num_bytes`."""
    size = 8 * layout.num_offsets + CRC_BYTES
    if not path.exists() and layout.num_offsets == 1:
        offsets = np.zeros(1, np.int64)  # zarr leaves out what is all zeros
    elif not path.is_file() or path.stat().st_size != size:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        raise UserError(f"{path}: {found}, expected {layout.num_offsets} offsets in {size} bytes; {REPAIR}")
    else:
        offsets = np.frombuffer(without_checksum(path.read_bytes(), path, "the offsets"), "<i8").astype(np.int64)
    falls = (offsets[1:] < offsets[:-1]).any()
    if not len(offsets) or offsets[0] != 0 or falls or offsets[-1] != layout.num_bytes:
        raise UserError(f"{path}: expected rising offsets from 0 to {layout.num_bytes}; {REPAIR}")
    sizes = np.diff(offsets)
    if sizes.max(initial=0) > MOST_FRAME_BYTES:
        frame = int(sizes.argmax())
        raise UserError(
            f"{path}: frame {frame} has {sizes[frame]} bytes, expected at most {MOST_FRAME_BYTES}; {REPAIR}"
        )
    return offsets


def without_checksum(raw: bytes, path: Path, what: str) -> bytes:
    """`raw` without the crc32c at its end. Raises UserError where that does not fit."""
    payload, crc = raw[:-CRC_BYTES], int.from_bytes(raw[-CRC_BYTES:], "little")
    if google_crc32c.value(payload) != crc:
        raise UserError(f"{path}: the checksum of {what} does not fit; {REPAIR}")
    return payload


@functools.lru_cache(maxsize=64)
def open_jpegs(path: str) -> JpegStore:
    """A store that stays open in this process, with its offsets and shard indices."""
    return JpegStore(Path(path))
