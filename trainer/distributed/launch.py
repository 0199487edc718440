"""Start N processes on this machine for one function, as torchrun would, and end them together."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from bevt_core.console.disk_errors import FULL_OR_READ_ONLY, explained
from bevt_core.console.terminal import plain_messages
from bevt_core.processes import die_with_parent
from schemas.errors import StorageError, UserError
from trainer.distributed.children import ending_of, is_stopped

END_TIMEOUT_S = 30.0  # wait for a process to end after it has sent its result
FAILED_TIMEOUT_S = 1.0  # wait for a process to end after a peer has failed
CAUSE_TIMEOUT_S = 3.0  # after a failure is reported, wait for reports of earlier ones that may have caused it
STOPPED_S = 60.0  # a process that is stopped (SIGSTOP) for this long makes `launch` fail
POLL_S = 5.0

R = TypeVar("R")


@dataclass(frozen=True)
class _Outcome:
    """How and when (system-wide monotonic clock) a process ended. The first one to fail is the cause."""

    ended: float
    value: Any = None
    user_error: str | None = None
    failure: str | None = None

    @property
    def failed(self) -> bool:
        return self.user_error is not None or self.failure is not None


class ProcessFailedError(RuntimeError):
    """One of the launched processes failed; the message is its traceback."""


def launch(function: Callable[..., R], nproc: int, /, *args: Any, **kwargs: Any) -> R:
    """Call `function(*args, **kwargs)` in `nproc` processes and return rank 0's result.

    With one process, or under torchrun, the function runs in this process. `function` and its arguments must be
    picklable. SIGTERM and SIGINT are forwarded to the processes, which end by themselves; if that makes them fail, this
    raises SystemExit(143) or KeyboardInterrupt. The first failure ends all processes: a UserError, a StorageError or a
    full disk raises UserError, anything else ProcessFailedError.
    """
    if nproc < 1:
        raise UserError(f"`nproc` {nproc}: expected at least 1")
    under_torchrun = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if under_torchrun and nproc > 1:
        raise UserError(
            f"`nproc` {nproc} under torchrun, which started {os.environ['WORLD_SIZE']} processes; use only one of them"
        )
    if nproc == 1:
        return function(*args, **kwargs)

    context = multiprocessing.get_context("spawn")
    port = str(_free_port())
    processes: list[BaseProcess] = []
    results: list[Connection] = []
    with _sigint_held():
        for rank in range(nproc):
            receive, send = context.Pipe(duplex=False)
            env: dict[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": nproc, "LOCAL_WORLD_SIZE": nproc}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            env |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // nproc))}
            process = context.Process(
                target=_child, args=(send, {k: str(v) for k, v in env.items()}, function, args, kwargs)
            )
            process.start()
            send.close()
            processes.append(process)
            results.append(receive)
        signals, restore = _forward_signals(processes)
    timeout_s = FAILED_TIMEOUT_S
    try:
        value: R = _collect(processes, results)
        timeout_s = END_TIMEOUT_S
        return value
    except (UserError, ProcessFailedError):
        if signal.SIGINT in signals:
            raise KeyboardInterrupt from None
        if signals:
            raise SystemExit(128 + signals[0]) from None
        raise
    finally:
        _end(processes, timeout_s)
        restore()


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block. A process started inside receives it when ready, not during imports."""
    resource_tracker.ensure_running()  # now, because starting it unblocks SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _child(
    send: Connection, env: dict[str, str], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    os.environ.update(env)
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    die_with_parent(parent.pid)
    plain_messages()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        outcome = _Outcome(time.monotonic(), value=function(*args, **kwargs))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C arrives twice: from the terminal and from the parent
        outcome = _Outcome(time.monotonic(), user_error="interrupted")
    except (UserError, StorageError) as error:
        outcome = _Outcome(time.monotonic(), user_error=str(error))
    except OSError as error:
        known = explained(error, Path(error.filename or "output")) if error.errno in FULL_OR_READ_ONLY else None
        outcome = _Outcome(
            time.monotonic(), user_error=None if known is None else str(known), failure=traceback.format_exc()
        )
    except BaseException:  # noqa: BLE001 - reported to the parent, which raises it again
        outcome = _Outcome(time.monotonic(), failure=traceback.format_exc())
    send.send(outcome)
    send.close()
    sys.stdout.flush()
    sys.stderr.flush()
    if outcome.failed:
        os._exit(1)  # destructors of a half-built process group may wait for peers


def _collect(processes: list[BaseProcess], results: list[Connection]) -> Any:
    """Wait for all processes; return rank 0's result, or raise the first failure."""
    outcomes: dict[int, _Outcome] = {}
    pending = {receive: rank for rank, receive in enumerate(results)}
    deadline: float | None = None
    stopped_s = dict.fromkeys(pending.values(), 0.0)
    while pending and (deadline is None or time.monotonic() < deadline):
        all_ready = wait(list(pending), timeout=POLL_S if deadline is None else deadline - time.monotonic())
        for ready in all_ready:
            assert isinstance(ready, Connection)
            rank = pending.pop(ready)
            outcomes[rank] = _received(ready, rank, processes)
            if outcomes[rank].failed and deadline is None:
                deadline = time.monotonic() + CAUSE_TIMEOUT_S
        if not all_ready and deadline is None:
            _check_running({rank: processes[rank] for rank in pending.values()}, stopped_s)
    failed = [(outcome.ended, rank) for rank, outcome in outcomes.items() if outcome.failed]
    if not failed:
        return outcomes[0].value
    _, rank = min(failed)
    if outcomes[rank].user_error is not None:
        raise UserError(outcomes[rank].user_error)
    raise ProcessFailedError(f"process {rank} of {len(processes)} failed:\n{outcomes[rank].failure}")


def _check_running(processes: dict[int, BaseProcess], stopped_s: dict[int, float]) -> None:
    """Add up how long each rank has been stopped; raise UserError after STOPPED_S, as the others wait for it."""
    for rank, process in processes.items():
        stopped_s[rank] = stopped_s[rank] + POLL_S if is_stopped(process.pid or 0) else 0.0
        if stopped_s[rank] >= STOPPED_S:
            raise UserError(
                f"process {rank} (process id {process.pid}) has been stopped (SIGSTOP) for {STOPPED_S:g} s, so all "
                "processes were ended; start the command again, with --resume for a training run"
            )


def _received(receive: Connection, rank: int, processes: list[BaseProcess]) -> _Outcome:
    try:
        outcome = receive.recv()
        assert isinstance(outcome, _Outcome)
        return outcome
    except EOFError:  # it was killed, so no peer is the cause: count it as the first failure
        process = processes[rank]
        process.join(END_TIMEOUT_S)
        if process.exitcode in (-signal.SIGTERM, -signal.SIGINT):
            return _Outcome(0.0, user_error="stopped by a signal before the first step; nothing was trained")
        why = "if memory ran out, give the job more" if process.exitcode == -signal.SIGKILL else "see its output above"
        return _Outcome(
            0.0,
            user_error=f"process {rank} of {len(processes)} {ending_of(process.exitcode)}, so all processes were "
            f"ended; {why}, and start the command again, with --resume for a training run",
        )


def _forward_signals(processes: list[BaseProcess]) -> tuple[list[int], Callable[[], None]]:
    """Forward SIGTERM and SIGINT to `processes`; return the list of received signals and a restore function."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        return signals, lambda: None

    def forward(signum: int, frame: object) -> None:
        signals.append(signum)
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signum)
                os.kill(process.pid, signal.SIGCONT)  # a stopped process would not receive it

    old = {signum: signal.signal(signum, forward) for signum in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for signum, handler in old.items():
            signal.signal(signum, handler)

    return signals, restore


def _end(processes: list[BaseProcess], timeout_s: float) -> None:
    """Join finished processes; terminate, then kill, those that still wait for a failed peer."""
    deadline = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(FAILED_TIMEOUT_S)
        if process.is_alive():  # it took the signal as a request to stop after its step
            process.kill()
            process.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
