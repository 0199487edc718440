"""Loading of stored tokenizers, one function per kind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.description import (
    DECODER,
    DESCRIPTION,
    ENCODER,
    DvaeSizes,
    PecoSizes,
    StoredTokenizer,
    check_device,
    read_description,
)
from bevt_core.tokenizers.dvae import networks
from bevt_core.tokenizers.dvae.tokenizer import DvaeTokenizer
from bevt_core.tokenizers.peco import networks as peco_networks
from bevt_core.tokenizers.peco.tokenizer import CODES, PecoTokenizer
from bevt_core.tokenizers.precision import parse_dtype
from bevt_core.tokenizers.weights_files import read_state
from schemas.errors import UserError

S = TypeVar("S")


def load_stored(folder: Path, device: str | torch.device, dtype: str, pass_frames: int | None) -> Tokenizer:
    """Load the tokenizer in `folder`; `pass_frames` None means the device's default.

    Raises UserError if its files do not match its description, for an unknown dtype, and for settings that the device
    does not support.
    """
    stored, device = read_description(folder), torch.device(device)
    parse_dtype(dtype)
    check_device(device.type, dtype, pass_frames)
    return LOADERS[stored.kind](folder, stored, device, dtype, pass_frames or stored.pass_frames(device.type))


def _load_dvae(
    folder: Path, stored: StoredTokenizer, device: torch.device, dtype: str, pass_frames: int
) -> DvaeTokenizer:
    assert isinstance(stored.sizes, DvaeSizes)
    decoder = None
    with _weights_match_description(folder):
        encoder = _without_memory(networks.build_encoder, stored.sizes)
        networks.load_package_state(encoder, read_state(folder, ENCODER, stored.encoder_sha256))
        if stored.decoder_sha256 is not None:
            decoder = _without_memory(networks.build_decoder, stored.sizes)
            networks.load_package_state(decoder, read_state(folder, DECODER, stored.decoder_sha256))
    return DvaeTokenizer(
        encoder,
        decoder,
        name=stored.kind,
        input_px=stored.input_px,
        weights_sha256=stored.encoder_sha256,
        device=device,
        dtype=dtype,
        pass_frames=pass_frames,
    )


def _load_peco(
    folder: Path, stored: StoredTokenizer, device: torch.device, dtype: str, pass_frames: int
) -> PecoTokenizer:
    assert isinstance(stored.sizes, PecoSizes)
    decoder = None
    with _weights_match_description(folder):
        encoder = _without_memory(peco_networks.build_encoder, stored.sizes)
        state = read_state(folder, ENCODER, stored.encoder_sha256)
        codes_VD = state.pop(CODES).reshape(stored.sizes.vocab_size, stored.sizes.code_dim)
        encoder.load_state_dict(state, assign=True)
        if stored.decoder_sha256 is not None:
            decoder = _without_memory(peco_networks.build_decoder, stored.sizes)
            decoder.load_state_dict(read_state(folder, DECODER, stored.decoder_sha256), assign=True)
    return PecoTokenizer(
        encoder,
        codes_VD,
        decoder,
        sizes=stored.sizes,
        input_px=stored.input_px,
        weights_sha256=stored.encoder_sha256,
        device=device,
        dtype=dtype,
        pass_frames=pass_frames,
    )


def _without_memory(build: Callable[[S], nn.Sequential], sizes: S) -> nn.Sequential:
    """Build a network on the meta device, so that sizes that do not match the weights cost no memory."""
    with torch.device("meta"):
        return build(sizes)


@contextmanager
def _weights_match_description(folder: Path) -> Iterator[None]:
    """Turn errors about missing, unexpected or misshapen weights into a UserError with the folder and a fix."""
    try:
        yield
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder}: the weights do not match the sizes in {DESCRIPTION} ({error}); copy the whole folder again"
        ) from None


LOADERS = {"dalle": _load_dvae, "dvae": _load_dvae, "peco": _load_peco}
