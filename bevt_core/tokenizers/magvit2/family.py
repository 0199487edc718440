"""Open-MAGVIT2 in the registry: its sizes, and the kind `magvit2` (Luo et al. 2024, https://arxiv.org/abs/2409.04410)."""

from pydantic import Field, model_validator

from bevt_core.tokenizers.families import AGAINST_ORIGINAL, Blocks, Family, Multiplier, PyramidSizes
from schemas.ranges import Vocabulary, Width


class Magvit2Sizes(PyramidSizes):
    """The sizes of both networks; the defaults are pretrain_lfqgan_256_16384's."""

    width: Width = 128  # channels at full resolution
    # of `width`, one per resolution
    multipliers: tuple[Multiplier, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1, max_length=8)
    blocks: Blocks = 4  # residual blocks per resolution, and in the middle
    vocab_size: Vocabulary = 16_384  # a power of 2

    @model_validator(mode="after")
    def _vocabulary_of_bits(self) -> "Magvit2Sizes":
        if self.vocab_size & (self.vocab_size - 1):
            raise ValueError(f"vocab_size {self.vocab_size} is not a power of 2")
        return self

    @property
    def bits(self) -> int:
        """Values of a vector."""
        return self.vocab_size.bit_length() - 1


MAGVIT2 = Family(
    "magvit2",
    Magvit2Sizes,
    224,
    "bevt_core.tokenizers.magvit2.tokenizer:load",
    "bevt_core.tokenizers.magvit2.tokenizer:convert",
    AGAINST_ORIGINAL,
)
