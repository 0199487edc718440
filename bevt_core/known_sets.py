"""Sizes of public data sets, and of the datasets that the shipped recipes make of them, for plans without the data."""

from dataclasses import dataclass
from typing import Literal

from schemas.errors import UserError
from schemas.recipes.loading import nearest

FRAME_BYTES = 27_800  # per stored frame: short side 256, JPEG quality 90, mean of three Kinetics clips (docs/log.md)
TOKEN_MAP_BYTES = 320  # 14 x 14 tokens from a vocabulary of 8192, all equally frequent (docs/log.md)
TOKENIZER_GFLOP = 52.1  # per frame, DALL-E's encoder at 112 px, counted by torch


@dataclass(frozen=True)
class KnownSet:
    """The training split of a public data set. `stride`, `views` and `crop_px` are those of its recipe."""

    name: str
    kind: Literal["video", "image"]
    recipe: str  # name in pipeline/recipes
    samples: int
    classes: int
    frames: int  # per sample, on average
    stride: int
    views: int
    crop_px: int = 224

    @property
    def description(self) -> str:
        """The sizes in words."""
        if self.kind == "image":
            return f"{self.samples} images, {self.views} views"
        return f"{self.samples} videos of {self.frames} frames on average, 1 of {self.stride} kept, {self.views} views"

    @property
    def stored_frames(self) -> int:
        """Number of frames kept from all samples."""
        return self.samples * max(1, self.frames // self.stride)

    @property
    def frames_gb(self) -> float:
        return self.stored_frames * FRAME_BYTES / 1e9

    @property
    def tokens_gb(self) -> float:
        return self.stored_frames * self.views * TOKEN_MAP_BYTES / 1e9

    @property
    def tokenizer_flops(self) -> float:
        """FLOPs to tokenize all views once."""
        return self.stored_frames * self.views * TOKENIZER_GFLOP * 1e9


KNOWN_SETS = {
    known.name: known
    for known in (
        KnownSet(  # 10 s at 30 frames/s (Kay et al. 2017)
            "k400", "video", recipe="k400", samples=240_000, classes=400, frames=300, stride=8, views=8
        ),
        KnownSet(  # ILSVRC 2012
            "in1k", "image", recipe="imagenet", samples=1_281_167, classes=1000, frames=1, stride=1, views=20
        ),
        KnownSet(  # 4 s at 12 frames/s (Goyal et al. 2017)
            "ssv2", "video", recipe="ssv2", samples=168_913, classes=174, frames=48, stride=2, views=8
        ),
        KnownSet(  # V2; about 5 s at 30 frames/s (Li et al. 2018)
            "diving48", "video", recipe="diving48", samples=15_027, classes=48, frames=160, stride=2, views=8
        ),
    )
}


def known_set(name: str) -> KnownSet:
    """Return the set. Raises UserError for an unknown one."""
    if name not in KNOWN_SETS:
        raise UserError(
            f"unknown data set {name!r}; {nearest(name, list(KNOWN_SETS))}expected one of {', '.join(KNOWN_SETS)}"
        )
    return KNOWN_SETS[name]


def known_sets(names: str) -> list[KnownSet]:
    """Return the sets of a list such as `k400,in1k`. Raises UserError for an unknown one."""
    return [known_set(name.strip()) for name in names.split(",")]
