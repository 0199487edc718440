"""An evaluation that the pages of one server read: its classes, its scores, and the clips behind them.

Legend: N clips, V classes. `confusion_VV[i, j]` counts clips of class i that were predicted as class j.
"""

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bevt_core.console.inert import text_of_csv
from bevt_core.media.errors import MediaError
from bevt_core.media.kinds import kind_of
from bevt_core.storage.contained import readable_source
from bevt_core.storage.files import read_bounded, read_json_file
from bevt_core.untrusted.parquet_file import ParquetFile
from bevt_core.viewer.query import NoSuchPage
from schemas.errors import UserError
from schemas.frames import SourceItem
from trainer.clips.sampling import Positions
from trainer.clips.sources import ClipSource, FileClips, StoreClips
from trainer.testing.evaluate import RESULT, SCORES
from trainer.testing.tables import PER_CLASS

FRAMES = 16  # at most, of a clip in a film
DECODE_S = 10.0  # limit per file, since the page waits
MAX_TABLE_BYTES = 16 << 20
RESULT_FIELDS: dict[str, type] = {  # that the pages show
    **dict.fromkeys(("top1", "top5", "mean_class"), float),
    **dict.fromkeys(("num_videos", "num_failed"), int),
    **dict.fromkeys(("views", "data"), str),
}


class Scores(NamedTuple):
    """The clips that were read, in the order of the file."""

    video_N: pa.ChunkedArray
    label_N: NDArray[np.int64]
    prediction_N: NDArray[np.int64]
    confidence_N: NDArray[np.float64]  # score of the predicted class


class OpenEvaluation:
    """The finished evaluation in `path`. All methods raise UserError for damaged files, and before it is finished."""

    def __init__(self, path: Path, clips: str | None) -> None:
        self.path = path
        self._clips = None if clips is None else Path(clips)

    @property
    def shows_clips(self) -> bool:
        return self._clips is not None

    @functools.cached_property
    def result(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        if not (self.path / RESULT).is_file():
            raise UserError(f"{self.path}: not finished, expected {RESULT}; run the same `bevt evaluate` command again")
        result: dict[str, Any] = read_json_file(self.path / RESULT, dict)
        wrong = [name for name, kind in RESULT_FIELDS.items() if not isinstance(result.get(name), kind)]
        if wrong:
            raise UserError(f"{self.path / RESULT}: no {', '.join(wrong)}; remove the folder and evaluate again")
        return result

    @functools.cached_property
    def classes(self) -> list[str]:
        """Class names by label."""
        path = self.path / PER_CLASS
        text = read_bounded(path, MAX_TABLE_BYTES).decode(errors="replace")
        rows = list(csv.reader(io.StringIO(text)))
        return [text_of_csv(row[0]) for row in rows[1:] if row]

    @functools.cached_property
    def scores(self) -> Scores:
        """Raises UserError for a label without a class."""
        videos, columns = [], []
        with ParquetFile(self.path / SCORES) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["video", "label", "prediction", "scores"]).drop_null()
                if not len(table):
                    continue
                best_N = np.array([max(scores, default=0.0) for scores in table["scores"].to_pylist()])
                videos.append(table["video"].combine_chunks())
                columns.append((table["label"].to_numpy(), table["prediction"].to_numpy(), best_N))
        if not columns:
            raise UserError(f"{self.path / SCORES}: no clip could be read in this evaluation")
        label_N, prediction_N, best_N = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        for values_N in (label_N, prediction_N):
            if values_N.min() < 0 or values_N.max() >= len(self.classes):
                raise UserError(
                    f"{self.path / SCORES}: labels {values_N.min()} to {values_N.max()}, but {PER_CLASS} has "
                    f"{len(self.classes)} classes; remove the folder and evaluate again"
                )
        return Scores(pa.chunked_array(videos), label_N, prediction_N, best_N)

    @functools.cached_property
    def confusion_VV(self) -> NDArray[np.int64]:
        confusion_VV = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(confusion_VV, (self.scores.label_N, self.scores.prediction_N), 1)
        return confusion_VV

    def video(self, number: int) -> str:
        """The name of clip `number`. Raises NoSuchPage."""
        if number >= len(self.scores.label_N):
            raise NoSuchPage(f"There is no clip {number} in {self.path}.")
        name: str = self.scores.video_N[number].as_py()
        return name

    def frames(self, number: int) -> Sequence[NDArray[np.uint8]]:
        """Read frames of clip `number`, spread evenly. Raises NoSuchPage; UserError if it cannot be read."""
        name = self.video(number)
        source, index = self._source_of(name)
        try:
            return source.read(index, _spread)
        except MediaError as error:
            raise UserError(f"{name}: {error}") from None

    def _source_of(self, name: str) -> tuple[ClipSource, int]:
        """The source that contains a clip, and the clip's index in it. A name that leads out of its root is refused."""
        if self._clips is None:
            raise UserError("Give `--clips` to see the clips of an evaluation.")
        store = self._store
        if store is not None:
            index = pc.index(store.store.samples["source"], pa.scalar(name, pa.large_string())).as_py()
            if index < 0:
                raise UserError(f"{store.folder}: no sample of {name!r}; give the frame store that was evaluated")
            return store, index
        try:
            readable_source(self._clips, name, allow_outside=False)
        except UserError:
            raise UserError(f"{name!r} leads out of {self._clips}; give the root that contains it") from None
        item = SourceItem(source=name, kind=kind_of(name) or "video")
        return FileClips(self._clips, (item,), (), DECODE_S), 0

    @functools.cached_property
    def _store(self) -> StoreClips | None:
        assert self._clips is not None
        for folder in (self._clips, self._clips / "frames"):
            if (folder / "dataset.json").is_file():
                return StoreClips(folder)
        return None


def _spread(num_frames: int) -> Positions:
    positions: Positions = np.linspace(0, num_frames - 1, min(num_frames, FRAMES)).round().astype(np.int64)
    return positions
