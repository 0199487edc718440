"""Which Zarr chunk size reads a clip and an image fastest: `python benchmarks/zarr_chunks.py`."""

import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

STREAM_BYTES = 60_000_000  # about a part of 64 Kinetics videos: 37 frames of 28 KB each
CLIP_BYTES, IMAGE_BYTES, READS = 450_000, 28_000, 200


def main() -> None:
    data = np.random.default_rng(0).integers(0, 256, STREAM_BYTES, dtype=np.uint8)
    starts = np.random.default_rng(1).integers(0, STREAM_BYTES - CLIP_BYTES, READS)
    for chunk_kib in (64, 128, 256, 1024):
        with tempfile.TemporaryDirectory() as folder:
            chunk = chunk_kib << 10
            shard = -(-STREAM_BYTES // chunk) * chunk
            group = zarr.create_group(Path(folder) / "frames.zarr", zarr_format=3)
            begun = time.perf_counter()
            group.create_array(
                "jpeg", shape=data.shape, dtype="uint8", chunks=(chunk,), shards=(shard,), compressors=[Crc32cCodec()]
            )[:] = data
            wrote = time.perf_counter() - begun
            array = zarr.open_group(Path(folder) / "frames.zarr", mode="r", zarr_format=3)["jpeg"]
            milliseconds = {}
            for name, size in (("clip", CLIP_BYTES), ("image", IMAGE_BYTES)):
                begun = time.perf_counter()
                for start in starts:
                    array[start : start + size]
                milliseconds[name] = (time.perf_counter() - begun) / READS * 1e3
            clip_ms, image_ms = milliseconds["clip"], milliseconds["image"]
            print(f"{chunk_kib:5d} KiB: write {wrote:.2f} s, clip {clip_ms:.2f} ms, image {image_ms:.2f} ms")


if __name__ == "__main__":
    main()
