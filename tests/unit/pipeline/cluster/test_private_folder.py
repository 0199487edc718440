"""The private folder of a local Ray: its location, its owner, and its complete removal."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.cluster import private_folder as ray_folder
from pipeline.cluster.private_folder import (
    KEPT_LOGS,
    LONGEST_SOCKET,
    PREFIX,
    RAY_SUBFOLDER,
    check_address_space,
    end_processes_in,
    environment_in,
    folders_to_try,
    private_folder,
)
from schemas.errors import JobError, UserError


@pytest.fixture
def short() -> "os.PathLike[str]":  # pytest's own folders are too long for a socket
    folder = Path("/tmp") / f"bp{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def parent_of_length(short: Path, length: int) -> Path:
    folder = short / ("x" * (length - len(str(short)) - 1))
    folder.mkdir()
    assert len(str(folder)) == length
    return folder


def test_it_is_the_users_alone_and_gone_afterwards(short: Path) -> None:
    for error in (None, KeyError, KeyboardInterrupt, JobError):
        with pytest.raises(error or ZeroDivisionError), private_folder([short], "hidden") as folder:
            assert folder.parent == short
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert len((folder / "auth_token").read_text()) == 64
            (folder / RAY_SUBFOLDER / "session_1" / "logs").mkdir(parents=True)
            raise error or ZeroDivisionError
        assert not list(short.iterdir())


def test_logs_that_are_shown_are_kept_after_a_failure(short: Path) -> None:
    with pytest.raises(JobError), private_folder([short], "shown") as folder:
        (folder / RAY_SUBFOLDER / "session_1" / "logs").mkdir(parents=True)
        (folder / RAY_SUBFOLDER / "session_1" / "sockets").mkdir()
        (folder / RAY_SUBFOLDER / "session_1" / "logs" / "raylet.out").write_text("why")
        (folder / RAY_SUBFOLDER / "session_latest").symlink_to(folder / RAY_SUBFOLDER / "session_1")
        raise JobError
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert left == {KEPT_LOGS, f"{KEPT_LOGS}/raylet.out"}
    with private_folder([short], "shown") as other:
        pass
    assert not other.exists()


OWNER = """
import sys
from pathlib import Path
from pipeline.cluster.private_folder import RAY_SUBFOLDER, private_folder
with private_folder([Path(sys.argv[1])], "hidden") as folder:
    (folder / RAY_SUBFOLDER).mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_the_next_start_removes_what_a_killed_owner_left(short: Path) -> None:
    """Decided by its lock; folders of live owners stay, and so do those that are not this user's private folders."""
    (short / "elsewhere").mkdir()
    (short / f"{PREFIX}link").symlink_to(short / "elsewhere")
    (short / f"{PREFIX}logs" / KEPT_LOGS).mkdir(parents=True)
    (short / f"{PREFIX}half").mkdir()  # owner killed before it took a lock
    owners = [
        subprocess.Popen([sys.executable, "-c", OWNER, short], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    dead, live = (Path(owner.stdout.readline().strip()) for owner in owners)
    with (dead / "out").open("w") as file:
        outlives = subprocess.Popen(["sleep", "60"], stdout=file)
    reaper = threading.Thread(target=outlives.wait)
    reaper.start()
    owners[0].kill()
    owners[0].wait()
    assert (dead / RAY_SUBFOLDER).exists()
    with private_folder([short], "hidden") as folder:
        left = {path.name for path in short.iterdir()}
        assert left == {"elsewhere", f"{PREFIX}link", f"{PREFIX}logs", live.name, folder.name}
        assert (live / RAY_SUBFOLDER).exists()
    reaper.join(10)
    assert outlives.returncode == -9
    owners[1].communicate("")
    assert owners[1].returncode == 0 and not live.exists()
    for owner in owners:
        owner.stdout.close()


def test_a_folder_that_another_sweep_removes_at_once_is_made_again(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = ray_folder.tempfile.mkdtemp

    def make_and_sweep(*, prefix: str, dir: Path) -> str:
        made.append(make(prefix=prefix, dir=dir))
        if len(made) < 3:
            ray_folder.sweep(dir)
        return made[-1]

    monkeypatch.setattr(ray_folder.tempfile, "mkdtemp", make_and_sweep)
    with private_folder([short], "hidden") as folder:
        assert [str(folder)] == made[2:]
    assert not list(short.iterdir())


def test_the_longest_path_that_is_taken_has_room_for_a_socket(short: Path) -> None:
    longest = ray_folder.SOCKET_PATH_BYTES - ray_folder._tail_bytes()
    with (
        private_folder([parent_of_length(short, longest)], "hidden") as folder,
        socket.socket(socket.AF_UNIX) as server,
    ):
        path = folder / LONGEST_SOCKET
        path.parent.mkdir(parents=True)
        server.bind(str(path))
    too_long = parent_of_length(short, longest + 1)
    with private_folder([too_long, short], "hidden") as folder:  # uses the next one, silently
        assert folder.parent == short
    with pytest.raises(UserError) as caught, private_folder([too_long], "hidden"):
        pass
    assert str(caught.value) == (
        f"Ray has no folder for its sockets and logs: {too_long} ({longest + 1} bytes long, at most {longest} leave "
        f"room for a socket's path). Set TMPDIR to a folder on a local disk whose path has at most {longest} bytes"
    )


def test_folders_that_cannot_be_used_are_named_with_the_reason(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short / "file").write_text("")
    (short / "readonly").mkdir()
    (short / "full").mkdir()
    make = ray_folder.tempfile.mkdtemp

    def make_unless_read_only(*, prefix: str, dir: Path) -> str:
        if dir.name == "readonly":
            raise OSError(30, "Read-only file system", str(dir))
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(ray_folder.tempfile, "mkdtemp", make_unless_read_only)
    monkeypatch.setattr(ray_folder.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 0, 5 << 20))
    parents = [short / name for name in ("absent", "file", "readonly", "full")]
    with pytest.raises(UserError) as caught, private_folder(parents, "hidden"):
        pass
    for reason in (
        f"{short}/absent (No such file or directory)",
        f"{short}/file (Not a directory)",
        f"{short}/readonly (Read-only file system)",
        f"{short}/full (5 MiB free, 112 needed)",
    ):
        assert reason in str(caught.value)
    assert not list((short / "full").iterdir())


def test_the_users_choice_of_a_folder_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/scratch")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert folders_to_try()[:2] == [Path("/scratch"), Path("/tmp")]
    monkeypatch.setenv("RAY_TMPDIR", "/ray")
    assert folders_to_try()[0] == Path("/ray")
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name)
    assert folders_to_try()[0] == Path("/tmp")


def test_a_low_limit_on_addresses_is_raised_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's native code aborts if it cannot reserve memory."""
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(ray_folder.resource, "setrlimit", lambda which, limits: raised.append(limits))
    for limits in ((-1, -1), (1 << 30, -1), (1 << 30, 1 << 40)):
        monkeypatch.setattr(ray_folder.resource, "getrlimit", lambda which, limits=limits: limits)
        check_address_space()
    assert raised == [(-1, -1), (1 << 40, 1 << 40)]
    monkeypatch.setattr(ray_folder.resource, "getrlimit", lambda which: (4 << 30, 4 << 30))
    with pytest.raises(JobError, match=r"`ulimit -v` is 4194304 kB, .* run `ulimit -v unlimited`"):
        check_address_space()


def test_processes_that_work_in_it_are_ended(short: Path) -> None:
    with (short / "out").open("w") as file:
        stays = subprocess.Popen(["sleep", "60"], stdout=file)
        reaper = threading.Thread(target=stays.wait)
        reaper.start()
        other = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_processes_in(short, wait_s=0.0)
    reaper.join(10)
    assert stays.returncode == -9
    assert other.poll() is None
    other.kill()
    other.wait()


def test_the_token_is_not_in_the_home_folder(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/of/a/cluster")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of a cluster")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(ray_folder, "_forget_token", lambda: None)  # a live Ray here would read this one, and abort
    (short / "auth_token").write_text(ray_folder.TOKEN)
    with environment_in(short):
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(short / "auth_token")
        assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == "/of/a/cluster"
    assert os.environ["RAY_AUTH_TOKEN"] == "of a cluster"
    assert "RAY_AUTH_MODE" not in os.environ
