"""Interrupt a block that uses Ray: on SIGTERM, and when it would otherwise wait forever."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bevt_core.console.progress import say
from bevt_core.processes import all_processes
from pipeline.cluster import memory as ray_memory

OWN_PROGRAMS = {"raylet", "gcs_server"}  # if one of these dies, Ray is lost; Ray restarts its other processes itself
CHECK_INTERVAL_S = 1.0
HEAD_CHECK_INTERVAL_S = 5.0  # also the limit for the head to accept a connection
HEAD_SILENT_S = 15.0  # then the user is warned
HEAD_LOST_SHARE = 0.5  # of the time after which Ray ends this process without a message; the block needs the rest
HEAD_TIME_OUT = "RAY_gcs_rpc_server_reconnect_timeout_s"  # Ray's variable for this time; its default is 60
MEMORY_SHORT_S = 45.0  # Ray retries a task killed for memory for half a minute, and its own actors forever


class RayLost(RuntimeError):
    """One of Ray's own processes has died."""


class HeadLost(RuntimeError):
    """The head of the cluster has accepted no connection for some time."""


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
    seen: set[int] = set()
    last_enough = time.monotonic()  # when memory use was last below the limit

    def fault() -> RuntimeError | None:
        nonlocal last_enough
        alive = own_processes()
        used = ray_memory.used_share()
        if used <= ray_memory.limit():
            last_enough = time.monotonic()
        if seen - alive:
            return RayLost()
        if time.monotonic() - last_enough > MEMORY_SHORT_S:
            return MemoryShort(f"{used:.0%} in use for {MEMORY_SHORT_S:.0f} s")
        seen.update(alive)
        return None

    with _ended_by(fault, CHECK_INTERVAL_S):
        yield


@contextmanager
def head_watched(address: str) -> Iterator[None]:
    """`sigterm_exits`, and also raise HeadLost in the main thread if the cluster's head at `HOST:PORT` is gone.

    Ray would end the whole process without a message after RAY_gcs_rpc_server_reconnect_timeout_s, by default 60 s. It
    still does if the main thread waits in Ray's code, which no signal interrupts: hence the warning before.
    """
    host, _, port = address.rpartition(":")
    limit_s = HEAD_LOST_SHARE * float(os.environ.get(HEAD_TIME_OUT, "60"))
    last_answer = time.monotonic()
    warned = False

    def fault() -> RuntimeError | None:
        nonlocal last_answer, warned
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_CHECK_INTERVAL_S).close()
        except OSError:
            silent_s = time.monotonic() - last_answer
            if silent_s > HEAD_SILENT_S and not warned:
                warned = True
                say(
                    f"warning: the head of the Ray cluster at {address} has not answered for {silent_s:.0f} s. The job "
                    "ends without it; then restart the cluster and run the same command again to resume"
                )
            return HeadLost(f"no answer for {silent_s:.0f} s") if silent_s > limit_s else None
        last_answer = time.monotonic()
        return None

    with _ended_by(fault, HEAD_CHECK_INTERVAL_S):
        yield


@contextmanager
def _ended_by(fault: Callable[[], RuntimeError | None], interval_s: float) -> Iterator[None]:
    """Call `fault` in a thread every `interval_s`; the error that it returns ends the block, in the main thread."""
    found: list[RuntimeError] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(interval_s):
            error = fault()
            if error is not None:
                found.append(error)
                os.kill(os.getpid(), signal.SIGTERM)
                return

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
