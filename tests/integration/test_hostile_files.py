"""Pipes, devices, folders and links where a dataset or a run has a lock, a record or half-written files."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bevt_core.storage.files import clean_staging, read_bounded, read_record
from bevt_core.storage.locks import exclusive
from bevt_core.storage.locks.file_locks import NoLocksError, _removed
from bevt_core.storage.one_writer import hold, is_written, owner, reading
from bevt_core.storage.staging import READERS, STAGING, WRITER, discard, staged_folder
from schemas.errors import UserError
from schemas.tokens import TokenizerIdentity
from trainer.metrics.log import METRICS_FILE, read_metrics

KINDS: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "dangling link": lambda path: path.symlink_to("nothing"),
    "pipe": os.mkfifo,
    "link to a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """A pipe that is waited for fails its test."""
    before = signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(3)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _too_late(*_: object) -> None:
    pytest.fail("it waits")  # no OSError, which locks may suppress


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_file_that_is_none_is_refused(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / WRITER)
    (tmp_path / "known").touch()
    assert owner(tmp_path) is None and is_written(tmp_path, tmp_path / "known") is None
    with pytest.raises(UserError, match=r"\.writer: a folder, a link or a pipe, .*; remove it"), hold(tmp_path, "x"):
        pass
    KINDS[kind](tmp_path / READERS)
    with reading([tmp_path], "x"):
        pass
    assert not (tmp_path / "nothing").exists() and os.path.lexists(tmp_path / WRITER)


def test_another_users_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / WRITER)
    with pytest.raises(OSError, match="Invalid argument"):
        _removed(tmp_path / WRITER)
    assert (tmp_path / WRITER).exists()


def test_a_lock_file_with_another_name_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, store = tmp_path / "victim", tmp_path / "store"
    victim.write_text("precious")
    store.mkdir()
    os.link(victim, store / READERS)
    with reading([store], "x"):
        assert victim.read_text() == "precious"
    os.link(victim, store / WRITER)
    with hold(store, "x"):
        assert victim.read_text() == "precious"
    os.link(victim, store / WRITER)

    def no_locks(path: Path) -> int:
        raise NoLocksError

    monkeypatch.setattr(exclusive, "_taken", no_locks)
    with hold(store, "x"):
        pass
    assert victim.read_text() == "precious"


def test_nothing_is_made_or_removed_through_a_staging_link(tmp_path: Path) -> None:
    half = tmp_path / "elsewhere" / "data@0123456789abcdef"
    half.mkdir(parents=True)
    dataset = tmp_path / "dataset"
    (dataset / "part").mkdir(parents=True)
    (dataset / STAGING).symlink_to(half.parent)
    clean_staging(dataset)
    with pytest.raises(UserError, match=r"\.staging: a link or a file"):
        discard(dataset / "part")
    with pytest.raises(UserError, match=r"\.staging: a link or a file"), staged_folder(dataset / "new"):
        pass
    assert list(half.parent.iterdir()) == [half] and (dataset / "part").is_dir()
    (dataset / STAGING).unlink()
    (dataset / STAGING).touch()
    with pytest.raises(UserError, match=r"\.staging: a link or a file"), staged_folder(dataset / "new"):
        pass


def into_proc(path: Path) -> None:
    path.symlink_to("/proc/self/status")


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder", "link into /proc"])
def test_a_record_or_a_log_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    make = {**KINDS, "link into /proc": into_proc}[kind]
    make(tmp_path / "record.json")
    make(tmp_path / METRICS_FILE)
    with pytest.raises(UserError, match=r"record\.json: .*expected a"):
        read_record(tmp_path / "record.json", TokenizerIdentity)
    with pytest.raises(UserError, match=r"metrics\.jsonl: .*expected"):
        read_metrics(tmp_path)


def test_a_file_that_grows_while_it_is_read_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So do files of file systems that give 0 for their size."""
    (tmp_path / "x").write_bytes(b"x" * 100)
    empty = os.stat_result((*(tmp_path / "x").stat()[:6], 0, 0, 0, 0))
    monkeypatch.setattr("schemas.text.regular_file.os.fstat", lambda descriptor: empty)
    with pytest.raises(UserError, match="expected a file of at most"):
        read_bounded(tmp_path / "x", 99)
    assert len(read_bounded(tmp_path / "x", 100)) == 100


def test_a_log_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(b'{"step": 0}\n\xff\n{"st')
    with pytest.raises(UserError, match=r"not UTF-8 at byte 12"):
        read_metrics(tmp_path)
    (tmp_path / METRICS_FILE).write_bytes(b'{"step": 0}\n{"st\xff')
    assert read_metrics(tmp_path) == [{"step": 0}]
