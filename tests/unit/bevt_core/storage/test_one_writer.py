"""One writer at a time, with locks that end with their process: threads, forks, children, other namespaces."""

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bevt_core.storage.files import write_atomic
from bevt_core.storage.locks import file_locks
from bevt_core.storage.locks.writers import hold_file
from bevt_core.storage.one_writer import hold, owner, reading, removing
from bevt_core.storage.staging import READERS, WRITER
from schemas.errors import StorageError, UserError
from tests.support.processes import Holder, refusal


def test_the_second_writer_is_told_who_has_it(tmp_path: Path) -> None:
    with Holder("hold", tmp_path / "run", "bevt train joint --out run") as other:
        found = owner(tmp_path / "run")
        assert found is not None and found.pid == other.pid and found.command == "bevt train joint --out run"
        with (
            pytest.raises(
                UserError, match=rf"`bevt train joint --out run` \(process {other.pid} on .* is writing it; wait"
            ),
            hold(tmp_path / "run", "second"),
        ):
            pass
        assert owner(tmp_path / "run") == found
    assert owner(tmp_path / "run") is None and not (tmp_path / "run").exists()


def test_a_lock_dies_with_its_process_and_not_when_that_is_stopped(tmp_path: Path) -> None:
    with Holder("hold", tmp_path / "run", "first") as other:
        os.kill(other.pid, signal.SIGSTOP)
        assert "`first`" in refusal(hold(tmp_path / "run", "second"))
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert (tmp_path / "run" / WRITER).exists() and owner(tmp_path / "run") is None
        with hold(tmp_path / "run", "second"):
            found = owner(tmp_path / "run")
            assert found is not None and found.command == "second"
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_writer_started_does_not_keep_its_lock(tmp_path: Path) -> None:
    """A forked loader worker and a started program outlive the writer; its lock does not."""
    with Holder("hold_with_children", tmp_path / "run", "first") as other:
        children = [int(line) for line in (other.say(), other.say())]
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        try:
            for child in children:
                os.kill(child, 0)  # raises if it has ended
            with hold(tmp_path / "run", "second"):
                pass
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


def test_a_fork_that_ends_leaves_the_lock_and_its_file(tmp_path: Path) -> None:
    with hold(tmp_path, "parent"):
        child = multiprocessing.get_context("fork").Process(target=os.getpid)
        child.start()
        child.join()
        pid = os.fork()
        if not pid:
            try:
                raise SystemExit  # unwinds the parent's blocks
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        with Holder("try_to_hold", tmp_path, "other") as other:
            assert other.say().startswith("refused")
    assert list(tmp_path.iterdir()) == []


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        for _ in range(50):
            try:
                with hold(tmp_path / "run", "thread"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except UserError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most and max(most) == 1 and not (tmp_path / "run" / WRITER).exists()


def test_many_processes_that_start_at_once_are_one_at_a_time(tmp_path: Path) -> None:
    """Each holder of the lock removes the file, and the next one makes it again."""
    others = [Holder("race", tmp_path / "run", str(tmp_path / "inside")) for _ in range(3)]
    for other in others:
        with other:
            assert other.say() == "alone"


def test_reading_the_file_does_not_end_the_lock(tmp_path: Path) -> None:
    with hold(tmp_path, "first"):
        (tmp_path / WRITER).read_text()
        assert owner(tmp_path) is not None
        with Holder("try_to_hold", tmp_path, "other") as other:
            assert other.say().startswith("refused")


def test_a_kernel_without_ofd_locks_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def old_kernel(descriptor: int, command: int, argument: bytes) -> bytes:
        if command in (fcntl.F_OFD_SETLK, fcntl.F_OFD_GETLK):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, command, argument)

    monkeypatch.setattr(file_locks.fcntl, "fcntl", old_kernel)
    with hold(tmp_path, "first"):
        assert owner(tmp_path) is not None
        for _ in range(2):
            assert "`first`" in refusal(hold(tmp_path, "second"))
        with Holder("try_to_hold", tmp_path, "other") as other:
            assert other.say().startswith("refused")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*args: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_locks.fcntl, "fcntl", refuse)
    for _ in range(2):
        with hold(tmp_path, "first"), reading([tmp_path], "reader"):
            assert owner(tmp_path) is None
    assert capsys.readouterr().err.count(f"warning: {tmp_path}: locks are not supported here") == 1
    assert [path.name for path in tmp_path.iterdir()] in ([], [READERS])


def test_readers_share_and_keep_those_out_who_remove(tmp_path: Path) -> None:
    with Holder("read", tmp_path, "bevt train video") as other, reading([tmp_path], "bevt train image"):
        with pytest.raises(UserError, match="`bevt train "), removing([tmp_path], "bevt repair"):
            pass
        other.end()
        with pytest.raises(UserError, match=r"`bevt train image`.*is reading it"), removing([tmp_path], "bevt repair"):
            pass
    with removing([tmp_path], "bevt repair"), Holder("try_to_read", tmp_path, "late") as other:
        assert "`bevt repair`" in other.say()
    assert list(tmp_path.iterdir()) == []


def test_two_files_of_a_folder_have_a_writer_each(tmp_path: Path) -> None:
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    with hold_file(a, "a"), hold_file(b, "b"), hold(tmp_path, "all"):
        assert refusal(hold_file(a, "x")).startswith(f"{a}: `a`") and refusal(hold_file(tmp_path / "c", "x")) == ""
    assert list(tmp_path.iterdir()) == []


NAMES = {
    "a link": lambda folder: folder / "link",
    "a link to a link": lambda folder: folder / "link2",
    "through a linked folder": lambda folder: folder.with_name("other") / "out",
    "through its parent": lambda folder: folder / "sub" / ".." / "out",
    "relative": lambda folder: Path("./out"),
}


def named(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another name of `folder / "out"`."""
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to("out")
    (folder / "link2").symlink_to(folder / "link")
    folder.with_name("other").symlink_to(folder)
    monkeypatch.chdir(folder)
    return NAMES[name](folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_one_writer_under_all_its_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    other, out = named(name, folder, monkeypatch), folder / "out"
    out.write_text("old")
    with hold_file(out, "first"), hold_file(other, "first"):
        assert refusal(hold_file(other, "second")).startswith(f"{other}: `first`")
    with hold_file(other, "first"):
        assert refusal(hold_file(out, "second")).startswith(f"{out}: `first`")
        other.unlink()  # as a rename onto it does
        assert refusal(hold_file(other, "second")).startswith(f"{other}: `first`")
    assert not list(tmp_path.rglob("*.writer"))


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_not_made_and_written_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as `bevt export` into the directory of a run."""
    folder = tmp_path / "folder"
    other, out = named(name, folder, monkeypatch), folder / "out"
    out.mkdir()
    for holds, wants in ((hold, hold_file), (hold_file, hold)):
        for held, wanted in ((out, out), (out, other), (other, out)):
            with holds(held, "first"), wants(wanted, "first"):
                pass
            with holds(held, "first"):
                assert refusal(wants(wanted, "second")).startswith(f"{wanted}: `first`")
    with hold(out, "first"), hold(other, "first"):
        assert "`first`" in refusal(hold(other, "second"))
    assert not list(tmp_path.rglob("*.writer"))


def test_a_link_into_a_folder_that_cannot_be_written_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/proc/version")
    with hold_file(tmp_path / "out", "first"):
        assert "`first`" in refusal(hold_file(tmp_path / "out", "second"))


def test_a_command_inside_of_a_command_may_hold_it_again(tmp_path: Path) -> None:
    with hold(tmp_path, "bevt repair"):
        with hold(tmp_path, "bevt tokenize"):
            pass
        assert "`bevt repair`" in refusal(hold(tmp_path, "second"))


def test_the_owner_in_a_lock_file_is_printed_as_plain_text(tmp_path: Path) -> None:
    with hold(tmp_path, "bevt \x1b[2J" + "x" * 500 + "\udcff"):
        said = refusal(hold(tmp_path, "second"))
    assert "`bevt ?[2Jxxx" in said and "\x1b" not in said and len(said) < 500


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(path: object, flags: int, *args: object) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(file_locks.os, "open", read_only)
    with pytest.raises(StorageError, match=f"^{tmp_path}: the file system is read-only"), hold(tmp_path, "first"):
        pass


def test_files_have_the_users_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with hold(tmp_path / "run", "first"):
            assert (tmp_path / "run").stat().st_mode & 0o777 == 0o750
            assert (tmp_path / "run" / WRITER).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


@pytest.mark.parametrize("hold_it", [hold, hold_file])
@pytest.mark.parametrize("name", ["notes.txt", "broken"])
def test_a_file_where_a_folder_is_needed_is_one_error(
    hold_it: Callable[[Path, str], AbstractContextManager[None]], name: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere" / "deeper")
    for out in [tmp_path / name / "sub", tmp_path / name / "sub" / "run", *[tmp_path / name] * (hold_it is hold)]:
        with pytest.raises(UserError, match=rf"/{name}: a .*, expected a folder; give another path"):
            hold_it(out, "first").__enter__()
        with pytest.raises(UserError, match=rf"/{name}: a .*, expected a folder; give another path"):
            write_atomic(out / "file", b"")
    with pytest.raises(UserError, match=r"a folder, expected a file; give another path"):
        write_atomic(tmp_path, b"")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "notes.txt"]
