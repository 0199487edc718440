"""A loader that works ahead of the training loop, in processes that end with it and whose errors are one line."""

import atexit
import mmap
import os
import pickle
import queue
import select
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from schemas.errors import StorageError, UserError
from trainer.data.errors import LoaderError, SampleError
from trainer.data.loader_server import LoaderServer
from trainer.data.parcels import receive, send
from trainer.distributed.children import ending_of, is_stopped

AHEAD = 2  # batches that each worker makes before they are asked for
OUT_OF_MEMORY = "could not get more memory; set loop.num_workers lower, or raise the job's limit (`ulimit -v`)"
STOPPED_S = 30  # a worker that is stopped (SIGSTOP) for so long, while its batch is waited for, is an error

POLL_S = 0.5

Place = Callable[[Tensor], Tensor]  # from a worker's memory to where a batch's tensor shall be

_STEP = struct.Struct("<q")
_server: LoaderServer | None = None


def make_loader(dataset: Dataset, first: int, stop: int, *, num_workers: int, pin_memory: bool) -> Iterable[Any]:
    """Load `dataset[step]` for the steps `first` .. `stop - 1`, in order, ahead of the loop.

    Workers are forked by a server: a fork of the training process would copy its threads' locks. They start with the
    first batch and end with the iterator. Raises SampleError as a worker did, and LoaderError for a worker that was
    killed, or stopped for more than STOPPED_S seconds.
    """
    if num_workers == 0 or first >= stop:
        return DataLoader(dataset, sampler=range(first, stop), batch_size=None, pin_memory=pin_memory)
    if not pin_memory:
        return _load(dataset, range(first, stop), num_workers, lambda tensor: tensor, threading.Event())
    return _pinned(dataset, range(first, stop), num_workers)


def _load(dataset: Dataset, steps: range, num_workers: int, place: Place, ended: threading.Event) -> Iterator[Any]:
    """Yield the batches of `steps`, made by workers in turn. It may be given up, by `ended`, from another thread."""
    with closing(_Workers(dataset, min(num_workers, len(steps)))) as workers:
        ahead = AHEAD * len(workers)
        for step in steps[:ahead]:
            workers.ask(step)
        for step in steps:
            batch = workers.wait(step, place, ended)
            if ended.is_set():
                return
            if step + ahead in steps:
                workers.ask(step + ahead)
            yield batch


def _pinned(dataset: Dataset, steps: range, num_workers: int) -> Iterator[Any]:
    """Yield batches in pinned memory, which a thread copies them into, one ahead."""
    device, ended = torch.cuda.current_device(), threading.Event()
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(1)

    def copy() -> None:
        torch.cuda.set_device(device)  # pinning would connect a new thread to the first GPU
        try:
            for batch in _load(dataset, steps, num_workers, Tensor.pin_memory, ended):
                ready.put((batch, None))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that takes the batches
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
        while thread.is_alive():  # it may be about to put one more batch
            with suppress(queue.Empty):
                ready.get(timeout=0.05)


@dataclass
class _Worker:
    """The training process's end of a worker."""

    pid: int
    batches: socket.socket


class _Workers:
    """Processes that make the batches of steps in turn: step s is the worker's with the number s modulo theirs."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self._server = _running_server()
        self._workers: list[_Worker] = []
        pickled = os.memfd_create("bevt-dataset", os.MFD_CLOEXEC)
        with os.fdopen(pickled, "wb") as file:
            pickle.dump(dataset, file, protocol=5)
            file.flush()
            for _ in range(count):
                ours, theirs = socket.socketpair()
                with theirs:
                    try:
                        pid = self._server.fork(pickled, theirs)
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
        """Have the batch of `step` made. A worker that is gone is noticed when its batch is waited for."""
        with suppress(OSError):
            self._of(step).batches.sendall(_STEP.pack(step))

    def wait(self, step: int, place: Place, ended: threading.Event) -> Any:
        """Return the batch of `step`, or None after `ended`. Raises SampleError, LoaderError."""
        worker, stopped_s = self._of(step), 0.0
        poll = select.poll()  # select() ends at descriptor 1023
        poll.register(worker.batches, select.POLLIN)
        while not poll.poll(1000 * POLL_S):
            if ended.is_set():
                return None
            stopped_s = stopped_s + POLL_S if is_stopped(worker.pid) else 0.0
            if stopped_s >= STOPPED_S:
                raise LoaderError(
                    f"loader process {worker.pid} has been stopped (SIGSTOP) for {STOPPED_S} s while step {step} waits "
                    "for its batch; start the command again, with --resume where it trains"
                )
        try:
            batch = receive(worker.batches, place)
        except EOFError:
            self._workers.remove(worker)
            worker.batches.close()
            ending = ending_of(self._server.end(worker.pid))
            raise LoaderError(
                f"loader process {worker.pid} {ending} while it made the batch of step "
                f"{step}; if memory ran out, set loop.num_workers lower or give the job more, and start the command "
                "again, with --resume where it trains"
            ) from None
        if isinstance(batch, _Failure):
            batch.throw()
        return batch

    def close(self) -> None:
        """End them, whatever they are doing."""
        while self._workers:
            worker = self._workers.pop()
            worker.batches.close()
            self._server.end(worker.pid)

    def _of(self, step: int) -> _Worker:
        return self._workers[step % len(self._workers)]


def _running_server() -> LoaderServer:
    """Return this process's server; start it where it has none yet."""
    global _server
    if _server is None or not _server.alive:
        _server = LoaderServer()
        atexit.register(_server.close)
    return _server


# ---- in a worker ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """What a worker sends in place of a batch that it could not make."""

    message: str | None  # for the user; None: a bug
    trace: str

    def throw(self) -> NoReturn:
        cause = RuntimeError(f"in a loader's process:\n{self.trace}")
        raise cause if self.message is None else SampleError(self.message) from cause


def work(dataset_file: int, batches: socket.socket) -> None:
    """Make the batches that are asked for, until the training process closes its end."""
    torch.set_num_threads(1)  # there is a worker per core
    dataset: Any = None
    with suppress(ConnectionError):  # nobody waits any more
        while request := batches.recv(_STEP.size, socket.MSG_WAITALL):
            try:
                if dataset is None:
                    dataset = _unpickled(dataset_file)
                send(batches, dataset[_STEP.unpack(request)[0]])
            except ConnectionError:
                raise
            except MemoryError:
                send(batches, _Failure(f"loader process {os.getpid()} {OUT_OF_MEMORY}", traceback.format_exc()))
            except (UserError, StorageError) as error:
                send(batches, _Failure(str(error), traceback.format_exc()))
            except Exception:  # noqa: BLE001 - raised again in the training process
                send(batches, _Failure(None, traceback.format_exc()))


def _unpickled(dataset_file: int) -> Any:
    with mmap.mmap(dataset_file, 0, prot=mmap.PROT_READ) as memory:  # its offset is shared with the other workers
        return pickle.loads(memory)
