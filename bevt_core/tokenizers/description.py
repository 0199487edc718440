"""`tokenizer.json`, the description of a stored tokenizer. Imports no torch, so that a finished job starts fast."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, SerializeAsAny, create_model, model_validator

from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import read_record
from bevt_core.tokenizers.families import TokenizerSizes, family_of
from schemas.base import PlainName, Record
from schemas.errors import UserError
from schemas.ranges import Pixels
from schemas.tokens import CPU_PASS_FRAMES

DESCRIPTION = "tokenizer.json"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"
CARD = "CARD.md"

# Frames per pass through a network, used by `pass_frames` below. Every pass has exactly this many, the last one padded
# with black: convolution kernels choose their blocking, and so their rounding, by batch size.
# CPUs: 16. The logits then have the same bits for 1 to 32 threads, wherever the frame is in the pass; with 4 or 8 they
# do not (docs/log.md).
# GPUs: 128. The deepest convolutions of DALL-E have 14 x 14 positions a frame and 512 output channels. In tiles of
# 128 x 128 that is 784 tiles, six waves on the 132 multiprocessors of an H100; 16 frames do not fill one wave. At its
# peak an encoder keeps four float32 tensors of its width at full resolution (counted on the meta device): 51 MB a frame
# for DALL-E at 112 px, so 6.6 GB a pass, and 103 MB for PeCo at 224 px, which therefore uses passes of 64.
GPU_PASS_FRAMES = 128
GPU_PASS_BYTES = 8e9
PEAK_TENSORS = 4


class StoredTokenizer(Record):
    """`tokenizer.json`: the description of the weights beside it. `kind` is also the name recorded in token sets."""

    format_version: Literal[1] = 1
    kind: PlainName  # of a family
    sizes: SerializeAsAny[TokenizerSizes]  # the family's
    input_px: Pixels
    encoder_sha256: str  # of the file with all weights that determine the ids
    decoder_sha256: str | None
    origin: dict[str, str | int | float]  # the weights' provenance: source digests, or recipe and metrics

    @model_validator(mode="after")
    def _sizes_of_the_kind(self) -> "StoredTokenizer":
        family = family_of(self.kind)
        if not isinstance(self.sizes, (family.sizes, *family.forms)):
            raise ValueError(f"the sizes do not belong to kind {self.kind!r}")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per frame: rows, columns."""
        side = self.input_px // self.sizes.stride
        return (side, side)

    def pass_frames(self, device_kind: str) -> int:
        """Default frames per pass on that kind of device; a recipe can override it."""
        if device_kind == "cpu":
            return CPU_PASS_FRAMES
        frame_bytes = PEAK_TENSORS * self.sizes.full_width * self.input_px**2 * 4
        frames = GPU_PASS_FRAMES
        while frames > 1 and frames * frame_bytes > GPU_PASS_BYTES:
            frames //= 2
        return frames


def check_device(device_kind: str, dtype: str, pass_frames: int | None) -> None:
    """Raise UserError, with the fix, for settings that only GPUs support: TF32, and passes of other than 16 frames."""
    if device_kind != "cpu":
        return
    if dtype == "tf32":
        raise UserError("tokenizer dtype 'tf32' needs a GPU, but the device is a CPU; set tokenizer_dtype=float32")
    if pass_frames not in (None, CPU_PASS_FRAMES):
        raise UserError(
            f"tokenizer_pass_frames is {pass_frames}, expected {CPU_PASS_FRAMES} on a CPU: with other sizes ids depend "
            "on the number of threads; set tokenizer_pass_frames=null"
        )


class _Described(Record):
    """The kind and form in a description, read first: they decide which sizes the rest must have."""

    model_config = ConfigDict(extra="ignore")

    kind: PlainName
    sizes: Mapping[str, object] = {}


def read_description(folder: Path) -> StoredTokenizer:
    """Read the description in `folder`.

    Raises UserError, with a suggested fix, if it contains no tokenizer, or one of an unknown kind or with other sizes.
    """
    described = read_record(folder / DESCRIPTION, _Described)
    stored = None
    if described is not None:
        try:
            family = family_of(described.kind)
        except UserError as error:
            raise UserError(f"{folder / DESCRIPTION}: {error}") from error
        stored = read_record(folder / DESCRIPTION, _description_of(family.sizes_of(described.sizes.get("form"))))
    if stored is None:
        raise UserError(
            f"tokenizer {folder}: {what_is(folder)}; expected a folder with {DESCRIPTION}; train one with "
            "`bevt tokenizer train dvae --preset nano ...`, or convert the published weights with "
            "`bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
        )
    return StoredTokenizer.model_validate(dict(stored))


@functools.cache
def _description_of(sizes: type[TokenizerSizes]) -> type[StoredTokenizer]:
    """StoredTokenizer with the sizes of a family, so that an error names the key in them."""
    return create_model(StoredTokenizer.__name__, __base__=StoredTokenizer, sizes=(sizes, ...))
