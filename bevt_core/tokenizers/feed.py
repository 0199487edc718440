"""Batches through a tokenizer one after another; a GPU has the next one before the ids of the last are waited for.

Legend: N frames, P the tokenizer's input side, C colours, h x w its grid.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from bevt_core.tokenizers.base import Tokenizer

# Batches that a GPU has beside the one whose ids are read. Copies share the stream with the kernels: a batch of 256
# frames at 112 px is 10 MB, less than a millisecond of the 100 ms that DALL-E takes for it.
GPU_AHEAD = 1

K = TypeVar("K")


class Encoded(NamedTuple):
    """A batch's ids (N, h, w) on the CPU, and for how long the device worked on it."""

    ids_Nhw: np.ndarray
    busy_s: float


def encode_batches(
    tokenizer: Tokenizer, batches: Iterable[tuple[K, np.ndarray]], device_lock: AbstractContextManager[object]
) -> Iterator[tuple[K, Encoded]]:
    """The ids of each (key, uint8 frames N P P C), in order, beside its key. Holds the lock while it gives out work."""
    hand_over, ahead = (_start, GPU_AHEAD) if tokenizer.device.type == "cuda" else (_finish, 0)
    handed: deque[tuple[K, Callable[[], Encoded]]] = deque()
    for key, frames_NPPC in batches:
        with device_lock:
            handed.append((key, hand_over(tokenizer, torch.from_numpy(frames_NPPC))))
        if len(handed) > ahead:
            key, result = handed.popleft()
            yield key, result()
    for key, result in handed:
        yield key, result()


def _finish(tokenizer: Tokenizer, frames_NPPC: Tensor) -> Callable[[], Encoded]:
    begun = time.monotonic()
    ids_Nhw = tokenizer.encode(frames_NPPC).numpy()
    encoded = Encoded(ids_Nhw, time.monotonic() - begun)
    return lambda: encoded


def _start(tokenizer: Tokenizer, frames_NPPC: Tensor) -> Callable[[], Encoded]:
    """Queue all of a batch's work on the GPU; what is returned waits for it."""
    stream = torch.cuda.current_stream(tokenizer.device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(stream)
    ids_Nhw = tokenizer.encode(frames_NPPC).to(torch.uint16)
    on_cpu_Nhw = torch.empty(ids_Nhw.shape, dtype=torch.uint16, pin_memory=True)
    on_cpu_Nhw.copy_(ids_Nhw, non_blocking=True)
    end.record(stream)

    def wait() -> Encoded:
        end.synchronize()
        return Encoded(on_cpu_Nhw.numpy(), begin.elapsed_time(end) / 1000)

    return wait
