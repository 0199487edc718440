"""A tokenizer on disk: a folder of `tokenizer.json`, `encoder.safetensors` and, for pictures, `decoder.safetensors`."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bevt_core.files import clean_staging, read_record, sha256_of, staged_folder, write_record
from bevt_core.tokenizers.base import DTYPES
from bevt_core.tokenizers.networks import DvaeSizes, to_package_state
from schemas.base import Record
from schemas.errors import UserError

CARD = "tokenizer.json"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"


class StoredTokenizer(Record):
    """`tokenizer.json`: what the weights beside it are. `kind` is also the tokenizer's name in token sets."""

    format_version: Literal[1] = 1
    kind: Literal["dalle", "dvae"]
    sizes: DvaeSizes
    input_px: int
    encoder_sha256: str
    decoder_sha256: str | None
    origin: dict[str, str | int | float]  # where the weights come from: source digests, or recipe and metrics


def save_tokenizer(
    folder: Path,
    encoder: nn.Sequential,
    decoder: nn.Sequential | None,
    *,
    kind: Literal["dalle", "dvae"],
    sizes: DvaeSizes,
    input_px: int,
    origin: dict[str, str | int | float],
    storage: str = "float32",
) -> StoredTokenizer:
    """Write the folder whole or not at all; `storage` is the weights' type on disk (a key of DTYPES).

    Raises UserError if `folder` exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; give another place, or remove it first")
    with staged_folder(folder) as staging:
        _save_network(staging / ENCODER, encoder, storage)
        if decoder is not None:
            _save_network(staging / DECODER, decoder, storage)
        stored = StoredTokenizer(
            kind=kind,
            sizes=sizes,
            input_px=input_px,
            encoder_sha256=sha256_of(staging / ENCODER),
            decoder_sha256=None if decoder is None else sha256_of(staging / DECODER),
            origin=origin,
        )
        write_record(staging / CARD, stored)
    clean_staging(folder.parent)
    return stored


def read_card(folder: Path) -> StoredTokenizer:
    """Raises UserError, with the mend, where `folder` holds no tokenizer."""
    stored = read_record(folder / CARD, StoredTokenizer)
    if stored is None:
        what = "has no tokenizer.json" if folder.is_dir() else "does not exist"
        raise UserError(
            f"tokenizer {folder} {what}; make one with `bevt tokenizer train dvae --preset nano ...`, "
            "or from the published weights with `bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
        )
    return stored


def read_network(folder: Path, file_name: str, expected_sha256: str) -> dict[str, Tensor]:
    """The weights in `folder / file_name`. Raises UserError where they are missing or not those of the card."""
    path = folder / file_name
    if not path.is_file():
        raise UserError(f"{path} is missing; copy the tokenizer's folder again, all of it")
    found = sha256_of(path)
    if found != expected_sha256:
        raise UserError(
            f"{path}: sha256 {found}, {CARD} says {expected_sha256}; "
            "the file is damaged or was exchanged: copy it again"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); copy it again") from None


def _save_network(path: Path, network: nn.Sequential, storage: str) -> None:
    state = {key: value.to("cpu", DTYPES[storage]) for key, value in to_package_state(network).items()}
    path.write_bytes(save(state, metadata={"format": "pt"}))  # save_file would keep others from reading it


def parse_dtype(dtype: str) -> torch.dtype:
    """Raises UserError for a name that is not a key of DTYPES."""
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[dtype]
