"""A tokenizer's weights on disk: `encoder.safetensors` and, to decode ids, `decoder.safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save
from torch import Tensor

from bevt_core.storage.files import sha256_of, write_record
from bevt_core.storage.locks.writers import hold_file
from bevt_core.storage.staging import staged_folder
from bevt_core.tokenizers.description import CARD, DECODER, DESCRIPTION, ENCODER, StoredTokenizer
from bevt_core.tokenizers.families import TokenizerSizes
from bevt_core.tokenizers.precision import DTYPES
from bevt_core.weights.checkpoint_files import load_safetensors
from schemas.errors import UserError
from schemas.text.plain import short


class Converted(NamedTuple):
    """A published tokenizer under our names, float32 (see `Family.convert`); `decoder` is None if it draws nothing."""

    sizes: TokenizerSizes
    encoder: Mapping[str, Tensor]  # all that determines the ids
    decoder: Mapping[str, Tensor] | None


def save_tokenizer(
    folder: Path,
    encoder: Mapping[str, Tensor],
    decoder: Mapping[str, Tensor] | None,
    *,
    kind: str,
    sizes: TokenizerSizes,
    input_px: int,
    origin: dict[str, str | int | float],
    storage: str = "float32",
    card: str | None = None,
) -> StoredTokenizer:
    """Write the state dicts, `tokenizer.json` and the text `card` atomically, the weights as `storage` (a key of
    DTYPES).

    Raises UserError if `folder` exists.
    """
    with hold_file(folder, "bevt tokenizer"):
        if folder.exists():
            raise UserError(f"{folder} exists; give another folder, or remove it first")
        with staged_folder(folder) as staging:
            _save_state(staging / ENCODER, encoder, storage)
            if decoder is not None:
                _save_state(staging / DECODER, decoder, storage)
            stored = StoredTokenizer(
                kind=kind,
                sizes=sizes,
                input_px=input_px,
                encoder_sha256=sha256_of(staging / ENCODER),
                decoder_sha256=None if decoder is None else sha256_of(staging / DECODER),
                origin=origin,
            )
            if card is not None:
                (staging / CARD).write_text(card)
            write_record(staging / DESCRIPTION, stored)
    return stored


def read_state(folder: Path, file_name: str, expected_sha256: str) -> dict[str, Tensor]:
    """Read the weights in `folder / file_name` as float32. Raises UserError if missing or if the digest differs."""
    path = folder / file_name
    if not path.is_file():
        raise UserError(f"{path} is missing; copy the tokenizer's whole folder again")
    found = sha256_of(path)
    if found != expected_sha256:
        raise UserError(
            f"{path}: sha256 {short(found)}, expected {short(expected_sha256)} ({DESCRIPTION}); "
            "the file is damaged or was replaced: copy it again"
        )
    return {key: value.float() for key, value in load_safetensors(path).items()}


def _save_state(path: Path, state: Mapping[str, Tensor], storage: str) -> None:
    stored = {key: value.detach().to("cpu", DTYPES[storage]).contiguous() for key, value in state.items()}
    path.write_bytes(save(stored, metadata={"format": "pt"}))  # save_file would make the file private (mode 0600)
