"""Conversion of a published checkpoint to a tokenizer folder by its family's key map. Runs no code in the file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from bevt_core.console.inert import one_line
from bevt_core.storage.files import sha256_of
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.families import family_of, named_object
from bevt_core.tokenizers.loading import Weights, build_tokenizer
from bevt_core.tokenizers.weights_files import Converted, save_tokenizer
from bevt_core.weights.checkpoint_files import read_state_dict
from schemas.errors import UserError
from schemas.text.plain import short
from schemas.text.validation import describe

Convert = Callable[[Mapping[str, Tensor]], Converted]


def convert_checkpoint(
    kind: str,
    checkpoint: Path,
    out: Path,
    *,
    input_px: int | None = None,
    expected_sha256: str | None = None,
    source: Mapping[str, str] | None = None,
) -> StoredTokenizer:
    """Convert a checkpoint to a tokenizer folder of `kind`, for frames of `input_px` (None: the family's).

    `source` says where the file is from, for the description and the card. Raises UserError for a kind without a key
    map, if the digest differs, for a file that cannot be read without running code, and for a tensor that is unknown,
    missing or misshapen.
    """
    family = family_of(kind)
    if family.convert is None:
        raise UserError(f"kind {kind!r} has no published checkpoint to convert; train one with `bevt tokenizer train`")
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} is not a file; give the published checkpoint")
    digest = sha256_of(checkpoint)
    if expected_sha256 is not None and digest != expected_sha256.lower():
        raise UserError(f"{checkpoint}: sha256 {short(digest)}, expected {short(expected_sha256)}; download it again")
    origin: dict[str, str | int | float] = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": digest,
        **(source or {}),
    }
    convert: Convert = named_object(family.convert)
    try:
        converted = convert(read_state_dict(checkpoint))
        stored = _described(kind, converted, input_px or family.input_px, origin)
        encoder, decoder = converted.encoder, converted.decoder
        weights = Weights(_floats(encoder), None if decoder is None else _floats(decoder))
        build_tokenizer(stored, weights, torch.device("cpu"), "float32", None)
    except ValidationError as error:
        raise UserError(
            f"{checkpoint}: its tensors give sizes that are not allowed: {describe(error, family.sizes)}"
        ) from None
    except UserError as error:
        raise UserError(f"{checkpoint}: {str(error).removeprefix(f'{checkpoint}: ')}") from None
    except (LookupError, RuntimeError, ValueError) as error:
        raise UserError(f"{checkpoint}: its tensors do not fit kind {kind!r}: {one_line(str(error))}") from None
    return save_tokenizer(
        out,
        weights.encoder,
        weights.decoder,
        kind=kind,
        sizes=stored.sizes,
        input_px=stored.input_px,
        origin=origin,
        card=_card(stored, origin, family.checked),
    )


def _described(kind: str, converted: Converted, input_px: int, origin: dict[str, str | int | float]) -> StoredTokenizer:
    sizes = converted.sizes
    if input_px % sizes.stride:
        raise UserError(f"input_px {input_px} is not a multiple of the {sizes.stride} px of a token")
    return StoredTokenizer(
        kind=kind, sizes=sizes, input_px=input_px, encoder_sha256="", decoder_sha256=None, origin=origin
    )


def _floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.float() for key, tensor in state.items()}


def _card(stored: StoredTokenizer, origin: Mapping[str, str | int | float], checked: str | None) -> str:
    rows, columns = stored.grid
    facts = "\n".join(f"| {key} | {one_line(str(value))} |" for key, value in origin.items())
    return f"""# {stored.kind}

{stored.sizes.vocab_size} codes, {stored.sizes.stride} x {stored.sizes.stride} pixels a token, {stored.input_px} px
frames to {rows} x {columns} tokens. Converted by `bevt tokenizer convert`.

{checked or "What the network was compared with is not recorded."} It was **not checked on the published file**:
before a long job, look at `bevt tokenizer info` with frames of yours.

| origin | |
| --- | --- |
{facts}
"""
