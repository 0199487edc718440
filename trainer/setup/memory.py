"""Which micro-batches fit a card: the fewest, without activation checkpointing where that is possible.

What is chosen changes no number of a run but its rounding and what drop path and dropout draw, and is no part of its
identity.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from bevt_core.console.readable import count
from schemas.errors import UserError
from schemas.recipes import LoopConfig
from trainer.setup.cost import TrainingCost

Memory = float | Literal["card", "recipe"]  # GB that a step has to fit; those of the device; or as the recipe says

OUTSIDE_GB = 2.0  # what torch does not allocate: the CUDA context, cuBLAS's and cuDNN's workspaces, NCCL's buffers
USABLE_SHARE = 0.85  # of the rest: activations are an estimate, and the allocator leaves gaps


class Execution(NamedTuple):
    """How a batch is computed."""

    micro_batches: int  # per process
    activation_checkpointing: bool
    reason: str


def memory_gb_of(memory: Memory) -> float | None:
    """Return the GB that micro-batches have to fit: None where the recipe says what they are, or there is no card."""
    if memory == "recipe":
        return None
    if memory != "card":
        return memory
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9


def fit_memory(
    peak_gb: Callable[[int, bool], float], micro_batches: Sequence[int], memory_gb: float, processes: int
) -> Execution:
    """Choose among `micro_batches`, ascending, where a step takes `peak_gb(number, activation_checkpointing)`.

    Fewer keep the device busier. Activation checkpointing comes last, since it adds some 30 % to the operations.
    Raises UserError where nothing fits.
    """
    usable_gb = USABLE_SHARE * (memory_gb - OUTSIDE_GB)
    refused = ""
    for checkpointing in (False, True):
        how = f"{'with' if checkpointing else 'without'} activation checkpointing"
        for number in micro_batches:
            needed_gb = peak_gb(number, checkpointing)
            if needed_gb <= usable_gb:
                chosen = (
                    f"{count(number, 'micro-batch')} {how}: about {needed_gb:.3g} GB of {usable_gb:.3g} that are usable"
                )
                chosen += f" on a card of {memory_gb:.4g} GB{refused}"
                return Execution(number, checkpointing, chosen)
            refused = f"; {number} {how} would take {needed_gb:.3g} GB"
    raise UserError(
        f"a step takes about {needed_gb:.3g} GB on each of {count(processes, 'process')} even in "
        f"{count(micro_batches[-1], 'micro-batch')} with activation checkpointing, but {usable_gb:.3g} of "
        f"{memory_gb:.4g} GB are usable; use a card with more memory, or --set loop.micro_batches=N to try it anyway"
    )


def fit_loop(
    loop: LoopConfig,
    cost: Callable[[bool], TrainingCost],
    global_batch: Mapping[str, int],
    micro_batches: Sequence[int],
    memory_gb: float,
    processes: int,
) -> tuple[LoopConfig, str]:
    """Return `loop` with what `fit_memory` chooses for it, and why. `cost` counts with or without checkpointing."""

    def peak_gb(number: int, checkpointing: bool) -> float:
        largest = {name: largest_micro_batch(batch, processes, number) for name, batch in global_batch.items()}
        return cost(checkpointing).step(global_batch, largest, shards_of(loop, processes)).peak_gb

    chosen = fit_memory(peak_gb, micro_batches, memory_gb, processes)
    changes = {
        "micro_batches": chosen.micro_batches,
        "activation_checkpointing": chosen.activation_checkpointing,
        "processes": processes,
    }
    return loop.model_copy(update=changes), chosen.reason


def shards_of(loop: LoopConfig, processes: int) -> int:
    """Return over how many processes weights, gradients and optimizer are spread."""
    return processes if loop.parallel == "fsdp" else 1


def largest_micro_batch(global_batch: int, processes: int, micro_batches: int) -> int:
    """Return the samples of the largest micro-batch of any process."""
    return math.ceil(math.ceil(global_batch / processes) / micro_batches)


def possible_micro_batches(global_batches: Collection[int], processes: int) -> list[int]:
    """Return the numbers of parts that every process's batch can be cut into, ascending; equal parts if possible.

    It is 1 where a process would have no sample, which `check_batches` refuses.
    """
    most = min(batch // processes for batch in global_batches)
    numbers = range(1, most + 1)
    equal = [number for number in numbers if all(batch % (number * processes) == 0 for batch in global_batches)]
    return equal if most in equal else list(numbers) or [1]
