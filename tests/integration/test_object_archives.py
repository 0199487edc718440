"""Sources in tars and zips on an object store: the same listing and parts as on a disk, read by ranges."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bevt_core.dataset.source_list import sources_digest
from bevt_core.storage.files import sha256_of, sizes_in
from bevt_core.storage.objects import AnyPath, ObjectPath, as_path
from bevt_core.untrusted.archives.volumes import RANGE_BYTES
from pipeline.job.decode_part import make_frame_part
from pipeline.sources import list_files, list_sources
from pipeline.sources.archives.packed_file import write_packed
from pipeline.sources.listing import SourceListing
from schemas.errors import StorageError, UserError
from schemas.frames import Plan, PoolSpec
from tests.support.archives import picture, tar_of, write_pictures, write_tar, write_zip, zip_of
from tests.support.object_servers import SERVERS

CLOUDS = ["s3", *(pytest.param(cloud, marks=pytest.mark.slow) for cloud in ("gs", "az"))]


@pytest.fixture(scope="module", params=CLOUDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectPath]:
    """A prefix in a bucket, and an empty cache."""
    with SERVERS[request.param](), pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEVT_ARCHIVES", str(tmp_path_factory.mktemp("archives")))
        path = as_path(f"{request.param}://data/packed")
        assert isinstance(path, ObjectPath)
        yield path


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The ranges of objects that are read: (name, start, stop)."""
    found: list[tuple[str, int, int]] = []
    real = ObjectPath.read_range

    def read_range(path: ObjectPath, start: int, stop: int) -> bytes:
        found.append((path.name, start, stop))
        return real(path, start, stop)

    monkeypatch.setattr(ObjectPath, "read_range", read_range)
    return found


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, store: ObjectPath) -> Path:
    """The archives on a disk, which are uploaded too: a tar, a divided tar of tars, and a zip, beside a file."""
    root, plain = (tmp_path_factory.mktemp(name) for name in ("root", "plain"))
    write_pictures(plain, *(f"{label}/{i}.jpg" for label in ("arm", "tai (chi)", "run") for i in range(2)))
    write_tar(root / "train/arm.tar", plain / "arm")
    write_zip(root / "train/run.zip", plain, "run")
    write_tar(plain / "inner/tai (chi).tar", plain / "tai (chi)")
    whole = write_tar(plain / "part_0.tar", plain / "inner").read_bytes()
    (root / "train/part_0.tar.00").write_bytes(whole[:5000])
    (root / "train/part_0.tar.01").write_bytes(whole[5000:])
    write_pictures(root, "train/run/file.jpg")
    for name in sizes_in(root):
        (store / name).upload(root / name)
    return root


def test_a_packed_root_lists_as_on_a_disk(store: ObjectPath, disk: Path, ranges: list[tuple[str, int, int]]) -> None:
    there = list_sources("folder", store, "train")
    here = list_sources("folder", disk, "train")
    assert there == here and len(there.items) == 7 and len(there.packed) == 6
    ranges.clear()
    (store / "train/run.zip").write_bytes(zip_of([("run/0.jpg", picture(1))]))
    assert len(list_sources("folder", store, "train").items) == 6
    assert {name for name, _, _ in ranges} == {"run.zip"}, "only the changed archive is read again"
    (store / "train/run.zip").upload(disk / "train/run.zip")
    with pytest.raises(UserError, match="6 of its 7 sources are in archives"):
        list_files("folder", store, "train", None, False)


def part_of(root: AnyPath, frames_dir: Path, listing: SourceListing) -> dict[str, str]:
    """The digests of the frame part of all sources of a listing."""
    plan = Plan(
        dataset="folder",
        split="train",
        classes=listing.classes,
        pool=PoolSpec(short_side_px=32),
        seed=0,
        sources_per_part=16,
        num_sources=len(listing.items),
        sources_digest=sources_digest(listing.items),
    )
    write_packed(frames_dir, (item.source for item in listing.items), listing.packed)
    assert make_frame_part(frames_dir, root, 0, listing.items, plan, 20.0, 1).num_rejected == 0
    part = frames_dir / "part-00000"
    return {name: sha256_of(part / name) for name in sizes_in(part)}


def test_a_part_of_packed_objects_is_that_of_packed_files(store: ObjectPath, disk: Path, tmp_path: Path) -> None:
    listing = list_sources("folder", store, "train")
    there = part_of(store, tmp_path / "there", listing)
    assert there == part_of(disk, tmp_path / "here", list_sources("folder", disk, "train"))
    (store / "train/arm.tar").write_bytes(b"another")
    with pytest.raises((UserError, StorageError), match=r"arm\.tar: 7 bytes, but \d+ when it was listed"):
        part_of(store, tmp_path / "changed", listing)
    (store / "train/arm.tar").upload(disk / "train/arm.tar")


def test_a_member_is_read_by_its_ranges(store: ObjectPath, tmp_path: Path, ranges: list[tuple[str, int, int]]) -> None:
    """The bytes between two members are not fetched for one of them."""
    large = bytes(8 * RANGE_BYTES)
    root = store / "large"
    (root / "a.tar").write_bytes(tar_of([("a/0.jpg", picture(0)), ("a/between.bin", large), ("a/1.jpg", picture(1))]))
    listing = list_sources("folder", root, "train")
    assert sum(stop - start for _, start, stop in ranges) < 4 * RANGE_BYTES
    ranges.clear()
    part_of(root, tmp_path, listing)
    assert sum(stop - start for _, start, stop in ranges) <= 3 * RANGE_BYTES


def test_labels_and_what_is_not_read_there(store: ObjectPath) -> None:
    root = store / "shards"
    members = [
        (f"{i}.{suffix}", picture(i) if suffix == "jpg" else b"7") for i in range(2) for suffix in ("cls", "jpg")
    ]
    (root / "train-000000.tar").write_bytes(tar_of(members))
    (root / "more.tar.gz").write_bytes(b"")
    listing = list_sources("folder", root, "train")
    assert [item.label for item in listing.items] == [7, 7]
    assert listing.warnings == [f"{root}: 1 compressed tars are not read there; copy them to a file system"]
    (root / "cut.tar").write_bytes(tar_of(members)[:700])
    with pytest.raises(UserError, match=r"cut\.tar: it ends before byte"):
        list_sources("folder", root, "train")
