"""Time and peak memory of work on a device, by CUDA events on a GPU and by the host's clock on a CPU."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from schemas.errors import UserError

Work = Callable[[], object]


def available_device(name: str) -> torch.device:
    """Return the device called `name`. Raises UserError if it does not exist."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"`device` {name}: torch {torch.__version__} sees no CUDA GPU here; use `device` cpu")
    return device


def device_name(device: torch.device) -> str:
    """Return a GPU's model, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class Marks:
    """Marks in a device's queue of work, and the milliseconds between them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[Any] = []

    def add(self) -> None:
        """Mark the end of the work queued so far."""
        if self.device.type != "cuda":
            self.marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def intervals_ms(self) -> list[float]:
        """Wait for the device; return the milliseconds from each mark to the next."""
        synchronize(self.device)
        pairs = zip(self.marks[:-1], self.marks[1:], strict=True)
        if self.device.type == "cuda":
            return [first.elapsed_time(second) for first, second in pairs]
        return [1000 * (second - first) for first, second in pairs]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed_ms(phases: Sequence[Work], device: torch.device, *, warm_up: int = 3, repeats: int = 10) -> list[float]:
    """Run the phases in order, `warm_up + repeats` times; return each one's median milliseconds after the warm-up."""
    rounds = []
    for _ in range(warm_up + repeats):
        marks = Marks(device)
        marks.add()
        for phase in phases:
            phase()
            marks.add()
        rounds.append(marks.intervals_ms())
    return [statistics.median(times) for times in zip(*rounds[warm_up:], strict=True)]


def peak_bytes_above(work: Work, device: torch.device) -> int | None:
    """Return the peak GPU memory of `work` in bytes, above the memory already allocated; None on a CPU."""
    if device.type != "cuda":
        return None
    synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
