"""The training loop: fetch, forward, backward, clip, step, log, checkpoint. It knows a task and no datasets.

A loss is the sum over the targets of the whole step, divided by their number on all ranks and micro-batches together.
So two processes compute what one computes, and accumulation is exact.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bevt_core.rng import rng_for
from schemas.errors import UserError
from schemas.recipes import LoopConfig, OptimConfig
from trainer.checkpoint import CHECKPOINTS, Checkpoints, Identity, check_identity, read_checkpoint, state_of
from trainer.checkpoint_writer import CheckpointWriter
from trainer.distributed import World, micro_batches_of
from trainer.metrics import MetricsLog, progress_line, timing
from trainer.monitor import StepClock, memory_gb, peak_tflops, rates
from trainer.parallel import fit_state, is_shard, reduce_gradients, replicate, shard, whole
from trainer.schedule import CosineSchedule
from trainer.tally import Tally
from trainer.tasks import Batch, BatchSource, Task, split, to_device
from trainer.watchdog import watchdog

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SECOND_SIGNAL_S = 2.0  # a Ctrl-C so much later than the first ends the process at once

Hook = Callable[[int], Mapping[str, float]]  # steps done -> values for the log; called on every rank after every step


@dataclass(frozen=True)
class FitResult:
    """Where a run stands when `fit` returns."""

    step: int  # optimizer steps done since the run began
    finished: bool  # False: a signal stopped it, and a checkpoint of `step` was written
    metrics: dict[str, float]  # the last step's line of the log
    checkpoint: Path | None


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
    step_flops: float | None = None,
) -> FitResult:
    """Train `task.model` up to `schedule.total_steps` or `loop.max_steps`, and leave a checkpoint of the last step.

    With `resume` it goes on from the newest complete checkpoint in `run_dir`. `identity` is everything that decides the
    numbers; a checkpoint of another identity is a UserError. SIGTERM and SIGINT end the current step, write a
    checkpoint and return. Raises UserError after more than `loop.max_bad_steps` steps in a row without a finite
    loss and gradient. With `loop.hang_timeout_s` a process in which nothing moves for so long ends, with its
    stacks. `step_flops`, of all ranks together, make rank 0 log the rate of operations.
    """
    stop = min(schedule.total_steps, loop.max_steps or schedule.total_steps)
    checkpoints = Checkpoints(run_dir / CHECKPOINTS, loop.keep_checkpoints, loop.keep_every)
    stepper = _Stepper(task, optimizer, schedule, optim, loop, world)
    first, bad_steps = _restore(checkpoints, stepper, identity, world) if resume else (0, 0)
    if not first:
        stepper.wrap()
    result = FitResult(first, first >= stop, {}, checkpoints.path_of(first) if first else None)
    if first >= stop:
        return result

    with ExitStack() as stack:
        log = stack.enter_context(MetricsLog(run_dir, first, loop.wandb)) if world.is_main else None
        stop_asked = stack.enter_context(_stop_signals())
        writer = stack.enter_context(CheckpointWriter(checkpoints)) if world.is_main else None
        still_alive = stack.enter_context(watchdog(loop.hang_timeout_s))
        peak = peak_tflops(world.device, loop.peak_tflops)
        fetched = time.perf_counter()
        for step, batch in zip(range(first, stop), source.batches(first, stop), strict=True):
            begun = time.perf_counter()
            values, offenders = stepper.step(step, batch, source.samples_in(batch), stop_asked)
            stopping = bool(values.pop("stop"))
            bad_steps = bad_steps + 1 if offenders else 0
            for hook in hooks:
                values |= hook(step + 1)
                task.model.train()
            ended = time.perf_counter()
            values |= timing(values.pop("samples"), begun - fetched, ended - fetched)
            values |= rates(step_flops, ended - fetched, world, peak) | {"memory_gb": memory_gb(world.device)}
            if log is not None and writer is not None:
                writer.check()
                log.write(step, values)
                if (step + 1) % loop.log_every == 0 or step + 1 == stop or stopping:
                    print(progress_line(step + 1, stop, values), flush=True)
            if offenders:
                _warn_or_stop(step, values, offenders, bad_steps, loop.max_bad_steps, world)
            last = stopping or step + 1 == stop
            if last or (step + 1) % loop.checkpoint_every == 0:
                weights, training = stepper.snapshot()
                if log is not None and writer is not None:
                    log.sync()
                    writer.save(step + 1, weights, training, identity, bad_steps)
                result = FitResult(step + 1, step + 1 == stop, values, checkpoints.path_of(step + 1))
            still_alive()
            if last:
                break
            fetched = time.perf_counter()
    world.barrier()  # nobody leaves before the last checkpoint is whole
    return result


class _Stepper:
    """One optimizer step: everything that touches model, optimizer, scaler and collectives."""

    def __init__(
        self,
        task: Task,
        optimizer: torch.optim.Optimizer,
        schedule: CosineSchedule,
        optim: OptimConfig,
        loop: LoopConfig,
        world: World,
    ) -> None:
        self.task, self.optimizer, self.schedule = task, optimizer, schedule
        self.optim, self.loop, self.world = optim, loop, world
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=loop.precision == "fp16")
        self.parameters: list[Tensor] = []
        self.model: nn.Module = task.model

    def wrap(self) -> None:
        """Move the model to the device, and spread it over the processes."""
        self.model = self.task.model.to(self.world.device).train()
        if self.loop.parallel == "fsdp" and self.world.size > 1:
            shard(self.task.model, self.optimizer, self.world)
        if self.loop.compile:
            self.task.model.compile()
        if self.loop.parallel == "ddp" and self.world.size > 1:
            self.model = replicate(self.task.model)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copy the weights and the rest of the training state to the CPU; every process calls this."""
        sharded = is_shard(self.parameters[0])
        if not (sharded or self.world.is_main):
            return {}, {}
        training = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return whole(state_of(self.task.model)), whole(training)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up the optimizer's state, after `wrap`."""
        self.optimizer.load_state_dict(fit_state(state["optimizer"], self.optimizer))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def step(
        self, step: int, batch: Batch, samples: Sequence[str], stop_asked: Callable[[], bool]
    ) -> tuple[dict[str, float], list[str]]:
        """Return the step's values and the samples to blame when it had to be skipped; equal on all ranks but times."""
        clock = StepClock()
        for group in self.optimizer.param_groups:
            group["lr"] = self.optim.lr * self.schedule.share(step) * group["lr_share"]
        # dropout and drop path follow (seed, step, rank), so a resumed run needs no generator state
        torch.manual_seed(int(rng_for("step", self.loop.seed, step, self.world.rank).integers(2**63)))
        tally, suspects = self._forward_backward(step, batch, samples)
        tally.add("stop", torch.tensor(float(stop_asked())))
        tally.add("samples", torch.tensor(float(len(samples))))
        self.scaler.unscale_(self.optimizer)
        limit = self.optim.clip_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        grad_norm = float(whole(norm))
        values = tally.reduced(self.world) | {"forward_backward_s": clock.lap()}
        values |= {"lr": self.optim.lr * self.schedule.share(step), "grad_norm": grad_norm}
        offenders = self._update(values, suspects, samples)
        self.optimizer.zero_grad(set_to_none=True)
        return values | {"optimizer_s": clock.lap()}, offenders

    def _forward_backward(
        self, step: int, batch: Batch, samples: Sequence[str]
    ) -> tuple["Tally", list[tuple[Tensor, list[str]]]]:
        """Accumulate the gradient over micro-batches; return the logged sums, and each micro-batch's loss and ids."""
        world, micro_batches = self.world, micro_batches_of(self.loop, self.world.size)
        counts = self.task.counts(batch)
        totals = torch.tensor(list(counts.values()), dtype=torch.float64, device=world.device)
        totals = world.sum(totals).clamp(min=1)
        shares = dict(zip(counts, (world.size / totals).float(), strict=True))  # DDP takes the mean over ranks
        tally = Tally(dict(zip(counts, totals, strict=True)))
        suspects = []
        dtype = AUTOCAST[self.loop.precision]
        micros = zip(
            split(to_device(batch, world.device), micro_batches),
            split(list(samples), micro_batches),
            strict=True,
        )
        for i, (micro, ids) in enumerate(micros):
            with self._no_sync(last=i == micro_batches - 1):
                with torch.autocast(world.device.type, dtype, enabled=dtype is not None):
                    terms = self.task.losses(self.model, micro, step)
                loss = torch.stack([t.weight * t.loss_sum.float() * shares[n] for n, t in terms.items()]).sum()
                self.scaler.scale(loss).backward()
            tally.add_terms(terms)
            suspects.append((loss.detach(), ids))
        return tally, suspects

    def _no_sync(self, *, last: bool) -> Any:
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        if is_shard(self.parameters[0]):
            reduce_gradients(self.model, now=last)
        return nullcontext()

    def _update(
        self, values: dict[str, float], suspects: list[tuple[Tensor, list[str]]], samples: Sequence[str]
    ) -> list[str]:
        """Step the optimizer unless loss or gradient is not finite; return the samples to blame for a skip.

        All ranks see the same loss and gradient, so all decide the same. An fp16 overflow is the scaler's business,
        until its scale falls below 1.
        """
        finite_loss = torch.isfinite(torch.tensor(values["loss"])).item()
        finite = finite_loss and torch.isfinite(torch.tensor(values["grad_norm"])).item()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # skips by itself
            self.scaler.update()
            values["loss_scale"] = self.scaler.get_scale()
        elif finite:
            self.optimizer.step()
        if finite:
            return []
        values["skipped"] = 1.0
        if finite_loss and self.scaler.is_enabled() and self.scaler.get_scale() >= 1:
            return []
        named = [i for loss, ids in suspects if not torch.isfinite(loss) for i in ids]
        everyone = self.world.gather(named if not finite_loss else list(samples))
        return [name for names in everyone for name in names]


def _restore(checkpoints: Checkpoints, stepper: _Stepper, identity: Identity, world: World) -> tuple[int, int]:
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
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether SIGTERM or SIGINT has come. A second, later Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked_at: list[float] = []

    def ask(signum: int, frame: object) -> None:
        now = time.monotonic()
        if asked_at and signum == signal.SIGINT and now - asked_at[0] > SECOND_SIGNAL_S:
            raise KeyboardInterrupt
        asked_at.append(now)

    old = {signum: signal.signal(signum, ask) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked_at)
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
