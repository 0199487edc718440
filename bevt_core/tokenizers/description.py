"""`tokenizer.json`, the description of a stored tokenizer. Imports no torch, so that a finished job starts fast."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import read_record
from schemas.base import Record
from schemas.errors import UserError
from schemas.ranges import Pixels, Vocabulary, Width
from schemas.tokens import CPU_PASS_FRAMES

DESCRIPTION = "tokenizer.json"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"
STRIDE = 8  # three 2x poolings of the dVAE

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

Kind = Literal["dalle", "dvae", "peco"]
Blocks = Annotated[int, Field(ge=1, le=64)]
Multiplier = Annotated[int, Field(ge=1, le=64)]


class DvaeSizes(Record):
    """The sizes of a dVAE's two networks; the defaults are the published model's (Ramesh et al. 2021, `dall_e`)."""

    n_hid: Width = 256  # channels of the first group; the last group of the encoder has 8 times as many
    n_blk_per_group: Blocks = 2
    n_init: Width = 128  # channels of a decoded token
    vocab_size: Vocabulary = 8192

    @property
    def stride(self) -> int:
        """Width of one token in pixels."""
        return STRIDE

    @property
    def full_width(self) -> int:
        """Channels at full resolution."""
        return self.n_hid


class PecoSizes(Record):
    """The sizes of PeCo's two networks and of its codebook; the defaults are the paper's where it gives them."""

    width: Width = 128  # channels at full resolution
    # of `width`, one per resolution
    multipliers: tuple[Multiplier, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1, max_length=8)
    blocks: Blocks = 2  # residual blocks per resolution; paper
    code_dim: Width = 256
    vocab_size: Vocabulary = 8192  # paper

    @property
    def stride(self) -> int:
        """Width of one token in pixels."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def full_width(self) -> int:
        """Channels at full resolution."""
        return self.width * self.multipliers[0]


SIZES: dict[str, type[Record]] = {"dalle": DvaeSizes, "dvae": DvaeSizes, "peco": PecoSizes}


class StoredTokenizer(Record):
    """`tokenizer.json`: the description of the weights beside it. `kind` is also the name recorded in token sets."""

    format_version: Literal[1] = 1
    kind: Kind
    sizes: DvaeSizes | PecoSizes
    input_px: Pixels
    encoder_sha256: str  # of the file with all weights that determine the ids
    decoder_sha256: str | None
    origin: dict[str, str | int | float]  # the weights' provenance: source digests, or recipe and metrics

    @model_validator(mode="after")
    def _sizes_of_the_kind(self) -> "StoredTokenizer":
        if not isinstance(self.sizes, SIZES[self.kind]):
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


def read_description(folder: Path) -> StoredTokenizer:
    """Read the description in `folder`. Raises UserError, with a suggested fix, if it contains no tokenizer."""
    stored = read_record(folder / DESCRIPTION, StoredTokenizer)
    if stored is None:
        raise UserError(
            f"tokenizer {folder}: {what_is(folder)}; expected a folder with {DESCRIPTION}; train one with "
            "`bevt tokenizer train dvae --preset nano ...`, or convert the published weights with "
            "`bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
        )
    return stored
