"""Choose the micro-batches that fit a GPU: as few as possible, if possible without activation checkpointing.

The choice changes a run only in rounding and in the random numbers of drop path and dropout, so it is not part of the
run's identity.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from bevt_core.console.readable import count
from schemas.errors import UserError
from schemas.recipes import LoopConfig
from trainer.setup.cost import TrainingCost

# a limit in GB; "gpu": the current GPU's memory; "recipe": no limit, the recipe's micro-batches are used
Memory = float | Literal["gpu", "recipe"]

OUTSIDE_GB = 2.0  # not allocated by torch: the CUDA context, workspaces of cuBLAS and cuDNN, NCCL buffers
USABLE_SHARE = 0.85  # share of the rest to fill: activations are estimated, and the allocator fragments memory


class TooLittleMemory(UserError):
    """A step fits the GPU in no number of micro-batches."""

    least_gb = 0  # of a GPU on which it would fit


class MicroBatching(NamedTuple):
    """How each process splits its batch, and why."""

    micro_batches: int  # per process
    activation_checkpointing: bool
    reason: str


def memory_gb_of(memory: Memory) -> float | None:
    """Return the GB that a step must fit into, or None without a limit: for "recipe", and for "gpu" without a GPU."""
    if memory == "recipe":
        return None
    if memory != "gpu":
        return memory
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9


def fit_memory(
    peak_gb: Callable[[int, bool], float], micro_batches: Sequence[int], memory_gb: float, processes: int
) -> MicroBatching:
    """Choose the first of `micro_batches`, ascending, whose `peak_gb(number, activation_checkpointing)` fits.

    Few large micro-batches keep the device busier. Activation checkpointing is tried last, since it adds about 30 % to
    the operations. Raises TooLittleMemory if nothing fits.
    """
    usable_gb = USABLE_SHARE * (memory_gb - OUTSIDE_GB)
    refused = ""
    for checkpointing in (False, True):
        how = f"{'with' if checkpointing else 'without'} activation checkpointing"
        for number in micro_batches:
            needed_gb = peak_gb(number, checkpointing)
            if needed_gb <= usable_gb:
                chosen = f"{count(number, 'micro-batch')} {how}: about {needed_gb:.3g} of {usable_gb:.3g} usable GB"
                chosen += f" on a GPU of {memory_gb:.4g} GB{refused}"
                return MicroBatching(number, checkpointing, chosen)
            refused = f"; {number} {how} would take {needed_gb:.3g} GB"
    least_gb = math.ceil(needed_gb / USABLE_SHARE + OUTSIDE_GB)
    shared = f" on each of {processes} processes" if processes > 1 else ""
    error = TooLittleMemory(
        f"a step takes about {needed_gb:.3g} GB{shared} even in "
        f"{count(micro_batches[-1], 'micro-batch')} with activation checkpointing, but {max(0.0, usable_gb):.3g} of "
        f"{memory_gb:.4g} GB are usable; use GPUs with at least {least_gb} GB"
    )
    error.least_gb = least_gb
    raise error


def fit_loop(
    loop: LoopConfig,
    cost: Callable[[bool], TrainingCost],
    global_batch: Mapping[str, int],
    micro_batches: Sequence[int],
    memory_gb: float,
    processes: int,
) -> tuple[LoopConfig, str]:
    """Return `loop` with the choice of `fit_memory`, and the reason for it.

    `cost` takes whether activations are checkpointed.
    """

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
    """Return over how many processes the weights, gradients and optimizer state are sharded; 1: each has a copy."""
    return processes if loop.parallel == "fsdp" else 1


def largest_micro_batch(global_batch: int, processes: int, micro_batches: int) -> int:
    """Return the number of samples in the largest micro-batch of any process."""
    return math.ceil(math.ceil(global_batch / processes) / micro_batches)


def possible_micro_batches(global_batches: Collection[int], processes: int) -> list[int]:
    """Return the possible numbers of micro-batches per process, ascending, if possible only those of equal size.

    Returns [1] if a process would have no sample; `check_batches` refuses that.
    """
    most = min(batch // processes for batch in global_batches)
    numbers = range(1, most + 1)
    equal = [number for number in numbers if all(batch % (number * processes) == 0 for batch in global_batches)]
    return equal if most in equal else list(numbers) or [1]
