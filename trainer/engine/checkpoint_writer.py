"""Checkpoints behind the loop's back: the step pays for a copy in memory, a thread for the disk."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from trainer.distributed.watchdog import unhurried
from trainer.engine.checkpoint import Checkpoints, Identity


class CheckpointWriter:
    """Writes one checkpoint at a time; leaving the context waits for it. Used by rank 0 alone.

    What goes wrong in the thread is raised by the next call, as if it had happened there.
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
        """Begin to write what the caller will not touch again, once the checkpoint before is whole."""
        self.wait()
        self._writing = self._threads.submit(
            self.checkpoints.save, step, weights, training, identity, bad_steps, None if line is None else dict(line)
        )

    def check(self) -> None:
        """Raise what went wrong, without waiting."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is on the disk."""
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
            self._threads.shutdown()  # a write that was begun is finished in any case
