"""A prefetching loader: worker processes make batches ahead of the training loop and end with it."""

import atexit
import os
import queue
import select
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bevt_core.processes import kernel_ends_children
from bevt_core.system import anonymous_file
from schemas.errors import StorageError, UserError
from trainer.data.errors import LoaderError, SampleError
from trainer.data.loader_server import LoaderServer
from trainer.data.parcels import receive, send
from trainer.data.shared_pickle import read_shared, write_shared
from trainer.data.worker_starter import WorkerStarter
from trainer.distributed.children import ending_of, is_stopped

AHEAD = 2  # batches that each worker prefetches
OUT_OF_MEMORY = "ran out of memory; set loop.num_workers lower, or raise the job's limit (`ulimit -v`)"
STOPPED_S = 30  # a worker that is stopped (SIGSTOP) for this long, while the loop waits for its batch, is an error

POLL_S = 0.5

B = TypeVar("B")  # a batch
Transfer = Callable[[Tensor], Tensor]  # a tensor in a worker's memory -> the batch's tensor

_STEP = struct.Struct("<q")
_server: LoaderServer | WorkerStarter | None = None


def make_loader(dataset: Dataset[B], first: int, stop: int, *, num_workers: int, pin_memory: bool) -> Iterable[B]:
    """Load `dataset[step]` for the steps from `first` to `stop - 1`, in order, ahead of the loop.

    Workers are forked by a server, because a fork of the training process would copy its threads' locks; on macOS they
    are new processes. They start with the first batch and end with the iterator. Raises SampleError if a worker did,
    and LoaderError if a worker was killed, or stopped for STOPPED_S seconds.
    """
    if num_workers == 0 or first >= stop:
        return DataLoader(dataset, sampler=range(first, stop), batch_size=None, pin_memory=pin_memory)
    if not pin_memory:
        return _load(dataset, range(first, stop), num_workers, lambda tensor: tensor, threading.Event())
    return _pinned(dataset, range(first, stop), num_workers)


def _load(
    dataset: Dataset[B], steps: range, num_workers: int, transfer: Transfer, ended: threading.Event
) -> Iterator[B]:
    """Yield the batches of `steps`, made by workers in turn. Another thread may end this by setting `ended`."""
    with closing(_Workers(dataset, min(num_workers, len(steps)))) as workers:
        ahead = AHEAD * len(workers)
        for step in steps[:ahead]:
            workers.ask(step)
        for step in steps:
            batch = workers.wait(step, transfer, ended)
            if ended.is_set():
                return
            if step + ahead in steps:
                workers.ask(step + ahead)
            yield batch


def _pinned(dataset: Dataset[B], steps: range, num_workers: int) -> Iterator[B]:
    """Yield batches in pinned memory; a thread copies them there, one batch ahead."""
    device, ended = torch.cuda.current_device(), threading.Event()
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(1)

    def copy() -> None:
        torch.cuda.set_device(device)  # otherwise pinning in a new thread would use the first GPU
        try:
            for batch in _load(dataset, steps, num_workers, Tensor.pin_memory, ended):
                ready.put((batch, None))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that takes the batches
            ready.put((None, error))

    thread = threading.Thread(target=copy, name="loader", daemon=True)
    thread.start()
    try:
        for _ in steps:
            batch, error = ready.get()
            if error is not None:
                raise error
            yield batch
    finally:
        ended.set()
        while thread.is_alive():  # the thread may be about to put one more batch
            with suppress(queue.Empty):
                ready.get(timeout=0.05)


@dataclass
class _Worker:
    """The training process's handle of a worker."""

    pid: int
    batches: socket.socket


class _Workers:
    """Processes that make the batches of steps in turn: step s goes to worker s modulo their number."""

    def __init__(self, dataset: Dataset[Any], count: int) -> None:
        self._server = _running_server()
        self._workers: list[_Worker] = []
        pickled = anonymous_file("bevt-dataset")
        with os.fdopen(pickled, "wb"):
            write_shared(dataset, pickled)
            for _ in range(count):
                ours, theirs = socket.socketpair()
                with theirs:
                    try:
                        pid = self._server.start_worker(pickled, theirs)
                    except StorageError:
                        self.close()
                        raise
                    except (EOFError, TimeoutError):
                        self.close()
                        self._server.close()
                        raise LoaderError(
                            "the process that starts the loader's workers was killed or stopped; start the command "
                            "again, or set loop.num_workers=0"
                        ) from None
                self._workers.append(_Worker(pid, ours))

    def __len__(self) -> int:
        return len(self._workers)

    def ask(self, step: int) -> None:
        """Request the batch of `step`. A worker that was lost is noticed in `wait`."""
        with suppress(OSError):
            self._of(step).batches.sendall(_STEP.pack(step))

    def wait(self, step: int, transfer: Transfer, ended: threading.Event) -> Any:
        """Return the batch of `step`, or None if `ended` is set. Raises SampleError, LoaderError."""
        worker, stopped_s = self._of(step), 0.0
        poll = select.poll()  # select() supports no descriptor above 1023
        poll.register(worker.batches, select.POLLIN)
        while not poll.poll(1000 * POLL_S):
            if ended.is_set():
                return None
            stopped_s = stopped_s + POLL_S if is_stopped(worker.pid) else 0.0
            if stopped_s >= STOPPED_S:
                raise LoaderError(
                    f"loader process {worker.pid} has been stopped (SIGSTOP) for {STOPPED_S} s while step {step} waits "
                    "for its batch; start the command again, with --resume for a training run"
                )
        try:
            batch = receive(worker.batches, transfer)
        except EOFError:
            self._workers.remove(worker)
            worker.batches.close()
            ending = ending_of(self._server.end(worker.pid))
            raise LoaderError(
                f"loader process {worker.pid} {ending} while it made the batch of step "
                f"{step}; if memory ran out, set loop.num_workers lower or give the job more, and start the command "
                "again, with --resume for a training run"
            ) from None
        if isinstance(batch, _Failure):
            batch.throw()
        return batch

    def close(self) -> None:
        """Kill all workers, even busy ones."""
        while self._workers:
            worker = self._workers.pop()
            worker.batches.close()
            self._server.end(worker.pid)

    def _of(self, step: int) -> _Worker:
        return self._workers[step % len(self._workers)]


def _running_server() -> LoaderServer | WorkerStarter:
    """Return this process's server; start one if none is running."""
    global _server
    if _server is None or not _server.alive:
        _server = LoaderServer() if kernel_ends_children() else WorkerStarter()
        atexit.register(_server.close)
    return _server


# ---- in a worker ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """A worker's reply if it could not make a batch."""

    message: str | None  # for the user; None for a bug
    trace: str

    def throw(self) -> NoReturn:
        cause = RuntimeError(f"in a loader's process:\n{self.trace}")
        raise cause if self.message is None else SampleError(self.message) from cause


def work(dataset_file: int, batches: socket.socket) -> None:
    """Make the requested batches until the training process closes its end of the socket."""
    torch.set_num_threads(1)  # there is one worker per core
    dataset: Any = None
    with suppress(ConnectionError):  # the training process has closed its end
        while request := batches.recv(_STEP.size, socket.MSG_WAITALL):
            try:
                if dataset is None:
                    dataset = read_shared(dataset_file)
                send(batches, dataset[_STEP.unpack(request)[0]])
            except ConnectionError:
                raise
            except MemoryError:
                send(batches, _Failure(f"loader process {os.getpid()} {OUT_OF_MEMORY}", traceback.format_exc()))
            except (UserError, StorageError) as error:
                send(batches, _Failure(str(error), traceback.format_exc()))
            except Exception:  # noqa: BLE001 - raised again in the training process
                send(batches, _Failure(None, traceback.format_exc()))
