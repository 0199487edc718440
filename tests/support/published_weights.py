"""Made weights in the layout of a published checkpoint: functions of a tensor's name and shape, so none is stored."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

Shapes = Mapping[str, Sequence[int]]


def made_state(shapes: Shapes) -> dict[str, torch.Tensor]:
    """float32 tensors by name: kernels with the variance that keeps a signal's, biases and norms near 0 and 1."""
    return {key: torch.from_numpy(np.asarray(_made(key, tuple(shape)))) for key, shape in shapes.items()}


def _made(key: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    if "embedding" in key and len(shape) == 2:
        lengths = np.linspace(0.5, 1.5, len(values), dtype=np.float32)[
            :, None
        ]  # equal ones would hide how codes are found
        return lengths * values / np.linalg.norm(values, axis=1, keepdims=True)
    if len(shape) > 1:
        return values / np.sqrt(np.prod(shape[1:], dtype=np.float32))
    return 1 + values / 10 if "norm" in key and key.endswith("weight") else values / 10


def made_frames(count: int, size_px: int) -> np.ndarray:
    """uint8 frames `[count, size_px, size_px, 3]` of noise at several scales, so that positions differ."""
    generator = np.random.default_rng(0)
    frames = np.zeros((count, size_px, size_px, 3))
    for cell in (1, 4, 16):
        coarse = generator.integers(0, 256, (count, -(-size_px // cell), -(-size_px // cell), 3))
        frames += coarse.repeat(cell, 1).repeat(cell, 2)[:, :size_px, :size_px]
    return (frames / 3).astype(np.uint8)
