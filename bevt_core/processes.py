"""Lifetime, state and use of processes: by Linux's prctl and /proc, elsewhere by a thread and `ps`."""

import ctypes
import functools
import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

from bevt_core import system

PARENT_CHECK_S = 0.5  # interval at which a process looks for its parent where the kernel does not
_PR_SET_PDEATHSIG = 1
_PS = ("ps", "-o", "pid=,ppid=,state=,time=,rss=,comm=")
_PS_TIMEOUT_S = 10.0


class Process(NamedTuple):
    """A process as the system shows it."""

    pid: int
    parent: int
    state: str  # a letter, as in ps(1): T if stopped by a signal, Z if it has ended and was not reaped
    name: str  # of its program, without folders
    cpu_s: float
    resident_bytes: int


def die_with_parent(parent: int) -> None:
    """End this process when the thread of `parent` that started it ends, even if this one is stopped.

    Without `kernel_ends_children` a thread looks for the parent: it does not end a stopped process, nor one that
    hangs in native code that holds the interpreter's lock.
    """
    if kernel_ends_children():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_end_without, args=(parent,), name="parent-watch", daemon=True).start()
    if os.getppid() != parent:  # the parent ended before the call above
        os._exit(1)


@functools.cache
def kernel_ends_children() -> bool:
    """Whether the kernel can end a process with its parent, as Linux does."""
    return hasattr(ctypes.CDLL(None), "prctl")


def process_of(pid: int) -> Process | None:
    """Return the process, or None if none has this id."""
    if system.PROC is None:
        return next(iter(_from_ps("-p", str(pid))), None)
    try:
        return _parsed_stat((system.PROC / str(pid) / "stat").read_text(errors="replace"))
    except OSError:
        return None


def all_processes() -> list[Process]:
    """Return all processes of this machine or container."""
    if system.PROC is None:
        return _from_ps("-A")
    pids = [int(entry.name) for entry in system.PROC.iterdir() if entry.name.isdigit()]
    return [process for pid in pids if (process := process_of(pid)) is not None]


def writers_into(folder: Path) -> list[int]:
    """Return the ids of this user's processes, without this one, with stdout or stderr in `folder`.

    Without /proc this needs `lsof`, which macOS has.
    """
    found = _outputs_from_lsof() if system.PROC is None else _outputs_from_proc(system.PROC)
    folders = {folder, folder.resolve()}
    return sorted({pid for pid, path in found if pid != os.getpid() and not folders.isdisjoint(path.parents)})


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _parsed_stat(line: str) -> Process:
    """Parse /proc/PID/stat. The name may contain spaces and parentheses."""
    start, _, rest = line.rpartition(")")
    pid, _, name = start.partition(" (")
    fields = rest.split()
    ticks = int(fields[11]) + int(fields[12])
    used_s = ticks / os.sysconf("SC_CLK_TCK")
    return Process(int(pid), int(fields[1]), fields[0], name, used_s, int(fields[21]) * resource.getpagesize())


def _from_ps(*which: str) -> list[Process]:
    environment = {**os.environ, "LC_ALL": "C"}  # times with a decimal point
    shown = subprocess.run(
        [*_PS, *which], capture_output=True, text=True, errors="replace", env=environment, timeout=_PS_TIMEOUT_S
    ).stdout
    return [_parsed_ps(line) for line in shown.splitlines() if line.strip()]


def _parsed_ps(line: str) -> Process:
    pid, parent, state, used, kib, name = line.split(maxsplit=5)
    return Process(int(pid), int(parent), state[0], Path(name.strip()).name, _seconds(used), int(kib) << 10)


def _seconds(text: str) -> float:
    """Parse `[days-][hours:]minutes:seconds`."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return 86400 * int(days or 0) + total


def _outputs_from_proc(proc: Path) -> list[tuple[int, Path]]:
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit():
            for descriptor in ("1", "2"):
                try:
                    found.append((int(entry.name), (entry / "fd" / descriptor).readlink()))
                except OSError:  # of another user, or just ended
                    continue
    return found


def _outputs_from_lsof() -> list[tuple[int, Path]]:
    """Parse lsof's lines: `p` and a process id, then for each descriptor `f` and its number, `n` and its path."""
    command = ["lsof", "-w", "-n", "-P", "-a", "-u", str(os.getuid()), "-d", "1,2", "-F", "pn"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    except FileNotFoundError:
        return []
    found, pid = [], 0
    for line in shown.splitlines():
        if line.startswith("p"):
            pid = int(line[1:])
        elif line.startswith("n"):
            found.append((pid, Path(line[1:])))
    return found
