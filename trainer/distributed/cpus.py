"""How many loader processes a training process gets, where its recipe does not say it."""

import math
import os
from pathlib import Path

import torch

from bevt_core.console.readable import count

# Enough for any card. An H100 may take 89 ms for a joint step of 8 clips and 64 images, whose JPEGs take 0.12 s of a
# fast core (benchmarks/loader_cores.py) and 0.45 s of the slowest measured: 1.3 to 5 cores. Video files and faster
# cards ask for more.
MOST_WORKERS = 12
CGROUP = Path("/sys/fs/cgroup")


def loader_workers(num_workers: int | None, processes: int = 1) -> int:
    """Return `num_workers`, or where it is None this process's share of the CPUs beside a GPU, at most MOST_WORKERS.

    On a CPU that is 0: the model needs it. `processes` share the machine's CPUs, or as many as the launcher says.
    """
    if num_workers is not None:
        return num_workers
    if not torch.cuda.is_available():
        return 0
    share = usable_cpus() // max(processes, local_processes())
    return max(1, min(MOST_WORKERS, share - 1))  # one is for the process itself


def describe_workers(num_workers: int | None) -> str:
    """Return, in words, what `loader_workers` gives and why."""
    chosen = loader_workers(num_workers)
    if num_workers is not None:
        return f"{count(chosen, 'process')} per rank (loop.num_workers)"
    if chosen == 0:
        return "in the training process, because the model needs the CPU"
    return (
        f"{count(chosen, 'process')} per rank; {count(local_processes(), 'rank')} on {usable_cpus()} CPUs here, "
        f"each keeps one for itself, and {MOST_WORKERS} loaders are enough for any card"
    )


def local_processes() -> int:
    """Return how many training processes this machine has, as torchrun and `launch` say, or one per GPU."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    return max(1, min(int(os.environ.get("WORLD_SIZE", 1)), torch.cuda.device_count()))


def usable_cpus() -> int:
    """Return the CPUs that this process may use: those it is bound to, or fewer where its cgroup has a quota."""
    bound = len(os.sched_getaffinity(0))
    quota = cpu_quota(CGROUP, Path("/proc/self/cgroup"))
    return bound if quota is None else max(1, min(bound, math.floor(quota)))


def cpu_quota(root: Path, cgroup_file: Path) -> float | None:
    """Return the CPUs' worth of time that a process may use, None without a limit.

    Version 2 has `cpu.max` in the process's cgroup and in those above it, version 1 two files; a container sees its own
    cgroup as `root`.
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
    except OSError:  # this machine has another kind of cgroups, or none
        return []
