"""PeCo in the registry: its sizes, and the kind `peco`."""

from pydantic import Field

from bevt_core.tokenizers.families import Blocks, Family, Multiplier, PyramidSizes
from schemas.ranges import Vocabulary, Width


class PecoSizes(PyramidSizes):
    """The sizes of PeCo's two networks and of its codebook; the defaults are the paper's where it gives them."""

    width: Width = 128  # channels at full resolution
    # of `width`, one per resolution
    multipliers: tuple[Multiplier, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1, max_length=8)
    blocks: Blocks = 2  # residual blocks per resolution; paper
    code_dim: Width = 256
    vocab_size: Vocabulary = 8192  # paper


PECO = Family("peco", PecoSizes, 224, "bevt_core.tokenizers.peco.tokenizer:load")
