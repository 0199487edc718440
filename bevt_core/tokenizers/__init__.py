"""Tokenizers: frames in, token ids out. `load_tokenizer` is the one door; what comes out knows its own identity."""

import os
from pathlib import Path

import torch

from bevt_core.tokenizers.base import DTYPES, FRAMES_PER_PASS, Tokenizer
from bevt_core.tokenizers.dalle import DvaeTokenizer
from bevt_core.tokenizers.networks import build_decoder, build_encoder, load_package_state
from bevt_core.tokenizers.storage import (
    DECODER,
    ENCODER,
    StoredTokenizer,
    parse_dtype,
    read_card,
    read_network,
)
from schemas.errors import UserError

__all__ = ["DTYPES", "FRAMES_PER_PASS", "Tokenizer", "find_tokenizer", "load_tokenizer"]

PRETRAINED = Path(__file__).parent / "pretrained"  # ships with the package


def tokenizer_cache() -> Path:
    """Where named tokenizers are kept: $BEVT_TOKENIZERS, or ~/.cache/bevt/tokenizers."""
    return Path(os.environ.get("BEVT_TOKENIZERS", Path.home() / ".cache" / "bevt" / "tokenizers"))


def find_tokenizer(path_or_name: str | Path) -> Path:
    """A folder, or the name of one in the package or in `tokenizer_cache()`. Raises UserError naming all three."""
    path = Path(path_or_name)
    places = [path]
    if len(path.parts) == 1:
        places += [PRETRAINED / path, tokenizer_cache() / path]
    for place in places:
        if place.is_dir():
            return place
    shipped = sorted(entry.name for entry in PRETRAINED.glob("*/"))
    raise UserError(
        f"tokenizer {str(path_or_name)!r} not found (looked at {', '.join(map(str, places))}; "
        f"the package brings: {', '.join(shipped) or 'none'}); "
        "make one with `bevt tokenizer train dvae --preset nano ...`, "
        "or from the published weights with `bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
    )


def load_tokenizer(path_or_name: str | Path, device: str | torch.device = "cpu", dtype: str = "float32") -> Tokenizer:
    """Load a stored tokenizer for inference.

    Raises UserError where there is none, where its files do not match its card, or for an unknown dtype.
    """
    folder = find_tokenizer(path_or_name)
    stored = read_card(folder)
    return LOADERS[stored.kind](folder, stored, torch.device(device), parse_dtype(dtype))


def _load_dvae(folder: Path, stored: StoredTokenizer, device: torch.device, dtype: torch.dtype) -> DvaeTokenizer:
    encoder = build_encoder(stored.sizes)
    load_package_state(encoder, read_network(folder, ENCODER, stored.encoder_sha256))
    decoder = None
    if stored.decoder_sha256 is not None:
        decoder = build_decoder(stored.sizes)
        load_package_state(decoder, read_network(folder, DECODER, stored.decoder_sha256))
    return DvaeTokenizer(
        encoder,
        decoder,
        name=stored.kind,
        input_px=stored.input_px,
        weights_sha256=stored.encoder_sha256,
        device=device,
        dtype=dtype,
    )


LOADERS = {"dalle": _load_dvae, "dvae": _load_dvae}
