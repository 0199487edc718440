"""The run record: what one would need to repeat a run, kept in its directory as `run.json`; and which clips it read."""

from typing import Literal

import pyarrow as pa
from pydantic import BaseModel

from schemas.base import Record
from schemas.ranges import Count, Processes

Use = Literal["train", "val", "pretrain"]  # with its class, to validate on, without its class
Place = Literal["files", "frames"]  # where clips are: in files, or in a frame store

# `clips.parquet` of a run: the clips that it and the runs that it started from used
CLIPS_SCHEMA = pa.schema(
    [
        pa.field("use", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),  # that used it: empty for this one, else as `init` names it
        pa.field("place", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # the root, or the frame store
        pa.field("source", pa.binary(), nullable=False),  # the bytes of its name, whatever their encoding
        pa.field("kind", pa.string()),  # video or image; null in pretraining, like the label
        pa.field("label", pa.int32()),
        pa.field("digest", pa.string()),  # files: of the content, null where missing; frames: of the store
    ]
)


class DatasetRef(BaseModel, frozen=True, extra="forbid"):
    """A dataset that a run read, by content."""

    path: str
    digest: str


class RunRecord(Record):
    command: str  # what the user typed
    recipe_digest: str  # of recipe.yaml beside it
    git_revision: str | None  # of the code, where it is a checkout; "-dirty" behind it when it was changed
    versions: dict[str, str]  # packages and Python
    datasets: dict[str, DatasetRef]  # by stream, or "train" and "val"
    world_size: Processes
    started: str  # ISO 8601, UTC
    device: str | None = None  # rank 0's: a GPU's name, or CPU. None: an older version
    total_steps: Count | None = None  # of the schedule; loop.max_steps may end it before. None: an older version
