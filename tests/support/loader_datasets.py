"""Datasets for the loader's workers, which import them: what a test module defines they would not find."""

import os
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from schemas.errors import StorageError


class Numbers(Dataset):
    """A batch by step, of every kind of value that a batch may hold."""

    def __getitem__(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "bytes": torch.full((2, 300, 7), step, dtype=torch.uint8),
            "transposed": torch.arange(6.0).view(2, 3).T + step,
            "half": torch.tensor([step, 0.5], dtype=torch.bfloat16),
            "flag": torch.tensor(step % 2 == 0),
            "none": torch.empty(0, 3),
            "names": [f"{step}-{i}" for i in range(2)],
            "missing": None,
        }


class Fatal(Dataset):
    """Numbers until step 2, which ends, or stops, the worker."""

    def __init__(self, signum: int) -> None:
        self.signum = signum

    def __getitem__(self, step: int) -> int:
        if step == 2:
            os.kill(os.getpid(), self.signum)
        return step


class Slow(Dataset):
    """Each batch takes an hour."""

    def __getitem__(self, step: int) -> int:
        time.sleep(3600)
        return step


class Failing(Dataset):
    """Raises what a step stands for."""

    def __getitem__(self, step: int) -> Tensor:
        if step == 1:
            raise StorageError("no such part; fetch it")
        if step == 2:
            raise MemoryError
        if step == 3:
            raise ZeroDivisionError("a bug")
        return torch.tensor(step)


class Unloadable(Dataset):
    """Cannot be unpickled."""

    def __setstate__(self, state: Any) -> None:
        raise KeyError("what was pickled")

    def __getstate__(self) -> dict[str, int]:
        return {"some": 1}
