"""A tokenizer on disk: a folder of `tokenizer.json`, `encoder.safetensors` and, for pictures, `decoder.safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bevt_core.files import clean_staging, read_record, sha256_of, staged_folder, write_record
from bevt_core.tokenizers.base import DTYPES
from bevt_core.tokenizers.networks import DvaeSizes
from bevt_core.tokenizers.peco_networks import PecoSizes
from schemas.base import Record
from schemas.errors import UserError

CARD = "tokenizer.json"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"

Kind = Literal["dalle", "dvae", "peco"]
SIZES: dict[str, type[Record]] = {"dalle": DvaeSizes, "dvae": DvaeSizes, "peco": PecoSizes}


class StoredTokenizer(Record):
    """`tokenizer.json`: what the weights beside it are. `kind` is also the tokenizer's name in token sets."""

    format_version: Literal[1] = 1
    kind: Kind
    sizes: DvaeSizes | PecoSizes
    input_px: int
    encoder_sha256: str  # everything that decides the ids
    decoder_sha256: str | None
    origin: dict[str, str | int | float]  # where the weights come from: source digests, or recipe and metrics

    @model_validator(mode="after")
    def _sizes_of_the_kind(self) -> "StoredTokenizer":
        if not isinstance(self.sizes, SIZES[self.kind]):
            raise ValueError(f"the sizes are those of another kind than {self.kind!r}")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per frame: rows, columns."""
        side = self.input_px // self.sizes.stride
        return (side, side)


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
    """Write the state dicts whole or not at all; `storage` is the weights' type on disk (a key of DTYPES).

    Raises UserError if `folder` exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; give another place, or remove it first")
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


def read_state(folder: Path, file_name: str, expected_sha256: str) -> dict[str, Tensor]:
    """The weights in `folder / file_name`, as float32. Raises UserError where they are not those of the card."""
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
        return {key: value.float() for key, value in load_file(path).items()}
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); copy it again") from None


def _save_state(path: Path, state: Mapping[str, Tensor], storage: str) -> None:
    stored = {key: value.detach().to("cpu", DTYPES[storage]).contiguous() for key, value in state.items()}
    path.write_bytes(save(stored, metadata={"format": "pt"}))  # save_file would keep others from reading it


def parse_dtype(dtype: str) -> torch.dtype:
    """Raises UserError for a name that is not a key of DTYPES."""
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[dtype]
