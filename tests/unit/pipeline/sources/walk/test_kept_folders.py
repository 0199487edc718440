"""A list of files that is kept: used while folders are unchanged, and never stale."""

import os
from pathlib import Path

import pytest

from pipeline.sources import forget_folders, list_sources
from pipeline.sources.walk import kept_folders, tree
from schemas.errors import UserError
from tests.support.listings import touch


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root whose names are kept at once, however few they are."""
    monkeypatch.setenv("BEVT_LISTINGS", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_folders, "MIN_NAMES", 1)
    monkeypatch.setattr(kept_folders, "SETTLED_S", -1.0)
    return touch(tmp_path / "root", "a/1.mp4", "a/2.mp4", "b/deep/3.mp4", "notes.txt", "empty/x.txt")


@pytest.fixture
def read_folders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders that are read from the disk."""
    names: list[str] = []
    real = os.scandir
    monkeypatch.setattr(tree.os, "scandir", lambda path: [names.append(Path(path).name), real(path)][1])
    return names


def listed(root: Path) -> list[str]:
    return [item.source for item in list_sources("folder", root, "train").items]


def test_unchanged_folders_are_not_read_again(
    root: Path, read_folders: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = list_sources("folder", root, "train")
    assert sorted(read_folders) == ["a", "b", "deep", "empty", "root"]
    read_folders.clear()
    caplog.set_level("INFO")
    assert list_sources("folder", root, "train") == first
    assert read_folders == []
    assert "5 unchanged folders with 9 entries were not read again" in caplog.text and "--relist" in caplog.text


def test_only_changed_folders_are_read_again(root: Path, read_folders: list[str]) -> None:
    listed(root)
    read_folders.clear()
    (root / "a" / "1.mp4").unlink()
    touch(root, "b/deep/4.mp4", "c/5.mp4")
    (root / "empty" / "x.txt").unlink()
    (root / "empty").rmdir()
    assert listed(root) == ["a/2.mp4", "b/deep/3.mp4", "b/deep/4.mp4", "c/5.mp4"]
    assert sorted(read_folders) == ["a", "c", "deep", "root"]
    read_folders.clear()
    assert len(listed(root)) == 4 and read_folders == []


def test_a_folder_replaced_by_one_of_the_same_time_is_read_again(root: Path) -> None:
    """As an archive unpacked over it, or a copy by rsync, would do."""
    before = (root / "a").stat()
    listed(root)
    touch(root, "a/9.mp4")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "a/9.mp4" in listed(root)


def test_folders_with_links_are_always_read(root: Path, tmp_path: Path, read_folders: list[str]) -> None:
    (root / "a" / "link.mp4").symlink_to(root / "b" / "deep" / "3.mp4")
    listed(root)
    read_folders.clear()
    assert len(listed(root)) == 4 and read_folders == ["a"]
    touch(tmp_path, "outside/secret.mp4")
    (root / "b" / "deep" / "3.mp4").unlink()
    (root / "b" / "deep" / "3.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")
    with pytest.raises(UserError, match="out of the root"):
        listed(root)


@pytest.mark.parametrize("why", ["recent", "fuse", "few", "many"])
def test_what_is_not_kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Folders that may still change within a clock tick, or may change unseen, and roots with too few or many names."""
    if why == "fuse":
        device = root.stat().st_dev
        (tmp_path / "mounts").write_text(
            f"36 35 {os.major(device)}:{os.minor(device)} / /data rw shared:1 - fuse.s3fs s3fs rw\n"
        )
        monkeypatch.setattr(kept_folders, "MOUNTS", tmp_path / "mounts")
        kept_folders._is_fuse.cache_clear()
    else:
        name = {"recent": "SETTLED_S", "few": "MIN_NAMES", "many": "MAX_NAME_BYTES"}[why]
        monkeypatch.setattr(kept_folders, name, {"recent": 60.0, "few": 100, "many": 1}[why])
    assert len(listed(root)) == 3 and not (tmp_path / "cache").exists()
    kept_folders._is_fuse.cache_clear()


def test_forgotten_damaged_and_unwritable(
    root: Path, tmp_path: Path, read_folders: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    listed(root)
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-20])
    read_folders.clear()
    assert len(listed(root)) == 3 and len(read_folders) == 5
    forget_folders(root)
    assert not kept.exists()
    (tmp_path / "cache").rmdir()
    touch(tmp_path, "cache")
    assert len(listed(root)) == 3 and "the list of files is not kept" in caplog.text
