"""Records and tables of frame stores: sources, stored frames, and rejected sources."""

import re
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from schemas.base import FORMAT_VERSION, PlainName, Record
from schemas.ranges import Batch, Count, Frames, Seed, Weight

JPEG_SHARD_BYTES = 64 << 20  # JPEG per shard
MAX_JPEG_SHARDS = 100_000  # per part: 6.7 TB
MAX_FRAMES = 1 << 25  # per part
MAX_SHARD_FILE_BYTES = JPEG_SHARD_BYTES + (1 << 20)  # with checksums and index, which take about 10 kB
MAX_METADATA_BYTES = 64 << 10  # per zarr.json
MAX_TABLE_BYTES = 1 << 30  # per Parquet file of a part

MediaKind = Literal["video", "image"]
VideoDecoder = Literal["pyav", "decord", "torchcodec"]
DamagePolicy = Literal["unchecked", "keep", "reject"]  # the last two always decode with PyAV, which reports damage
ClassNames = Annotated[tuple[str, ...], Field(max_length=1_000_000)]
Stage = Literal["open", "decode", "encode", "time-out", "crash"]  # of decoding, at which a source was rejected


class SourceItem(Record):
    """A source of a dataset. `source` is its path relative to the root, which identifies it."""

    source: str
    kind: MediaKind
    label: int | None = Field(default=None, ge=0, le=2**31 - 1)  # index into the class map stored with the data


class PoolSpec(Record):
    """The frames of a video to keep: every `stride`-th from a random phase, at most `max_frames`."""

    stride: Frames = 8  # every n-th frame is kept; the original samples 16 frames at interval 8
    phase: Literal["random", "zero"] = "random"  # of the first kept frame; zero: the first frame of the source
    max_frames: Frames = 256  # per sample
    long: Literal["thin", "cut"] = "thin"  # a longer pool is thinned evenly, or cut into several samples
    # larger frames are scaled down to this short side, smaller ones keep their size
    short_side_px: int = Field(default=256, ge=16, le=16_384)
    jpeg_quality: int = Field(default=90, ge=1, le=100)  # on libjpeg's scale
    damaged: DamagePolicy = "unchecked"  # how to treat a source with damaged frames in its pool


class Generation(Record):
    """What a frame store or token set was before an extension. The parts of a generation are the first `num_parts`."""

    manifest_digest: str  # of the `dataset.json` of that time
    num_parts: Count
    num_samples: Count
    num_frames: Count


class MixedSource(Record):
    """One of the data sets that a store mixes; a prefix may occur again, for an extension."""

    prefix: PlainName  # of its sample ids and class names, followed by a slash
    dataset: str
    split: str
    weight: Weight = 1.0  # how often training reads each of its samples in an epoch, on average
    first_part: Count
    num_parts: Count


Generations = Annotated[tuple[Generation, ...], Field(max_length=10_000)]


class FrameStoreManifest(Record):
    """`frames/dataset.json`, written last: the frame store is complete if it exists."""

    format_version: Literal[1] = FORMAT_VERSION
    dataset: str
    split: str
    classes: ClassNames  # class names by label; empty if there are no labels
    pool: PoolSpec
    seed: Seed
    plan_digest: str
    num_parts: Count
    num_sources: Count
    num_samples: Count
    num_frames: Count
    rejected: dict[str, Count]  # number of sources by reason
    parts_digest: str  # sha256 over the digests of the part commits, in order
    # before each extension; written only if there are any: older stores lack this key
    generations: Generations = Field(default=(), exclude_if=lambda generations: not generations)
    # by the order of their parts; written only for a store that mixes data sets
    mix: tuple[MixedSource, ...] = Field(default=(), max_length=10_000, exclude_if=lambda mix: not mix)


LEFT_OUT = "left-out.json"


class LeftOut(Record):
    """`frames/left-out.json`: files that are not sources, and warnings, from the latest listing of the root.

    Excluded from digests.
    """

    by_suffix: dict[str, Count] = Field(default_factory=dict)  # number of files that are not sources
    warnings: tuple[str, ...] = ()  # about the list


class FileDigest(Record):
    """The SHA-256 and size of a file."""

    sha256: str
    num_bytes: Count


class SamplesCommit(Record):
    """`frames/samples.json`, written after `samples.arrow`: the table of all samples, which readers may use."""

    parts_digest: str  # of the manifest; a table of other parts is not used
    num_rows: Count
    sha256: str  # of samples.arrow
    num_bytes: Count


_JPEG_SHARD = re.compile(r"frames\.zarr/jpeg/c/(0|[1-9][0-9]{0,4})")
_OFFSETS = "frames.zarr/offsets/c/0"
_FILES_OF_EVERY_PART = {
    "frames.zarr/zarr.json": MAX_METADATA_BYTES,
    "frames.zarr/jpeg/zarr.json": MAX_METADATA_BYTES,
    "frames.zarr/offsets/zarr.json": MAX_METADATA_BYTES,
    "index.parquet": MAX_TABLE_BYTES,
    "rejected.parquet": MAX_TABLE_BYTES,
}  # path -> maximum size in bytes
SHOWN_CHARACTERS = 60  # maximum length of a name in a message


class FramePartCommit(Record):
    """`frames/part-00000/commit.json`: the part is finished if it exists and matches.

    It is valid only if it lists exactly the files that the writer makes, within their size limits, since readers and
    copies of a part rely on these names and sizes.
    """

    part: Count
    num_sources: Count
    num_samples: Count
    num_frames: int = Field(ge=0, le=MAX_FRAMES)
    num_rejected: Count
    plan_digest: str
    files: dict[str, FileDigest]  # by path relative to the part

    @model_validator(mode="after")
    def _check_files(self) -> "FramePartCommit":
        shards = {f"frames.zarr/jpeg/c/{i}" for i in range(sum(map(bool, map(_JPEG_SHARD.fullmatch, self.files))))}
        expected = _FILES_OF_EVERY_PART | dict.fromkeys(shards, MAX_SHARD_FILE_BYTES)
        if self.num_frames:
            expected[_OFFSETS] = 8 * (self.num_frames + 1) + 4  # int64 and a crc32c
        if self.files.keys() != expected.keys():
            name = min(self.files.keys() ^ expected.keys())
            fault = "unexpected" if name in self.files else "missing"
            raise ValueError(f"{name[:SHOWN_CHARACTERS]!r} is {fault} in a part of {self.num_frames} frames")
        for name, digest in self.files.items():
            if digest.num_bytes > expected[name]:
                raise ValueError(f"{name} has {digest.num_bytes} bytes, expected at most {expected[name]}")
        return self


class Plan(Record):
    """`frames/plan.json`, written first: the job's settings, so that a different job for this folder is refused.

    An extension has its own plan, `frames/plan-0001.json`, ..., for the parts after those of the plan before.
    """

    format_version: Literal[1] = FORMAT_VERSION
    dataset: str
    split: str
    classes: ClassNames
    pool: PoolSpec
    seed: Seed
    sources_per_part: Batch
    num_sources: Count
    sources_digest: str  # sha256 of the list of (source, kind, label), in the order of the parts
    # in plans of extensions only: number of the first part, and digest of the plan before
    first_part: Count = Field(default=0, exclude_if=lambda part: not part)
    extends: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    # in a store that mixes data sets only, as in `MixedSource`
    prefix: PlainName | None = Field(default=None, exclude_if=lambda prefix: prefix is None)
    weight: Weight = Field(default=1.0, exclude_if=lambda weight: weight == 1.0)

    @property
    def num_parts(self) -> int:
        """The parts of the store: those of this plan, and of the plans before it."""
        return self.first_part - (-self.num_sources // self.sources_per_part)

    @property
    def parts(self) -> range:
        """The parts of this plan."""
        return range(self.first_part, self.num_parts)

    def raw_source(self, source: str) -> str:
        """The path below the root of a source of this plan."""
        return source if self.prefix is None else source.removeprefix(f"{self.prefix}/")


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


def _large(kind: pa.DataType) -> pa.DataType:
    """The type with 64-bit offsets, for tables of many parts."""
    if pa.types.is_list(kind):
        return pa.large_list(_large(kind.value_type))
    return pa.large_string() if pa.types.is_string(kind) else kind


LARGE_INDEX_SCHEMA = pa.schema([field.with_type(_large(field.type)) for field in INDEX_SCHEMA])

SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.large_string(), nullable=False),
        pa.field("source", pa.large_string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("frame_start", pa.int64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("span", pa.int32(), nullable=False),  # of frame_indices: the last one minus the first one
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
