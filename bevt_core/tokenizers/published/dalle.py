"""Conversion of the official DALL-E pickles, with an unpickler that allows seven classes and executes nothing else."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import torch
from dall_e.decoder import Decoder, DecoderBlock
from dall_e.encoder import Encoder, EncoderBlock
from dall_e.utils import Conv2d
from torch import Tensor, nn

from bevt_core.storage.files import sha256_of
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.dvae.family import INPUT_PX
from bevt_core.tokenizers.dvae.networks import (
    build_decoder,
    build_encoder,
    load_package_state,
    sizes_of,
    to_package_state,
)
from bevt_core.tokenizers.weights_files import save_tokenizer
from schemas.errors import UserError
from schemas.text.plain import short

_SHARED: list[Callable[..., nn.Module]] = [Conv2d, nn.Sequential, nn.ReLU, nn.Identity]
ENCODER_CLASSES = [Encoder, EncoderBlock, nn.MaxPool2d, *_SHARED]
DECODER_CLASSES = [Decoder, DecoderBlock, nn.Upsample, *_SHARED]


def convert_pickles(
    encoder_pkl: Path, decoder_pkl: Path | None, out: Path, expected_sha256: str | None = None
) -> StoredTokenizer:
    """Convert `encoder.pkl` (and `decoder.pkl`) to a tokenizer folder of kind `dalle`.

    `expected_sha256` is the encoder pickle's. Raises UserError if the digest differs, for a file that names a
    class outside the lists above (nothing in it is executed), and for weights that do not fit the architecture.
    """
    digest = _checked_digest(encoder_pkl, expected_sha256)
    origin: dict[str, str | int | float] = {"encoder_pkl_sha256": digest}
    encoder_state = _read_weights(encoder_pkl, Encoder, ENCODER_CLASSES)
    decoder_state = None
    if decoder_pkl is not None:
        origin["decoder_pkl_sha256"] = _checked_digest(decoder_pkl, None)
        decoder_state = _read_weights(decoder_pkl, Decoder, DECODER_CLASSES)

    try:
        sizes = sizes_of(encoder_state, decoder_state)
        encoder = build_encoder(sizes)
        load_package_state(encoder, encoder_state)
        decoder = None
        if decoder_state is not None:
            decoder = build_decoder(sizes)
            load_package_state(decoder, decoder_state)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{encoder_pkl}: weights do not fit the dVAE of the dall-e package: {error}") from None
    return save_tokenizer(
        out,
        to_package_state(encoder),
        None if decoder is None else to_package_state(decoder),
        kind="dalle",
        sizes=sizes,
        input_px=INPUT_PX,
        origin=origin,
    )


def _checked_digest(path: Path, expected: str | None) -> str:
    if not path.is_file():
        raise UserError(
            f"{path} is not a file; download encoder.pkl and decoder.pkl from https://cdn.openai.com/dall-e/"
        )
    digest = sha256_of(path)
    if expected is not None and digest != expected.lower():
        raise UserError(
            f"{path}: sha256 {short(digest)}, expected {short(expected)}; download it again from another source"
        )
    return digest


def _read_weights(path: Path, kind: type[nn.Module], allowed: list[Callable[..., nn.Module]]) -> dict[str, Tensor]:
    names = ", ".join(entry.__name__ for entry in allowed)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            module = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {named[1]}" if named else str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"{path}: refused, nothing in it was executed: {reason} "
            f"(allowed classes: {names}); download the file from https://cdn.openai.com/dall-e/"
        ) from None
    if not isinstance(module, kind):
        raise UserError(f"{path} contains a {type(module).__name__}, expected the dall-e package's {kind.__name__}")
    return dict(module.state_dict())
