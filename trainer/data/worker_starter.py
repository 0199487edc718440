"""Loader workers as new Python processes, for systems where forked ones could outlive the training process (macOS).

It has the interface of LoaderServer. A worker takes seconds to start, because it imports PyTorch. This module does not
import torch, so that `run` binds the worker's life to the training process at once.
"""

import importlib
import socket
import subprocess
from collections.abc import Callable

from bevt_core.processes import die_with_parent
from trainer.data.loader_server import start_python

_WORKER = "import sys; from trainer.data.worker_starter import run; run(*map(int, sys.argv[1:]))"


class WorkerStarter:
    """Starts and ends this process's workers."""

    alive = True

    def __init__(self) -> None:
        self._workers: dict[int, subprocess.Popen[bytes]] = {}

    def start_worker(self, dataset: int, batches: socket.socket) -> int:
        """Start a worker for the pickled dataset in the file `dataset`, replying on `batches`; return its process id.

        Raises StorageError.
        """
        worker = start_python(_WORKER, [dataset, batches.fileno()])
        self._workers[worker.pid] = worker
        return worker.pid

    def end(self, worker: int) -> int | None:
        """Kill a worker if it is running; return its exit status, or negative signal."""
        process = self._workers.pop(worker)
        process.kill()
        return process.wait()

    def close(self) -> None:
        """Kill all workers."""
        for worker in list(self._workers):
            self.end(worker)


def run(dataset: int, batches: int, parent: int) -> None:
    """Be a worker until the training process closes its end of the socket `batches`."""
    die_with_parent(parent)
    work: Callable[[int, socket.socket], None] = importlib.import_module("trainer.data.loader").work
    work(dataset, socket.socket(fileno=batches))
