"""The training loop: fetch, forward, backward, clip, step, log, checkpoint, evaluate. It is independent of datasets.

A loss is summed over all targets of a step and divided by their number over all ranks and micro-batches. So results do
not depend on the number of processes, and gradient accumulation is exact.
"""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from bevt_core.console.inert import one_line
from bevt_core.console.progress import ProgressLine
from bevt_core.console.terminal import show, warn
from schemas.errors import UserError
from schemas.recipes import LoopConfig, OptimConfig
from trainer.distributed.stop_signals import stop_signals
from trainer.distributed.watchdog import watchdog
from trainer.distributed.world import World, same_bits
from trainer.engine.checkpoint import CHECKPOINTS, Checkpoints, Identity, LogLine, check_identity, read_checkpoint
from trainer.engine.checkpoint_writer import CheckpointWriter
from trainer.engine.evaluations import Evaluation, run_all
from trainer.engine.schedule import CosineSchedule
from trainer.engine.step import Stepper, StepReport
from trainer.engine.step_log import StepLog
from trainer.engine.task import BatchSource, Task
from trainer.metrics.data_wait import DataWait
from trainer.metrics.log import MetricsLog, last_step
from trainer.metrics.monitor import StepFlops

Hook = Callable[[int], Mapping[str, float]]  # completed steps -> values for the log; part of every step, on every rank


@dataclass(frozen=True)
class FitResult:
    """The state of a run when `fit` returns."""

    step: int  # optimizer steps done since the run began
    finished: bool  # False: a signal stopped the run, after a checkpoint of `step`
    metrics: dict[str, float]  # the last step's log line
    checkpoint: Path | None
    interrupted: bool = False  # the signal was Ctrl-C


class _Start(NamedTuple):
    """Where a run begins."""

    step: int
    bad_steps: int = 0  # consecutive skipped steps, just before `step`
    line: LogLine | None = None  # the last step's log line, if a signal or a crash ended its evaluations


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
    evaluations: Sequence[Evaluation] = (),
    step_flops: StepFlops | None = None,
    data_wait: DataWait | None = None,
    carried: Callable[[Identity], Identity] = dict,
) -> FitResult:
    """Train `task.model` up to `schedule.total_steps` or `loop.max_steps`, and write a checkpoint of the last step.

    With `resume`, training continues from the newest complete checkpoint in `run_dir`. `identity` is everything that
    affects the results; `carried` brings that of a checkpoint up to date if its data were extended later. SIGTERM and
    SIGINT finish the current step, write a checkpoint and return. With `loop.hang_timeout_s`, a process that completes
    no step for that long prints its stack and exits. `step_flops`
    makes rank 0 log FLOP rates, and rank 0 adds the wait of each step to `data_wait`.

    `hooks` are part of a step and may change what a checkpoint contains. `evaluations` run after the step and its
    checkpoint; their time is logged as `hook_s`. A signal ends them too, and a resumed run repeats them.

    Raises UserError for a checkpoint with a different identity, if no existing checkpoint is complete, and after more
    than `loop.max_bad_steps` consecutive steps without a finite loss and gradient.
    """
    stop = min(schedule.total_steps, loop.max_steps or schedule.total_steps)
    checkpoints = Checkpoints(run_dir / CHECKPOINTS, loop.keep_checkpoints, loop.keep_every)
    stepper = Stepper(task, optimizer, schedule, optim, loop, world)
    start = _restore(checkpoints, stepper, identity, carried, world, run_dir) if resume else _Start(0)
    first = start.step
    if not first:
        stepper.wrap()
    result = FitResult(first, first >= stop, {}, checkpoints.path_of(first) if first else None)
    if first >= stop and start.line is None:
        return result

    with ExitStack() as stack:
        stack.enter_context(same_bits(loop.deterministic, world.device))
        if world.is_main and world.device.type == "cuda" and stepper.attention() is not None:
            show(f"window attention: {stepper.attention()}")
        log = None
        if world.is_main:
            log = stack.enter_context(MetricsLog(run_dir, first if start.line is None else first - 1, loop.wandb))
        signals = stack.enter_context(stop_signals())
        writer = stack.enter_context(CheckpointWriter(checkpoints)) if world.is_main else None
        still_alive = stack.enter_context(watchdog(loop.hang_timeout_s))
        progress = stack.enter_context(ProgressLine("step", stop, first=first))
        if data_wait is not None and world.is_main:
            stack.callback(data_wait.finish)
        step_log = StepLog(loop, first, stop, log, world, step_flops, start.bad_steps, progress, data_wait)

        def save(step: int, line: Mapping[str, float] | None) -> None:
            weights, training = stepper.snapshot()
            if log is not None and writer is not None:
                log.sync()
                writer.save(step, weights, training, identity, step_log.bad_steps, line)

        def evaluate(steps_done: int, due: Sequence[Evaluation]) -> bool:
            """Run the due evaluations and log the step; return False, without logging, if a signal ended them."""
            began = time.perf_counter()
            found = run_all(due, steps_done, lambda: bool(signals), task.model)
            if found is not None:
                step_log.write({**found, "hook_s": time.perf_counter() - began})
            return found is not None

        if start.line is not None:
            step_log.reopen(start.line)
            complete = evaluate(first, _due(evaluations, first))
            result = FitResult(
                first, complete and first >= stop, step_log.values, result.checkpoint, signal.SIGINT in signals
            )
            if result.finished or not complete:
                return result

        queued: StepReport | None = None  # a step that the device may still be computing
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
            stopping = step_log.close(queued) if queued is not None else False
            queued = None
            due = _due(evaluations, step + 1)
            saving = stopping or step + 1 == stop or (step + 1) % loop.checkpoint_every == 0
            if runs_ahead(world.device) and not saving and not due:
                queued = report
            else:
                stopping |= step_log.read(report)
                saving |= stopping
                if not due:
                    step_log.write({})
                if saving:
                    save(step + 1, step_log.values if due else None)
                complete = not due or (not stopping and evaluate(step + 1, due))
                if not complete and not saving:
                    save(step + 1, step_log.values)
                stopping |= not complete
                if saving or stopping:
                    path, interrupted = checkpoints.path_of(step + 1), signal.SIGINT in signals
                    result = FitResult(step + 1, complete and step + 1 == stop, step_log.values, path, interrupted)
            if step_log.values:  # the first step, which may take long, is complete
                still_alive()
            if stopping:
                break
            asked = time.perf_counter()
    world.barrier()  # all ranks wait until the last checkpoint is complete
    return result


def runs_ahead(device: torch.device) -> bool:
    """Return whether the host queues a step before it reads the previous report, so that the device never waits."""
    return device.type == "cuda"


def _due(evaluations: Sequence[Evaluation], steps_done: int) -> list[Evaluation]:
    return [evaluation for evaluation in evaluations if evaluation.due(steps_done)]


def _restore(
    checkpoints: Checkpoints,
    stepper: Stepper,
    identity: Identity,
    carried: Callable[[Identity], Identity],
    world: World,
    run_dir: Path,
) -> _Start:
    """Load the newest complete checkpoint, if any; return where training starts."""
    path = world.on_main(lambda: checkpoints.newest(warn))
    if path is None and checkpoints.paths():
        raise UserError(f"{checkpoints.folder}: none of the checkpoints is complete; start a new run in another `out`")
    if path is None:
        if world.is_main:
            warn(f"{checkpoints.folder}: no checkpoint to resume from yet; starting at step 0")
        return _Start(0)

    def check(saved: Identity) -> None:
        check_identity(path, carried(saved), identity)

    record, training = read_checkpoint(path, stepper.task.model, check)
    stepper.wrap()
    stepper.load_state(training)
    if world.is_main:
        show(one_line(f"resuming from {path}"))
    logged = world.on_main(lambda: last_step(run_dir))
    return _Start(record.step, record.bad_steps, record.line if logged < record.step - 1 else None)
