"""The Ray that a job runs on: the one of this process, a cluster's, or one started for it."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevt_core.console.progress import say
from pipeline.cluster.failures import may_start_again, ray_failures, ray_start_failures
from pipeline.cluster.output import RayLog, rays_output
from pipeline.cluster.private_folder import (
    KEPT_LOGS,
    RAYS,
    STORE_BYTES,
    check_addresses,
    end_processes_in,
    environment_in,
    folders_to_try,
    private_folder,
    shared_memory_suffices,
    undisturbed,
)
from pipeline.cluster.watch import ray_lives, sigterm_ends
from schemas.errors import UserError

PACKAGES = Path(__file__).resolve().parents[2]  # the folder that holds pipeline, bevt_core, schemas
CONNECT_S = 5.0  # that a cluster's head may take to accept a connection
SILENCE_S = 15.0  # after which we say that a cluster does not answer: Ray itself goes on for minutes
GPU_S = 300.0  # that a GPU may take to be free, with a worker's start
THREADS_END_S = 30.0
START_ATTEMPTS = 2  # of Ray's 30 s and more each
LOOPBACK = "127.0.0.1"
VERBOSE = "run it with --verbose for Ray's own log"
RAY_LOGS = "`ray logs` shows Ray's own log"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray announces as its next default
    "RAY_task_oom_retries": "5",  # of a task that is killed for memory, over half a minute; Ray goes on for ever
}
IDLE_THREAD = "Prefetcher"  # of Ray Data: left early, it waits without end for work that does not come


@dataclass(frozen=True)
class Session:
    may_grow: bool  # nodes may join: it is not a Ray that was started here for this machine alone


_held: Session | None = None  # of the outer block, for those inside it


@contextmanager
def ray_session(
    address: str | None, num_cpus: int | None, num_gpus: int | None, log: RayLog = "hidden"
) -> Iterator[Session]:
    """Ray for the length of a block: the one that runs in this process, a cluster's, or one started here.

    One that is started here listens on the loopback interface alone, keeps its files in a private folder, and leaves
    no process and no file behind, except its logs where they were asked for and it failed.
    Raises UserError for a cluster that does not answer and for folders that Ray cannot use, JobError for its failures.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal" if log == "hidden" else "warning")
    import ray

    global _held
    if ray.is_initialized():
        with contextlib.nullcontext() if _held else ray_failures("Ray", RAY_LOGS):
            yield _held or Session(may_grow=True)
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address == "local":  # Ray's word for a new one
        address = None
    if address is not None:
        check_reachable(address)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_ends())
        if address is None:
            check_addresses()
            folder = stack.enter_context(private_folder(folders_to_try(), log))
            stack.enter_context(environment_in(folder))
            where, logs = "this machine", VERBOSE if log == "hidden" else f"Ray's logs are in {folder / KEPT_LOGS}"
        else:
            where, logs = f"the Ray cluster at {address}", RAY_LOGS
        stack.enter_context(rays_output(log))
        stack.callback(shut_down)
        if address is None:
            with ray_start_failures(where, logs):
                _start_patiently(folder, num_cpus, num_gpus, log)
        else:
            _join(address, log)
        _held = Session(may_grow=address is not None)
        try:
            # A handler again: Ray has put its own there.
            with ray_failures(where, logs), ray_lives() if address is None else sigterm_ends():
                yield _held
        finally:
            _held = None


def _start_patiently(folder: Path, num_cpus: int | None, num_gpus: int | None, log: RayLog) -> None:
    """Start it, again where a busy machine was too slow for it."""
    for _ in range(START_ATTEMPTS - 1):
        try:
            return _start(folder, num_cpus, num_gpus, log)
        except Exception as error:
            if not may_start_again(error):
                raise
            shut_down()
            end_processes_in(folder, wait_s=0.0)
    _start(folder, num_cpus, num_gpus, log)


def _start(folder: Path, num_cpus: int | None, num_gpus: int | None, log: RayLog) -> None:
    """Start a Ray for this process alone, with its files in `folder`."""
    import ray

    with contextlib.chdir(PACKAGES), ray_lives(), _loopback_alone():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _plasma_directory=None if shared_memory_suffices() else str(folder),
            _temp_dir=str(folder / RAYS),
            _node_ip_address=LOOPBACK,
            **_log_options(log),
        )


@contextmanager
def _loopback_alone() -> Iterator[None]:
    """Keep Ray from replacing 127.0.0.1 by an address of the network, as it does where a cluster may be wanted."""
    import ray

    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _join(address: str, log: RayLog) -> None:
    """Connect to a cluster."""
    import ray

    try:
        with contextlib.chdir(PACKAGES), _told_of_silence(address):
            ray.init(address=address, **_log_options(log))
    except (ConnectionError, ValueError) as error:  # the second for what is no address
        raise UserError(_no_cluster(address, str(error))) from error


def _log_options(log: RayLog) -> dict[str, Any]:
    return {"log_to_driver": log == "shown", "logging_level": logging.ERROR if log == "hidden" else logging.INFO}


def shut_down() -> None:
    """End Ray, or leave a cluster."""
    import ray

    with undisturbed():
        ray.shutdown()


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
    Ray end the whole process, with exit status 1 and before the error that left the iteration is reported.
    """
    before = set(threading.enumerate())
    try:
        yield
    finally:
        deadline = time.monotonic() + THREADS_END_S
        for thread in set(threading.enumerate()) - before:
            # A dummy is a thread of native code that has once called Python: nobody can join it.
            if thread.name != IDLE_THREAD and not isinstance(thread, threading._DummyThread):
                thread.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def _told_of_silence(address: str) -> Iterator[None]:
    """Tell the user, once, when the block has taken SILENCE_S: what listens there may be something else than Ray."""
    message = (
        f"warning: no Ray cluster has answered at {address} for {SILENCE_S:.0f} s, though the address can be reached; "
        "still trying. Is it the one that `ray start --head` printed, and not its dashboard's?"
    )
    timer = threading.Timer(SILENCE_S, say, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
