"""CPU time and memory of a process with its descendants, also those that nothing waits for, such as Ray's workers."""

from pathlib import Path


def usage_of_family(ancestor: int) -> dict[int, tuple[float, int]]:
    """pid -> (CPU seconds, resident bytes) of a process and its descendants."""
    ticks, page = 100, 4096  # the same on every Linux that Ray supports
    seen: dict[int, tuple[int, float, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            seen[int(entry.name)] = (
                int(fields[1]),
                (int(fields[11]) + int(fields[12])) / ticks,
                int(fields[21]) * page,
            )
    family = {}
    for pid, (_, spent, rss) in seen.items():
        parent = pid
        while parent not in (0, 1, ancestor):
            parent = seen.get(parent, (0, 0.0, 0))[0]
        if parent == ancestor:
            family[pid] = (spent, rss)
    return family
