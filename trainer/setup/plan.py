"""The plan of a run of any stage, made before it starts: micro-batches, steps, samples seen, and cost.

Each stage provides a `Workload`. Runs (trainer/setup/session.py) and dry runs (`show_plan`) plan it with `make_plan`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar, cast

from bevt_core.console.inert import one_line
from bevt_core.console.readable import count, hours
from bevt_core.console.terminal import show
from schemas.errors import UserError
from schemas.recipes.loading import TrainingRecipe
from trainer.data.order import StreamOrder
from trainer.distributed.world import micro_batches_of
from trainer.engine.schedule import CosineSchedule, schedule_of
from trainer.setup.cost import StepCost, TrainingCost
from trainer.setup.memory import (
    Memory,
    fit_loop,
    largest_micro_batch,
    memory_gb_of,
    possible_micro_batches,
    shards_of,
)

DEFAULT_TFLOPS = 100.0  # per device: an assumed sustained rate, not the peak of a data sheet

R = TypeVar("R", bound=TrainingRecipe)
CountedCost = Callable[[bool], TrainingCost]  # whether activations are checkpointed -> cost


@dataclass(frozen=True)
class Workload(Generic[R]):
    """The work of a stage: its recipe, data and cost per sample, and what it adds to the plan."""

    recipe: R
    orders: Mapping[str, StreamOrder]  # by stream
    cost: CountedCost | None  # None: this stage's cost is not counted
    describe: Callable[["Plan[R]", str], list[str]]  # (plan, device name) -> the stage's lines of the plan
    facts: Callable[["Plan[R]"], dict[str, Any]] = lambda plan: {}  # the stage's numbers in the plan
    # (micro-batches per process, processes) -> whether the stage allows this split of its batch
    allows_split: Callable[[int, int], bool] = lambda micro_batches, processes: True


@dataclass(frozen=True)
class Plan(Generic[R]):
    """The plan of a run on `world_size` processes."""

    workload: Workload[R]
    recipe: R  # with micro-batches that fit the memory
    schedule: CosineSchedule
    world_size: int
    reason: str | None  # why these micro-batches were chosen; None: they are the recipe's

    @property
    def orders(self) -> Mapping[str, StreamOrder]:
        return self.workload.orders

    @property
    def steps(self) -> int:
        """Steps to run: the schedule's, or `loop.max_steps` if that is fewer."""
        return min(self.schedule.total_steps, self.recipe.loop.max_steps or self.schedule.total_steps)

    @property
    def micro_batches(self) -> int:
        """Micro-batches per process."""
        return micro_batches_of(self.recipe.loop, self.world_size)

    def samples_seen(self, stream: str) -> int:
        return self.steps * self.orders[stream].global_batch

    def micro_batch(self, stream: str) -> int:
        """Return the number of samples in the largest micro-batch of any process."""
        return largest_micro_batch(self.orders[stream].global_batch, self.world_size, self.micro_batches)

    def cost(self) -> StepCost | None:
        """Return the cost of a step, or None if the stage's cost is not counted. The first call takes seconds."""
        if self.workload.cost is None:
            return None
        return self.workload.cost(self.recipe.loop.activation_checkpointing).step(
            {name: order.global_batch for name, order in self.orders.items()},
            {name: self.micro_batch(name) for name in self.orders},
            shards_of(self.recipe.loop, self.world_size),
        )


Fitted = tuple[R, str | None]  # the recipe with micro-batches that fit, and the reason for them


def make_plan(
    workload: Workload[R],
    processes: int,
    memory: Memory = "recipe",
    on_main: Callable[[Callable[[], Fitted[R]]], Fitted[R]] = lambda work: work(),
) -> Plan[R]:
    """Choose micro-batches that fit `memory` and count the steps. An epoch is a pass over the video stream, if any.

    In a run of several processes `on_main` is `World.on_main`, so that only rank 0 counts the cost. Raises UserError if
    nothing fits the memory, or if the recipe's batches are too small for `processes`.
    """
    orders, recipe, reason = workload.orders, workload.recipe, None
    memory_gb = memory_gb_of(memory)
    if memory_gb is not None:
        gb = memory_gb
        recipe, reason = on_main(lambda: _fitted(workload, processes, gb))
    leading = orders["video" if "video" in orders else next(iter(orders))]
    schedule = schedule_of(recipe.optim, recipe.loop.epochs, leading.steps_in)
    plan = Plan(workload, recipe, schedule, processes, reason)
    check_batches(orders, plan.micro_batches, processes)
    return plan


def _fitted(workload: Workload[R], processes: int, memory_gb: float) -> Fitted[R]:
    """Return the recipe with micro-batches that fit `memory_gb`, and the reason for the choice."""
    recipe = workload.recipe
    if workload.cost is None:
        return recipe, None
    batches = {name: order.global_batch for name, order in workload.orders.items()}
    possible = possible_micro_batches(batches.values(), processes)
    possible = [number for number in possible if workload.allows_split(number, processes)] or possible[:1]
    loop, reason = fit_loop(recipe.loop, workload.cost, batches, possible, memory_gb, processes)
    return cast(R, recipe.model_copy(update={"loop": loop})), reason


def show_plan(
    workload: Workload[R], *, processes: int, tflops: float = DEFAULT_TFLOPS, memory: Memory = "recipe"
) -> dict[str, Any]:
    """Print the plan of a workload on `processes` processes and return its numbers: the dry run of any stage.

    Starts no process and writes nothing.
    """
    plan = make_plan(workload, processes, memory)
    show(describe(plan, tflops, "any device"))
    return {"dry_run": True, **facts(plan, tflops)}


def check_batches(orders: Mapping[str, StreamOrder], micro_batches: int, world_size: int) -> None:
    """Raise UserError if a micro-batch would be empty on some rank."""
    for name, order in orders.items():
        if order.global_batch // world_size < micro_batches:
            raise UserError(
                f"{name} stream: a global batch of {order.global_batch} on {count(world_size, 'process')} in "
                f"{count(micro_batches, 'micro-batch')} leaves some of them empty; use fewer processes or micro-batches"
            )


def describe(plan: Plan[R], tflops: float, device: str) -> str:
    """Return the plan as text, for the user to check before the run starts."""
    cost = plan.cost()
    time = (
        f"; {hours(cost.hours(plan.steps, plan.world_size, tflops))} at {tflops:g} TFLOP/s per process" if cost else ""
    )
    costs = [] if cost is None else cost_lines(cost, plan.steps, "" if device == "cpu" else time, plan.reason)
    return "\n".join([one_line(plan.recipe.title), *plan.workload.describe(plan, device), *costs])


def facts(plan: Plan[R], tflops: float) -> dict[str, Any]:
    """Return the plan's numbers, for JSON."""
    cost = plan.cost()
    numbers = {
        "steps": plan.steps,
        "processes": plan.world_size,
        "micro_batches": plan.micro_batches,
        "activation_checkpointing": plan.recipe.loop.activation_checkpointing,
        **plan.workload.facts(plan),
    }
    if cost is None:
        return numbers
    spent = cost.hours(plan.steps, plan.world_size, tflops)
    return numbers | {"flops_total": plan.steps * cost.flops, "hours": spent, "tflops": tflops} | asdict(cost)


def processes_line(plan: Plan[R], device: str) -> str:
    return f"  {count(plan.world_size, 'process')} on {device}, {plan.recipe.loop.precision}"


def learning_rate_line(plan: Plan[R]) -> str:
    """Return a line about the learning rate. The decay begins at the first step, below the warm-up's factor."""
    optim, warmup_steps = plan.recipe.optim, plan.schedule.warmup_steps
    warmup = f"{count(warmup_steps, 'step')} of warm-up from {optim.lr * optim.warmup_start:g}"
    return (
        f"  learning rate: cosine decay from {optim.lr:g} to {optim.lr * optim.final_lr_share:g}, with "
        f"{warmup if warmup_steps else 'no warm-up'}"
    )


def cost_lines(cost: StepCost, steps: int, time: str, reason: str | None) -> list[str]:
    """Return lines about the cost of `steps` steps, their time and the reason for their micro-batches."""
    repeated = cost.flops - cost.model_flops
    again = f" ({repeated / 1e12:.4g} of them repeated for activation checkpointing)" if repeated else ""
    return [
        "  calculated, not measured:",
        f"    {cost.flops / 1e12:.4g} TFLOP per step{again}, {steps * cost.flops:.3g} FLOP in total{time}",
        f"    memory per process: {cost.state_bytes / 1e9:.3g} GB of weights, gradients and optimizer; "
        f"activations about {cost.activation_bytes / 1e9:.2g} GB (estimate)",
        *([] if reason is None else [f"    {reason}"]),
    ]
