"""Ray's failures reach the user as one line that names the cause and the fix, with exit code 1."""

import errno
from pathlib import Path

import pytest
from ray.data.exceptions import SystemException
from ray.exceptions import (
    ActorDiedError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfDiskError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from bevt_core.console.command_line import App
from pipeline.cluster import failures as module
from pipeline.cluster.failures import explain, explain_start, killed_for_memory, ray_failures
from pipeline.cluster.watch import HeadLost, MemoryShort, RayLost
from schemas.errors import JobError, StorageError, UserError

KILLED = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: \
d54361da) was 15.16GB used / 15.54GB limit (0.975)
OOM kill reason: Memory usage 3329851392B exceeded threshold of 252765104B (1.0% of 25276510208B limit)
Object store memory usage: [- objects spillable: 7
Ray killed 1 worker(s) based on the killing policy"""
CRASHED = """The actor died unexpectedly before finishing this task.
\tclass_name: MapWorker(MapBatches(TokenizePart))
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. There are some potential root causes. (1) The process \
is killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called. (3) The worker is crashed \
unexpectedly due to SIGSEGV or other unexpected errors."""
CRASHED_NOW = """The actor died unexpectedly before finishing this task.
\tclass_name: MapWorker(MapBatches(TokenizePart))
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly \
due to SIGSEGV or another unexpected error. If the process was killed by the kernel OOM killer (verifiable by checking \
for OOM in dmesg of the OOMing node), consider enabling resource isolation via --enable-resource-isolation to prevent \
node deaths by resource contention and significant loss of progress by uninformed kernel OOM killing."""  # Ray 2.60
LOST = """Task was killed due to the node dying unexpectedly.
\tThe node (IP: 10.0.0.7, ID: 5ef7) where the task was running was terminated: health check failed"""
STARTUP = "The current node timed out during startup. This could happen because some of the raylet failed to startup"
RESUME = "Committed parts are kept: run the same command again to resume"


def actor_died(text: str) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = text
    return error


@pytest.mark.parametrize(
    ("error", "kills", "parts"),
    [
        (OutOfMemoryError(KILLED), 0, ["memory ran out (15.16GB used / 15.54GB)", "more memory per CPU", RESUME]),
        (MemoryShort("97% in use for 45 s"), 0, ["memory ran out (97% in use for 45 s)", RESUME]),
        (actor_died(KILLED), 0, ["memory ran out", RESUME]),
        (WorkerCrashedError(), 3, ["memory ran out, and Linux killed 3 processes", RESUME]),
        (WorkerCrashedError(), 0, ["a worker process died repeatedly", RESUME]),
        (actor_died(CRASHED), 0, [f"a worker process died repeatedly. {RESUME}"]),
        (actor_died(CRASHED_NOW), 0, [f"a worker process died repeatedly. {RESUME}"]),
        (actor_died(CRASHED), 1, ["memory ran out, and Linux killed 1 process;"]),
        (NodeDiedError(LOST), 0, ["a node of the cluster (10.0.0.7) was lost", "`ray status`", RESUME]),
        (HeadLost("no answer for 46 s"), 0, ["the head of the cluster was lost (no answer for 46 s)", RESUME]),
        (RayLost(), 0, ["a process of Ray itself died", RESUME]),
        (LocalRayletDiedError(), 0, ["a process of Ray itself died", RESUME]),
        (OutOfDiskError("full"), 0, ["the disk with Ray's files is full", "TMPDIR", RESUME]),
        (RayTaskError("f", "trace\nKeyError: 'x'", KeyError("x")), 0, ["a worker failed with", "KeyError", RESUME]),
        (RayTaskError("f", "OSError: [Errno 24] Too many open files", OSError(24, "")), 0, ["open files", "ulimit -n"]),
    ],
)
def test_a_failure_has_one_line_with_cause_and_fix(error: Exception, kills: int, parts: list[str]) -> None:
    """As Ray Data raises it: from a SystemException without a message."""
    error.__cause__ = SystemException()
    sentence = explain(error, kills)
    assert sentence is not None
    for part in parts:
        assert part in sentence
    assert "\n" not in sentence and len(sentence) < 300


def test_other_errors_are_unchanged() -> None:
    assert explain(KeyError("x"), 0) is None
    for error in (UserError("bad"), StorageError(errno.EIO, "no"), KeyError("x")):
        with pytest.raises(type(error)), ray_failures("here", "logs"):
            raise error
    with (
        pytest.raises(JobError, match=r"^here: a worker process died .*; look there$"),
        ray_failures("here", "look there"),
    ):
        raise WorkerCrashedError


@pytest.mark.parametrize(
    ("error", "kills", "wanted"),
    [
        (Exception(STARTUP), 0, r"did not start in time \(load \d+ on \d+ CPUs\)"),
        (RuntimeError("Failed to get node info b'...'"), 0, "did not start in time"),
        (MemoryShort("97% in use for 45 s"), 0, "memory ran out"),
        (Exception(STARTUP), 2, r"Linux killed 2 processes"),
        (OSError(errno.EMFILE, "Too many open files"), 0, "ulimit -n"),
        (RuntimeError("can't start new thread"), 0, "ulimit -u"),
        (ValueError("odd\n  text"), 0, r"did not start \(ValueError: odd text\)"),
    ],
)
def test_a_start_that_fails_has_one_line(error: Exception, kills: int, wanted: str) -> None:
    with pytest.raises(AssertionError, match=wanted):
        raise AssertionError(explain_start(error, kills))


def test_the_kernels_kills_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the container's own file where there is one, else in the machine's."""
    container, machine = tmp_path / "memory.events", tmp_path / "vmstat"
    monkeypatch.setattr(module, "KILL_COUNTERS", (container, machine))
    assert killed_for_memory() == 0
    machine.write_text("nr_free_pages 1\noom_kill 7\nswap_ra 0\n")
    assert killed_for_memory() == 7
    container.write_text("low 0\noom 4\noom_kill 2\noom_group_kill 9\n")
    assert killed_for_memory() == 2
    with pytest.raises(JobError, match=r"Linux killed 3 process"), ray_failures("here", "logs"):
        container.write_text("oom_kill 5\n")
        raise WorkerCrashedError


def test_the_command_line_prints_it_alone_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    app = App("test")

    @app.command("fail")
    def fail() -> None:
        raise JobError("memory ran out")

    @app.command("other")
    def other() -> None: ...

    with pytest.raises(SystemExit) as ended:
        app(["fail"])
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "error: memory ran out\n")
