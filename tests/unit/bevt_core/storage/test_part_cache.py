"""The part cache: fetched once by many processes, bounded, least recently used removed first, never torn."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bevt_core.dataset.token_set import TokenSet
from bevt_core.storage import part_cache as cache
from bevt_core.storage.objects import ObjectPath, as_path
from bevt_core.storage.part_cache import ReadAhead, cache_folder, local_files
from bevt_core.storage.remote import Entry
from schemas.errors import StorageError, UserError
from schemas.models import TubeMask
from tests.support.builders import make_token_set
from tests.support.cached_parts import NUM, SIZE, STORE, content, entries_there, entry, read
from tests.support.s3_server import S3Server, s3_server
from trainer.data.batches import StreamBatches
from trainer.data.clip_dataset import TokenDataset
from trainer.data.order import StreamOrder


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        for number in range(NUM):
            (as_path(STORE) / f"{number}/file").write_bytes(content(number))
        yield server


@pytest.fixture(autouse=True)
def empty_cache(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BEVT_CACHE_BYTES", str(3 * SIZE))
    server.requests.clear()


def test_fetched_once_and_the_least_recently_used_goes(server: S3Server) -> None:
    for number in (0, 1, 2, 0):
        assert read(number) == content(number)
        time.sleep(0.01)
    assert sum("/parts/0/file" in request for request in server.requests if request.startswith("GET")) == 1
    read(3)
    assert entries_there() == {"key-0", "key-2", "key-3"}


def test_what_is_being_read_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOM_WAIT_S", 0.1)
    with local_files(entry(0)) as folder:
        for number in (1, 2, 3, 4):
            read(number)
        assert (folder / "file").read_bytes() == content(0)
        with local_files(entry(5)), local_files(entry(6)), pytest.raises(UserError, match="raise BEVT_CACHE_BYTES"):
            read(7)


def test_a_torn_copy_is_fetched_again() -> None:
    read(0)
    os.truncate(cache_folder() / "key-0" / "file", SIZE // 2)
    cache._seen.clear()  # as in another process
    assert read(0) == content(0)


def test_content_that_differs_from_the_commit_is_an_error() -> None:
    wrong = entry(1)
    with (
        pytest.raises(StorageError, match="differs from its commit; run `bevt verify"),
        local_files(Entry("key-0", entry(0).source, wrong.files)),
    ):
        pass
    assert entries_there() == set()


@pytest.mark.parametrize(("limit", "says"), [("100", "needs 10000 bytes"), ("much", "expected a number of bytes")])
def test_limits_that_cannot_be(monkeypatch: pytest.MonkeyPatch, limit: str, says: str) -> None:
    monkeypatch.setenv("BEVT_CACHE_BYTES", limit)
    with pytest.raises(UserError, match=says):
        read(0)


def test_processes_share_it() -> None:
    """Two processes read eight entries with room for three: every read is right, and the limit is never exceeded."""
    command = [sys.executable, "-m", "tests.support.cached_parts"]
    readers = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE) for seed in range(2)]
    most = [int(reader.communicate(timeout=120)[0]) for reader in readers]
    assert max(most) <= 3


def test_batches_from_objects_are_those_from_files(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefetch included: when a window begins, the next window's parts are fetched before they are read."""
    monkeypatch.setenv("BEVT_CACHE_BYTES", "1e9")
    sizes = {"num_samples": 12, "sources_per_part": 2, "frames": 4}
    local, remote = make_token_set(tmp_path / "set", **sizes), make_token_set(as_path("s3://data/set"), **sizes)

    def batches_of(tokens: TokenSet) -> tuple[StreamBatches, StreamOrder]:
        mask = TubeMask(kind="tube", ratio=0.5, min_block=2)
        options = {"name": "video", "seed": 0, "clip_frames": 4, "tubelet": 2, "mask": mask, "cached_parts": 4}
        dataset = TokenDataset(tokens, **options)
        order = StreamOrder(dataset.part_sizes, 4, 2, (0, "video"))
        streams = {"video": (dataset, order)}
        return StreamBatches(streams, rank=0, world_size=1, num_workers=0, pin_memory=False), order

    here, _ = batches_of(local)
    there, order = batches_of(remote)
    server.requests.clear()
    for step in range(6):
        one, other = here[step][0]["video"], there[step][0]["video"]
        assert one["sample_id"] == other["sample_id"]
        assert all((one[key] == other[key]).all() for key in ("clip", "tokens", "mask"))
        if step == 0:
            expected = {
                entry.key
                for part in order.parts_ahead(0)
                for entry in (remote.location(part), remote.frames.location(part))
            }
            deadline = time.monotonic() + 10
            while not expected <= {path.name for path in cache_folder().iterdir()}:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    gets = [request for request in server.requests if request.startswith("GET") and ".parquet" in request]
    assert len(gets) == len(set(gets)) == 6  # each part's tokens once


def test_prefetch_leaves_failures_to_the_reader(server: S3Server) -> None:
    ahead = ReadAhead()
    gone = Entry("key-x", ObjectPath("s3://data/nothing"), entry(0).files)
    ahead.want([gone, entry(1)])
    deadline = time.monotonic() + 10
    while "key-1" not in entries_there():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(StorageError), local_files(gone):
        pass
