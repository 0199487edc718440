"""Memory in use, measured as Ray measures it to decide whether to kill workers, and Ray's limit."""

import contextlib
import os
import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (  # limit, usage and statistics of a container, for both versions of control groups
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
REFRESH, THRESHOLD = "RAY_memory_monitor_refresh_ms", "RAY_memory_usage_threshold"  # Ray's settings
RAY_DEFAULT_LIMIT = 0.95  # share of memory


def limit() -> float:
    """The share of memory in use above which Ray kills workers; infinite if that is switched off."""
    if os.environ.get(REFRESH) == "0":
        return float("inf")
    with contextlib.suppress(ValueError):
        return float(os.environ.get(THRESHOLD, RAY_DEFAULT_LIMIT))
    return RAY_DEFAULT_LIMIT


def used_share() -> float:
    """The share of memory in use, of this container if its limit is below the machine's; 0 if unknown."""
    try:
        sizes = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", MEMINFO.read_text(), re.M)}
        total, used = sizes["MemTotal"], sizes["MemTotal"] - sizes["MemAvailable"]
    except (OSError, KeyError):
        return 0.0
    for names in CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max", no limit
            most, usage, statistics = ((CGROUP / name).read_text() for name in names)
            if int(most) < total:
                used = int(usage) - _file_cache(statistics)
                total = int(most)
    return used / total


def _file_cache(statistics: str) -> int:
    # Lines with total_, which include child groups, come last and replace the others.
    found = dict(re.findall(r"^(?:total_)?((?:in)?active_file) (\d+)$", statistics, re.M))
    return sum(map(int, found.values()))
