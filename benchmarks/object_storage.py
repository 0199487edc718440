"""Clients of object stores against moto: `python benchmarks/object_storage.py [REPEATS]`.

Three clients alternate in one process, the server runs in another: `bevt` (bevt_core.storage), `obstore` and `s3fs`
(`pip install s3fs`), the last two without retries. Medians of wall and CPU seconds of the client; the server limits
the wall time.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import s3fs
from obstore.store import S3Store

from bevt_core.storage.objects import as_path

THREADS = 16
RANGES, RANGE_BYTES, RANGED_BYTES = 400, 8 << 10, 1 << 20  # moto reads a whole object for each range
PARTS, PART_BYTES = 2, 32 << 20
PUTS, PUT_BYTES = 200, 4 << 10


@contextmanager
def server() -> Iterator[str]:
    """The URL of a moto server with the bucket `data`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
        while process.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        boto3.client("s3").create_bucket(Bucket="data")
        yield url
    finally:
        process.terminate()
        process.wait()


class Bevt:
    def range(self, key: str, start: int) -> object:
        return (as_path("s3://data") / key).read_range(start, start + RANGE_BYTES)

    def download(self, key: str, target: Path) -> None:
        (as_path("s3://data") / key).download(target, PART_BYTES)

    def put(self, key: str, data: bytes) -> None:
        (as_path("s3://data") / key).write_bytes(data)


class Obstore:
    def __init__(self, url: str) -> None:
        self.store = S3Store("data", endpoint=url, client_options={"allow_http": True}, retry_config={"max_retries": 0})

    def range(self, key: str, start: int) -> object:
        return bytes(self.store.get_range(key, start=start, length=RANGE_BYTES))

    def download(self, key: str, target: Path) -> None:
        with target.open("wb") as file:
            for chunk in self.store.get(key).stream(min_chunk_size=1 << 20):
                file.write(chunk)

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data, use_multipart=False)


class S3fs:
    def __init__(self) -> None:
        self.store = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs={"max_pool_connections": THREADS})

    def range(self, key: str, start: int) -> object:
        return self.store.cat_file(f"data/{key}", start=start, end=start + RANGE_BYTES)

    def download(self, key: str, target: Path) -> None:
        self.store.get_file(f"data/{key}", str(target))

    def put(self, key: str, data: bytes) -> None:
        self.store.pipe_file(f"data/{key}", data)


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with server() as url, tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(THREADS) as pool:
        clients: dict[str, Any] = {"bevt": Bevt(), "obstore": Obstore(url), "s3fs": S3fs()}
        clients["obstore"].put("part", os.urandom(PART_BYTES))
        clients["obstore"].put("ranged", os.urandom(RANGED_BYTES))
        starts = [i * 131_071 % (RANGED_BYTES - RANGE_BYTES) for i in range(RANGES)]
        data = os.urandom(PUT_BYTES)
        tasks: dict[str, Callable[[Any], object]] = {
            f"{RANGES} ranges of {RANGE_BYTES >> 10} KiB, {THREADS} threads": lambda client: list(
                pool.map(lambda start: client.range("ranged", start), starts)
            ),
            f"{RANGES // 4} of them, one thread": lambda client: [
                client.range("ranged", start) for start in starts[: RANGES // 4]
            ],
            f"{PARTS} parts of {PART_BYTES >> 20} MiB": lambda client: [
                client.download("part", Path(folder) / "part") for _ in range(PARTS)
            ],
            f"{PUTS} puts of {PUT_BYTES >> 10} KiB, {THREADS} threads": lambda client: list(
                pool.map(lambda i: client.put(f"small/{i}", data), range(PUTS))
            ),
        }
        for client in clients.values():
            client.range("ranged", 0)
        for task, work in tasks.items():
            figures: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
            for _ in range(repeats):
                for name, client in clients.items():
                    figures[name].append(spent(lambda client=client, work=work: work(client)))
            for name, pairs in figures.items():
                wall_s, cpu_s = (statistics.median(column) for column in zip(*pairs, strict=True))
                print(f"{task}: {name} {wall_s:.2f} s, {cpu_s:.2f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
