"""RandAugment and random erasing for clips: drawn once, then the same operation, sign and box for every frame.

The operations are timm's; timm draws signs from Python's global generator, which is seeded for it and then restored.
Legend: T frames, H height, W width, C channels (RGB).
"""

import functools
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from schemas.recipes import RandAugmentConfig

MEAN_COLOUR = (124, 116, 104)  # ImageNet's, 0..255: fills uncovered and erased pixels
ERASED_AREA = (0.02, 1 / 3)  # share of the frame; timm's and the original's RandomErasing
ERASED_ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10  # boxes drawn before the clip is left unchanged


def rand_augment(clip_THWC: Tensor, config: RandAugmentConfig, rng: np.random.Generator) -> Tensor:
    """Apply `num_ops` operations, drawn with replacement, to every frame of a uint8 clip."""
    _, _, width, _ = clip_THWC.shape
    frames = [Image.fromarray(frame_HWC.numpy()) for frame_HWC in clip_THWC]
    operations = _operations(config.magnitude, width)
    for choice in rng.integers(len(operations), size=config.num_ops):
        operation = operations[choice]
        with _python_random(int(rng.integers(2**32))):
            levels: tuple[Any, ...] = (
                operation.level_fn(config.magnitude, operation.hparams) if operation.level_fn else ()
            )
        if operation.name.startswith("Posterize"):
            levels = (max(1, levels[0]),)  # Pillow needs at least one bit
        frames = [operation.aug_fn(frame, *levels, **operation.kwargs) for frame in frames]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))


def erase(clip_THWC: Tensor, rng: np.random.Generator) -> Tensor:
    """Paint one random box, the same in every frame, with the mean colour."""
    _, height, width, _ = clip_THWC.shape
    for _ in range(ATTEMPTS):
        area_px = height * width * rng.uniform(*ERASED_AREA)
        ratio = math.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
        box_h, box_w = round(math.sqrt(area_px * ratio)), round(math.sqrt(area_px / ratio))
        if 0 < box_h < height and 0 < box_w < width:
            top, left = rng.integers((height - box_h, width - box_w), endpoint=True)
            erased_THWC = clip_THWC.clone()
            erased_THWC[:, top : top + box_h, left : left + box_w] = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)
            return erased_THWC
    return clip_THWC


@functools.cache
def _operations(magnitude: float, width: int) -> list[Any]:
    # imported here: it takes a second, and few recipes need it. These operations all get stronger with the magnitude
    from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS, rand_augment_ops

    hparams = {
        "translate_const": int(0.45 * width),  # timm's share
        "img_mean": MEAN_COLOUR,
        "interpolation": Image.Resampling.BILINEAR,
    }
    operations: list[Any] = rand_augment_ops(
        magnitude, prob=1.0, hparams=hparams, transforms=_RAND_INCREASING_TRANSFORMS
    )
    return operations


@contextmanager
def _python_random(seed: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
