"""Measurements of the machine for a step's log line: time per section, FLOP rates, memory."""

import itertools
import re
import time
from typing import Any, NamedTuple

import torch

from bevt_core.system import peak_resident_bytes
from trainer.distributed.world import World

# Dense bf16 tensor-core TFLOP/s with fp32 accumulation, by words of the device's name. From NVIDIA's data sheets and
# architecture white papers, which often print the doubled value for sparse matrices. V100 has no bf16; its value is for
# fp16.
PEAK_TFLOPS = {
    "GB300": 2500.0,
    "B300": 2250.0,
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H200 NVL": 835.0,
    "H100": 989.0,  # SXM
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H800": 989.0,
    "H800 PCIe": 756.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10": 125.0,
    "RTX A6000": 154.8,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX PRO 6000": 503.8,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,  # SXM2
    "V100 PCIE": 112.0,
}
# words of partitioned GPUs, and of slower models with the same name
OTHER_THAN_NAMED = {"MIG", "GRID", "Laptop", "Max", "D"}


class StepClock:
    """Times the consecutive sections of a step in seconds, by the host's clock or, on a GPU, by CUDA events."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.names: list[str] = []
        self.marks: list[Any] = []
        self._mark()

    def lap(self, name: str) -> None:
        """End the section `name`."""
        self.names.append(name)
        self._mark()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each section; on a GPU, call this after the device has finished them."""
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
    """Return a device's peak in TFLOP/s: `given`, or that of a GPU with a known name, else None."""
    if given is not None or device.type != "cuda":
        return given
    return peak_of(torch.cuda.get_device_name(device))


def device_name(device: torch.device) -> str:
    """Return a GPU's name, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_of(name: str) -> float | None:
    """Return the peak of the GPU called `name`, from the entry that matches most of its words; None if unknown."""
    words = set(re.findall(r"\w+", name))
    known = [entry for entry in PEAK_TFLOPS if words.issuperset(entry.split())]
    if not known or words & OTHER_THAN_NAMED:
        return None
    return PEAK_TFLOPS[max(known, key=lambda entry: len(entry.split()))]


class StepFlops(NamedTuple):
    """FLOPs of a step over all ranks."""

    model: float
    hardware: float  # includes the recomputation of activation checkpointing


def rates(step_flops: StepFlops | None, step_s: float, world: World, peak: float | None) -> dict[str, float]:
    """Return a step's FLOP rates: none without `step_flops`, no shares without `peak`.

    `tflops_per_s` is the rate of one process and `hfu` its share of the peak (hardware FLOPs utilisation). `mfu` (model
    FLOPs utilisation) does not count recomputation.
    """
    if step_flops is None:
        return {}
    model, hardware = (flops / world.size / step_s / 1e12 for flops in step_flops)
    return {"tflops_per_s": hardware, **({"mfu": model / peak, "hfu": hardware / peak} if peak is not None else {})}


def memory_gb(device: torch.device) -> float:
    """Return the peak memory of this process in GB: GPU memory, or resident memory without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return peak_resident_bytes() / 1e9
