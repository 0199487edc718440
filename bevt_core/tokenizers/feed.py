"""Encoding of a stream of batches; a GPU receives the next batch before the ids of the last one are read.

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

# Batches queued on a GPU besides the one whose ids are read. Copies share the stream with the kernels: a batch of 256
# frames at 112 px is 10 MB, and its copy takes less than a millisecond of the 100 ms that DALL-E needs for the batch.
GPU_AHEAD = 1

K = TypeVar("K")


class Encoded(NamedTuple):
    """A batch's ids (N, h, w) on the CPU, and the seconds that the device worked on it."""

    ids_Nhw: np.ndarray
    busy_s: float


def encode_batches(
    tokenizer: Tokenizer, batches: Iterable[tuple[K, np.ndarray]], device_lock: AbstractContextManager[object]
) -> Iterator[tuple[K, Encoded]]:
    """Encode each (key, uint8 frames N P P C); yield the keys with their ids, in order.

    `device_lock` is held only while work is submitted.
    """
    submit, ahead = (_start, GPU_AHEAD) if tokenizer.device.type == "cuda" else (_finish, 0)
    submitted: deque[tuple[K, Callable[[], Encoded]]] = deque()
    for key, frames_NPPC in batches:
        with device_lock:
            submitted.append((key, submit(tokenizer, torch.from_numpy(frames_NPPC))))
        if len(submitted) > ahead:
            key, result = submitted.popleft()
            yield key, result()
    for key, result in submitted:
        yield key, result()


def _finish(tokenizer: Tokenizer, frames_NPPC: Tensor) -> Callable[[], Encoded]:
    begun = time.monotonic()
    ids_Nhw = tokenizer.encode(frames_NPPC).numpy()
    encoded = Encoded(ids_Nhw, time.monotonic() - begun)
    return lambda: encoded


def _start(tokenizer: Tokenizer, frames_NPPC: Tensor) -> Callable[[], Encoded]:
    """Queue all of a batch's work on the GPU; the returned function waits for it."""
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
