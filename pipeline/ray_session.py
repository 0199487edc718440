"""The Ray that a job runs on: the one of this process, a cluster's, or one started for it."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UserError

PACKAGES = Path(__file__).resolve().parents[1]  # the folder that holds pipeline, bevt_core, schemas
CONNECT_S = 5.0  # that a cluster's head may take to accept a connection
SILENCE_S = 15.0  # after which the user is told that a cluster does not answer: Ray itself goes on for minutes
GPU_S = 300.0  # that a GPU may take to be free, with a worker's start
THREADS_END_S = 30.0
IDLE_THREAD = "Prefetcher"  # of Ray Data: left early, it waits without end for work that does not come


@dataclass(frozen=True)
class Session:
    may_grow: bool  # nodes may join: it is not a Ray that was started here for this machine alone


_held: Session | None = None  # of the outer block, for those inside it


@contextmanager
def ray_session(address: str | None, num_cpus: int | None, num_gpus: int | None) -> Iterator[Session]:
    """Ray for the length of a block: the one that runs in this process, a cluster's, or one started here.

    Raises UserError for a cluster that does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray announces as its next default
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # keeps the C++ side's notes out of the user's terminal
    import ray

    global _held
    if ray.is_initialized():
        yield _held or Session(may_grow=True)
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        check_reachable(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray puts the working folder first on its workers' path, and a `pipeline.py` may lie there; the C++ side announces
    # its log level on stderr.
    with contextlib.chdir(PACKAGES), _no_stderr() as stderr:
        if address is not None:
            try:
                with _told_of_silence(address, stderr):
                    ray.init(address=address, **quiet)
            except (ConnectionError, ValueError) as error:  # the second for what is no address
                raise UserError(_no_cluster(address, str(error))) from error
        else:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                include_dashboard=False,
                object_store_memory=128 << 20,  # rows are a few kB
                **quiet,
            )
    _held = Session(may_grow=address is not None)
    try:
        with sigterm_ends():
            yield _held
    finally:
        _held = None
        ray.shutdown()


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
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def check_reachable(address: str) -> None:
    """Raise UserError where nobody listens at `HOST:PORT` or `ray://HOST:PORT`: Ray would try for minutes, in silence.

    Other addresses, as `auto`, are Ray's to look up.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(_no_cluster(address, str(error))) from None


def _no_cluster(address: str, why: str) -> str:
    return (
        f"no Ray cluster answers at {address} ({' '.join(why.split())[:200]}); start it, give the address that "
        "`ray start --head` printed, or leave --ray-address and RAY_ADDRESS out to work on this machine alone"
    )


@contextmanager
def threads_ended() -> Iterator[None]:
    """Wait, after the block, for the threads that it started: at most THREADS_END_S seconds, also after an error.

    Those of Ray Data outlive an iteration that is left early. One that still speaks to Ray when it is shut down makes
    Ray end the whole process, with exit status 1 and before the error that left the iteration is told.
    """
    before = set(threading.enumerate())
    try:
        yield
    finally:
        deadline = time.monotonic() + THREADS_END_S
        for thread in set(threading.enumerate()) - before:
            if thread.name != IDLE_THREAD:
                thread.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def _told_of_silence(address: str, stderr: int) -> Iterator[None]:
    """Tell the user, once, when the block has taken SILENCE_S: what listens there may be something else than Ray."""
    told = (
        f"warning: no Ray cluster has answered at {address} for {SILENCE_S:.0f} s, though the address can be reached; "
        "still trying. Is it the one that `ray start --head` printed, and not its dashboard's?\n"
    )
    timer = threading.Timer(SILENCE_S, os.write, (stderr, told.encode()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _no_stderr() -> Iterator[int]:
    """Drop what native code writes to file descriptor 2; the descriptor of the stderr that was there is given."""
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield saved
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def cluster_has(resource: str) -> int:
    """How much of a resource the whole cluster has now, rounded down."""
    import ray

    return int(ray.cluster_resources().get(resource, 0))


def smallest_node_has(resource: str) -> int:
    """How much of a resource Ray may give away on the node with the least of it, of those that have any."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return int(min((resources[resource] for resources in nodes if resource in resources), default=0))


def cpus_per_gpu() -> int:
    """How many CPUs there are for each GPU, on the node with the fewest, of those that have GPUs; at least 1."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, int(min((of.get("CPU", 0) // of["GPU"] for of in nodes if of.get("GPU", 0) >= 1), default=1)))


def await_gpu() -> None:
    """Wait until one of the cluster's GPUs is free. Raises UserError where none gets free in time."""
    import ray

    asked = ray.remote(num_gpus=1, max_retries=3)(lambda: None).remote()
    try:
        ray.get(asked, timeout=GPU_S)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)
        raise UserError(
            f"no GPU of the cluster was free for {GPU_S:.0f} s; `ray status` tells who has them: wait for that job, or "
            "end it, and run the same command again"
        ) from None
