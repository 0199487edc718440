"""What the plans of all stages share: whether batches fit the processes, and what the steps cost."""

from collections.abc import Callable, Mapping

from bevt_core.console.readable import count
from schemas.errors import UserError
from trainer.data.order import StreamOrder
from trainer.setup.cost import StepCost, TrainingCost

DEFAULT_TFLOPS = 100.0  # effective, per device: what a run is thought to reach, not what a data sheet says


CountedCost = Callable[[bool], TrainingCost]  # with or without activation checkpointing


def check_batches(orders: Mapping[str, StreamOrder], micro_batches: int, world_size: int) -> None:
    """Raise UserError where a micro-batch would be empty on some rank."""
    for name, order in orders.items():
        if order.global_batch // world_size < micro_batches:
            raise UserError(
                f"{name} stream: a global batch of {order.global_batch} on {count(world_size, 'process')} in "
                f"{count(micro_batches, 'micro-batch')} leaves some of them empty; use fewer processes or micro-batches"
            )


def cost_lines(cost: StepCost, steps: int, processes: int, tflops: float, why: str | None) -> list[str]:
    """Return what `steps` steps cost, in words, and why their micro-batches are as they are."""
    repeated = cost.flops - cost.model_flops
    again = f" ({repeated / 1e12:.4g} of them again, for activation checkpointing)" if repeated else ""
    return [
        "  arithmetic, not measured:",
        f"    {cost.flops / 1e12:.4g} TFLOP per step{again}, {steps * cost.flops:.3g} FLOP in all; "
        f"{cost.hours(steps, processes, tflops):.3g} h at {tflops:g} TFLOP/s per process",
        f"    memory per process: {cost.state_bytes / 1e9:.3g} GB of weights, gradients and optimizer; "
        f"activations about {cost.activation_bytes / 1e9:.2g} GB (estimate)",
        *([] if why is None else [f"    {why}"]),
    ]
