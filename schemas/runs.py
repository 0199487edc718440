"""The run record: what one would need to repeat a run, kept in its directory as `run.json`."""

from pydantic import BaseModel

from schemas.base import Record


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
    world_size: int
    started: str  # ISO 8601, UTC
