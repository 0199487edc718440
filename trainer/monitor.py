"""What a step's log line says of the machine: where the time went, the rate of operations, memory."""

import itertools
import resource
import time
from typing import Any

import torch

from trainer.distributed import World

# dense bf16 tensor-core TFLOP/s by a part of the device's name, from NVIDIA's data sheets; V100: fp16
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "V100": 125.0}
MAXRSS_BYTES = 1024  # Linux counts in KiB


class StepClock:
    """The seconds of a step's sections, one after another: by the host's clock, on a GPU by the device's own."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.names: list[str] = []
        self.marks: list[Any] = []
        self._mark()

    def lap(self, name: str) -> None:
        """End a section."""
        self.names.append(name)
        self._mark()

    def seconds(self) -> dict[str, float]:
        """Return the sections' seconds; on a GPU, after it is done with them."""
        pairs = zip(self.names, itertools.pairwise(self.marks), strict=True)
        return {name: (a.elapsed_time(b) / 1000 if self.on_gpu else b - a) for name, (a, b) in pairs}

    def _mark(self) -> None:
        if not self.on_gpu:
            self.marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)


def peak_tflops(device: torch.device, given: float | None) -> float | None:
    """Return a device's peak: as given, or that of a GPU whose name is known, else None."""
    if given is not None or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def rates(step_flops: float | None, step_s: float, world: World, peak: float | None) -> dict[str, float]:
    """Return achieved TFLOP/s per process, and its share of the peak (model FLOPs utilisation), as far as known."""
    if step_flops is None:
        return {}
    achieved = step_flops / world.size / step_s / 1e12
    return {"tflops_per_s": achieved, **({"mfu": achieved / peak} if peak is not None else {})}


def memory_gb(device: torch.device) -> float:
    """Return the most memory that this process has held so far: the device's, or the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES / 1e9
