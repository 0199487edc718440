"""Atomic files: whole or absent, and disk trouble in words."""

import errno
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bevt_core import files
from bevt_core.files import STAGING, StorageError, clean_staging, read_record, staged_folder, write_atomic, write_record
from schemas.errors import UserError
from schemas.tokens import TokenizerIdentity
from schemas.views import View


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        write_atomic(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_only_dead_writers_leftovers_are_cleaned(tmp_path: Path) -> None:
    host = files.socket.gethostname()
    dead = 2**22 + 1  # above the kernel's largest process id
    (tmp_path / STAGING).mkdir()
    for pid in (dead, os.getpid()):
        (tmp_path / STAGING / f"part-00000@{host}@{pid}@aa").mkdir()
        (tmp_path / f".dataset.json@{host}@{pid}@bb").write_text("{")
    clean_staging(tmp_path)
    assert not list(tmp_path.rglob(f"*@{dead}@*"))
    assert len(list(tmp_path.rglob(f"*@{os.getpid()}@*"))) == 2


def test_a_record_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "view.json"
    write_record(path, View(short_side_px=1, top_px=0, left_px=0, crop_px=1, flip=False))
    assert read_record(path, View) is not None
    assert read_record(tmp_path / "absent.json", View) is None
    with pytest.raises(UserError, match=r"view\.json: not a TokenizerIdentity"):
        read_record(path, TokenizerIdentity)


def leave_dead_folders(folder: Path, count: int) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for i in range(count):
        dead = folder / STAGING / f"part{i}@{socket.gethostname()}@{gone.stdout.strip()}@{i:08x}"
        dead.mkdir(parents=True)
        (dead / "half").write_text("x")


def test_many_may_clean_and_write_at_once(tmp_path: Path) -> None:
    """Two drivers that were killed and started again meet in the same staging folder."""
    leave_dead_folders(tmp_path, 200)

    def work(worker: int) -> None:
        for i in range(100):
            clean_staging(tmp_path)
            with staged_folder(tmp_path / f"done-{worker}-{i}") as staging:
                (staging / "whole").write_text("y")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    clean_staging(tmp_path)
    assert len(list(tmp_path.glob("done-*/whole"))) == 400 and not (tmp_path / STAGING).exists()
