"""VQ-KD in the registry: its sizes, and the kind `vqkd` (Peng et al. 2022, BEiT v2, https://arxiv.org/abs/2208.06366)."""

from bevt_core.tokenizers.families import AGAINST_ORIGINAL, Family, TokenizerSizes
from schemas.ranges import Depth, Heads, Side, Vocabulary, Width


class VqkdSizes(TokenizerSizes):
    """The sizes of the encoder and of its codebook; the defaults are those of `vqkd_encoder_base_*` (ViT-B/16)."""

    width: Width = 768
    depth: Depth = 12
    heads: Heads = 12
    mlp_width: Width = 3072
    patch: Side = 16
    side: Side = 14  # of the token grid, which the position embedding fixes
    code_dim: Width = 32
    vocab_size: Vocabulary = 8192

    @property
    def stride(self) -> int:
        """Width of one token in pixels."""
        return self.patch

    @property
    def full_width(self) -> int:
        """Values of the largest activation, the MLP's, per pixel of the input."""
        return -(-self.mlp_width // self.patch**2)


VQKD = Family(
    "vqkd",
    VqkdSizes,
    input_px=224,
    load="bevt_core.tokenizers.vqkd.tokenizer:load",
    convert="bevt_core.tokenizers.vqkd.tokenizer:convert",
    checked=AGAINST_ORIGINAL,
)
