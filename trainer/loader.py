"""A loader that works ahead of the training loop, in processes that end with it and whose errors are one line."""

import atexit
import multiprocessing
import signal
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from schemas.errors import UserError
from trainer.launch import end_with_parent


class SampleError(UserError):
    """A sample could not be read. The message names the sample, its part and the file."""


def make_loader(dataset: Dataset, first: int, stop: int, *, num_workers: int, pin_memory: bool) -> Iterable[Any]:
    """Load `dataset[step]` for the steps `first` .. `stop - 1`, in order, ahead of the loop.

    Workers come from a fork server: a fork of the training process would copy its threads' locks. Raises SampleError
    as a worker did.
    """
    if num_workers == 0:
        return DataLoader(dataset, sampler=range(first, stop), batch_size=None, pin_memory=pin_memory)
    multiprocessing.set_forkserver_preload(["trainer.data"])  # imported once, in the server
    atexit.register(_end_workers)
    loader = DataLoader(
        _Caught(dataset),
        sampler=range(first, stop),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context="forkserver",
        worker_init_fn=_prepare_worker,
    )
    return (_value(loaded) for loaded in loader)


@dataclass(frozen=True)
class _Unreadable:
    """What a worker sends in place of a batch that it could not read."""

    message: str
    trace: str


class _Caught(Dataset):
    """A dataset whose SampleErrors are values: DataLoader would put a worker's traceback into the message of one."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, at: int) -> Any:
        try:
            return self.dataset[at]
        except SampleError as error:
            return _Unreadable(str(error), traceback.format_exc())


def _value(loaded: Any) -> Any:
    """Return a batch; raise what a worker could not read, its traceback as the cause."""
    if isinstance(loaded, _Unreadable):
        raise SampleError(loaded.message) from RuntimeError(f"in a loader's process:\n{loaded.trace}")
    return loaded


def _end_workers() -> None:
    """Kill loader workers that are left when the process ends, after an error above all.

    It would terminate them, which they ignore, and wait for them without end.
    """
    for child in multiprocessing.active_children():
        child.kill()


def _prepare_worker(worker: int) -> None:
    """Outlive Ctrl-C and a cluster's SIGTERM, since training ends its step first, but not the training process.

    A worker of a fork server and the server keep each other alive when the process that they work for is killed.
    """
    end_with_parent()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
