"""Sizes of public data sets, for plans made without the data, and their storage under the shipped recipes."""

from dataclasses import dataclass
from typing import Literal

from schemas.errors import UserError

FRAME_BYTES = 27_800  # per stored frame: short side 256, JPEG quality 90, mean of three Kinetics clips (docs/log.md)
TOKEN_MAP_BYTES = 320  # 14 x 14 tokens from a vocabulary of 8192, all equally frequent (docs/log.md)
TOKENIZER_GFLOP = 52.1  # per frame, DALL-E's encoder at 112 px, counted by torch


@dataclass(frozen=True)
class KnownSet:
    """A training split. `stride`, `views` and `crop_px` are those of its recipe in pipeline/recipes."""

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
        KnownSet("k400", "video", "k400", 240_000, 400, 300, 8, 8),  # 10 s at 30 frames/s (Kay et al. 2017)
        KnownSet("in1k", "image", "imagenet", 1_281_167, 1000, 1, 1, 20),  # ILSVRC 2012
        KnownSet("ssv2", "video", "ssv2", 168_913, 174, 48, 2, 8),  # 4 s at 12 frames/s (Goyal et al. 2017)
        KnownSet(
            "diving48", "video", "diving48", 15_027, 48, 160, 2, 8
        ),  # V2; about 5 s at 30 frames/s (Li et al. 2018)
    )
}


def known_set(name: str) -> KnownSet:
    """Return the set. Raises UserError for an unknown one."""
    if name not in KNOWN_SETS:
        raise UserError(f"unknown data set {name!r}; expected one of {', '.join(KNOWN_SETS)}")
    return KNOWN_SETS[name]


def known_sets(names: str) -> list[KnownSet]:
    """Return the sets of a list such as `k400,in1k`. Raises UserError for an unknown one."""
    return [known_set(name.strip()) for name in names.split(",")]
