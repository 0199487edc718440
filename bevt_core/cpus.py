"""The CPUs that a process may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, from its CPU affinity and its cgroup's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
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
