"""The Ray that a job runs on: the one of this process, a cluster's, or one started for it."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREADS_END_S = 30.0
IDLE_THREAD = "Prefetcher"  # of Ray Data: left early, it waits without end for work that does not come


@dataclass(frozen=True)
class Session:
    may_grow: bool  # nodes may join: it is not a Ray that was started here for this machine alone


@contextmanager
def ray_session(address: str | None, num_cpus: int | None, num_gpus: int | None) -> Iterator[Session]:
    """Ray for the length of a block: the one that runs in this process, a cluster's, or one started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray announces as its next default
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # keeps the C++ side's notes out of the user's terminal
    import ray

    if ray.is_initialized():
        yield Session(may_grow=True)
        return
    given = address is not None or "RAY_ADDRESS" in os.environ
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _no_stderr():  # the C++ side announces its log level
        if given:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                include_dashboard=False,
                object_store_memory=128 << 20,  # rows are a few hundred bytes
                **quiet,
            )
    try:
        yield Session(may_grow=given)
    finally:
        ray.shutdown()


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
def _no_stderr() -> Iterator[None]:
    """Drop what native code writes to file descriptor 2."""
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
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


def gpu_name() -> str:
    """Of the cluster's GPUs, which only a worker may be able to see."""
    import ray

    def name() -> str:
        import torch

        return torch.cuda.get_device_name()

    return ray.get(ray.remote(num_gpus=1, max_retries=3)(name).remote())
