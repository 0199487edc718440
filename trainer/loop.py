"""The training loop: fetch, forward, backward, clip, step, log, checkpoint. It knows a task and no datasets.

A loss is the sum over the targets of the whole step, divided by their number on all ranks and micro-batches together.
So two processes compute what one computes, and accumulation is exact.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from schemas.errors import UserError
from schemas.recipes import LoopConfig, OptimConfig
from trainer.checkpoint import CHECKPOINTS, Checkpoints, Identity, check_identity, read_checkpoint
from trainer.checkpoint_writer import CheckpointWriter
from trainer.distributed import World, same_bits
from trainer.metrics import MetricsLog, progress_line, timing
from trainer.monitor import StepFlops, memory_gb, peak_tflops, rates
from trainer.schedule import CosineSchedule
from trainer.step import Stepper, StepReport
from trainer.tasks import BatchSource, Task
from trainer.watchdog import watchdog

SECOND_SIGNAL_S = 2.0  # a Ctrl-C so much later than the first ends the process at once

Hook = Callable[[int], Mapping[str, float]]  # steps done -> values for the log; called on every rank after every step


@dataclass(frozen=True)
class FitResult:
    """Where a run stands when `fit` returns."""

    step: int  # optimizer steps done since the run began
    finished: bool  # False: a signal stopped it, and a checkpoint of `step` was written
    metrics: dict[str, float]  # the last step's line of the log
    checkpoint: Path | None
    interrupted: bool = False  # it was a Ctrl-C that stopped it


def fit(
    task: Task,
    source: BatchSource,
    optimizer: torch.optim.Optimizer,
    schedule: CosineSchedule,
    *,
    optim: OptimConfig,
    loop: LoopConfig,
    world: World,
    run_dir: Path,
    identity: Identity,
    resume: bool,
    hooks: Sequence[Hook] = (),
    step_flops: StepFlops | None = None,
) -> FitResult:
    """Train `task.model` up to `schedule.total_steps` or `loop.max_steps`, and leave a checkpoint of the last step.

    With `resume` it goes on from the newest complete checkpoint in `run_dir`. `identity` is everything that decides the
    numbers; a checkpoint of another identity is a UserError. SIGTERM and SIGINT end the current step, write a
    checkpoint and return. Raises UserError after more than `loop.max_bad_steps` steps in a row without a finite
    loss and gradient. With `loop.hang_timeout_s` a process in which nothing moves for so long ends, with its
    stacks. `step_flops` make rank 0 log the rate of operations.
    """
    stop = min(schedule.total_steps, loop.max_steps or schedule.total_steps)
    checkpoints = Checkpoints(run_dir / CHECKPOINTS, loop.keep_checkpoints, loop.keep_every)
    stepper = Stepper(task, optimizer, schedule, optim, loop, world)
    first, bad_steps = _restore(checkpoints, stepper, identity, world) if resume else (0, 0)
    if not first:
        stepper.wrap()
    result = FitResult(first, first >= stop, {}, checkpoints.path_of(first) if first else None)
    if first >= stop:
        return result

    with ExitStack() as stack:
        stack.enter_context(same_bits(loop.deterministic, world.device))
        if world.is_main and world.device.type == "cuda" and stepper.attention() is not None:
            print(f"window attention: {stepper.attention()}", flush=True)
        log = stack.enter_context(MetricsLog(run_dir, first, loop.wandb)) if world.is_main else None
        signals = stack.enter_context(_stop_signals())
        writer = stack.enter_context(CheckpointWriter(checkpoints)) if world.is_main else None
        still_alive = stack.enter_context(watchdog(loop.hang_timeout_s))
        diary = _Diary(loop, stop, log, world, step_flops, bad_steps)
        queued: StepReport | None = None  # a step that the device may still be at
        asked = time.perf_counter()
        for step, micros in zip(range(first, stop), source.batches(first, stop), strict=True):
            began = time.perf_counter()
            report = stepper.step(
                step, micros, [list(source.samples_in(micro)) for micro in micros], lambda: bool(signals)
            )
            report.asked_s, report.began_s = asked, began
            for hook in hooks:
                report.values |= hook(step + 1)
                task.model.train()
            if writer is not None:
                writer.check()
            stopping = diary.close(queued) if queued is not None else False
            last = stopping or step + 1 == stop
            queued = None
            if last or (step + 1) % loop.checkpoint_every == 0 or not runs_ahead(world.device):
                last |= diary.close(report)
            else:
                queued = report
            if last or (step + 1) % loop.checkpoint_every == 0:
                weights, training = stepper.snapshot()
                if log is not None and writer is not None:
                    log.sync()
                    writer.save(step + 1, weights, training, identity, diary.bad_steps)
                path, interrupted = checkpoints.path_of(step + 1), signal.SIGINT in signals
                result = FitResult(step + 1, step + 1 == stop, diary.values, path, interrupted)
            if diary.values:  # the first step is over, which may take long
                still_alive()
            if last:
                break
            asked = time.perf_counter()
    world.barrier()  # nobody leaves before the last checkpoint is whole
    return result


def runs_ahead(device: torch.device) -> bool:
    """Whether the host queues a step before it reads what the one before reports, so that the device never waits."""
    return device.type == "cuda"


class _Diary:
    """Steps that are over: their lines in the log and on the terminal, and the bad ones in a row."""

    def __init__(
        self,
        loop: LoopConfig,
        stop: int,
        log: MetricsLog | None,
        world: World,
        step_flops: StepFlops | None,
        bad_steps: int,
    ) -> None:
        self.loop, self.stop, self.log, self.world, self.step_flops = loop, stop, log, world, step_flops
        self.bad_steps = bad_steps
        self.values: dict[str, float] = {}  # of the last step
        self.closed_s = 0.0  # perf_counter when it was read
        self.peak = peak_tflops(world.device, loop.peak_tflops)

    def close(self, report: StepReport) -> bool:
        """Read a step's values and log them; return whether some rank was asked to stop while it ran.

        Raises UserError after too many bad steps in a row.
        """
        step, values = report.step, report.read()
        stopping = bool(values.pop("stop"))
        self.bad_steps = self.bad_steps + 1 if report.offenders else 0
        now = time.perf_counter()
        step_s = now - max(report.asked_s, self.closed_s)  # a queued step begins when the one before it is done
        self.closed_s = now
        values |= timing(values.pop("samples"), report.began_s - report.asked_s, step_s)
        values |= rates(self.step_flops, step_s, self.world, self.peak) | {"memory_gb": memory_gb(self.world.device)}
        self.values = values
        if self.log is not None:
            self.log.write(step, values)
            if (step + 1) % self.loop.log_every == 0 or step + 1 == self.stop or stopping:
                print(progress_line(step + 1, self.stop, values), flush=True)
        if report.offenders:
            _warn_or_stop(step, values, report.offenders, self.bad_steps, self.loop.max_bad_steps, self.world)
        return stopping


def _restore(checkpoints: Checkpoints, stepper: Stepper, identity: Identity, world: World) -> tuple[int, int]:
    """Load the newest complete checkpoint; return the step to go on from and the bad steps in a row before it."""
    path = world.from_main(checkpoints.newest(_warn) if world.is_main else None)
    if path is None and checkpoints.paths():
        raise UserError(f"{checkpoints.folder}: none of the checkpoints is complete; start a new run in another --out")
    if path is None:
        if world.is_main:
            _warn(f"{checkpoints.folder}: no checkpoint to resume from yet; starting at step 0")
        return 0, 0
    record, training = read_checkpoint(path, stepper.task.model, lambda saved: check_identity(path, saved, identity))
    stepper.wrap()
    stepper.load_state(training)
    if world.is_main:
        print(f"resuming from {path}", flush=True)
    return record.step, record.bad_steps


def _warn_or_stop(
    step: int, values: Mapping[str, float], offenders: list[str], bad_steps: int, allowed: int, world: World
) -> None:
    named = ", ".join(offenders[:20]) + (f" and {len(offenders) - 20} more" if len(offenders) > 20 else "")
    message = f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; skipped. Samples: {named}"
    if bad_steps > allowed:
        raise UserError(
            f"{message}. That is {bad_steps} such steps in a row, loop.max_bad_steps is {allowed}; "
            "look at these samples, or lower optim.lr and resume from the last checkpoint"
        )
    if world.is_main:
        _warn(message)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Give the list that each SIGTERM and SIGINT is added to. A second, later Ctrl-C interrupts at once."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    first_at = math.inf

    def ask(signum: int, frame: object) -> None:
        nonlocal first_at
        now = time.monotonic()
        if signum == signal.SIGINT and now - first_at > SECOND_SIGNAL_S:
            raise KeyboardInterrupt
        first_at = min(first_at, now)
        signals.append(signum)

    old = {signum: signal.signal(signum, ask) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
