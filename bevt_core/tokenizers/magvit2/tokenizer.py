"""Open-MAGVIT2 as a tokenizer, and the key map of its published files (TencentARC/SEED-Voken)."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bevt_core.tokenizers.codebooks import SIGNED, CodebookTokenizer, SignBits
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.loading import Weights, filled, without_memory
from bevt_core.tokenizers.magvit2.family import Magvit2Sizes
from bevt_core.tokenizers.magvit2.networks import Decoder, Encoder
from bevt_core.tokenizers.weights_files import Converted
from bevt_core.weights.averaged import averaged
from bevt_core.weights.surgery import StateDict, rename, tensor_of

KEYS = {
    r"(en|de)coder\.conv_in\.": r"\1coder.stem.",
    r"(en|de)coder\.(?:down|up)\.(\d+)\.block\.": r"\1coder.res.\2.",
    r"encoder\.down\.(\d+)\.downsample\.": r"encoder.resample.\1.",
    r"decoder\.up\.(\d+)\.upsample\.conv1\.": r"decoder.resample.\1.",
    r"decoder\.adaptive\.(\d+)\.gamma\.": r"decoder.adaptive.\1.scale.",
    r"decoder\.adaptive\.(\d+)\.beta\.": r"decoder.adaptive.\1.shift.",
    r"(en|de)coder\.mid_block\.": r"\1coder.middle.",
    r"(en|de)coder\.norm_out\.": r"\1coder.head.0.",
    r"(en|de)coder\.conv_out\.": r"\1coder.head.2.",
}
TRAINING = "loss"  # the module of the discriminator and LPIPS


def load(stored: StoredTokenizer, weights: Weights, **arguments: Any) -> CodebookTokenizer:
    """Build the tokenizer from its stored weights (see `Family.load`)."""
    sizes = stored.sizes
    assert isinstance(sizes, Magvit2Sizes)
    encoder = filled(without_memory(Encoder, sizes), weights.encoder)
    decoder = None if weights.decoder is None else filled(without_memory(Decoder, sizes), weights.decoder)
    return CodebookTokenizer(encoder, SignBits(sizes.bits), decoder, SIGNED, **arguments)


def convert(state: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors of a published file, the averaged ones if it has them, as the original evaluates them.

    Raises UserError for one that is unknown or missing.
    """
    named = rename(averaged(state, TRAINING), KEYS, rf"^{TRAINING}\.", "an Open-MAGVIT2 checkpoint").state
    named = {_own_name(key): tensor for key, tensor in named.items()}
    encoder, decoder = (
        {key.removeprefix(part): tensor for key, tensor in named.items() if key.startswith(part)}
        for part in ("encoder.", "decoder.")
    )
    return Converted(_sizes(encoder), encoder, decoder)


def _own_name(key: str) -> str:
    """The original numbers a decoder's upsampling by the level that it follows, from 1."""
    key = re.sub(r"^decoder\.resample\.(\d+)", lambda found: f"decoder.resample.{int(found[1]) - 1}", key)
    return key.replace(".nin_shortcut.", ".skip.")


def _sizes(encoder: StateDict) -> Magvit2Sizes:
    width = tensor_of(encoder, "stem.weight", 4).shape[0]
    levels = {found[1] for found in (re.match(r"res\.(\d+)\.", key) for key in encoder) if found}
    blocks = {found[1] for found in (re.match(r"res\.0\.(\d+)\.", key) for key in encoder) if found}
    widths = [tensor_of(encoder, f"res.{level}.0.conv1.weight", 4).shape[0] for level in range(len(levels))]
    return Magvit2Sizes(
        width=width,
        multipliers=tuple(each // width for each in widths),
        blocks=len(blocks),
        vocab_size=2 ** tensor_of(encoder, "head.2.weight", 4).shape[0],
    )
