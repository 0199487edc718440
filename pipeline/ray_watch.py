"""How a block on Ray ends early: by SIGTERM, and by the death of Ray's own processes, for which it would wait."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWN_PROGRAMS = {"raylet", "gcs_server"}  # of a Ray that was started here; its other processes it starts again
LOOK_S = 1.0


class RayLost(RuntimeError):
    """One of Ray's own processes has died."""


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
    """`sigterm_ends`, which raises RayLost in the main thread when a process of a Ray that was started here dies."""
    lost, ended = threading.Event(), threading.Event()

    def watch() -> None:
        seen: set[int] = set()
        while not ended.wait(LOOK_S):
            alive = own_processes()
            if seen - alive:
                lost.set()
                os.kill(os.getpid(), signal.SIGTERM)
                return
            seen |= alive

    if threading.current_thread() is threading.main_thread():
        threading.Thread(target=watch, name="ray-watch", daemon=True).start()
    try:
        with sigterm_ends():
            yield
    except SystemExit:
        if lost.is_set():
            raise RayLost from None
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
