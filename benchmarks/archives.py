"""CPU time of listing archives and of reading single sources from them: `python -m benchmarks.archives`."""

import argparse
import gzip
import io
import os
import random
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.untrusted.archives import hub_parquet
from pipeline.sources import list_sources
from pipeline.sources.archives.local_copy import local_source

SOURCE_BYTES, PICTURE_BYTES = 1_000_000, 110_000  # of a clip; of a picture of ImageNet
READS = 20

T = TypeVar("T")


def noise(seed: int, count: int) -> bytes:
    """Bytes that gzip compresses to 7/8: media are entropy-coded, but not without any structure."""
    data = np.frombuffer(random.Random(seed).randbytes(count), np.uint8) & 0xF7
    return data.tobytes()


def write_tar(path: Path, names: list[str], num_bytes: int) -> None:
    with tarfile.open(path, "w") as archive:
        for seed, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = num_bytes
            archive.addfile(info, io.BytesIO(noise(seed, num_bytes)))


def write_zip(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")


def write_parquet(path: Path, rows: int, group: int) -> None:
    pictures = [{"bytes": noise(row, PICTURE_BYTES), "path": f"{row}.jpg"} for row in range(rows)]
    pq.write_table(pa.table({"image": pictures, "label": list(range(rows))}), path, row_group_size=group)


def measure(name: str, root: Path, per: float, unit: str) -> None:
    """Print the CPU seconds of listing `root`, and the milliseconds of reading a source from it."""
    listed, listing = timed(lambda: list_sources("folder", root, "train"))
    sources = random.Random(0).sample(sorted(listing.packed), min(READS, len(listing.packed)))

    def read_all() -> None:
        for source in sources:
            hub_parquet._group_bytes.cache_clear()  # in a job, the sources of a part are in different row groups
            with local_source(root, source, listing.packed[source], False) as folder:
                (folder / source).stat()

    read, _ = timed(read_all)
    print(f"{name:24} list {listed / per:6.2f} s per {unit:14} read {1e3 * read / len(sources):6.1f} ms")


def timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    result = call()
    return time.process_time() - began, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--clips", type=int, default=200)
    options = parser.parse_args()
    names = [f"{i % 100}/{i}.jpg" for i in range(options.members)]
    clips = [f"{i}.mp4" for i in range(options.clips)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BEVT_ARCHIVES"] = f"{folder}/indexes"
        kinds = ("many.tar", "many.zip", "tar", "tar.gz", "parquet100", "parquet1000")
        roots = {kind: Path(folder, kind) for kind in kinds}
        for root in roots.values():
            root.mkdir()
        write_tar(roots["many.tar"] / "part_0.tar", names, 0)
        measure("tar, small members", roots["many.tar"], options.members / 1e5, "100,000")
        write_zip(roots["many.zip"] / "part_0.zip", names)
        measure("zip, small members", roots["many.zip"], options.members / 1e5, "100,000")
        write_tar(roots["tar"] / "part_0.tar", clips, SOURCE_BYTES)
        measure("tar, members of 1 MB", roots["tar"], options.clips * SOURCE_BYTES / 1e9, "GB")
        with gzip.open(roots["tar.gz"] / "part_0.tar.gz", "wb", compresslevel=6) as file:
            file.write((roots["tar"] / "part_0.tar").read_bytes())
        measure("tar.gz, members of 1 MB", roots["tar.gz"], options.clips * SOURCE_BYTES / 1e9, "GB")
        for group in (100, 1000):
            root = roots[f"parquet{group}"]
            write_parquet(root / "x.parquet", 1000, group)
            measure(f"Parquet, groups of {group}", root, 1000 / 1e5, "100,000 rows")


if __name__ == "__main__":
    main()
