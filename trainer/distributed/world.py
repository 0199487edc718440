"""Rank, device and collectives. A single process has no process group and is a world of size 1."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from schemas.errors import JointError, StorageError, UserError
from schemas.recipes import Execution

R = TypeVar("R")


@dataclass(frozen=True)
class World:
    """The rank and device of this process, and the number of processes."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the element-wise sum over all ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's `value` (any picklable object), in the order of ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """Return rank 0's `value` (any picklable object) on every rank."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def on_main(self, work: Callable[[], R]) -> R:
        """Call `work` on rank 0 and return its value (any picklable object) on every rank; all ranks must call this.

        With several ranks, a UserError or StorageError on rank 0 raises JointError on all of them, so that none waits.
        """
        if self.size == 1:
            return work()
        value: Any = None
        cause: UserError | StorageError | None = None
        if self.is_main:
            try:
                value = work()
            except (UserError, StorageError) as error:
                cause = error
        result: R
        result, refusal = self.from_main((value, None if cause is None else str(cause)))
        if refusal is not None:
            self.barrier()  # no rank leaves before all have received the error
            raise JointError(refusal) from cause
        return result

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)


@contextmanager
def join_world() -> Iterator[World]:
    """Join the process group that the environment of torchrun or `launch` describes: NCCL on GPUs, Gloo on CPUs.

    A nested block yields the same group, which only the outer block leaves: with two groups, a rank that is slow to
    leave the first would meet the others' second. Raises UserError if there are more local processes than GPUs.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _device(int(os.environ.get("LOCAL_RANK", 0)))
    if size == 1:
        yield World(rank=0, size=1, device=device)
        return
    if dist.is_initialized():
        yield World(rank=rank, size=size, device=device)
        return
    if device.type == "cuda":  # with `device_id` NCCL connects at once, so it fails here and not in a step
        dist.init_process_group("nccl", rank=rank, world_size=size, device_id=device)
    else:
        dist.init_process_group("gloo", rank=rank, world_size=size)
    try:
        yield World(rank=rank, size=size, device=device)
    except JointError:  # raised on all ranks, so all leave together
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()  # not after other failures: this may wait for peers and hide the cause


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"at least {local_rank + 1} local processes for {torch.cuda.device_count()} GPUs; start one per GPU, "
            'or set CUDA_VISIBLE_DEVICES="" to train on the CPU'
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `same_bits`; read at the first matrix product
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@contextmanager
def same_bits(wanted: bool, device: torch.device) -> Iterator[None]:
    """If `wanted`, allow only GPU kernels that give the same bits in every run; those of a CPU always do.

    An operator without such a kernel then raises RuntimeError.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    deterministic: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    # PyTorch would otherwise fill all new memory, which takes time
    fills_memory, deterministic.fill_uninitialized_memory = deterministic.fill_uninitialized_memory, False
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        deterministic.fill_uninitialized_memory = fills_memory


def from_host(numbers: Sequence[float], device: torch.device) -> Tensor:
    """Copy numbers to the device as float64, without waiting for the device."""
    copy = torch.tensor(numbers, dtype=torch.float64)
    return copy.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else copy


def to_host(values: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Start copying a tensor to the host; return the copy and a function that waits until it is complete."""
    copy = values.to("cpu", non_blocking=True)  # from a GPU into pinned memory
    if values.device.type != "cuda":
        return copy, lambda: None
    event = torch.cuda.Event()
    event.record()
    return copy, event.synchronize


def micro_batches_of(loop: Execution, world_size: int) -> int:
    """Return the micro-batches per process that keep the size they have on the recipe's number of processes."""
    if loop.processes is None:
        return loop.micro_batches
    return max(1, math.ceil(loop.micro_batches * loop.processes / world_size))
