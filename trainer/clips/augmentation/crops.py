"""Crops for fine-tuning and testing: one box and one flip for all frames of a clip; bilinear, antialiased, on uint8.

Resampling is torch's on channels-last uint8, five times faster than Pillow's (docs/log.md).
Legend: B boxes, T frames, H height, W width, C channels (RGB).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bevt_core.views.replay import scaled_size
from schemas.recipes import AugmentConfig
from trainer.clips.augmentation.strong_augment import erase, rand_augment

ATTEMPTS = 10  # boxes drawn before the centre square is taken; original: RandomResizedCrop.get_crop_bbox


class Box(NamedTuple):
    """A rectangle in a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, clip_THWC: Tensor) -> Tensor:
        """Cut the box out of every frame."""
        return clip_THWC[:, self.top : self.top + self.height, self.left : self.left + self.width]


def augment_clip(clip_THWC: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Crop, flip and augment a clip at random, all frames alike: uint8 (T, crop_px, crop_px, C)."""
    _, height, width, _ = clip_THWC.shape
    box = random_box(height, width, config.area_share, config.aspect, rng)
    flip = bool(rng.random() < config.flip_share)
    crop_THWC = resize(box.cut(clip_THWC), config.crop_px, config.crop_px)
    crop_THWC = crop_THWC.flip(2) if flip else crop_THWC
    if config.rand_augment is not None:
        crop_THWC = rand_augment(crop_THWC, config.rand_augment, rng)
    return erase(crop_THWC, rng) if rng.random() < config.erase_share else crop_THWC


def random_box(
    height: int,
    width: int,
    area_share: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Draw a box by area (share of the frame) and aspect (width / height, log-uniform), anywhere in the frame."""
    for _ in range(ATTEMPTS):
        area_px = height * width * rng.uniform(*area_share)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_h, box_w = round(math.sqrt(area_px / ratio)), round(math.sqrt(area_px * ratio))
        if 0 < box_h <= height and 0 < box_w <= width:
            top, left = rng.integers((height - box_h, width - box_w), endpoint=True)
            return Box(int(top), int(left), box_h, box_w)
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def crop_views(clip_THWC: Tensor, short_side_px: int, crop_px: int, crops: int) -> Tensor:
    """Scale to `short_side_px` and cut squares: the centre, or three along the long side: (B, T, crop_px, crop_px, C).

    Like the original's CenterCrop and ThreeCrop, the three in order of position.
    """
    _, height, width, _ = clip_THWC.shape
    scaled_h, scaled_w = scaled_size(height, width, short_side_px)
    scaled_THWC = resize(clip_THWC, scaled_h, scaled_w)
    boxes = view_boxes(scaled_h, scaled_w, crop_px, crops)
    return torch.stack([box.cut(scaled_THWC) for box in boxes])


def view_boxes(height: int, width: int, crop_px: int, crops: int) -> list[Box]:
    """Place `crops` (1 or 3) squares of `crop_px` along the long side, centred across it."""
    free_h, free_w = height - crop_px, width - crop_px
    if crops == 1:
        return [Box(free_h // 2, free_w // 2, crop_px, crop_px)]
    if width >= height:
        return [Box(free_h // 2, left, crop_px, crop_px) for left in (0, free_w // 2, free_w // 2 * 2)]
    return [Box(top, free_w // 2, crop_px, crop_px) for top in (0, free_h // 2, free_h // 2 * 2)]


def resize(clip_THWC: Tensor, height: int, width: int) -> Tensor:
    """Scale every frame of a uint8 clip, bit for bit the same with any number of threads."""
    if clip_THWC.shape[1:3] == (height, width):
        return clip_THWC
    clip_TCHW = clip_THWC.permute(0, 3, 1, 2)  # channels-last in memory
    scaled_TCHW = F.interpolate(clip_TCHW, size=(height, width), mode="bilinear", antialias=True)
    return scaled_TCHW.permute(0, 2, 3, 1)
