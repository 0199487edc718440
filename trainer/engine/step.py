"""One optimizer step: everything that touches model, optimizer, scaler and collectives.

On a GPU nothing here waits for the device: a step's report is read while the next step runs, and the optimizer's own
kernel skips a step without a finite loss or gradient.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bevt_core.models.swin import attention_in_use, use_attention
from bevt_core.rng import rng_for
from schemas.errors import UserError
from schemas.recipes import LoopConfig, OptimConfig
from trainer.distributed.sharding import (
    compile_blocks,
    is_shard,
    lay_out_state,
    reduce_gradients,
    replicate,
    shard,
    unsharded,
)
from trainer.distributed.world import World, from_host, to_host
from trainer.engine.checkpoint import state_of
from trainer.engine.precision import AUTOCAST, autocast
from trainer.engine.schedule import CosineSchedule
from trainer.engine.tally import Tally
from trainer.engine.task import Batch, Task
from trainer.metrics.monitor import StepClock


@dataclass
class StepReport:
    """The results of a step. `read` waits until the device has computed them."""

    step: int
    values: dict[str, float]  # known on the host: the learning rate, the hooks' values
    tally: Tally
    facts: Tensor  # on the host after `arrived`: gradient norm, loss scale, each micro-batch's loss, the tally
    arrived: Callable[[], None]
    clock: StepClock
    samples: list[list[str]]  # by micro-batch
    world: World
    began_s: float = 0.0  # perf_counter when the loop received the batch
    asked_s: float = 0.0  # perf_counter when the loop requested the batch
    offenders: list[str] = field(default_factory=list)  # samples of all ranks that may have caused the skipped step

    def read(self) -> dict[str, float]:
        """Wait for the device; return the step's values, equal on all ranks except for times, and set `offenders`."""
        self.arrived()
        norm, scale, *losses = self.facts[: 2 + len(self.samples)].tolist()
        sums = self.tally.values(self.facts[2 + len(self.samples) :])
        values = sums | {"grad_norm": norm} | self.values | self.clock.seconds()
        if scale:
            values["loss_scale"] = scale
        finite_loss = math.isfinite(values["loss"])
        if finite_loss and math.isfinite(norm):
            return values
        values["skipped"] = 1.0
        if finite_loss and scale >= 1:
            return values  # a normal fp16 overflow: the scaler lowers its scale. Suspect samples only at scales below 1
        suspects = zip(losses, self.samples, strict=True)
        named = [i for loss, ids in suspects if finite_loss or not math.isfinite(loss) for i in ids]
        self.offenders = [name for names in self.world.gather(named) for name in names]
        return values


class Stepper:
    """The model, replicated or sharded over the processes, and its optimizer."""

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
        """Move the model to the device, compile it, and replicate or shard it over the processes."""
        self.model = self.task.model.to(self.world.device).train()
        if self.world.device.type == "cuda":  # on a CPU only one implementation is fast
            self._choose_attention()
        if self.loop.compile == "blocks":
            compile_blocks(self.task.model)
        if self.loop.parallel == "fsdp" and self.world.size > 1:
            shard(self.task.model, self.optimizer, self.world)
        if self.loop.compile is True:
            self.task.model.compile()
        if self.loop.parallel == "ddp" and self.world.size > 1:
            self.model = replicate(self.task.model)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def attention(self) -> str | None:
        """Return which implementation of window attention is in use, if any."""
        return attention_in_use(self.task.model, self.world.device, AUTOCAST[self.loop.precision] or torch.float32)

    def _choose_attention(self) -> None:
        if self.loop.attention == "triton" and self.attention() not in (None, "triton"):
            raise UserError(
                f"loop.attention is triton with loop.precision {self.loop.precision}; it needs bf16 or fp16, an NVIDIA "
                "GPU of compute capability 8.0 or later and heads of at most 128 channels. Set loop.attention=auto"
            )
        use_attention(self.task.model, self.loop.attention)

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copy the weights and the rest of the training state to the CPU; every process must call this."""
        sharded = is_shard(self.parameters[0])
        if not (sharded or self.world.is_main):
            return {}, {}
        training = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return unsharded(state_of(self.task.model)), unsharded(training)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the state of the optimizer and the scaler; call it after `wrap`."""
        self.optimizer.load_state_dict(lay_out_state(state["optimizer"], self.optimizer))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def step(
        self, step: int, micros: Sequence[Batch], samples: list[list[str]], stop_asked: Callable[[], bool]
    ) -> StepReport:
        """Queue a step over this rank's micro-batches, whose sample ids are `samples`; return its report."""
        clock = StepClock(self.world.device)
        rate = self.optim.lr * self.schedule.share(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_share"]
        # dropout and drop path follow (seed, step, rank), so a resumed run needs no generator state
        torch.manual_seed(int(rng_for("step", self.loop.seed, step, self.world.rank).integers(2**63)))
        tally, losses = self._forward_backward(step, micros)
        tally.count("stop", float(stop_asked()))
        tally.count("samples", float(sum(map(len, samples))))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.optim.clip_grad_norm or float("inf"))
        norm = norm.full_tensor() if is_shard(norm) else norm  # type: ignore[attr-defined]
        reduced = tally.reduce(self.world)
        clock.lap("forward_backward_s")
        scale = self._update(tally.loss(reduced), norm)
        self.optimizer.zero_grad(set_to_none=True)
        clock.lap("optimizer_s")
        facts = torch.cat([torch.stack([norm, scale, *losses]).double(), reduced])
        return StepReport(step, {"lr": rate}, tally, *to_host(facts), clock, samples, self.world)

    def _forward_backward(self, step: int, micros: Sequence[Batch]) -> tuple[Tally, list[Tensor]]:
        """Accumulate the gradient over the micro-batches; return the logged sums, and each micro-batch's loss."""
        world = self.world
        counts = self._counts(micros)
        totals = world.sum(from_host(list(counts.values()), world.device)).clamp(min=1)
        factors = dict(zip(counts, (world.size / totals).float(), strict=True))  # world.size: DDP averages over ranks
        tally = Tally(dict(zip(counts, totals, strict=True)))
        losses = []
        for i, micro in enumerate(micros):
            with self._no_sync(last=i == len(micros) - 1):
                on_device = to_device(micro, world.device)
                with autocast(world.device, self.loop.precision):
                    terms = self.task.losses(self.model, on_device, step)
                loss = torch.stack([t.weight * t.loss_sum.float() * factors[n] for n, t in terms.items()]).sum()
                self.scaler.scale(loss).backward()
            tally.add_terms(terms)
            losses.append(loss.detach())
        return tally, losses

    def _counts(self, micros: Sequence[Batch]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for micro in micros:
            for name, count in self.task.counts(micro).items():
                counts[name] = counts.get(name, 0) + count
        return counts

    def _no_sync(self, *, last: bool) -> Any:
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        if is_shard(self.parameters[0]):
            reduce_gradients(self.model, now=last)
        return nullcontext()

    def _update(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Step the optimizer if loss and gradient are finite; return the loss scale, or 0 without a scaler.

        All ranks see the same loss and gradient, so all make the same decision.
        """
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # skips a gradient that is not finite
            self.scaler.update()
            return self.scaler.scale(torch.ones_like(norm))
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        # as the gradient scaler does: fused AdamW leaves parameters and state unchanged if it is 1
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        del self.optimizer.found_inf  # type: ignore[attr-defined]
        return torch.zeros_like(norm)


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a nested batch to `device`; other values stay as they are."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch
