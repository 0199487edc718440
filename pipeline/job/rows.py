"""The rows that Ray passes between stages: one row is one part. Only this module uses the keys of a row.

Ray passes flat dicts of numbers and text; actors receive a batch, a dict of columns. Neither contains frames.
"""

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bevt_core.dataset.source_list import dicts_of
from pipeline.job.busy import TokenizeTimes
from schemas.errors import StorageError, UserError
from schemas.frames import FramePartCommit, SourceItem
from schemas.text.json_text import json_text

_ERRORS: dict[str, Callable[[str], Exception]] = {
    "UserError": UserError,
    "StorageError": lambda message: StorageError(errno.EIO, message),
}  # errors for the user, passed in rows, since Ray keeps only the text of a worker's exception
_NO_TIMES = TokenizeTimes(worker="", started=0.0, first=0.0, ended=0.0, busy_s=0.0)


@dataclass(frozen=True)
class PartToMake:
    """A part without a commit, and its sources: a few kB, so that no worker has to read the whole list."""

    part: int
    items: Sequence[SourceItem]

    def to_row(self) -> dict[str, Any]:
        return {"part": self.part, "items": json_text(dicts_of(self.items))}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "PartToMake":
        return cls(int(row["part"]), [SourceItem(**item) for item in json.loads(row["items"])])


@dataclass(frozen=True)
class PartMade:
    """The result of a part: counts of its frames, the times of its tokens, or the error that ends the job."""

    part: int
    sources: int = 0
    frames: int = 0
    rejected: int = 0
    missing: int = 0  # rejected sources that did not exist
    times: TokenizeTimes | None = None  # None: not tokenized in this run
    error: str = ""  # a key of _ERRORS, or empty
    message: str = ""

    @classmethod
    def of(cls, part: int, commit: FramePartCommit, missing: int) -> "PartMade":
        return cls(part, commit.num_sources, commit.num_frames, commit.num_rejected, missing)

    def with_error(self, error: UserError | StorageError) -> "PartMade":
        kind = "StorageError" if isinstance(error, StorageError) else "UserError"
        return replace(self, error=kind, message=str(error))

    def raise_error(self) -> None:
        """Raise the UserError or StorageError of the worker, if there was one."""
        if self.error:
            raise _ERRORS[self.error](self.message)

    def to_row(self) -> dict[str, Any]:
        """A row with every key, since Ray takes its columns from the first row."""
        row = {key: value for key, value in vars(self).items() if key != "times"}
        return {**row, **asdict(self.times or _NO_TIMES)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "PartMade":
        counts = {key: int(row[key]) for key in ("part", "sources", "frames", "rejected", "missing")}
        clock_times = {key: float(row[key]) for key in ("started", "first", "ended", "busy_s")}
        times = TokenizeTimes(worker=str(row["worker"]), **clock_times) if row["worker"] else None
        return cls(**counts, times=times, error=str(row["error"]), message=str(row["message"]))

    def to_batch(self) -> dict[str, list[Any]]:
        """A batch of only this row."""
        return {key: [value] for key, value in self.to_row().items()}

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any]) -> "PartMade":
        """The one row of a batch."""
        return cls.from_row({key: column[0] for key, column in batch.items()})
