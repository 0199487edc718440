"""`tokenizer.json`, what a stored tokenizer says of itself. Read without torch: a job may have nothing to do."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import read_record
from schemas.base import Record
from schemas.errors import UserError
from schemas.ranges import Pixels, Vocabulary, Width
from schemas.tokens import CPU_PASS_FRAMES

CARD = "tokenizer.json"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"
STRIDE = 8  # three 2x poolings of the dVAE

# Frames per pass through a network, in `pass_frames` below. Always exactly as many, the last pass padded with black:
# convolution kernels choose their blocking, and so their rounding, by batch size.
# On CPUs 16: the logits then have the same bits for 1 to 32 threads, whatever the frame's place in the pass; with 4 or
# 8 they do not (docs/log.md).
# On GPUs 128: the deepest convolutions of DALL-E have 14 x 14 positions a frame and 512 output channels. In tiles of
# 128 x 128 that is 784 tiles, six waves on the 132 multiprocessors of an H100, where 16 frames do not fill one. At its
# peak an encoder holds four float32 tensors of its width at full resolution (counted on the meta device): 51 MB a frame
# for DALL-E at 112 px, so 6.6 GB a pass, and 103 MB for PeCo at 224 px, which gets passes of 64.
GPU_PASS_FRAMES = 128
GPU_PASS_BYTES = 8e9
PEAK_TENSORS = 4

Kind = Literal["dalle", "dvae", "peco"]
Blocks = Annotated[int, Field(ge=1, le=64)]
Multiplier = Annotated[int, Field(ge=1, le=64)]


class DvaeSizes(Record):
    """What fixes the shape of both networks; the defaults are the published model's (Ramesh et al. 2021, `dall_e`)."""

    n_hid: Width = 256  # channels of the first group; the last group of the encoder has 8 times as many
    n_blk_per_group: Blocks = 2
    n_init: Width = 128  # channels of a decoded token
    vocab_size: Vocabulary = 8192

    @property
    def stride(self) -> int:
        """Pixels that one token is wide."""
        return STRIDE

    @property
    def full_width(self) -> int:
        """Channels at full resolution."""
        return self.n_hid


class PecoSizes(Record):
    """What fixes the shape of both networks and of the codebook; the defaults are the paper's where it names them."""

    width: Width = 128  # channels at full resolution
    multipliers: tuple[Multiplier, ...] = Field(
        default=(1, 1, 2, 2, 4), min_length=1, max_length=8
    )  # of `width`, one per resolution
    blocks: Blocks = 2  # residual blocks per resolution; paper
    code_dim: Width = 256
    vocab_size: Vocabulary = 8192  # paper

    @property
    def stride(self) -> int:
        """Pixels that one token is wide."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def full_width(self) -> int:
        """Channels at full resolution."""
        return self.width * self.multipliers[0]


SIZES: dict[str, type[Record]] = {"dalle": DvaeSizes, "dvae": DvaeSizes, "peco": PecoSizes}


class StoredTokenizer(Record):
    """`tokenizer.json`: what the weights beside it are. `kind` is also the tokenizer's name in token sets."""

    format_version: Literal[1] = 1
    kind: Kind
    sizes: DvaeSizes | PecoSizes
    input_px: Pixels
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

    def pass_frames(self, device_kind: str) -> int:
        """Frames per pass on that kind of device, unless a recipe says otherwise."""
        if device_kind == "cpu":
            return CPU_PASS_FRAMES
        frame_bytes = PEAK_TENSORS * self.sizes.full_width * self.input_px**2 * 4
        frames = GPU_PASS_FRAMES
        while frames > 1 and frames * frame_bytes > GPU_PASS_BYTES:
            frames //= 2
        return frames


def check_device(device_kind: str, dtype: str, pass_frames: int | None) -> None:
    """Raise UserError, with the fix, for what only GPUs do: TF32 products, and passes of another size than 16."""
    if device_kind != "cpu":
        return
    if dtype == "tf32":
        raise UserError("tokenizer dtype 'tf32' needs a GPU, and this is a CPU; set tokenizer_dtype=float32")
    if pass_frames not in (None, CPU_PASS_FRAMES):
        raise UserError(
            f"tokenizer_pass_frames is {pass_frames}, but a pass on CPUs has {CPU_PASS_FRAMES} frames, or ids would "
            "depend on the number of threads; set tokenizer_pass_frames=null"
        )


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
