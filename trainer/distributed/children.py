"""The state of a child process: whether it is stopped, and how it ended."""

import contextlib
import signal
from pathlib import Path


def is_stopped(pid: int) -> bool:
    """Return whether a process on this machine is stopped by a signal, not by a debugger."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    except OSError:
        return False


def ending_of(status: int | None) -> str:
    """Return in words how a process ended; `status` is an exit status, a negative signal, or None if unknown."""
    if status is None:
        return "ended for an unknown reason"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
