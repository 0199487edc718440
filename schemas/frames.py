"""The frame store: which frames of which sources were kept, and what could not be used."""

from typing import Literal

import pyarrow as pa
from pydantic import Field

from schemas.base import FORMAT_VERSION, Record

MediaKind = Literal["video", "image"]
DamagePolicy = Literal["unchecked", "keep", "reject"]  # decord cannot see damage: the last two read with PyAV
Stage = Literal["open", "decode", "encode", "time-out", "crash"]


class SourceItem(Record):
    """One file of a data set. `source` is its path relative to the root, and its identity."""

    source: str
    kind: MediaKind
    label: int | None = None  # index into the class map that travels with the store


class PoolSpec(Record):
    """Which frames of a video are kept: every `stride`-th from a random phase, at most `max_frames` of them."""

    stride: int = Field(default=8, ge=1)  # the original samples 16 frames at interval 8
    phase: Literal["random", "zero"] = "random"
    max_frames: int = Field(default=256, ge=1)  # of a sample
    long: Literal["thin", "cut"] = "thin"  # a longer pool is thinned evenly, or cut into several samples
    short_side_px: int = Field(default=256, ge=16)  # larger frames are scaled down to it, smaller ones are kept
    jpeg_quality: int = Field(default=90, ge=1, le=100)
    damaged: DamagePolicy = "unchecked"  # what becomes of a source with damaged frames in its pool


class FrameStoreManifest(Record):
    """`frames/dataset.json`, written last: present means complete."""

    format_version: Literal[1] = FORMAT_VERSION
    dataset: str
    split: str
    classes: tuple[str, ...]  # class names by label; empty where the set has no labels
    pool: PoolSpec
    seed: int
    plan_digest: str
    num_parts: int
    num_sources: int
    num_samples: int
    num_frames: int
    rejected: dict[str, int]  # how many sources, by reason
    parts_digest: str  # sha256 over the digests of the part commits, in order


LEFT_OUT = "left-out.json"


class LeftOut(Record):
    """`frames/left-out.json`: what the latest listing of the root found beside the sources. Excluded from digests."""

    by_suffix: dict[str, int] = Field(default_factory=dict)  # files that are no sources
    warnings: tuple[str, ...] = ()  # what is odd about the list


class FileDigest(Record):
    sha256: str
    num_bytes: int


class FramePartCommit(Record):
    """`frames/part-00000/commit.json`: present and matching means the part is done."""

    part: int
    num_sources: int
    num_samples: int
    num_frames: int
    num_rejected: int
    plan_digest: str
    files: dict[str, FileDigest]  # by path relative to the part


class Plan(Record):
    """`frames/plan.json`, written first: what the job is, so that another job into the same place is refused."""

    format_version: Literal[1] = FORMAT_VERSION
    dataset: str
    split: str
    classes: tuple[str, ...]
    pool: PoolSpec
    seed: int
    sources_per_part: int = Field(ge=1)
    num_sources: int
    sources_digest: str  # sha256 of the (source, kind, label) list in the order of its parts

    @property
    def num_parts(self) -> int:
        return -(-self.num_sources // self.sources_per_part)


SOURCES_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
    ]
)

INDEX_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("frame_start", pa.int64(), nullable=False),  # position of the first frame in the part's `offsets`
        pa.field("frame_indices", pa.list_(pa.int32()), nullable=False),  # in the source, in display order
        pa.field("times_s", pa.list_(pa.float64()), nullable=False),  # presentation times, seconds
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("decoder_version", pa.string(), nullable=False),
        pa.field("warnings", pa.list_(pa.string()), nullable=False),
    ]
)

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)
