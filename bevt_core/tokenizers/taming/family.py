"""VQGAN, LlamaGen and IBQ in the registry: their sizes and kinds.

(Esser et al. 2021, https://arxiv.org/abs/2012.09841; Sun et al. 2024, https://arxiv.org/abs/2406.06525;
Shi et al. 2024, https://arxiv.org/abs/2412.02692.)
"""

from pydantic import Field

from bevt_core.tokenizers.families import AGAINST_ORIGINAL, Blocks, Family, Multiplier, PyramidSizes
from schemas.ranges import Vocabulary, Width

CODE = "bevt_core.tokenizers.taming.tokenizer"


class VqganSizes(PyramidSizes):
    """The sizes of both networks and of the codebook; the defaults are vqgan_imagenet_f16_16384's."""

    width: Width = 128  # channels at full resolution
    # of `width`, one per resolution
    multipliers: tuple[Multiplier, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1, max_length=8)
    blocks: Blocks = 2  # residual blocks per resolution of the encoder; the decoder has one more
    latent_width: Width = 256  # channels before the projection to the codes
    code_dim: Width = 256
    vocab_size: Vocabulary = 16_384


class LlamagenSizes(VqganSizes):
    """The defaults are VQ-16's."""

    code_dim: Width = 8


class IbqSizes(VqganSizes):
    """The defaults are imagenet_ibqgan_16384's."""

    blocks: Blocks = 4


VQGAN = Family("vqgan", VqganSizes, 224, f"{CODE}:load_vqgan", f"{CODE}:convert_vqgan", AGAINST_ORIGINAL)
LLAMAGEN = Family("llamagen", LlamagenSizes, 224, f"{CODE}:load_llamagen", f"{CODE}:convert_llamagen", AGAINST_ORIGINAL)
IBQ = Family("ibq", IbqSizes, 224, f"{CODE}:load_ibq", f"{CODE}:convert_ibq", AGAINST_ORIGINAL)
