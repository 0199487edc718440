"""The dVAE in the registry: its sizes, and the kinds `dalle` (the published weights) and `dvae` (trained here)."""

from typing import Literal

from bevt_core.tokenizers.families import Blocks, Family, TokenizerSizes
from schemas.ranges import Vocabulary, Width

STRIDE = 8  # three 2x poolings of the dVAE


class DvaeSizes(TokenizerSizes):
    """The sizes of a dVAE's two networks; the defaults are the published model's (Ramesh et al. 2021, `dall_e`)."""

    n_hid: Width = 256  # channels of the first group; the last group of the encoder has 8 times as many
    n_blk_per_group: Blocks = 2
    n_init: Width = 128  # channels of a decoded token
    vocab_size: Vocabulary = 8192

    @property
    def stride(self) -> int:
        """Width of one token in pixels."""
        return STRIDE

    @property
    def full_width(self) -> int:
        """Channels at full resolution."""
        return self.n_hid


class PatchSizes(TokenizerSizes):
    """The sizes of a dVAE of the form `patches` (see patches.py); the defaults are those of `dvae-small`."""

    form: Literal["patches"] = "patches"
    width: Width = 128  # channels of the decoder, at one position per token
    blocks: Blocks = 3  # residual blocks of the decoder
    vocab_size: Vocabulary = 1024

    @property
    def stride(self) -> int:
        """Width of one token in pixels."""
        return STRIDE

    @property
    def full_width(self) -> int:
        """Logits per pixel of the input."""
        return max(3, self.vocab_size // STRIDE**2)


LOAD = "bevt_core.tokenizers.dvae.forms:load"
INPUT_PX = 112  # BEVT's: the 224 px view halved; the network accepts any multiple of 8

DALLE = Family("dalle", DvaeSizes, INPUT_PX, LOAD)
DVAE = Family("dvae", DvaeSizes, INPUT_PX, LOAD, forms=(PatchSizes,))
