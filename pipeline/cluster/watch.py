"""Interrupt a block that uses Ray: on SIGTERM, and when it would otherwise wait forever."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bevt_core.processes import all_processes
from pipeline.cluster import memory as ray_memory

OWN_PROGRAMS = {"raylet", "gcs_server"}  # if one of these dies, Ray is lost; Ray restarts its other processes itself
CHECK_INTERVAL_S = 1.0
MEMORY_SHORT_S = 45.0  # Ray retries a task killed for memory for half a minute, and its own actors forever


class RayLost(RuntimeError):
    """One of Ray's own processes has died."""


class MemoryShort(RuntimeError):
    """Memory use has been above Ray's limit for MEMORY_SHORT_S: Ray kills every worker."""


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, with exit status 143; Ray's own handler would abort the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # raised by the handler that Ray has installed meanwhile
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def ray_watched() -> Iterator[None]:
    """`sigterm_exits`, and also end the block with an error in the main thread if the Ray started here fails.

    Raises RayLost if one of OWN_PROGRAMS dies, MemoryShort if no worker can run for lack of memory.
    """
    found: list[RuntimeError] = []
    ended = threading.Event()

    def watch() -> None:
        seen: set[int] = set()
        last_enough = time.monotonic()  # when memory use was last below the limit
        while not found and not ended.wait(CHECK_INTERVAL_S):
            alive = own_processes()
            used = ray_memory.used_share()
            if used <= ray_memory.limit():
                last_enough = time.monotonic()
            if seen - alive:
                found.append(RayLost())
            elif time.monotonic() - last_enough > MEMORY_SHORT_S:
                found.append(MemoryShort(f"{used:.0%} in use for {MEMORY_SHORT_S:.0f} s"))
            seen |= alive
        if found:
            os.kill(os.getpid(), signal.SIGTERM)

    if threading.current_thread() is threading.main_thread():
        threading.Thread(target=watch, name="ray-watch", daemon=True).start()
    try:
        with sigterm_exits():
            yield
    except SystemExit:
        if found:
            raise found[0] from None
        raise
    finally:
        ended.set()


def own_processes() -> set[int]:
    """The ids of this process's live children that run one of OWN_PROGRAMS."""
    mine = os.getpid()
    return {
        process.pid
        for process in all_processes()
        if process.name in OWN_PROGRAMS and process.parent == mine and process.state not in "ZX"
    }
