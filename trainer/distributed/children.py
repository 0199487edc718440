"""How a process of a job ended."""

import contextlib
import signal
from pathlib import Path


def is_stopped(pid: int) -> bool:
    """Whether a process of this machine is stopped by a signal, and not by a debugger."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    except OSError:
        return False


def ending_of(status: int | None) -> str:
    """Return in words how a process ended: an exit status, a negative signal, or None where nobody knows."""
    if status is None:
        return "is gone"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
