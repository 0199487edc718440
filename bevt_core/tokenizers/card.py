"""`tokenizer.json`, what a stored tokenizer says of itself. Read without torch: a job may have nothing to do."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bevt_core.files import read_record
from bevt_core.places import what_is
from schemas.base import Record
from schemas.errors import UserError

CARD = "tokenizer.json"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"
STRIDE = 8  # three 2x poolings of the dVAE

Kind = Literal["dalle", "dvae", "peco"]


class DvaeSizes(Record):
    """What fixes the shape of both networks; the defaults are the published model's (Ramesh et al. 2021, `dall_e`)."""

    n_hid: int = 256  # channels of the first group; the last group of the encoder has 8 times as many
    n_blk_per_group: int = 2
    n_init: int = 128  # channels of a decoded token
    vocab_size: int = 8192

    @property
    def stride(self) -> int:
        """Pixels that one token is wide."""
        return STRIDE


class PecoSizes(Record):
    """What fixes the shape of both networks and of the codebook; the defaults are the paper's where it names them."""

    width: int = 128  # channels at full resolution
    multipliers: tuple[int, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1)  # of `width`, one per resolution
    blocks: int = 2  # residual blocks per resolution; paper
    code_dim: int = 256
    vocab_size: int = 8192  # paper

    @property
    def stride(self) -> int:
        """Pixels that one token is wide."""
        return 2 ** (len(self.multipliers) - 1)


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


def read_card(folder: Path) -> StoredTokenizer:
    """Raises UserError, with the mend, where `folder` holds no tokenizer."""
    stored = read_record(folder / CARD, StoredTokenizer)
    if stored is None:
        raise UserError(
            f"tokenizer {folder}: {what_is(folder)}; expected a folder with {CARD}; make one with "
            "`bevt tokenizer train dvae --preset nano ...`, or from the published weights with "
            "`bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
        )
    return stored
