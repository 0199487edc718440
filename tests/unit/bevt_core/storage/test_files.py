"""Atomic files: complete or absent, and readable messages for disk errors."""

import errno
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bevt_core.storage import staging
from bevt_core.storage.files import clean_staging, read_record, write_atomic, write_record
from bevt_core.storage.staging import STAGING, staged_folder
from schemas.errors import StorageError, UserError
from schemas.tokens import TokenizerIdentity
from schemas.views import View
from tests.support.processes import Holder


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staging.os, "fsync", full)
    with pytest.raises(StorageError, match=r"x: the disk is full \(.* of .* free\); free some space"):
        write_atomic(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_only_dead_writers_leftovers_are_cleaned(tmp_path: Path) -> None:
    with Holder("stage", tmp_path, "part-00000") as dead:
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
    (tmp_path / ".a@b").write_text("not ours")
    assert leftovers(tmp_path) == 3  # a file, a folder, and the folder's lock
    with Holder("stage", tmp_path, "part-00001"):
        assert leftovers(tmp_path) == 6
        clean_staging(tmp_path)
        assert leftovers(tmp_path) == 3
    clean_staging(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a@b", "part-00001", "part-00001.json"]


def leftovers(folder: Path) -> int:
    return len([path for path in folder.rglob("*@*") if path.name != ".a@b" and path.name != "whole"])


def test_a_live_writer_of_another_container_is_left_alone(tmp_path: Path) -> None:
    """As from a container that shares the disk but not the processes: same host name, a process id unused here."""
    command = ["unshare", "-r", "--pid", "--fork"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no process namespaces for this user")
    with Holder("stage", tmp_path, "part-00000", command):
        clean_staging(tmp_path)
        assert leftovers(tmp_path) == 3
    assert (tmp_path / "part-00000" / "whole").exists() and (tmp_path / "part-00000.json").exists()


def test_a_record_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "view.json"
    write_record(path, View(short_side_px=1, top_px=0, left_px=0, crop_px=1, flip=False))
    assert read_record(path, View) is not None
    assert read_record(tmp_path / "absent.json", View) is None
    with pytest.raises(UserError, match=r"view\.json: .*expected a TokenizerIdentity"):
        read_record(path, TokenizerIdentity)


def leave_dead_folders(folder: Path, count: int) -> None:
    for i in range(count):
        dead = folder / STAGING / f"part{i}@{i:016x}"
        dead.mkdir(parents=True)
        (dead / "half").write_text("x")
        dead.with_name(f"{dead.name}.lock").touch()


def test_many_may_clean_and_write_at_once(tmp_path: Path) -> None:
    """Two restarted drivers use the same staging folder."""
    leave_dead_folders(tmp_path, 200)

    def work(worker: int) -> None:
        for i in range(100):
            clean_staging(tmp_path)
            with staged_folder(tmp_path / f"done-{worker}-{i}") as folder:
                (folder / "whole").write_text("y")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    clean_staging(tmp_path)
    assert len(list(tmp_path.glob("done-*/whole"))) == 400 and not (tmp_path / STAGING).exists()
