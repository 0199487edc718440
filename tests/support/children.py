"""Processes of this machine: which there are below one, what they do, and waiting for them."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path


def state_of(pid: int) -> str | None:
    """Its letter in `ps`; None where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_running(pid: int) -> bool:
    return state_of(pid) not in (None, "Z")


def command_of(pid: int) -> str:
    """Its command line; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid: int) -> list[int]:
    """Its children, those of all its threads."""
    try:
        return [
            int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """The processes below `pid`."""
    children = children_of(pid)
    return children + [below for child in children for below in descendants(child)]


def wait_until(condition: Callable[[], bool], timeout_s: float = 50.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "timed out"
        time.sleep(0.02)


def wait_for_sigterm() -> str:
    """Write this process's id to the file of its rank in $READY, then wait for SIGTERM."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda signum, frame: asked.set())
    Path(os.environ["READY"], os.environ["RANK"]).write_text(str(os.getpid()))
    asked.wait(60)
    return "stopped" if asked.is_set() else "timed out"
