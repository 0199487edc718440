"""The private folder of a local Ray instance: its sockets, logs and token, and the processes that use it."""

import contextlib
import errno
import os
import resource
import secrets
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bevt_core.processes import writers_into
from bevt_core.storage.locks.file_locks import EXCLUSIVE, remove_and_release, take, take_new
from bevt_core.system import LIMITS_ADDRESS_SPACE, SHARED_MEMORY, SOCKET_PATH_BYTES
from pipeline.cluster.output import RayLog
from schemas.errors import JobError, UserError

RAY_SUBFOLDER = "r"  # given to Ray, which makes it accessible to all users
LONGEST_SOCKET = (
    f"{RAY_SUBFOLDER}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # Ray's longest path
)
PREFIX = "bevt-ray-"
LOCK = "lock"  # in the private folder, locked while its owner is alive
KEPT_LOGS = "logs"
FOLDER_ATTEMPTS = 10  # attempts to make a folder while other processes run `sweep`
STORE_BYTES = 80 << 20  # of Ray's object store: Ray requires 75 MiB, and a row takes a few kB
LOG_BYTES = 32 << 20  # free space that the logs of a long job need
ADDRESS_SPACE_BYTES = 8_000_000 << 10  # needed with torch: a job succeeded with this limit and failed with half
PROCESSES_END_S = 10.0  # time for Ray's processes to end before they are killed
TOKEN = secrets.token_hex(32)  # required to connect to this process's Ray


def check_address_space() -> None:
    """Raise this process's address space limit to the hard limit. Raises JobError if that is too low for Ray."""
    if not LIMITS_ADDRESS_SPACE:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < ADDRESS_SPACE_BYTES:
        raise JobError(
            f"`ulimit -v` is {hard >> 10} kB, but Ray's processes reserve up to {ADDRESS_SPACE_BYTES >> 10} kB each, "
            "most of it unused; run `ulimit -v unlimited`, or limit memory with a container"
        )


def folders_to_try() -> list[Path]:
    """Possible parents of the private folder, the user's own choices first."""
    chosen = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    usual = ["/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"), str(SHARED_MEMORY)]
    return list(dict.fromkeys(Path(name) for name in [*chosen, *usual] if name))


@contextmanager
def private_folder(parents: Sequence[Path], log: RayLog) -> Iterator[Path]:
    """Make a folder for this user alone, in the first of `parents` that Ray can use; remove it after the block.

    Folders left in `parents` by killed processes of this user are removed first. If logs are shown, they are kept in
    KEPT_LOGS after a JobError.
    Raises UserError, with the reason for each parent, if Ray can use none of them.
    """
    for parent in parents:
        sweep(parent)
    reasons = []
    for parent in parents:
        made = _make_in(parent)
        if not isinstance(made, str):
            break
        reasons.append(f"{parent} ({made})")
    else:
        raise UserError(
            f"Ray has no folder for its sockets and logs: {'; '.join(reasons)}. Set TMPDIR to a folder on a local "
            f"disk whose path has at most {SOCKET_PATH_BYTES - _tail_bytes()} bytes"
        )
    folder, lock = made
    keep_logs = False
    try:
        yield folder
    except JobError:
        keep_logs = log == "shown"
        raise
    finally:
        with signals_ignored():
            end_processes_in(folder)
            logs = next(folder.glob(f"{RAY_SUBFOLDER}/session_*/logs"), None) if keep_logs else None
            if logs is not None:
                logs.rename(folder / KEPT_LOGS)
            _remove(folder, lock)


def sweep(parent: Path) -> None:
    """Remove the private folders in `parent` whose owner was killed, and kill the Ray processes that outlived it.

    The owner's lock is released when it ends, also in another container. A folder without a lock file contains kept
    logs or is being made, so it is removed only if it is empty.
    """
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # the owner just ended, another process sweeps, or there are no locks
            found = folder.stat(follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            if not (folder / LOCK).exists():
                folder.rmdir()
                continue
            lock = take(folder / LOCK, EXCLUSIVE)
            if lock is not None:
                end_processes_in(folder, wait_s=0.0)
                _remove(folder, lock)


def _remove(folder: Path, lock: int) -> None:
    """Remove everything but kept logs, the lock last, so that a sweep can finish an interrupted removal."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            if entry.name != KEPT_LOGS:
                shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK:
            with contextlib.suppress(OSError):
                entry.unlink()
    remove_and_release(folder / LOCK, lock)
    with contextlib.suppress(OSError):  # not empty: logs are kept
        folder.rmdir()


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM in the block, so that a second one does not interrupt the clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler or signal.SIG_DFL)


def _tail_bytes() -> int:
    """The length in bytes of the longest socket path below the parent folder."""
    return len(f"/{PREFIX}12345678/{LONGEST_SOCKET}")


def _make_in(parent: Path) -> tuple[Path, int] | str:
    """Make a folder in `parent`; returns it and the descriptor of its lock, or why Ray cannot use one there."""
    length = len(os.fsencode(parent.absolute()))
    if length + _tail_bytes() > SOCKET_PATH_BYTES:
        return f"{length} bytes long, at most {SOCKET_PATH_BYTES - _tail_bytes()} leave room for a socket's path"
    try:
        made, lock = _locked_folder(parent.absolute())
    except OSError as error:
        return str(error.strerror)
    try:
        free = shutil.disk_usage(made).free
        needed = LOG_BYTES + (0 if shared_memory_suffices() else STORE_BYTES)
        if free < needed:
            raise OSError(0, f"{free >> 20} MiB free, {needed >> 20} needed")
        with socket.socket(socket.AF_UNIX) as trial:  # network and FUSE file systems may not support sockets
            trial.bind(str(made / "trial"))
        (made / "trial").unlink()
        (made / "auth_token").write_text(TOKEN)  # no other user can enter the folder
    except OSError as error:
        _remove(made, lock)
        return str(error.strerror)
    return made, lock


def _locked_folder(parent: Path) -> tuple[Path, int]:
    for _ in range(FOLDER_ATTEMPTS):
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with contextlib.suppress(FileNotFoundError):  # another process swept it before it was locked
            lock = take_new(made / LOCK)
            if lock is not None:
                return made, lock
    raise OSError(errno.EBUSY, "other processes remove new folders from it")


def shared_memory_suffices() -> bool:
    """Whether /dev/shm has room for Ray's object store."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free >= 1.1 * STORE_BYTES and os.access(SHARED_MEMORY, os.W_OK)
    except OSError:
        return False


@contextmanager
def environment_in(folder: Path) -> Iterator[None]:
    """Set environment variables for Ray in the block: its token is the one in `folder`, not the home folder's."""
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")}
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "auth_token")
    _forget_token()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _forget_token()


def _forget_token() -> None:
    """Make Ray read its token again: it caches the first one for the life of the process."""
    import ray

    loader = getattr(ray._raylet, "AuthenticationTokenLoader", None)  # Ray before 2.52 has no tokens
    if loader is not None:
        loader.instance().reset_cache()
        ray._raylet.Config.initialize("")


def end_processes_in(folder: Path, wait_s: float = PROCESSES_END_S) -> None:
    """Wait for the processes that write their output to `folder`, and kill those that remain after `wait_s` seconds.

    They are known by their output, since Ray overwrites their titles and environments.
    """
    deadline = time.monotonic() + wait_s
    while left := writers_into(folder):
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline += PROCESSES_END_S
        time.sleep(0.05)
