"""The times of one setting of `bevt tune`: steps of a random micro-batch, and steps with a loader."""

import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from bevt_core.bench.timing import synchronize
from trainer.bench.subject import Subject
from trainer.data.batches import StreamBatches
from trainer.engine.step import Stepper, StepReport
from trainer.engine.task import Batch

WARM_UP = 2  # steps; the first one compiles kernels
REPEATS = 5  # timed steps; fewer if they take longer than TIMED_S in all
TIMED_S = 2.0
STEPS = 10_000  # of a loader, more than it is measured for
NO_MEMORY = "can't allocate memory"  # in the error of PyTorch's allocator for CPUs


class Timed(NamedTuple):
    """The fastest of a few steps of one micro-batch: other programs on the machine only add time."""

    micro_s: float  # forward and backward pass
    optimizer_s: float
    peak_gb: float | None  # None on a CPU


def timed_micro_batch(stepper: Stepper, subject: Subject, sizes: Mapping[str, int]) -> Timed | None:
    """Time steps of one random micro-batch of `sizes`, or return None if the device runs out of memory."""
    try:
        return _timed(stepper, subject.batch(sizes))
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or NO_MEMORY in str(error)):
            raise
    stepper.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if stepper.world.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _timed(stepper: Stepper, batch: Batch) -> Timed:
    device = stepper.world.device
    began = time.perf_counter()
    for _ in range(WARM_UP):
        if time.perf_counter() - began < TIMED_S:
            _step(stepper, batch).read()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    values: list[Mapping[str, float]] = []
    queued, began = _step(stepper, batch), time.perf_counter()
    while len(values) + 1 < REPEATS and time.perf_counter() - began < TIMED_S:
        report, queued = queued, _step(stepper, batch)
        values.append(report.read())  # one step late, as in the loop
    values.append(queued.read())
    micro_s, optimizer_s = (min(value[name] for value in values) for name in ("forward_backward_s", "optimizer_s"))
    return Timed(micro_s, optimizer_s, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None)


def _step(stepper: Stepper, batch: Batch, step: int = 0, samples: Sequence[str] = ()) -> StepReport:
    return stepper.step(step, [batch], [list(samples)], lambda: False)


class Loaded(NamedTuple):
    """Means over the micro-batches of a loader."""

    piece_s: float  # from one micro-batch to the next
    wait_s: float  # for data, part of `piece_s`
    optimizer_s: float


def timed_loading(stepper: Stepper, source: StreamBatches, first: int, skipped: int, seconds: float) -> Loaded:
    """Train on the micro-batches of `source` from step `first` on, for `seconds` after the `skipped` first ones.

    Those are not counted, because compilation is part of them, and the loader works ahead of the first step.
    """
    waits, optimizer_s, queued = [], [], None
    began = asked = time.perf_counter()
    for step, (batch,) in enumerate(source.batches(first, first + STEPS)):
        now = time.perf_counter()
        if step == skipped:
            began = asked
        waits.append(now - asked)
        report = _step(stepper, batch, step, source.samples_in(batch))
        if queued is not None:
            optimizer_s.append(queued.read()["optimizer_s"])
        queued = report
        asked = time.perf_counter()
        if step > skipped and asked - began > seconds:
            break
    assert queued is not None
    optimizer_s.append(queued.read()["optimizer_s"])
    synchronize(stepper.world.device)
    counted = len(waits) - skipped
    total_s = time.perf_counter() - began
    return Loaded(total_s / counted, sum(waits[skipped:]) / counted, statistics.median(optimizer_s))
