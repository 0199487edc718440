"""View geometry: how a view of a stored frame is made. A view is stored once and replayed in training.

Original: RandomRescale(short side 256..320), RandomCrop 224, Flip 0.5; images also ColorJitter 0.4 before the crop
(xyzforever/BEVT, configs/recognition/swin/swin_base_patch244_window877_bevt_in1k_k400.py).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.ranges import CropPixels, Pixels, Seed, Share

JitterOp = Literal["brightness", "contrast", "saturation"]
Factor = Annotated[float, Field(ge=0.0, le=2.0)]
Offset = Annotated[int, Field(ge=0, le=10**6)]  # pixels


class NumViews(Record):
    """Number of views per sample that are drawn and stored."""

    num_views: int = Field(ge=1, le=4096)  # per sample


class ViewDistribution(Record):
    """The distribution of random views."""

    crop_px: CropPixels  # side of the crop
    short_side_min_px: Pixels  # the smallest short side to which a frame is scaled before the crop
    short_side_max_px: Pixels  # the largest such short side
    flip_share: Share  # share of the random views that are mirrored, left to right
    jitter: float = Field(ge=0.0, lt=1.0)  # strength of brightness, contrast and saturation; 0 = none. Images only

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ViewDistribution":
        if not self.crop_px <= self.short_side_min_px <= self.short_side_max_px:
            raise ValueError(
                f"crop_px {self.crop_px}, short_side_min_px {self.short_side_min_px} and short_side_max_px "
                f"{self.short_side_max_px} must not decrease in that order"
            )
        return self


class ViewSpec(ViewDistribution, NumViews):  # this order of bases writes num_views first
    """The views of a token set. View 0 is always the plain centre crop; the others are random."""

    seed: Seed = 0  # of the random views


class View(Record):
    """One drawn view: scale the frame so that its short side is `short_side_px`, jitter, crop, flip."""

    short_side_px: Pixels
    top_px: Offset  # upper edge of the crop in the scaled frame
    left_px: Offset  # its left edge
    crop_px: Pixels  # side of the crop
    flip: bool  # left to right
    jitter: tuple[tuple[JitterOp, Factor], ...] = ()  # (operation, factor) in the order they are applied
