"""Asynchronous checkpoint writing: a step waits for the copy in memory only, and a thread writes it to disk."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from trainer.distributed.watchdog import unhurried
from trainer.engine.checkpoint import Checkpoints, Identity


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread; leaving the context waits for it. Used by rank 0 only.

    An error in the thread is raised by the next call.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        training: Mapping[str, Any],
        identity: Identity,
        bad_steps: int,
        line: Mapping[str, float] | None = None,
    ) -> None:
        """Start to write a checkpoint, after the previous one is complete. The caller must not change the values."""
        self.wait()
        self._writing = self._threads.submit(
            self.checkpoints.save, step, weights, training, identity, bad_steps, None if line is None else dict(line)
        )

    def check(self) -> None:
        """Raise the error of a write that failed, without waiting."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk; raise its error if it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with unhurried():
                writing.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._threads.shutdown()  # waits for a write in progress, also after an error
