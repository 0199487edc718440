"""Random ranges of a part's frames, `JpegStore` against zarr, alternating: `python benchmarks/frame_ranges.py`."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from bevt_core.dataset.jpeg_array import JpegStore, write_jpegs

FRAMES, READS, ROUNDS = 2000, 100, 5


def main() -> None:
    rng = np.random.default_rng(0)
    for frame_bytes, count, what in ((28_000, 16, "Kinetics clip"), (28_000, 1, "image"), (2_500, 8, "nano clip")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frames.zarr"
            write_jpegs(path, [rng.bytes(frame_bytes) for _ in range(FRAMES)])
            firsts = rng.integers(0, FRAMES - count, READS).tolist()
            store, array = JpegStore(path), zarr.open_group(path, mode="r", zarr_format=3)["jpeg"]
            offsets = store.offsets
            readers: dict[str, Callable[[int], object]] = {
                "zarr": lambda first: array[offsets[first] : offsets[first + count]],  # noqa: B023
                "JpegStore": lambda first: store.read(first, count),  # noqa: B023
            }
            cpu_ms: dict[str, list[float]] = {name: [] for name in readers}
            for _ in range(ROUNDS):
                for name, read in readers.items():
                    begun = time.process_time()
                    for first in firsts:
                        read(first)
                    cpu_ms[name].append((time.process_time() - begun) / READS * 1e3)
            medians = {name: statistics.median(times) for name, times in cpu_ms.items()}
            print(what, {name: f"{ms:.3f} ms of CPU" for name, ms in medians.items()})


if __name__ == "__main__":
    main()
