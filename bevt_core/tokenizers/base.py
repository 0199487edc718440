"""The base class of every tokenizer: it encodes frames to token ids and decodes ids to frames.

Shapes: N frames, H = W = `input_px` pixels, C colours, h x w = `grid` tokens per frame.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from bevt_core.tokenizers.precision import parse_dtype, products, repeatable
from schemas.errors import UserError
from schemas.tokens import TokenizerIdentity


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
        the work is done. Raises UserError for frames of another size or type.
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
        return self._in_passes(frames_NHWC, self._encode_pass)

    @torch.inference_mode()
    def decode(self, tokens_Nhw: Tensor) -> Tensor:
        """Ids `[N, h, w]` of any integer type -> uint8 frames `[N, input_px, input_px, 3]`.

        Raises UserError for another grid, an id outside the vocabulary, or a tokenizer stored without its decoder.
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
        return self._in_passes(ids_Nhw, self._decode_pass)

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
    def _encode_pass(self, frames_NHWC: Tensor) -> Tensor:
        """Exactly `pass_frames` uint8 frames on the device -> int64 ids."""

    @abstractmethod
    def _decode_pass(self, ids_Nhw: Tensor) -> Tensor:
        """Exactly `pass_frames` id grids on the device -> uint8 frames."""
