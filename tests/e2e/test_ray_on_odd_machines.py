"""`bevt tokenize` with a Ray of its own on odd machines: the job is finished, or one error; nothing is left behind."""

import contextlib
import ipaddress
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cluster.private_folder import PREFIX
from tests.support.media import moving_frames, write_video

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path: Path, tiny_tokenizer: Path) -> list[str]:
    """A command line of 8 parts."""
    for i in range(16):
        write_video(tmp_path / "root" / f"{i}.mp4", moving_frames(10, 120, 160, seed=i))
    places = ["--root", tmp_path / "root", "--out", tmp_path / "out", "--tokenizer", tiny_tokenizer]
    small = ["--set", "sources_per_part=2", "--set", "pool.max_frames=6"]
    command = [sys.executable, "-m", "cli", "tokenize", "--dataset", "folder", "--recipe", "nano_video"]
    return [*map(str, [*command, *places, *small])]


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No process of the job, and nothing of Ray in /dev/shm."""
    yield
    assert not list(Path("/dev/shm").glob("*ray*")) + list(Path("/dev/shm").glob("*plasma*"))
    deadline = time.monotonic() + 10
    while left := processes(str(tmp_path / "out")):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def private_folder_of(pids: set[int]) -> Path:
    """In which a job's processes have their files."""
    (found,) = {
        Path(match)
        for pid, command in processes(PREFIX).items()
        if pid in pids
        for match in re.findall(rf"(?<==)(/[^ =]*?/{PREFIX}[^ /]+)", command)
    }
    return found


def processes(text: str) -> dict[int, str]:
    """pid -> command line, of those that have `text` in it."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_text().replace("\0", " ")
                if text in command:
                    found[int(entry.name)] = command
    return found


def complaints(err: str) -> list[str]:
    """The lines of stderr but those that show progress."""
    return [line for line in err.splitlines() if not line.startswith("tokenize ")]


def family(pid: int) -> set[int]:
    """A process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


def listens_at(pids: set[int]) -> set[str]:
    """The addresses at which processes listen for TCP."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            sockets |= {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                words = bytes.fromhex(local.partition(":")[0])
                raw = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                address = ipaddress.ip_address(raw)
                addresses.add(str(getattr(address, "ipv4_mapped", None) or address))
    return addresses


def wait_for_a_part(out: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not list(out.glob("frames/part-*/commit.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("ending", ["finish", "SIGTERM", "SIGINT", "raylet", "gcs_server"])
def test_it_is_private_and_leaves_nothing(ending: str, job: list[str], tmp_path: Path) -> None:
    """In a TMPDIR that is too long, without a home; listening on the loopback interface alone."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    environment = os.environ | {"TMPDIR": str(long), "HOME": str(tmp_path / "absent")}
    with subprocess.Popen(job, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_a_part(tmp_path / "out", process)
        folder = private_folder_of(family(process.pid))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert listens_at(family(process.pid)) == {"127.0.0.1"}
        if ending in ("SIGTERM", "SIGINT"):
            process.send_signal(signal.Signals[ending])
        elif ending != "finish":
            (victim,) = [pid for pid, command in processes(str(folder)).items() if f"/{ending} " in command]
            os.kill(victim, signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert not folder.exists() and not processes(str(folder))
    made = [path for path in (tmp_path / "absent").rglob("*") if path.is_file()]
    assert all("matplotlib" in path.parts for path in made) and not list(long.iterdir())  # its cache of fonts
    if ending == "finish":
        assert (process.returncode, complaints(err)) == (0, [])
    elif ending in ("SIGTERM", "SIGINT"):
        assert process.returncode == {"SIGTERM": 143, "SIGINT": 130}[ending]
        assert "Traceback" not in err and "ray" not in err.lower()
    else:
        assert (process.returncode, out) == (1, "")
        (line,) = complaints(err)
        assert line.startswith("error: this machine: a process of Ray itself died.")


def test_a_worker_that_is_killed_for_memory_is_one_line(job: list[str]) -> None:
    """By Ray's own monitor, which is set to find any use of memory too high."""
    odd = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    ended = subprocess.run(job, env=os.environ | odd, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout) == (1, "")
    *warnings, last = complaints(ended.stderr)
    assert last.startswith("error: this machine: memory ran out")
    assert [line[:24] for line in warnings] in ([], ["warning: memory ran low:"])


def test_a_tokenizer_that_is_killed_again_and_again_is_one_line(job: list[str], tmp_path: Path) -> None:
    with subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            ours = family(process.pid)
            for pid in ours & set(processes("ray::MapWorker")):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    (line,) = complaints(err)
    assert line.startswith("error: this machine: a worker process died repeatedly.")


def test_after_kill_9_the_next_start_removes_the_folder(job: list[str], tmp_path: Path) -> None:
    with subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_a_part(tmp_path / "out", process)
        folder = private_folder_of(family(process.pid))
        process.kill()
    assert folder.exists()
    again = subprocess.run(job, capture_output=True, text=True, timeout=300)
    assert (again.returncode, complaints(again.stderr)) == (0, [])
    assert not folder.exists() and not processes(str(folder))


def test_small_limits(job: list[str]) -> None:
    """256 descriptors, and 64 MB of /dev/shm where a namespace can be made: Ray's store is in the private folder."""
    script = f"ulimit -n 256; exec {shlex.join(job)}"
    namespace = ["unshare", "-rm", "sh", "-c"]
    if not subprocess.run([*namespace, "mount -t tmpfs -o size=64m tmpfs /dev/shm"], capture_output=True).returncode:
        command = [*namespace, f"mount -t tmpfs -o size=64m tmpfs /dev/shm; {script}"]
    else:
        command = ["sh", "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, complaints(ended.stderr)) == (0, [])
