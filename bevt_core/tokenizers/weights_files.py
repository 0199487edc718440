"""A tokenizer's weights on disk: `encoder.safetensors` and, to decode ids, `decoder.safetensors`."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from bevt_core.storage.files import sha256_of, write_record
from bevt_core.storage.locks.writers import hold_file
from bevt_core.storage.staging import staged_folder
from bevt_core.tokenizers.description import DECODER, DESCRIPTION, ENCODER, DvaeSizes, Kind, PecoSizes, StoredTokenizer
from bevt_core.tokenizers.precision import DTYPES
from bevt_core.weights.checkpoint_files import load_safetensors
from schemas.errors import UserError
from schemas.text.plain import short


def save_tokenizer(
    folder: Path,
    encoder: Mapping[str, Tensor],
    decoder: Mapping[str, Tensor] | None,
    *,
    kind: Kind,
    sizes: DvaeSizes | PecoSizes,
    input_px: int,
    origin: dict[str, str | int | float],
    storage: str = "float32",
) -> StoredTokenizer:
    """Write the state dicts and `tokenizer.json` atomically; `storage` is the weights' type on disk (a key of DTYPES).

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
