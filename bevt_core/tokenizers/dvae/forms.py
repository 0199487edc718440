"""The forms of a dVAE's networks, by the class of their sizes: how to build, initialise, store and load them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.codes import VECTORS_PER_CODE
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.dvae import networks, patch_tokenizer, patches, tokenizer, warm_start
from bevt_core.tokenizers.dvae.family import DvaeSizes, PatchSizes
from bevt_core.tokenizers.families import TokenizerSizes
from bevt_core.tokenizers.loading import Weights


@dataclass(frozen=True)
class Form:
    """The functions of one form; encoders and decoders take and return the same as those of networks.py."""

    build_encoder: Callable[[Any], nn.Module]  # of the sizes
    build_decoder: Callable[[Any], nn.Module]
    warm_start: Callable[..., Tensor]  # (encoder, decoder, frames, generator) -> codes
    vectors_per_code: int  # that the warm start uses
    state_of: Callable[[Any], dict[str, Tensor]]  # a network's weights under their stored names
    load: Callable[..., Tokenizer]


FORMS: dict[type[TokenizerSizes], Form] = {
    DvaeSizes: Form(
        build_encoder=networks.build_encoder,
        build_decoder=networks.build_decoder,
        warm_start=warm_start.warm_start,
        vectors_per_code=VECTORS_PER_CODE,
        state_of=networks.to_package_state,
        load=tokenizer.load,
    ),
    PatchSizes: Form(
        build_encoder=patches.PatchEncoder,
        build_decoder=patches.PatchDecoder,
        warm_start=patches.warm_start_patches,
        vectors_per_code=patches.VECTORS_PER_CODE,
        state_of=nn.Module.state_dict,
        load=patch_tokenizer.load,
    ),
}


def load(stored: StoredTokenizer, weights: Weights, **arguments: Any) -> Tokenizer:
    """Build the tokenizer of kind `dalle` or `dvae` from its stored weights (see `Family.load`)."""
    return FORMS[type(stored.sizes)].load(stored, weights, **arguments)
