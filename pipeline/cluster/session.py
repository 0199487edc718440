"""The Ray that a job runs on: one already used by this process, a cluster, or one started for the job."""

import contextlib
import importlib
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
from pipeline.cluster.failures import is_worth_retrying, ray_failures, ray_start_failures
from pipeline.cluster.output import RayLog, ray_output
from pipeline.cluster.private_folder import (
    KEPT_LOGS,
    RAY_SUBFOLDER,
    STORE_BYTES,
    check_address_space,
    end_processes_in,
    environment_in,
    folders_to_try,
    private_folder,
    shared_memory_suffices,
    signals_ignored,
)
from pipeline.cluster.watch import head_watched, ray_watched, sigterm_exits
from schemas.errors import UserError

PACKAGES = Path(__file__).resolve().parents[2]  # the folder that contains pipeline, bevt_core, schemas
CONNECT_S = 5.0  # limit for a cluster's head to accept a connection
SILENCE_S = 15.0  # then the user is warned that the cluster does not answer; Ray itself retries for minutes
GPU_S = 300.0  # limit for a GPU to become free, including a worker's start
THREADS_END_S = 30.0  # limit for Ray Data's threads to end
START_ATTEMPTS = 2  # Ray takes 30 s or more for each
LOOPBACK = "127.0.0.1"
VERBOSE = "run it with --verbose for Ray's own log"
RAY_LOGS = "`ray logs` shows Ray's own log"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's announced future default
    "RAY_task_oom_retries": "5",  # for a task killed for memory, over half a minute; Ray's default is unlimited
}
IDLE_THREAD = "Prefetcher"  # a thread of Ray Data: after an early exit, it waits for work forever


@dataclass(frozen=True)
class Session:
    may_grow: bool  # nodes may join: True unless Ray was started here, for this machine alone


_current: Session | None = None  # the session of the outermost block, reused by nested ones


@contextmanager
def ray_session(
    address: str | None, num_cpus: int | None, num_gpus: int | None, log: RayLog = "hidden"
) -> Iterator[Session]:
    """Provide Ray in the block: the one already used by this process, a cluster, or one started here.

    A Ray that is started here listens only on the loopback interface, keeps its files in a private folder, and leaves
    no process and no file behind, except its logs if they were requested and it failed.
    Raises UserError without Ray, if a cluster does not answer, or if Ray cannot use any folder; JobError for Ray's
    failures.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal" if log == "hidden" else "warning")
    check_installed()
    import ray

    global _current
    if ray.is_initialized():
        with contextlib.nullcontext() if _current else ray_failures("Ray", RAY_LOGS):
            yield _current or Session(may_grow=True)
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address == "local":  # Ray's name for a new instance
        address = None
    if address is not None:
        check_reachable(address)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_exits())
        if address is None:
            check_address_space()
            folder = stack.enter_context(private_folder(folders_to_try(), log))
            stack.enter_context(environment_in(folder))
            where, logs = "this machine", VERBOSE if log == "hidden" else f"Ray's logs are in {folder / KEPT_LOGS}"
        else:
            where, logs = f"the Ray cluster at {address}", RAY_LOGS
        stack.enter_context(ray_output(log))
        stack.callback(shut_down)
        if address is None:
            with ray_start_failures(where, logs):
                _start_with_retry(folder, num_cpus, num_gpus, log)
        else:
            _join(address, log)
        _current = Session(may_grow=address is not None)
        try:
            # Install our SIGTERM handler again: Ray has replaced it.
            with ray_failures(where, logs), ray_watched() if address is None else head_watched(_head(address)):
                yield _current
        finally:
            _current = None


def check_installed() -> None:
    """Raise UserError if Ray is not installed."""
    try:
        importlib.import_module("ray")
    except ImportError as error:
        raise UserError(f"Ray cannot be imported ({error}); install it: `pip install 'ray[data]'`") from None


def _start_with_retry(folder: Path, num_cpus: int | None, num_gpus: int | None, log: RayLog) -> None:
    """Start Ray; try again if the machine was too busy for the first attempt."""
    for _ in range(START_ATTEMPTS - 1):
        try:
            return _start(folder, num_cpus, num_gpus, log)
        except Exception as error:
            if not is_worth_retrying(error):
                raise
            shut_down()
            end_processes_in(folder, wait_s=0.0)
    _start(folder, num_cpus, num_gpus, log)


def _start(folder: Path, num_cpus: int | None, num_gpus: int | None, log: RayLog) -> None:
    """Start a Ray instance for this process alone, with its files in `folder`."""
    import ray

    with contextlib.chdir(PACKAGES), ray_watched(), _loopback_only():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _plasma_directory=None if shared_memory_suffices() else str(folder),
            _temp_dir=str(folder / RAY_SUBFOLDER),
            _node_ip_address=LOOPBACK,
            **_log_options(log),
        )


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Keep Ray from replacing 127.0.0.1 with a network address, as it does if a cluster may be wanted."""
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
        with contextlib.chdir(PACKAGES), _silence_reported(address):
            ray.init(address=address, **_log_options(log))
    except (ConnectionError, ValueError) as error:  # ValueError: not an address
        raise UserError(_no_cluster(address, f"{' '.join(str(error).split())[:200]}; {_token_hint()}")) from error


def _head(address: str) -> str:
    """The `HOST:PORT` of the head of the cluster that was joined by `address`, which may be `auto` or a client's."""
    import ray

    client = address.removeprefix("ray://")
    return client if client != address else str(ray.get_runtime_context().gcs_address)


def _log_options(log: RayLog) -> dict[str, Any]:
    return {"log_to_driver": log == "shown", "logging_level": logging.ERROR if log == "hidden" else logging.INFO}


def shut_down() -> None:
    """Stop Ray, or leave the cluster."""
    import ray

    with signals_ignored():
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Raise UserError if nothing listens at `HOST:PORT` or `ray://HOST:PORT`: Ray would retry for minutes, silently.

    Other addresses, such as `auto`, are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(_no_cluster(address, str(error))) from None


def _token_hint() -> str:
    """What to check about Ray's token, which a cluster may require: Ray itself reports only that it cannot connect."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return "RAY_AUTH_MODE is token: RAY_AUTH_TOKEN or ~/.ray/auth_token must be the cluster's"
    return "if the cluster requires a token, set RAY_AUTH_MODE=token here and on all its nodes"


def _no_cluster(address: str, why: str) -> str:
    return (
        f"no Ray cluster answers at {address} ({why}); start it, give the address that "
        "`ray start --head` printed, or omit --ray-address and RAY_ADDRESS to use only this machine"
    )


@contextmanager
def threads_joined() -> Iterator[None]:
    """After the block, wait up to THREADS_END_S seconds for the threads started in it, also after an error.

    Ray Data's threads outlive an iteration that is left early. If one still calls Ray while it shuts down, Ray ends
    the whole process with exit status 1, before the original error is reported.
    """
    before = set(threading.enumerate())
    try:
        yield
    finally:
        deadline = time.monotonic() + THREADS_END_S
        for thread in set(threading.enumerate()) - before:
            # A dummy is a native thread that once called Python; it cannot be joined.
            if thread.name != IDLE_THREAD and not isinstance(thread, threading._DummyThread):
                thread.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def _silence_reported(address: str) -> Iterator[None]:
    """Warn the user once if the block takes longer than SILENCE_S: something other than Ray may be listening."""
    message = (
        f"warning: no Ray cluster has answered at {address} for {SILENCE_S:.0f} s, although the address is "
        "reachable; still trying. Check that it is the one that `ray start --head` printed, not the dashboard's"
    )
    timer = threading.Timer(SILENCE_S, say, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def cluster_amount(resource: str) -> int:
    """The total of a resource in the cluster now, such as "CPU", "GPU" or "memory" (bytes), rounded down."""
    import ray

    return int(ray.cluster_resources().get(resource, 0))


def smallest_node_amount(resource: str) -> int:
    """The amount of a resource on the node with the least of it, among nodes that have any; 0 if none does."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return int(min((resources[resource] for resources in nodes if resource in resources), default=0))


def cpus_per_gpu() -> int:
    """The CPUs per GPU on the node with the fewest, among nodes that have GPUs; at least 1."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, int(min((has.get("CPU", 0) // has["GPU"] for has in nodes if has.get("GPU", 0) >= 1), default=1)))


def await_gpu() -> None:
    """Wait until one of the cluster's GPUs is free. Raises UserError if none becomes free in time."""
    import ray

    asked = ray.remote(num_gpus=1, max_retries=3)(lambda: None).remote()
    try:
        ray.get(asked, timeout=GPU_S)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)
        raise UserError(
            f"no GPU of the cluster was free for {GPU_S:.0f} s; `ray status` shows their use: wait for the other "
            "job or stop it, and run the same command again"
        ) from None
