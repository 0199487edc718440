"""VQ-KD as a tokenizer, and the key map of the published files (microsoft/unilm, beit2/modeling_vqkd.py)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bevt_core.tokenizers.codebooks import SIGNED, CodebookTokenizer, UnitVectors
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.loading import Weights, filled, without_memory
from bevt_core.tokenizers.vqkd.family import VqkdSizes
from bevt_core.tokenizers.vqkd.networks import VqkdEncoder
from bevt_core.tokenizers.weights_files import Converted
from bevt_core.weights.surgery import rename, tensor_of
from schemas.errors import UserError

CODES = "codes"  # the codebook's name among the encoder's weights
HEAD_WIDTH = 64  # the published encoders are ViT-B: 12 heads of 64 channels; no tensor shows their number

KEYS = {
    r"encoder\.cls_token$": "class_token",
    r"encoder\.pos_embed$": "positions",
    r"encoder\.patch_embed\.proj\.": "patch.",
    r"encoder\.(blocks\.\d+)\.mlp\.fc1\.": r"\1.mlp.0.",
    r"encoder\.(blocks\.\d+)\.mlp\.fc2\.": r"\1.mlp.2.",
    r"encoder\.(blocks\.\d+\.(norm1|norm2|attn)\.)": r"\1",
    r"encoder\.fc_norm\.": "norm.",
    r"encode_task_layer\.": "head.",
    r"quantize\.embedding\.weight$": CODES,
}
# the decoder predicts features, not pixels; the rest belongs to training
DROPPED = (
    r"^(decoder|decode_task_layer|teacher_model|scaling_layer|loss)\.|"
    r"^quantize\.(cluster_size|embedding\.(cluster_size|embed_avg|initted))$"
)


def load(stored: StoredTokenizer, weights: Weights, **arguments: Any) -> CodebookTokenizer:
    """Build the tokenizer from its stored weights (see `Family.load`). Raises UserError if the grid does not fit."""
    sizes = stored.sizes
    assert isinstance(sizes, VqkdSizes)
    if stored.grid != (sizes.side, sizes.side):
        raise UserError(
            f"input_px {stored.input_px}, expected {sizes.side * sizes.patch}: the position embedding is of "
            f"{sizes.side} x {sizes.side} patches"
        )
    state = dict(weights.encoder)
    codes_VD = state.pop(CODES).reshape(sizes.vocab_size, sizes.code_dim)
    return CodebookTokenizer(
        filled(without_memory(VqkdEncoder, sizes), state), UnitVectors(codes_VD), None, SIGNED, **arguments
    )


def convert(state: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors of a published file. Raises UserError for one that is unknown or missing."""
    named = rename(state, KEYS, DROPPED, "a VQ-KD checkpoint").state
    kernel, positions = tensor_of(named, "patch.weight", 4), tensor_of(named, "positions", 3)
    codes = tensor_of(named, CODES, 2)
    blocks = {key.split(".")[1] for key in named if key.startswith("blocks.")}
    sizes = VqkdSizes(
        width=kernel.shape[0],
        depth=len(blocks),
        heads=max(1, kernel.shape[0] // HEAD_WIDTH),
        mlp_width=tensor_of(named, "blocks.0.mlp.0.weight", 2).shape[0],
        patch=kernel.shape[2],
        side=int((positions.shape[1] - 1) ** 0.5),
        code_dim=codes.shape[1],
        vocab_size=codes.shape[0],
    )
    for block in sorted(blocks):
        prefix = f"blocks.{block}.attn."
        query, value = (tensor_of(named, f"{prefix}{name}_bias", 1) for name in "qv")
        named[f"{prefix}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])  # keys have no bias
        del named[f"{prefix}q_bias"], named[f"{prefix}v_bias"]
    return Converted(sizes, named, None)
