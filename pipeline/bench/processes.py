"""CPU time and memory of a process with its descendants, also those that nothing waits for, such as Ray's workers."""

from bevt_core.processes import all_processes


def usage_of_family(ancestor: int) -> dict[int, tuple[float, int]]:
    """pid -> (CPU seconds, resident bytes) of a process and its descendants."""
    seen = {process.pid: process for process in all_processes()}
    family = {}
    for pid, process in seen.items():
        parent = pid
        while parent not in (0, 1, ancestor):
            parent = seen[parent].parent if parent in seen else 0
        if parent == ancestor:
            family[pid] = (process.cpu_s, process.resident_bytes)
    return family
