"""The frames of a part on disk: JPEG files end to end in one sharded Zarr v3 array, and where each one begins.

    frames.zarr/jpeg     uint8; shards of 64 MiB cut into chunks of 128 KiB, each with a crc32c
    frames.zarr/offsets  int64; frame i is jpeg[offsets[i] : offsets[i + 1]]

zarr writes them and reads whole parts. Ranges of a few frames, a loader's diet, are read here: one read per range,
where zarr goes through an event loop, at the price of decoding a small clip (benchmarks/frame_ranges.py).
"""

import functools
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

CHUNK_BYTES = 128 << 10  # the unit of a crc32c; 64 KiB and 256 KiB read slower by zarr (benchmarks/zarr_chunks.py)
SHARD_BYTES = 64 << 20  # the unit of a file
CRC_BYTES = 4  # behind every chunk, and behind a shard's index
ABSENT = 2**64 - 1  # the offset, in a shard's index, of a chunk that was never written


def write_jpegs(path: Path, jpegs: Sequence[bytes]) -> None:
    """Write `frames.zarr` at `path`."""
    offsets = np.zeros(len(jpegs) + 1, dtype=np.int64)
    np.cumsum([len(jpeg) for jpeg in jpegs], out=offsets[1:])
    stream = np.frombuffer(b"".join(jpegs), dtype=np.uint8)
    shard_bytes = min(SHARD_BYTES, max(1, -(-len(stream) // CHUNK_BYTES)) * CHUNK_BYTES)
    group = zarr.create_group(path, zarr_format=3)
    for name, values, chunk, shard in (
        ("jpeg", stream, CHUNK_BYTES, shard_bytes),
        ("offsets", offsets, len(offsets), None),
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


def read_all_jpegs(path: Path) -> list[np.ndarray]:
    """Every frame of the `frames.zarr` at `path`, in order: uint8 arrays of JPEG bytes."""
    group = zarr.open_group(path, mode="r")
    data, offsets = group["jpeg"][:], group["offsets"][:]
    return [data[start:end] for start, end in itertools.pairwise(offsets)]


class JpegStore:
    """Reads frames of one `frames.zarr` by their positions, each range at once."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError where the array is not stored as `write_jpegs` does."""
        self.path = path / "jpeg"
        meta = json.loads((self.path / "zarr.json").read_text())
        codec = meta["codecs"][0]
        inner = [c["name"] for c in codec.get("configuration", {}).get("codecs", [])]
        if codec["name"] != "sharding_indexed" or inner != ["bytes", "crc32c"]:
            raise ValueError(f"{self.path}: stored as {meta['codecs']}, expected shards of crc32c chunks")
        (self.shard_bytes,) = meta["chunk_grid"]["configuration"]["chunk_shape"]
        (self.chunk_bytes,) = codec["configuration"]["chunk_shape"]
        self.offsets = zarr.open_group(path, mode="r")["offsets"][:]
        self._indices: dict[int, np.ndarray] = {}

    def read(self, first: int, count: int) -> list[np.ndarray]:
        """The bytes of `count` frames from `first` on. IndexError past the end; ValueError for a damaged chunk."""
        bounds = self.offsets[first : first + count + 1]
        if len(bounds) != count + 1:
            raise IndexError(f"{self.path}: frames {first}..{first + count} of {len(self.offsets) - 1}")
        start, stop = int(bounds[0]), int(bounds[-1])
        shards = range(start // self.shard_bytes, -(-stop // self.shard_bytes))
        data = np.concatenate([np.empty(0, np.uint8), *(self._read_shard(shard, start, stop) for shard in shards)])
        return [data[a - start : b - start] for a, b in itertools.pairwise(bounds)]

    def _read_shard(self, shard: int, start: int, stop: int) -> np.ndarray:
        """The bytes of [start, stop) that lie in `shard`."""
        start, stop = (min(max(at - shard * self.shard_bytes, 0), self.shard_bytes) for at in (start, stop))
        first, last = start // self.chunk_bytes, -(-stop // self.chunk_bytes)
        with (self.path / "c" / str(shard)).open("rb") as file:
            if shard not in self._indices:
                self._indices[shard] = self._read_index(file.seek(0, 2), file.fileno(), shard)
            places = self._indices[shard][first:last]
            if (places == ABSENT).any():
                raise ValueError(f"{self.path}: shard {shard} lacks chunks; run bevt verify, then bevt repair")
            begin, end = int(places[:, 0].min()), int(places.sum(axis=1).max())
            file.seek(begin)
            data = file.read(end - begin)
        chunks = []
        for chunk, (offset, size) in enumerate(places.tolist(), start=first):
            payload = self._checked(data[offset - begin : offset - begin + size], f"chunk {chunk} of shard {shard}")
            chunks.append(np.frombuffer(payload, np.uint8))
        return np.concatenate(chunks)[start - first * self.chunk_bytes : stop - first * self.chunk_bytes]

    def _read_index(self, shard_end: int, fileno: int, shard: int) -> np.ndarray:
        """(offset, bytes) of every chunk of a shard, from its end."""
        size = 16 * (self.shard_bytes // self.chunk_bytes) + CRC_BYTES
        raw = os.pread(fileno, size, max(shard_end - size, 0))
        return np.frombuffer(self._checked(raw, f"the index of shard {shard}"), "<u8").reshape(-1, 2)

    def _checked(self, raw: bytes, what: str) -> bytes:
        payload, crc = raw[:-CRC_BYTES], int.from_bytes(raw[-CRC_BYTES:], "little")
        if google_crc32c.value(payload) != crc:
            raise ValueError(f"{self.path}: the checksum of {what} does not fit; run bevt verify, then bevt repair")
        return payload


@functools.lru_cache(maxsize=64)
def open_jpegs(path: str) -> JpegStore:
    """A store that stays open in this process, with its offsets and shard indices."""
    return JpegStore(Path(path))
