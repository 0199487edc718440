"""The default number of loader processes per training process, from the CPUs that it may use."""

import math
import os
from pathlib import Path

import torch

from bevt_core.console.readable import count

# Enough for any GPU. An H100 takes as little as 89 ms for a joint step of 8 clips and 64 images, whose JPEGs take
# 0.12 s on a fast core (benchmarks/loader_cores.py) and 0.45 s on the slowest one measured: 1.3 to 5 cores. Video files
# and faster GPUs need more.
MAX_WORKERS = 12
CGROUP = Path("/sys/fs/cgroup")


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


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, from its CPU affinity and its cgroup's quota."""
    bound = len(os.sched_getaffinity(0))
    quota = cpu_quota(CGROUP, Path("/proc/self/cgroup"))
    return bound if quota is None else max(1, min(bound, math.floor(quota)))


def cpu_quota(root: Path, cgroup_file: Path) -> float | None:
    """Return the CPU quota of a process as a number of CPUs, or None without a limit.

    Cgroups of version 2 have `cpu.max` in the process's cgroup and its parents, those of version 1 have two files. A
    container sees its own cgroup as `root`.
    """
    own = next((line.removeprefix("0::/") for line in _lines(cgroup_file) if line.startswith("0::")), "")
    folders = [root / own, *(folder for folder in (root / own).parents if folder.is_relative_to(root))]
    limits = [_words(folder / "cpu.max") for folder in folders]
    limits.append(_words(root / "cpu/cpu.cfs_quota_us") + _words(root / "cpu/cpu.cfs_period_us"))
    quotas = [int(limit[0]) / int(limit[1]) for limit in limits if len(limit) == 2 and limit[0] not in ("max", "-1")]
    return min(quotas, default=None)


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # this machine has the other version of cgroups, or none
        return []
