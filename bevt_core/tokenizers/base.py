"""The base class of every tokenizer: it encodes frames to token ids, also as a stream of batches, and decodes ids.

Shapes: N frames, H = W = P = `input_px` pixels, C colours, h x w = `grid` tokens per frame.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bevt_core.tokenizers.precision import parse_dtype, products, repeatable
from schemas.errors import UserError
from schemas.tokens import TokenizerIdentity

# Batches queued on a GPU besides the one whose ids are read. Copies share the stream with the kernels: a batch of 256
# frames at 112 px is 10 MB, and its copy takes less than a millisecond of the 100 ms that DALL-E needs for the batch.
GPU_AHEAD = 1

K = TypeVar("K")


class Tokenizer(ABC):
    """Maps each square RGB frame to a grid of ids in `[0, vocab_size)`, and ids back to a frame."""

    def __init__(
        self,
        *,
        name: str,
        vocab_size: int,
        input_px: int,
        stride: int,
        weights_sha256: str,
        device: torch.device,
        dtype: str,
        pass_frames: int,
    ) -> None:
        """Set the sizes and the device; `dtype` is a key of DTYPES, `pass_frames` the frames per pass."""
        self.name = name
        self.vocab_size = vocab_size
        self.input_px = input_px
        self.stride = stride
        self.weights_sha256 = weights_sha256
        self.device = device
        self.dtype = dtype
        self.weights_dtype = parse_dtype(dtype)
        self.pass_frames = pass_frames
        self.compiled = False

    @property
    def grid(self) -> tuple[int, int]:
        return (self.input_px // self.stride, self.input_px // self.stride)

    @property
    def can_decode(self) -> bool:
        """Whether it was stored with its decoder; without one, `decode` raises UserError."""
        return True

    def identity(self) -> TokenizerIdentity:
        """The identity that token sets record and the trainer compares."""
        return TokenizerIdentity(
            name=self.name,
            weights_sha256=self.weights_sha256,
            vocab_size=self.vocab_size,
            grid=self.grid,
            input_px=self.input_px,
            dtype=self.dtype,
            device_kind=self.device.type,
            compiled=self.compiled,
            frames_per_pass=self.pass_frames,
        )

    def gpu_model(self) -> str | None:
        """The GPU's model, such as "NVIDIA H100 80GB HBM3"; None on a CPU. Bits are equal only on the same model."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None

    def compile(self) -> "Tokenizer":
        """Encode with torch.compile's kernels from now on. The first pass compiles; all passes have the same shape."""
        self._encoder_network.compile(fullgraph=True, dynamic=False)
        self.compiled = True
        return self

    @torch.inference_mode()
    def encode(self, frames_NHWC: Tensor) -> Tensor:
        """uint8 frames at `input_px`, on any device -> int64 ids `[N, h, w]` on this tokenizer's device.

        A frame's ids do not depend on the other frames of the call or on their number. On a GPU the call returns before
        the work is done. Raises UserError for frames of a different size or type.
        """
        size = self.input_px
        if frames_NHWC.dtype != torch.uint8 or tuple(frames_NHWC.shape[1:]) != (size, size, 3):
            raise UserError(
                f"tokenizer {self.name} expects uint8 frames [N, {size}, {size}, 3], got "
                f"{str(frames_NHWC.dtype).removeprefix('torch.')} {list(frames_NHWC.shape)}; "
                f"resize the view to {size} px first (bevt_core.views.replay.halve)"
            )
        if len(frames_NHWC) == 0:
            return torch.empty((0, *self.grid), dtype=torch.int64, device=self.device)
        return self._in_passes(frames_NHWC, lambda full_NHWC: self._encode_pass(to_unit(full_NHWC)))

    @torch.inference_mode()
    def decode(self, tokens_Nhw: Tensor) -> Tensor:
        """Ids `[N, h, w]` of any integer type -> uint8 frames `[N, input_px, input_px, 3]`.

        Raises UserError for a different grid, an id outside the vocabulary, or a tokenizer stored without its decoder.
        """
        if tuple(tokens_Nhw.shape[1:]) != self.grid:
            raise UserError(
                f"tokenizer {self.name} expects ids [N, {self.grid[0]}, {self.grid[1]}], got {list(tokens_Nhw.shape)}"
            )
        ids_Nhw = tokens_Nhw.to(torch.int64)
        if len(ids_Nhw) == 0:
            return torch.empty((0, self.input_px, self.input_px, 3), dtype=torch.uint8, device=self.device)
        lowest, highest = int(ids_Nhw.min()), int(ids_Nhw.max())
        if lowest < 0 or highest >= self.vocab_size:
            raise UserError(
                f"tokenizer {self.name} has ids 0..{self.vocab_size - 1}, got {lowest}..{highest}; "
                "decode these with the tokenizer that made them"
            )
        return self._in_passes(ids_Nhw, lambda full_Nhw: to_uint8(self._decode_pass(full_Nhw)))

    def _in_passes(self, inputs: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `run` to `inputs` along their first axis, always `pass_frames` at a time."""
        outputs = []
        for chunk in inputs.split(self.pass_frames):
            with self._repeatable():
                outputs.append(run(self._full_pass(chunk))[: len(chunk)])
        return torch.cat(outputs)

    def _full_pass(self, chunk: Tensor) -> Tensor:
        """Copy `chunk` to the device, padded with zeros; from CPU to GPU asynchronously, through pinned memory."""
        shape = (self.pass_frames, *chunk.shape[1:])
        staged = self.device.type == "cuda" and chunk.device.type == "cpu"
        full = torch.empty(shape, dtype=chunk.dtype, pin_memory=True) if staged else chunk.new_empty(shape)
        full[: len(chunk)] = chunk
        full[len(chunk) :] = 0
        return full.to(self.device, non_blocking=True)

    def _repeatable(self) -> AbstractContextManager[None]:
        return repeatable(products(self.dtype)) if self.device.type == "cuda" else contextlib.nullcontext()

    @property
    @abstractmethod
    def _encoder_network(self) -> nn.Module:
        """The network that `compile` compiles."""

    @abstractmethod
    def _encode_pass(self, unit_NCHW: Tensor) -> Tensor:
        """Exactly `pass_frames` frames on the device, float32 in [0, 1] -> int64 ids."""

    @abstractmethod
    def _decode_pass(self, ids_Nhw: Tensor) -> Tensor:
        """Exactly `pass_frames` id grids on the device -> frames `[N, C, H, W]` in [0, 1], not clamped."""


class Encoded(NamedTuple):
    """A batch's ids (N, h, w) on the CPU, and the seconds that the device worked on it."""

    ids_Nhw: np.ndarray
    busy_s: float


def encode_batches(
    tokenizer: Tokenizer, batches: Iterable[tuple[K, np.ndarray]], device_lock: AbstractContextManager[object]
) -> Iterator[tuple[K, Encoded]]:
    """Encode each (key, uint8 frames N P P C); yields the keys with their ids, in order. Locks only to submit work.

    A GPU receives the next batch before the ids of the last one are read.
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


def to_unit(frames_NHWC: Tensor) -> Tensor:
    """uint8 frames -> float32 `[N, C, H, W]` in [0, 1], channels-last in memory."""
    return frames_NHWC.permute(0, 3, 1, 2).to(torch.float32) / 255


def to_uint8(unit_NCHW: Tensor) -> Tensor:
    """Floats in [0, 1] -> the nearest uint8 frames `[N, H, W, C]`."""
    return (unit_NCHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def signed(unit: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], contiguous in memory.

    Group norm's kernel for channels-last memory splits its sums by the number of threads, so ids would depend on it.
    """
    return (2 * unit - 1).contiguous()


def unsigned(signed: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], not clamped."""
    return (signed + 1) / 2
