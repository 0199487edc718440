"""How a block on Ray ends early: by SIGTERM, and by what it would wait for without end."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.cluster import memory as ray_memory

OWN_PROGRAMS = {"raylet", "gcs_server"}  # of a Ray that was started here; its other processes it starts again
LOOK_S = 1.0
MEMORY_SHORT_S = 45.0  # Ray tries a task that it ended for memory again for half a minute, and its own actors for ever


class RayLost(RuntimeError):
    """One of Ray's own processes has died."""


class MemoryShort(RuntimeError):
    """Memory has been above Ray's limit for MEMORY_SHORT_S: Ray ends every worker."""


@contextmanager
def sigterm_ends() -> Iterator[None]:
    """Let a SIGTERM in the block end it as a Ctrl-C does, with 143: Ray's own handler aborts the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # the status of the handler that Ray has put there meanwhile
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def ray_lives() -> Iterator[None]:
    """`sigterm_ends` for a Ray that was started here, which raises in the main thread what else ends the block.

    RayLost when one of Ray's processes dies, MemoryShort when no worker can live.
    """
    found: list[RuntimeError] = []
    ended = threading.Event()

    def watch() -> None:
        seen: set[int] = set()
        enough = time.monotonic()  # when memory was last below the limit
        while not found and not ended.wait(LOOK_S):
            alive = own_processes()
            used = ray_memory.used_share()
            if used <= ray_memory.limit():
                enough = time.monotonic()
            if seen - alive:
                found.append(RayLost())
            elif time.monotonic() - enough > MEMORY_SHORT_S:
                found.append(MemoryShort(f"{used:.0%} in use for {MEMORY_SHORT_S:.0f} s"))
            seen |= alive
        if found:
            os.kill(os.getpid(), signal.SIGTERM)

    if threading.current_thread() is threading.main_thread():
        threading.Thread(target=watch, name="ray-watch", daemon=True).start()
    try:
        with sigterm_ends():
            yield
    except SystemExit:
        if found:
            raise found[0] from None
        raise
    finally:
        ended.set()


def own_processes() -> set[int]:
    """The live children of this process that run one of OWN_PROGRAMS, by their ids."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                state, parent = rest.split()[:2]
                if name in OWN_PROGRAMS and int(parent) == os.getpid() and state not in "ZX":
                    found.add(int(entry.name))
    return found
