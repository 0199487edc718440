"""Records and tables of token sets: the tokenizer, the views and the frame store they were made from."""

from typing import Literal

import pyarrow as pa
from pydantic import Field

from schemas.base import FORMAT_VERSION, PlainName, Record, canonical_json
from schemas.frames import Generations
from schemas.ranges import Batch, Count, Pixels, Side, Vocabulary
from schemas.views import ViewSpec

CPU_PASS_FRAMES = 16  # frames per pass on a CPU; the default of a stored key, so it must never change


class TokenizerIdentity(Record):
    """The properties that must be equal for two token maps to be comparable."""

    name: PlainName
    weights_sha256: str
    vocab_size: Vocabulary
    grid: tuple[Side, Side]  # tokens per frame: rows, columns
    input_px: Pixels  # side of the square frame that the tokenizer reads
    dtype: str
    device_kind: str  # "cpu" or "cuda"; older sets name the GPU's model, see `by_kind`
    # whether torch.compile was used, whose kernels round differently; written only if True: older sets lack this key
    compiled: bool = Field(default=False, exclude_if=lambda compiled: not compiled)
    # frames per pass through the network, whose rounding depends on it; written only if not the default, as above
    frames_per_pass: Batch = Field(default=CPU_PASS_FRAMES, exclude_if=lambda frames: frames == CPU_PASS_FRAMES)

    def by_kind(self) -> "TokenizerIdentity":
        """A copy with "cuda" in place of a GPU's model, so that identities from different GPU models are comparable."""
        return self.model_copy(update={"device_kind": "cpu" if self.device_kind == "cpu" else "cuda"})


TOKENIZER_PLACE = "tokenizer-place.json"


class TokenizerPlace(Record):
    """`tokens/<name>/tokenizer-place.json`: the tokenizer's folder when the set was made. Excluded from all digests."""

    folder: str


class TokenPlan(Record):
    """`tokens/<name>/plan.json`, written first: the set's settings, so that a different set of that name is refused."""

    format_version: Literal[1] = FORMAT_VERSION
    name: PlainName
    tokenizer: TokenizerIdentity
    views: ViewSpec
    frames_plan: str  # Plan.digest() of the frame store

    def by_kind(self) -> "TokenPlan":
        """A copy with the tokenizer's `by_kind`."""
        return self.model_copy(update={"tokenizer": self.tokenizer.by_kind()})


class TokenSetManifest(Record):
    """`tokens/<name>/dataset.json`, written last: the token set is complete if it exists."""

    format_version: Literal[1] = FORMAT_VERSION
    name: PlainName
    tokenizer: TokenizerIdentity
    views: ViewSpec
    frames_digest: str  # FrameStoreManifest.digest() of the store that was tokenized
    num_parts: Count
    num_samples: Count
    num_frames: Count  # pool frames, each counted once, regardless of the number of views
    parts_digest: str  # sha256 over the digests of the part commits, in order
    # as in the frame store's manifest
    generations: Generations = Field(default=(), exclude_if=lambda generations: not generations)


class TokenPartCommit(Record):
    """`tokens/<name>/part-00000.json`: the part is finished if it exists and matches."""

    part: Count
    num_samples: Count
    num_rows: Count
    sha256: str  # of the part's Parquet file
    num_bytes: Count
    frames_commit: str  # digest of the frame part's commit
    token_plan: str  # TokenPlan.digest()
    gpu_model: str | None = Field(default=None, exclude_if=lambda model: model is None)  # None: made on a CPU

    def canonical_json(self) -> str:
        """As in `Record`, but without `gpu_model`: GPUs of several models may make one set."""
        return canonical_json(self.model_dump(mode="json", exclude_defaults=True, exclude={"gpu_model"}))


def token_schema(grid: tuple[int, int]) -> pa.Schema:
    """One row per (sample, view), one row group per view; tokens are `[num_frames][rows * columns]`."""
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("view", pa.int32(), nullable=False),
            pa.field("short_side_px", pa.int32(), nullable=False),
            pa.field("top_px", pa.int32(), nullable=False),
            pa.field("left_px", pa.int32(), nullable=False),
            pa.field("crop_px", pa.int32(), nullable=False),
            pa.field("flip", pa.bool_(), nullable=False),
            pa.field("jitter", pa.list_(pa.struct([("op", pa.string()), ("factor", pa.float64())]))),
            pa.field("tokens", pa.list_(pa.list_(pa.uint16(), grid[0] * grid[1])), nullable=False),
        ]
    )
