"""What a batch costs on its way from a loader's process to the training loop: ours beside torch's DataLoader.

    PYTHONPATH=benchmarks python benchmarks/loader_transport.py

A batch is made of zeros, so that nothing but its way is measured. Prints a line per size: milliseconds a batch, and CPU
milliseconds of the training process, for both in turn.
"""

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from trainer.data.loader import make_loader

BATCHES, WORKERS, ROUNDS = 150, 2, 3
SIZES_MB = (1, 30)  # a batch of 8 clips and 64 images of 224 px has 29 MB


class Zeros(Dataset):
    """Batches of `num_bytes`."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        return {"pixels": torch.zeros(self.num_bytes, dtype=torch.uint8)}


def milliseconds(loader: Iterable[Any]) -> tuple[float, float]:
    """Of a batch, once the workers run: until it is there, and of the process's CPU. One byte of each page is read."""
    batches = iter(loader)
    next(batches)
    began, began_cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        batch["pixels"][::4096].sum()
    took = time.perf_counter() - began, time.process_time() - began_cpu
    return took[0] / (BATCHES - 1) * 1e3, took[1] / (BATCHES - 1) * 1e3


def main() -> None:
    for size_mb in SIZES_MB:
        data = Zeros(size_mb << 20)
        for _ in range(ROUNDS):
            ours = milliseconds(make_loader(data, 0, BATCHES, num_workers=WORKERS, pin_memory=False))
            torchs = milliseconds(
                DataLoader(
                    data,
                    sampler=range(BATCHES),
                    batch_size=None,
                    num_workers=WORKERS,
                    multiprocessing_context="forkserver",
                )
            )
            print(
                f"{size_mb} MB: {ours[0]:.2f} ms a batch, {ours[1]:.2f} ms CPU; "
                f"DataLoader {torchs[0]:.2f}, {torchs[1]:.2f}"
            )


if __name__ == "__main__":
    import loader_transport  # by its name, since workers import the dataset's class

    loader_transport.main()
