"""Explain Ray's failures in one sentence with cause and fix: Ray's own exceptions are pages long."""

import contextlib
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bevt_core.console.readable import count
from pipeline.cluster.watch import RayLost
from schemas.errors import JobError, StorageError, UserError

RESUME = "Committed parts are kept: run the same command again to resume"
KILL_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))  # both have a line `oom_kill N`
MEMORY_FIX = "free memory, or use a machine with more memory per CPU"
GUESSES = "(There are some potential root|Some common) causes.*"  # Ray always lists memory and SIGSEGV among them
SLOW_START = "(?i)timed out|timeout|node info|GCS|raylet"
OUR_ERRORS = (UserError, StorageError, JobError)

Explanation = Callable[[str, int], str]  # (the failure's text, number of processes that Linux killed) -> cause and fix


def killed_for_memory() -> int:
    """The number of processes that Linux has killed for memory, in this container or since boot; 0 if unknown."""
    for path in KILL_COUNTERS:
        with contextlib.suppress(OSError, AttributeError):
            counted = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
            if counted is not None:
                return int(counted[1])
    return 0


@contextmanager
def ray_failures(where: str, logs: str) -> Iterator[None]:
    """Raise JobError for Ray's failures in the block; other errors pass unchanged.

    `where` names the machine or cluster to the user; `logs` says how to see Ray's own logs.
    """
    before = killed_for_memory()
    try:
        yield
    except OUR_ERRORS:
        raise
    except Exception as error:
        sentence = explain(error, killed_for_memory() - before)
        if sentence is None:
            raise
        raise JobError(f"{where}: {sentence}; {logs}") from error


@contextmanager
def ray_start_failures(where: str, logs: str) -> Iterator[None]:
    """Raise JobError for any error in the block, which starts Ray."""
    before = killed_for_memory()
    try:
        yield
    except Exception as error:
        raise JobError(f"{where}: {explain_start(error, killed_for_memory() - before)}; {logs}") from error


def explain(error: BaseException, kills: int) -> str | None:
    """Cause and fix of a failure of Ray, or None for other errors.

    `kills` is the number of processes that Linux killed meanwhile. Classes are compared by name, since they differ
    between versions; the text decides if a class has several causes.
    """
    names = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    text = "\n".join(str(one) for one in reversed(list(_chain(error))))  # the error's own text last
    text = re.sub(GUESSES, "", text)
    for wanted, pattern, sentence in CAUSES:
        if wanted & names and re.search(pattern, text, re.IGNORECASE):
            return sentence(text, kills)
    return None


def explain_start(error: BaseException, kills: int) -> str:
    """Why Ray did not start on this machine, and what to do."""
    if kills > 0:
        return f"memory ran out, and Linux killed {count(kills, 'process')}; {MEMORY_FIX}"
    known = explain(error, kills)
    if known is not None and not isinstance(error, RayLost):
        return known
    text = " ".join(str(error).split())
    if is_worth_retrying(error):
        load = os.getloadavg()[0]
        return (
            f"Ray did not start in time (load {load:.0f} on {os.cpu_count()} CPUs). Run the same command again when "
            "the machine is less busy"
        )
    return f"Ray did not start ({type(error).__name__}: {text[:200]}). Run the same command again"


def is_worth_retrying(error: BaseException) -> bool:
    """Whether Ray failed to start because of a time limit or a lost process, so that another attempt may help."""
    return isinstance(error, RayLost) or re.search(SLOW_START, str(error)) is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, at most 8."""
    current: BaseException | None = error
    for _ in range(8):
        if current is None:
            return
        yield current
        inner = getattr(current, "cause", None)  # in a RayTaskError: the worker's exception
        current = inner if isinstance(inner, BaseException) else current.__cause__


def _out_of_memory(text: str, kills: int) -> str:
    used = re.search(r"was ([\d.]+ ?GB used / [\d.]+ ?GB) limit|(\d+% in use for \d+ s)", text)
    seen = f" ({used[1] or used[2]})" if used else ""
    return f"memory ran out{seen}, and Ray killed workers; {MEMORY_FIX}. {RESUME}"


def _died(text: str, kills: int) -> str:
    if kills > 0:
        return f"memory ran out, and Linux killed {count(kills, 'process')}; {MEMORY_FIX}. {RESUME}"
    return f"a worker process died repeatedly. {RESUME}; if it happens again, check the free memory"


def _node_lost(text: str, kills: int) -> str:
    node = re.search(r"\b(?:IP|address)[:=] ?([\d.a-fA-F:]+)", text)
    return f"a node of the cluster{f' ({node[1]})' if node else ''} was lost; `ray status` lists the others. {RESUME}"


def _ray_died(text: str, kills: int) -> str:
    if kills > 0:
        return _died(text, kills)
    return f"a process of Ray itself died. {RESUME}; if it happens again, check the free memory"


def _head_lost(text: str, kills: int) -> str:
    return f"the head of the cluster was lost ({text.splitlines()[-1]}): restart the cluster. {RESUME}"


def _no_disk(text: str, kills: int) -> str:
    return f"the disk with Ray's files is full; free space on it, or set TMPDIR to a folder on another disk. {RESUME}"


def _limits(text: str, kills: int) -> str:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return (
        f"this user may have {_shown(files)} open files and {_shown(processes)} processes, but Ray needs more: raise "
        f"`ulimit -n` to 4096, and `ulimit -u`. {RESUME}"
    )


def _shown(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)


def _worker_raised(text: str, kills: int) -> str:
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    return f"a worker failed with {last[:300]!r}. {RESUME}; if it happens again, it is a bug in bevt"


ANY_RAY = {"RayError"}
DIED = {"WorkerCrashedError", "RayActorError", "ObjectLostError", "OwnerDiedError"}
# (names of exception classes, pattern in the text, explanation); the first match is used
CAUSES: list[tuple[set[str], str, Explanation]] = [
    ({"OutOfMemoryError", "MemoryShort"}, "", _out_of_memory),
    (ANY_RAY, "running low on memory|OOM kill reason|due to oom", _out_of_memory),
    (ANY_RAY, "no space left on device|OutOfDiskError", _no_disk),
    ({"OutOfDiskError", "ObjectStoreFullError"}, "", _no_disk),
    (ANY_RAY | {"OSError", "RuntimeError"}, "too many open files|can't start new thread|resource temporarily", _limits),
    ({"NodeDiedError"}, "", _node_lost),
    (DIED, "node .*(died|dead|has been marked|was lost|terminated)", _node_lost),
    ({"HeadLost"}, "", _head_lost),
    ({"LocalRayletDiedError", "RpcError", "RayLost"}, "", _ray_died),
    (DIED, "", _died),
    ({"RayTaskError", "UserCodeException"}, "", _worker_raised),
    (ANY_RAY, "", _ray_died),
]
