"""The state of a child process: whether it is stopped, and how it ended."""

import contextlib
import signal

from bevt_core.processes import process_of


def is_stopped(pid: int) -> bool:
    """Return whether a process on this machine is stopped by a signal, not by a debugger."""
    found = process_of(pid)
    return found is not None and found.state == "T"


def ending_of(status: int | None) -> str:
    """Return in words how a process ended; `status` is an exit status, a negative signal, or None if unknown."""
    if status is None:
        return "ended for an unknown reason"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
