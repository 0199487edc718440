"""Ray's failures in one sentence: what happened, and what to do. Its own exceptions are pages long."""

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

GO_ON = "What is committed is kept: run the same command again to go on"
KILL_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))  # both have a line `oom_kill N`
LESS_MEMORY = "free memory, or use a machine with more of it for each CPU"
GUESSES = "(There are some potential root|Some common) causes.*"  # memory and SIGSEGV among them, whatever happened
SLOW_START = "(?i)timed out|timeout|node info|GCS|raylet"
MADE_BY_US = (UserError, StorageError, JobError)

Cause = Callable[[str, int], str]  # of the failure's text and of the kernel's kills: what happened, and the fix


def killed_for_memory() -> int:
    """Processes that Linux has killed for memory since it started, here or in this container; 0 where none counts."""
    for path in KILL_COUNTERS:
        with contextlib.suppress(OSError, AttributeError):
            counted = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
            if counted is not None:
                return int(counted[1])
    return 0


@contextmanager
def ray_failures(where: str, logs: str) -> Iterator[None]:
    """Raise JobError for Ray's failures in the block.

    `where` is the machine or the cluster, as the user knows it; `logs` says how to see Ray's own.
    """
    before = killed_for_memory()
    try:
        yield
    except MADE_BY_US:
        raise
    except Exception as error:
        sentence = explain(error, killed_for_memory() - before)
        if sentence is None:
            raise
        raise JobError(f"{where}: {sentence}; {logs}") from error


@contextmanager
def ray_start_failures(where: str, logs: str) -> Iterator[None]:
    """Raise JobError for whatever goes wrong in the block, which starts Ray."""
    before = killed_for_memory()
    try:
        yield
    except Exception as error:
        raise JobError(f"{where}: {explain_start(error, killed_for_memory() - before)}; {logs}") from error


def explain(error: BaseException, kills: int) -> str | None:
    """What a failure of Ray means and what to do, or None for another error. `kills`: of processes by Linux meanwhile.

    Its classes are looked at by name, since they differ between versions, and its text where a class has many causes.
    """
    names = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    text = "\n".join(str(one) for one in reversed(list(_chain(error))))  # the error's own words last
    text = re.sub(GUESSES, "", text)
    for wanted, pattern, sentence in CAUSES:
        if wanted & names and re.search(pattern, text, re.IGNORECASE):
            return sentence(text, kills)
    return None


def explain_start(error: BaseException, kills: int) -> str:
    """Why a Ray that was to run on this machine alone did not start, and what to do."""
    if kills > 0:
        return f"memory ran out, and Linux killed {count(kills, 'process')}; {LESS_MEMORY}"
    known = explain(error, kills)
    if known is not None and not isinstance(error, RayLost):
        return known
    text = " ".join(str(error).split())
    if may_start_again(error):
        load = os.getloadavg()[0]
        return (
            f"Ray did not start in time (load {load:.0f} on {os.cpu_count()} CPUs). Run the same command again when "
            "the machine is less busy"
        )
    return f"Ray did not start ({type(error).__name__}: {text[:200]}). Run the same command again"


def may_start_again(error: BaseException) -> bool:
    """Whether Ray failed to start by a time limit of its own, or lost a process: another try may help."""
    return isinstance(error, RayLost) or re.search(SLOW_START, str(error)) is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    one: BaseException | None = error
    for _ in range(8):
        if one is None:
            return
        yield one
        inner = getattr(one, "cause", None)  # of a RayTaskError: what the worker raised
        one = inner if isinstance(inner, BaseException) else one.__cause__


def _out_of_memory(text: str, kills: int) -> str:
    used = re.search(r"was ([\d.]+ ?GB used / [\d.]+ ?GB) limit|(\d+% in use for \d+ s)", text)
    seen = f" ({used[1] or used[2]})" if used else ""
    return f"memory ran out{seen}, and Ray ended the workers that needed it; {LESS_MEMORY}. {GO_ON}"


def _died(text: str, kills: int) -> str:
    if kills > 0:
        return f"memory ran out, and Linux killed {count(kills, 'process')}; {LESS_MEMORY}. {GO_ON}"
    return f"a worker process died again and again. {GO_ON}; where it happens again, look at the memory that is free"


def _node_lost(text: str, kills: int) -> str:
    node = re.search(r"\b(?:IP|address)[:=] ?([\d.a-fA-F:]+)", text)
    return f"a node of the cluster{f' ({node[1]})' if node else ''} was lost; `ray status` lists those left. {GO_ON}"


def _ray_died(text: str, kills: int) -> str:
    if kills > 0:
        return _died(text, kills)
    return f"a process of Ray itself died. {GO_ON}; where it happens again, look at the memory that is free"


def _no_disk(text: str, kills: int) -> str:
    return f"the disk with Ray's files is full; free some of it, or set TMPDIR to a folder on another. {GO_ON}"


def _limits(text: str, kills: int) -> str:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return (
        f"this user may have {_shown(files)} open files and {_shown(processes)} processes, and Ray needs more: raise "
        f"`ulimit -n` to 4096, and `ulimit -u`. {GO_ON}"
    )


def _shown(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)


def _worker_raised(text: str, kills: int) -> str:
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    return f"a worker failed with {last[:300]!r}. {GO_ON}; where it happens again, it is an error in bevt"


ANY_RAY = {"RayError"}
DIED = {"WorkerCrashedError", "RayActorError", "ObjectLostError", "OwnerDiedError"}
CAUSES: list[tuple[set[str], str, Cause]] = [
    ({"OutOfMemoryError", "MemoryShort"}, "", _out_of_memory),
    (ANY_RAY, "running low on memory|OOM kill reason|due to oom", _out_of_memory),
    (ANY_RAY, "no space left on device|OutOfDiskError", _no_disk),
    ({"OutOfDiskError", "ObjectStoreFullError"}, "", _no_disk),
    (ANY_RAY | {"OSError", "RuntimeError"}, "too many open files|can't start new thread|resource temporarily", _limits),
    ({"NodeDiedError"}, "", _node_lost),
    (DIED, "node .*(died|dead|has been marked|was lost|terminated)", _node_lost),
    ({"LocalRayletDiedError", "RpcError", "RayLost"}, "", _ray_died),
    (DIED, "", _died),
    ({"RayTaskError", "UserCodeException"}, "", _worker_raised),
    (ANY_RAY, "", _ray_died),
]
