"""Sections of recipes: encoders, the two-stream model, and masks."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Record
from schemas.ranges import Depth, Heads, Share, Size3, Vocabulary, Width, check_parameters


class SwinConfig(Record):
    """Video Swin; an image is a clip with T = 1."""

    kind: Literal["swin"]
    patch: Size3  # frames, rows, columns
    embed_dim: Width  # channels of the first stage; each further stage doubles them
    depths: tuple[Depth, ...] = Field(min_length=1, max_length=8)  # blocks per stage
    num_heads: tuple[Heads, ...]  # per stage
    window: Size3  # time, rows, columns, in patches
    drop_path: float = Field(ge=0.0, lt=1.0)  # stochastic depth in the last block; rises from 0 in the first

    @model_validator(mode="after")
    def _one_head_count_per_stage(self) -> "SwinConfig":
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"depths {self.depths} and num_heads {self.num_heads} must have the same length")
        for stage, depth in enumerate(self.depths):
            check_parameters(depth, self.embed_dim * 2**stage)
        return self


class TimeSformerConfig(Record):
    """TimeSformer with divided attention (paper, Table 8)."""

    kind: Literal["timesformer"]
    patch: Size3  # frames, rows, columns
    embed_dim: Width  # channels
    depth: Depth  # number of blocks
    num_heads: Heads  # per block
    grid: Size3  # of the position embeddings: tubelets, rows, columns
    drop_path: float = Field(ge=0.0, lt=1.0)  # stochastic depth in the last block; rises from 0 in the first

    @model_validator(mode="after")
    def _size_is_plausible(self) -> "TimeSformerConfig":
        check_parameters(self.depth, self.embed_dim)
        return self


EncoderConfig = Annotated[SwinConfig | TimeSformerConfig, Field(discriminator="kind")]


# of a target: a part of parameter names and of metrics
TargetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=50)]


class BevtConfig(Record):
    """The two-stream model."""

    encoder: EncoderConfig
    vocab_size: Vocabulary  # of the token set; number of classes of the LM head
    # vocabularies of further targets, which have an LM head each; written only if there are any
    more_heads: dict[TargetName, Vocabulary] = Field(default={}, exclude_if=lambda heads: not heads)
    # name of the first target, by which initial weights find its head; written only if it has one
    first_target: TargetName | None = Field(default=None, exclude_if=lambda name: name is None)
    share_encoder: Literal["shared", "separate"]  # paper section 3.3: one encoder for both streams

    @model_validator(mode="after")
    def _names_differ(self) -> "BevtConfig":
        if self.first_target in self.more_heads:
            raise ValueError(f"first_target {self.first_target} is also in more_heads; give each target its own name")
        return self


Positions = Annotated[int, Field(ge=1, le=10**6)]


class TubeMask(Record):
    """The same blockwise mask in consecutive tubelets (paper section 3.2)."""

    kind: Literal["tube"]
    ratio: float = Field(gt=0.0, lt=1.0)  # of the positions of a masked tubelet
    min_block: Positions = 16  # smallest block, in positions
    length_share: tuple[Share, Share] = (0.5, 1.0)  # of the clip's tubelets

    @model_validator(mode="after")
    def _shares_ascend(self) -> "TubeMask":
        if self.length_share[0] > self.length_share[1]:
            raise ValueError(f"length_share {self.length_share} must ascend")
        return self


class BlockMask(Record):
    """Blockwise mask of an image (BEiT)."""

    kind: Literal["block"]
    ratio: float = Field(gt=0.0, lt=1.0)  # of the image's positions
    min_block: Positions = 16  # smallest block, in positions


class Random3dMask(Record):
    """Random single positions of the clip (paper, Table 9)."""

    kind: Literal["random_3d"]
    ratio: float = Field(gt=0.0, lt=1.0)  # of the clip's positions


class RandomFrameMask(Record):
    """Random tubelets, with all their positions (paper, Table 9)."""

    kind: Literal["random_frame"]
    ratio: float = Field(gt=0.0, lt=1.0)  # of the clip's positions


class FrameDiffMask(Record):
    """The positions where consecutive frames differ most (paper, Table 9)."""

    kind: Literal["frame_diff"]
    ratio: float = Field(gt=0.0, lt=1.0)  # of the clip's positions


MaskConfig = Annotated[
    TubeMask | BlockMask | Random3dMask | RandomFrameMask | FrameDiffMask, Field(discriminator="kind")
]
