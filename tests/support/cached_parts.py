"""Small entries for tests of the cache, and a process that reads them: `python -m tests.support.cached_parts SEED`."""

import fcntl
import hashlib
import random
import sys

from bevt_core.storage.objects import ObjectPath
from bevt_core.storage.part_cache import _lock, cache_folder, local_files
from bevt_core.storage.remote import Entry
from schemas.frames import FileDigest

NUM, SIZE = 8, 10_000  # entries, bytes of each
STORE = "s3://data/parts"


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def entry(number: int) -> Entry:
    digest = FileDigest(sha256=hashlib.sha256(content(number)).hexdigest(), num_bytes=SIZE)
    return Entry(f"key-{number}", ObjectPath(f"{STORE}/{number}"), lambda: {"file": digest})


def entries_there() -> set[str]:
    with _lock("room", fcntl.LOCK_EX):  # nothing is removed while the folder is listed, so no name is counted too many
        return {path.name for path in cache_folder().glob("key-*")}


def read(number: int) -> bytes:
    with local_files(entry(number)) as folder:
        return (folder / "file").read_bytes()


def read_at_random(seed: int) -> int:
    """Read entries, each right; return the largest number of them that were there at a time."""
    drawn, most = random.Random(seed), 0
    for _ in range(12):
        number = drawn.randrange(NUM)
        assert read(number) == content(number)
        most = max(most, len(entries_there()))
    return most


if __name__ == "__main__":
    print(read_at_random(int(sys.argv[1])))
