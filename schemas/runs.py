"""Records of a run: what is needed to repeat it (`run.json`), and the clips that it used (`clips.parquet`)."""

from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, Field

from schemas.base import Record
from schemas.ranges import Count, Processes

Use = Literal["train", "val", "pretrain"]  # supervised training, validation, training without labels
ClipStorage = Literal["files", "frames"]  # clips are read from files, or from a frame store

# `clips.parquet` of a run: the clips used by the run and by the runs it started from
CLIPS_SCHEMA = pa.schema(
    [
        pa.field("use", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),  # that used the clip: empty for this one, else its `init`
        pa.field("place", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # the root, or the frame store
        pa.field("source", pa.binary(), nullable=False),  # the bytes of the path, in any encoding
        pa.field("kind", pa.string()),  # video or image; null in pretraining, like the label
        pa.field("label", pa.int32()),
        pa.field("digest", pa.string()),  # files: of the content, null if the file is missing; frames: of the store
    ]
)


class DatasetRef(BaseModel, frozen=True, extra="forbid"):
    """A dataset that a run read, identified by its digest."""

    path: str
    digest: str


class Growth(BaseModel, frozen=True, extra="forbid"):
    """A larger data set that a run went on with after it was resumed, from the epoch `first_epoch` on."""

    first_epoch: Count  # of the stream, counted from 0
    num_parts: Count  # that earlier epochs read
    before: str  # digest of the data that earlier epochs read
    after: str  # digest of the data with the extension


class RunRecord(Record):
    """`run.json`: how a run was started, and on what."""

    command: str  # as typed, with credentials masked
    recipe_digest: str  # of recipe.yaml in the same directory
    git_revision: str | None  # of the code, with "-dirty" if it had changes; None: not a checkout
    versions: dict[str, str]  # packages and Python
    datasets: dict[str, DatasetRef]  # by stream, or "train" and "val"
    world_size: Processes
    started: str  # ISO 8601, UTC
    device: str | None = None  # of rank 0: a GPU's name, or CPU. None in records of older versions
    init_sha256: str | None = None  # of the weights that the run started from. None: from scratch, or as above
    init_revision: str | None = None  # the commit of `init`, if that is a repository on the Hub
    total_steps: Count | None = None  # of the schedule; loop.max_steps may end the run earlier. None: as above
    # extensions of `datasets` that the run went on with, in order
    grown: dict[str, tuple[Growth, ...]] = Field(default_factory=dict, exclude_if=lambda grown: not grown)
