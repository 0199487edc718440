"""The default number of loader processes per training process, from the CPUs that it may use."""

import os

import torch

from bevt_core.console.readable import count
from bevt_core.cpus import usable_cpus

# Enough for any GPU. An H100 takes as little as 89 ms for a joint step of 8 clips and 64 images, whose JPEGs take
# 0.12 s on a fast core (benchmarks/loader_cores.py) and 0.45 s on the slowest one measured: 1.3 to 5 cores. Video files
# and faster GPUs need more.
MAX_WORKERS = 12


def loader_workers(num_workers: int | None, processes: int = 1) -> int:
    """Return `num_workers`, or if it is None a default: the CPUs per training process, at most MAX_WORKERS.

    Without a GPU the default is 0, because the model needs the CPUs. The CPUs are divided by `processes`, or by the
    number of training processes that the launcher reports for this machine if that is larger.
    """
    if num_workers is not None:
        return num_workers
    if not torch.cuda.is_available():
        return 0
    cpus_each = usable_cpus() // max(processes, local_processes())
    return max(1, min(MAX_WORKERS, cpus_each - 1))  # one CPU is left for the process itself


def describe_workers(num_workers: int | None) -> str:
    """Return in words the result of `loader_workers` and its reason."""
    chosen = loader_workers(num_workers)
    if num_workers is not None:
        return f"{count(chosen, 'process')} per rank (loop.num_workers)"
    if chosen == 0:
        return "in the training process, because the model needs the CPU"
    return (
        f"{count(chosen, 'process')} per rank; {count(local_processes(), 'rank')} on {count(usable_cpus(), 'CPU')} "
        f"here, one CPU is left for each rank, and at most {MAX_WORKERS} processes are started per rank"
    )


def local_processes() -> int:
    """Return the number of training processes on this machine: from torchrun or `launch`, else one per GPU."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    return max(1, min(int(os.environ.get("WORLD_SIZE", 1)), torch.cuda.device_count()))
