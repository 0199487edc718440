"""Object stores of each cloud: names, atomic objects, parts whose commit is uploaded last. See test_object_faults."""

import hashlib
import random
import threading
from pathlib import Path

import pytest

from bevt_core.dataset.frame_store import read_frame_commit
from bevt_core.dataset.source_list import read_plan
from bevt_core.dataset.token_set import read_token_commit, read_token_plan
from bevt_core.storage import objects
from bevt_core.storage.files import committed_folder, fetched, read_record, remove, sha256_of, sizes_in, write_record
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import ObjectPath, as_path
from schemas.errors import StorageError, UserError
from schemas.views import View
from tests.support.builders import make_token_set
from tests.support.object_server import INTERNAL, SLOW_DOWN, Fault, ObjectServer


def objects_below(path: ObjectPath) -> dict[str, str]:
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in path.sizes()}


def pieces(store: ObjectServer) -> list[str]:
    """Requests that upload a piece of an object."""
    return [request for request in store.requests if "partNumber=" in request or "comp=block&" in request]


def files_below(path: Path) -> dict[str, str]:
    return {name: sha256_of(path / name) for name in sizes_in(path)}


def test_what_is_a_path_and_what_an_object() -> None:
    assert as_path("datasets/k400") == Path("datasets/k400")
    path = as_path("s3://bucket//a/b/")
    assert isinstance(path, ObjectPath)
    assert (str(path), path.name, str(path.parent)) == ("s3://bucket/a/b", "b", "s3://bucket/a")
    assert str(path / "" / "./c/d.txt") == "s3://bucket/a/b/c/d.txt"
    assert [str(as_path(url)) for url in ("gs://b/a//c", "az://c")] == ["gs://b/a/c", "az://c"]
    assert as_path("gs://data").parent == as_path("gs://data")
    for wrong in ("s3://", "ftp://bucket/x", "s3:///x", "gs://", "az:///x", "s3://da ta/x", "gs://é", "s3:/bucket/x"):
        with pytest.raises(
            UserError, match=r"expected .*s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"
        ):
            as_path(wrong)


def test_objects_read_list_and_go(store: ObjectServer, tmp_path: Path) -> None:
    root = store.path("names")
    names = ["a b.txt", "x/ü#1?.txt", "x/y/z.txt", "x-y"]
    for name in names:
        (root / name).write_bytes(name.encode())
    assert {name: (root / name).read_text() for name in root.sizes()} == {name: name for name in names}
    assert root.entries() == {"a b.txt": False, "x": True, "x-y": False}
    assert [str(path) for path in root.glob("*/y/z.txt")] == [f"{store.scheme}://data/names/x/y/z.txt"]
    assert (root / "x").is_dir() and not (root / "x").is_file() and not (root / "nothing").exists()
    with fetched(root, "x") as local:
        assert (local / "x" / "y" / "z.txt").read_text() == "x/y/z.txt"
    with fetched(root, "a b.txt") as local:
        assert (local / "a b.txt").read_text() == "a b.txt"
    assert not local.exists()
    with fetched(root, "nothing") as local:
        assert not (local / "nothing").exists()
    remove(root / "x")
    assert sorted(root.sizes()) == ["a b.txt", "x-y"]
    assert read_record(root / "nothing", View) is None


def test_a_large_file_goes_up_in_parts(store: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CHUNK_BYTES", 5 << 20)  # S3's smallest
    (tmp_path / "large").write_bytes(bytes(range(256)) * (11 << 12))
    store.fault = lambda number, request: INTERNAL if len(pieces(store)) == 2 and request == pieces(store)[1] else None
    target = store.path("large")
    target.upload(tmp_path / "large")
    assert len(pieces(store)) == 3 + 1  # the second one is repeated, the others are not
    assert sha256_of(target) == sha256_of(tmp_path / "large")
    target.download(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


def test_a_dataset_is_the_same_through_throttling_and_5xx(store: ObjectServer, tmp_path: Path) -> None:
    """A third of the requests fail; every part's commit is the last object uploaded."""
    drawn = random.Random(0)
    store.fault = lambda number, request: drawn.choice([SLOW_DOWN, INTERNAL, None, None, None, None])
    make_token_set(tmp_path, num_samples=6, sources_per_part=3, frames=4)
    make_token_set(store.path("faults"), num_samples=6, sources_per_part=3, frames=4)
    assert objects_below(store.path("faults")) == files_below(tmp_path)
    puts = list(dict.fromkeys(reversed(store.puts())))[::-1]  # the last put of each object, which succeeded
    for part in ("part-00000", "part-00001"):
        assert [put for put in puts if f"frames/{part}/" in put][-1].endswith("commit.json")
        assert puts.index(f"/data/faults/tokens/test-v2/{part}.parquet") < puts.index(
            f"/data/faults/tokens/test-v2/{part}.json"
        )


def test_a_lost_network_is_an_error_and_the_rerun_goes_on(
    store: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEVT_RETRY_S", "0.1")
    frames_dir = store.path("lost/frames")

    def close(number: int, request: str) -> Fault | None:
        if not request.startswith("PUT") or "part-00001/index.parquet" not in request:
            return None
        threading.Thread(target=store.stop).start()
        return INTERNAL

    store.fault = close
    with pytest.raises(StorageError, match=r"Check the network and the object store \(http://127"):
        make_token_set(store.path("lost"), num_samples=6, sources_per_part=3, frames=4)
    store.fault = lambda number, request: None
    store.start()
    plan = read_plan(frames_dir)
    assert plan is not None
    assert read_frame_commit(frames_dir, 0, plan.digest()) is not None
    assert read_frame_commit(frames_dir, 1, plan.digest()) is None
    assert 0 < len((frames_dir / "part-00001").sizes()) < 7
    (frames_dir / "part-00001" / "frames.zarr" / "jpeg" / "c" / "9").write_bytes(b"of a longer upload")
    make_token_set(store.path("lost"), num_samples=6, sources_per_part=3, frames=4)
    make_token_set(tmp_path, num_samples=6, sources_per_part=3, frames=4)
    assert objects_below(store.path("lost")) == files_below(tmp_path)


def test_the_slower_of_two_writers_leaves_the_part_alone(store: ObjectServer, tmp_path: Path) -> None:
    target = store.path("two/part")
    with committed_folder(target, "commit.json", is_done=lambda: False) as staging:
        for name in ("a", "commit.json"):
            write_record(staging / name, View(short_side_px=1, top_px=0, left_px=0, crop_px=1, flip=False))
    store.requests.clear()
    with committed_folder(target, "commit.json", is_done=lambda: (target / "commit.json").is_file()) as staging:
        (staging / "a").write_bytes(b"another's")
    assert not store.puts() and (target / "a").read_bytes() != b"another's"


def test_a_token_part_without_its_file_is_not_done(store: ObjectServer) -> None:
    tokens = make_token_set(store.path("half"), num_samples=3, sources_per_part=3, frames=2)
    plan = read_plan(tokens.frames.path)
    assert plan is not None
    frames, token_plan = read_frame_commit(tokens.frames.path, 0, plan.digest()), read_token_plan(tokens.path)
    assert frames is not None and token_plan is not None
    assert read_token_commit(tokens.path, frames, token_plan.digest()) is not None
    (tokens.path / "part-00000.parquet").unlink()
    assert read_token_commit(tokens.path, frames, token_plan.digest()) is None


@pytest.mark.parametrize("kind", ["local", "object store"])
def test_both_storages_answer_alike(kind: str, store: ObjectServer, tmp_path: Path) -> None:
    root = tmp_path if kind == "local" else store.path("alike")
    a = storage_of(root / "x" / "a")
    assert not a.exists() and a.size() == -1 and storage_of(root / "x").sizes() == {}
    with pytest.raises(FileNotFoundError):
        a.read_bounded(3)
    assert a.create(b"old") and not a.create(b"new")
    a.write_atomic(b"abc")
    assert a.exists() and a.size() == 3 and a.sha256() == hashlib.sha256(b"abc").hexdigest()
    assert (a.read_bounded(3), a.read_start(2), a.read_start(9)) == (b"abc", b"ab", b"abc")
    with pytest.raises(UserError, match="expected a file of at most"):
        a.read_bounded(2)
    with a.reader() as file:
        assert (file.seek(1), file.read()) == (1, b"bc")
    with storage_of(root).committed_folder("commit", is_done=lambda: True) as staging:
        (staging / "b").write_bytes(b"b")
    with storage_of(root / "y").committed_folder("commit", is_done=lambda: False) as staging:
        (staging / "commit").write_bytes(b"b")
    assert storage_of(root).sizes() == {"x/a": 3, "y/commit": 1}
    assert storage_of(root).why_empty() is None and not a.is_irregular() and not a.is_folder()
    for name in ("../x", "/x", "x/./a"):
        with pytest.raises(UserError, match="leads out of"):
            storage_of(root).contained(name)
    assert storage_of(root).contained("x/a") == root / "x" / "a" and storage_of(root).links() == []
    with storage_of(root).fetched("x") as folder, storage_of(root).copied({"y/commit": 1}) as copy:
        assert (folder / "x" / "a").read_bytes() == b"abc" and (copy / "y" / "commit").read_bytes() == b"b"
    with storage_of(root).hold("first"), storage_of(root).reading("first"):
        pass
    storage_of(root / "x").remove()
    storage_of(root / "y" / "commit").remove()
    storage_of(root / "nothing").remove()
    assert storage_of(root).sizes() == {} and storage_of(root).owner() is None
