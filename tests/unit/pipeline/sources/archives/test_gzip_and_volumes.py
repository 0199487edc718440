"""Compressed tars, and archives that are divided into volumes."""

import gzip
import json
import random
import shutil
from pathlib import Path

import pytest

from pipeline.sources import check_found, list_sources
from pipeline.sources.archives import gzip_index
from pipeline.sources.archives.local_copy import local_source
from pipeline.sources.archives.names import archives_among, lone_volumes
from schemas.errors import StorageError, UserError
from tests.support.archives import picture, tar_of, zip_of
from tests.support.listings import labels

pytest.importorskip("indexed_gzip", reason="the package that reads from the middle of a gzip is not installed")
MEMBERS = [(f"{c}/{i}.jpg", picture(i) + random.Random(f"{c}{i}").randbytes(60_000)) for c in "ab" for i in range(4)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEVT_ARCHIVES", str(tmp_path / "cache"))
    monkeypatch.setattr("bevt_core.untrusted.archives.gzip_file.SPACING_BYTES", 1 << 16)
    gzip_index._made.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def read_all(root: Path, dataset: str = "folder") -> dict[str, bytes]:
    listing = list_sources(dataset, root, "train")
    contents = {}
    for source, files in sorted(listing.packed.items(), reverse=True):
        with local_source(root, source, files, False) as folder:
            contents[source] = (folder / source).read_bytes()
    return contents


def divide(data: bytes, count: int) -> list[bytes]:
    size = -(-len(data) // count)
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_members_of_a_compressed_tar_are_read_alone(root: Path, cache: Path) -> None:
    (root / "train.tar.gz").write_bytes(gzip.compress(tar_of(MEMBERS)))
    assert read_all(root) == {f"train/{name}": data for name, data in MEMBERS}
    assert {path.name for path in next(cache.iterdir()).iterdir()} == {"points", "members.parquet"}


def test_an_archive_is_decompressed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is found again by another process; one that is lost is made again when a member is read."""
    (root / "train.tgz").write_bytes(gzip.compress(tar_of(MEMBERS)))
    listing = list_sources("folder", root, "train")
    gzip_index._made.cache_clear()
    shutil.rmtree(gzip_index.indexes())
    (source, files), *_ = listing.packed.items()
    with local_source(root, source, files, False) as folder:
        assert (folder / source).read_bytes() == MEMBERS[0][1]
    gzip_index._made.cache_clear()
    monkeypatch.setattr(gzip_index, "index_gzip", lambda *_: pytest.fail("decompressed again"))
    assert len(read_all(root)) == len(MEMBERS)


def test_the_volumes_of_something_something_are_one_archive(root: Path) -> None:
    (root / "labels.json").write_text('{"Throwing something": "0"}')
    rows = [{"id": name, "template": "Throwing [something]"} for name in ("1", "20", "3")]
    (root / "something-something-v2-train.json").write_text(json.dumps(rows))
    videos = [(f"20bn-something-something-v2/{name}.webm", picture(int(name))) for name in ("1", "20")]
    for number, data in enumerate(divide(gzip.compress(tar_of(videos)), 3)):
        (root / f"20bn-something-something-v2-{number:02d}").write_bytes(data)
    listing = list_sources("ssv2", root, "train")
    assert labels(listing).keys() == {*dict(videos), "3.webm"} and listing.missing == ["3.webm"]
    assert read_all(root, "ssv2") == dict(videos)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (tar_of, ["x.tar.00", "x.tar.01", "x.tar.02"]),
        (tar_of, ["x.tar.partaa", "x.tar.partab", "x.tar.partac"]),
        (zip_of, ["x.zip.001", "x.zip.002", "x.zip.003"]),
        (lambda members: gzip.compress(tar_of(members)), ["x.tar.gz.part0", "x.tar.gz.part1", "x.tar.gz.part2"]),
    ],
)
def test_divided_archives(root: Path, make: object, names: list[str]) -> None:
    assert callable(make)
    for name, data in zip(names, divide(make(MEMBERS), 3), strict=True):
        (root / name).write_bytes(data)
    assert read_all(root) == {f"x/{name}": data for name, data in MEMBERS}


def test_other_suffixes_are_no_volumes() -> None:
    assert archives_among(["x.tar.xz", "x.tar.zst", "x.tar.md5", "x.zip.1", "y.rar", "20bn-something-v2.md"]) == {}


def test_a_volume_without_the_others_is_named(root: Path) -> None:
    lone = ["x.tar.gz.00", "y.zip.001", "z.tar.aa", "v.tar.part1", "20bn-something-something-v2-01"]
    others = ["x.tar.xz", "x.tar.zst", "x.tar.md5", "x.zip.1", "w.tar.00", "w.tar.01", "20bn-something-v2.md"]
    assert lone_volumes(sorted(lone + others)) == sorted(lone)
    (root / "a").mkdir()
    (root / "a" / "1.jpg").write_bytes(picture(1))
    (root / "x.tar.gz.00").write_bytes(gzip.compress(tar_of(MEMBERS))[:1000])
    (warning,) = list_sources("folder", root, "train").warnings
    assert warning.startswith(f"{root}/x.tar.gz.00: not used, since it is one volume")


def test_one_volume_of_something_something_is_not_enough(root: Path) -> None:
    """If a few videos were unpacked from it, the warning has the others; without any, it is part of the error."""
    (root / "labels.json").write_text('{"Throwing something": "0"}')
    rows = [{"id": name, "template": "Throwing [something]"} for name in ("1", "20", "3")]
    (root / "train.json").write_text(json.dumps(rows))
    (root / "20bn-something-something-v2-00").write_bytes(b"half")
    listing = list_sources("ssv2", root, "train")
    with pytest.raises(UserError, match=r"none of the 3 files.*two volumes \(.*-00 and -01\).*one volume of a divided"):
        check_found(listing, root, None)
    (root / "20bn-something-something-v2-00").unlink()
    (root / "1.webm").write_bytes(b"")
    (warning,) = list_sources("ssv2", root, "train").warnings
    assert warning.startswith(f"2 of the 3 videos in {root / 'train.json'} are missing; the site gives")


def test_a_missing_volume_is_one_error(root: Path) -> None:
    for number, data in enumerate(divide(tar_of(MEMBERS), 4)):
        (root / f"x.tar.{number:02d}").write_bytes(data)
    (root / "x.tar.02").unlink()
    with pytest.raises(UserError, match=r"x\.tar\.00: 3 volumes of x\.tar with the numbers \[0, 1, 3\], expected each"):
        list_sources("folder", root, "train")
    (root / "x.tar.03").unlink()
    with pytest.raises(UserError, match=r"x\.tar\.00: .*; the archive is cut or damaged"):
        list_sources("folder", root, "train")


def test_a_volume_that_vanishes_ends_the_job(root: Path) -> None:
    for number, data in enumerate(divide(tar_of(MEMBERS), 4)):
        (root / f"x.tar.{number:02d}").write_bytes(data)
    (source, files), *_ = list_sources("folder", root, "train").packed.items()
    (root / "x.tar.03").unlink()
    with pytest.raises((UserError, StorageError), match="when it was listed"), local_source(root, source, files, False):
        pass


WHOLE = gzip.compress(tar_of(MEMBERS))
FAULTS = {
    "empty": (b"", "it ends before byte 512"),
    "not gzip": (tar_of(MEMBERS), "not gzip, or damaged"),
    "cut": (WHOLE[:-500], "it ends before byte|ends after byte|not gzip, or damaged"),
    "cut in the checksum": (WHOLE[:-4], "not gzip, or damaged"),
    "wrong checksum": (WHOLE[:-8] + b"abcd" + WHOLE[-4:], "not gzip, or damaged"),
    "damaged": (WHOLE[:900] + bytes(50) + WHOLE[950:], "no tar header|not gzip, or damaged"),
    "cut tar": (gzip.compress(tar_of(MEMBERS)[:300]), "it ends before byte"),
    "leads out": (gzip.compress(tar_of([("../x.jpg", b"")])), "it contains `..`"),
    "bomb": (gzip.compress(tar_of([("x.jpg", bytes(300 << 20))])), "ends after byte 268435456"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error(root: Path, cache: Path, fault: str) -> None:
    data, message = FAULTS[fault]
    (root / "x.tar.gz").write_bytes(data)
    with pytest.raises(UserError, match=rf"x\.tar\.gz: .*({message})"):
        list_sources("folder", root, "train")
    assert not list(cache.glob("*")), "no index of a faulty archive is kept"


def test_an_unpacked_compressed_tar_needs_no_index(root: Path, cache: Path) -> None:
    (root / "x.tar.gz").write_bytes(WHOLE)
    for name, data in MEMBERS:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    listing = list_sources("folder", root, "train")
    assert not listing.packed and "seems to be unpacked" in listing.warnings[0] and not cache.exists()


def test_without_the_package_the_error_names_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "x.tar.gz").write_bytes(WHOLE)
    monkeypatch.setitem(__import__("sys").modules, "indexed_gzip", None)
    with pytest.raises(
        UserError, match=r"a \.tar\.gz is read with the package indexed_gzip: .* or unpack it to a \.tar"
    ):
        list_sources("folder", root, "train")
