"""VQGAN, LlamaGen's tokenizer and IBQ: how each finds a vector's code, and the key maps of their published files."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bevt_core.tokenizers.codebooks import (
    SIGNED,
    AlignedCodes,
    Codebook,
    CodebookTokenizer,
    NearestCodes,
    UnitVectors,
)
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.loading import Weights, filled, without_memory
from bevt_core.tokenizers.taming.family import IbqSizes, LlamagenSizes, VqganSizes
from bevt_core.tokenizers.taming.networks import Decoder, Encoder
from bevt_core.tokenizers.weights_files import Converted
from bevt_core.weights.averaged import averaged
from bevt_core.weights.surgery import StateDict, rename, tensor_of

CODES = "codes"  # the codebook's name among the encoder's weights

SHARED = {  # keys of all three
    r"(en|de)coder\.norm_out\.": r"\1coder.head.0.",
    r"(en|de)coder\.conv_out\.": r"\1coder.head.2.",
    r"encoder\.conv_in\.": "encoder.stem.",
    r"decoder\.conv_in\.": "decoder.stem.1.",
    r"quant_conv\.": "encoder.head.3.",
    r"post_quant_conv\.": "decoder.stem.0.",
    r"quantize\.embedding\.weight$": f"encoder.{CODES}",
}
TAMING = SHARED | {  # CompVis/taming-transformers, and TencentARC/SEED-Voken
    r"encoder\.down\.(\d+)\.block\.": r"encoder.levels.\1.res.",
    r"encoder\.down\.(\d+)\.attn\.": r"encoder.levels.\1.attn.",
    r"encoder\.down\.(\d+)\.downsample\.conv\.": r"encoder.levels.\1.resample.1.",
    r"decoder\.up\.(\d+)\.block\.": r"decoder.levels.\1.res.",
    r"decoder\.up\.(\d+)\.attn\.": r"decoder.levels.\1.attn.",
    r"decoder\.up\.(\d+)\.upsample\.conv\.": r"decoder.levels.\1.resample.conv.",
    r"(en|de)coder\.mid\.block_1\.": r"\1coder.middle.0.",
    r"(en|de)coder\.mid\.attn_1\.": r"\1coder.middle.1.",
    r"(en|de)coder\.mid\.block_2\.": r"\1coder.middle.2.",
}
LLAMAGEN = SHARED | {  # FoundationVision/LlamaGen
    r"(en|de)coder\.conv_blocks\.(\d+)\.(res|attn)\.": r"\1coder.levels.\2.\3.",
    r"encoder\.conv_blocks\.(\d+)\.downsample\.conv\.": r"encoder.levels.\1.resample.1.",
    r"decoder\.conv_blocks\.(\d+)\.upsample\.conv\.": r"decoder.levels.\1.resample.conv.",
    r"(en|de)coder\.mid\.": r"\1coder.middle.",
}
TRAINING = r"^loss\.|^quantize\.codebook_used$"  # the discriminator and LPIPS; a statistic


def load_vqgan(stored: StoredTokenizer, weights: Weights, **arguments: Any) -> CodebookTokenizer:
    """Build the tokenizer from its stored weights (see `Family.load`); codes are the nearest."""
    return _load(NearestCodes, stored, weights, arguments)


def load_llamagen(stored: StoredTokenizer, weights: Weights, **arguments: Any) -> CodebookTokenizer:
    """Build the tokenizer from its stored weights (see `Family.load`); codes are the nearest by angle."""
    return _load(UnitVectors, stored, weights, arguments)


def load_ibq(stored: StoredTokenizer, weights: Weights, **arguments: Any) -> CodebookTokenizer:
    """Build the tokenizer from its stored weights (see `Family.load`); codes have the largest dot product."""
    return _load(AlignedCodes, stored, weights, arguments)


def convert_vqgan(state: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors of a VQGAN checkpoint. Raises UserError for one that is unknown or missing."""
    return _converted(VqganSizes, _lowest_first(_named(state, TAMING, "a VQGAN checkpoint")))


def convert_llamagen(state: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors of LlamaGen's VQ model. Raises UserError for one that is unknown or missing."""
    named = _named(state, LLAMAGEN, "a LlamaGen VQ checkpoint")
    codes_VD = tensor_of(named, f"encoder.{CODES}", 2)
    named[f"encoder.{CODES}"] = F.normalize(codes_VD.float(), dim=1)  # as the original does at each call
    return _converted(LlamagenSizes, named)


def convert_ibq(state: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors of an IBQ checkpoint, the averaged ones if it has them, as the original evaluates them.

    Raises UserError for one that is unknown or missing.
    """
    return _converted(IbqSizes, _lowest_first(_named(averaged(state, "loss"), TAMING, "an IBQ checkpoint")))


def _load(
    codebook: type[NearestCodes], stored: StoredTokenizer, weights: Weights, arguments: dict[str, Any]
) -> CodebookTokenizer:
    sizes, state = stored.sizes, dict(weights.encoder)
    assert isinstance(sizes, VqganSizes)
    codes: Codebook = codebook(state.pop(CODES).reshape(sizes.vocab_size, sizes.code_dim))
    encoder = filled(without_memory(Encoder, sizes), state)
    decoder = None if weights.decoder is None else filled(without_memory(Decoder, sizes), weights.decoder)
    return CodebookTokenizer(encoder, codes, decoder, SIGNED, **arguments)


def _named(state: Mapping[str, Tensor], keys: Mapping[str, str], source: str) -> StateDict:
    """Rename all keys, and join each attention's three projections."""
    named = rename(state, keys, TRAINING, source).state
    named = {key.replace(".nin_shortcut.", ".skip."): tensor for key, tensor in named.items()}
    for key in [key for key in named if re.search(r"(\.attn\.\d+|\.middle\.1)\.q\.", key)]:
        parts = [key.replace(".q.", f".{part}.") for part in "qkv"]
        ndim = 4 if key.endswith("weight") else 1
        named[key.replace(".q.", ".qkv.")] = torch.cat([tensor_of(named, part, ndim) for part in parts])
        for part in parts:
            del named[part]
    return {key.replace(".proj_out.", ".proj."): tensor for key, tensor in named.items()}


def _lowest_first(named: StateDict) -> StateDict:
    """Number the decoder's levels from the smallest resolution: the original counts from the largest."""
    level = re.compile(r"decoder\.levels\.(\d+)\.")
    last = max((int(found[1]) for found in map(level.match, named) if found), default=0)
    return {
        level.sub(lambda found: f"decoder.levels.{last - int(found[1])}.", key): tensor for key, tensor in named.items()
    }


def _converted(kind: type[VqganSizes], named: StateDict) -> Converted:
    """Infer the sizes from the tensors, and split them into encoder and decoder."""
    stem, codes_VD = tensor_of(named, "encoder.stem.weight", 4), tensor_of(named, f"encoder.{CODES}", 2)
    levels = {found[1] for found in (re.match(r"encoder\.levels\.(\d+)\.", key) for key in named) if found}
    blocks = {found[1] for found in (re.match(r"encoder\.levels\.0\.res\.(\d+)\.", key) for key in named) if found}
    widths = [
        tensor_of(named, f"encoder.levels.{level}.res.0.conv1.weight", 4).shape[0] for level in range(len(levels))
    ]
    sizes = kind(
        width=stem.shape[0],
        multipliers=tuple(width // stem.shape[0] for width in widths),
        blocks=len(blocks),
        latent_width=tensor_of(named, "encoder.head.2.weight", 4).shape[0],
        code_dim=codes_VD.shape[1],
        vocab_size=codes_VD.shape[0],
    )
    encoder, decoder = (
        {key.removeprefix(part): tensor for key, tensor in named.items() if key.startswith(part)}
        for part in ("encoder.", "decoder.")
    )
    return Converted(sizes, encoder, decoder)
