"""Multi-view testing: several clips and crops per video, in parts that do not depend on processes or batch sizes.

Legend: N videos, K clips, S crops, B = N * K * S views, T frames, H W pixels, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bevt_core.console.progress import ProgressLine
from bevt_core.media.errors import MediaError
from bevt_core.rng import rng_for
from schemas.evaluation import Temporal
from schemas.recipes import ClipSampling, EvalViews, Precision
from trainer.clips.augmentation.crops import crop_views
from trainer.clips.sampling import SAMPLERS, Positions
from trainer.clips.sources import ClipSource, interval_of
from trainer.data.loader import make_loader
from trainer.engine.evaluations import StopAsked, never, stop_if
from trainer.engine.precision import autocast

MAX_PART_VIDEOS = 32  # a part is the unit of work and of resuming
MIN_PARTS = 16  # if there are as many videos: keeps many processes busy with few videos
CHUNK_BYTES = 64 << 20  # uint8 views in one forward pass, at most

Row = dict[str, Any]  # one video, by column
Work = Callable[[Tensor, int], list[Row]]  # views uint8 (N * K * S, T, H, W, C), N -> new columns of the N videos
OnProgress = Callable[[int], None]  # gets the number of videos processed since the last call


# ---- temporal dependency (paper, Table 2) ---------------------------------------------------------


def _as_is(positions_KT: Positions, rng: np.random.Generator) -> Positions:
    return positions_KT


def _single_frame(positions_KT: Positions, rng: np.random.Generator) -> Positions:
    """Repeat one frame of each clip, drawn at random, T times."""
    clips, frames = positions_KT.shape
    drawn = rng.integers(frames, size=clips)
    return np.repeat(positions_KT[np.arange(clips), drawn][:, None], frames, axis=1)


def _shuffled(positions_KT: Positions, rng: np.random.Generator) -> Positions:
    return rng.permuted(positions_KT, axis=1)


TEMPORAL: dict[Temporal, Callable[[Positions, np.random.Generator], Positions]] = {
    "normal": _as_is,
    "single-frame": _single_frame,
    "shuffle": _shuffled,
}


# ---- views ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ViewPlan:
    """The frames and pixels of each video that the model sees in a test."""

    sampling: ClipSampling
    crop_px: int
    views: EvalViews
    temporal: Temporal
    seed: int

    @property
    def views_per_video(self) -> int:
        return self.views.clips * self.views.crops

    @property
    def videos_per_chunk(self) -> int:
        view_bytes = self.sampling.frames * self.crop_px**2 * 3
        return min(MAX_PART_VIDEOS, max(1, CHUNK_BYTES // (view_bytes * self.views_per_video)))

    def check(self, data: ClipSource) -> None:
        """Raise UserError if `data` or the sampling does not support these views."""
        interval = interval_of(data, self.sampling)
        SAMPLERS[self.sampling.kind].test(self.sampling.frames, self.sampling.frames, interval, self.views.clips)

    def parts(self, data: ClipSource) -> list[range]:
        """Return the video indices of each part. They depend only on the number of videos."""
        total = len(data.items)
        size = max(1, min(MAX_PART_VIDEOS, -(-total // MIN_PARTS)))
        return [range(first, min(first + size, total)) for first in range(0, total, size)]

    def part_sizes(self, data: ClipSource) -> list[int]:
        """Return the number of videos of each part."""
        return [len(part) for part in self.parts(data)]


@dataclass(frozen=True)
class Chunk:
    """Videos `first` to `stop` - 1 of one part, which are computed in one forward pass."""

    part: int
    first: int
    stop: int


class ViewChunks(Dataset[dict[str, Any]]):
    """The views of `chunks`, by position in that list. Picklable, for the loader's workers."""

    def __init__(self, source: ClipSource, plan: ViewPlan, chunks: Sequence[Chunk]) -> None:
        self.source, self.plan, self.chunks = source, plan, list(chunks)
        self.interval = interval_of(source, plan.sampling)

    def __getitem__(self, at: int) -> dict[str, Any]:
        """Return `part`, `rows` (one per video), and `views` uint8 (B, T, H, W, C) of the readable videos, or None."""
        views, rows = [], []
        for index in range(self.chunks[at].first, self.chunks[at].stop):
            item = self.source.items[index]
            row: Row = {"video": item.source, "label": item.label, "error": None}
            try:
                views.append(self._views(index))
            except MediaError as error:
                row["error"] = str(error)
            rows.append(row)
        return {"part": self.chunks[at].part, "views": torch.cat(views) if views else None, "rows": rows}

    def _views(self, index: int) -> Tensor:
        """All views of one video, clips outermost: uint8 (K * S, T, H, W, C)."""
        plan = self.plan

        def choose(num_frames: int) -> NDArray[np.int64]:
            sampling = plan.sampling
            positions_KT = SAMPLERS[sampling.kind].test(num_frames, sampling.frames, self.interval, plan.views.clips)
            rng = rng_for("temporal", plan.seed, self.source.items[index].source)
            return TEMPORAL[plan.temporal](positions_KT, rng).flatten()

        frames_HWC = self.source.read(index, choose)
        clips_KTHWC = torch.from_numpy(np.stack(frames_HWC)).unflatten(0, (plan.views.clips, -1))
        views = plan.views
        return torch.cat([crop_views(clip, views.short_side_px, plan.crop_px, views.crops) for clip in clips_KTHWC])


# ---- parts ----------------------------------------------------------------------------------------


@torch.inference_mode()
def map_parts(
    work: Work,
    data: ClipSource,
    plan: ViewPlan,
    parts: Sequence[int],
    *,
    device: torch.device,
    precision: Precision,
    num_workers: int,
    on_progress: OnProgress = lambda num_videos: None,
) -> Iterator[tuple[int, list[Row]]]:
    """Yield (part, rows) of each part, in order.

    A row has `video`, `label`, `error`, and, where `error` is None, the columns that `work` returns.
    `work` runs on `device` under autocast to `precision`, in inference mode: a tensor that it returns has no gradient.
    `on_progress` is called after every chunk; an exception that it raises ends the iteration.
    """
    step, videos = plan.videos_per_chunk, plan.parts(data)
    chunks = [
        Chunk(part, first, min(first + step, videos[part].stop))
        for part in parts
        for first in range(videos[part].start, videos[part].stop, step)
    ]
    dataset = ViewChunks(data, plan, chunks)
    loader = make_loader(dataset, 0, len(chunks), num_workers=num_workers, pin_memory=device.type == "cuda")
    for part, batches in groupby(loader, key=lambda batch: batch["part"]):
        rows: list[Row] = []
        for batch in batches:
            good = [row for row in batch["rows"] if row["error"] is None]
            if good:
                with autocast(device, precision):
                    columns = work(batch["views"].to(device, non_blocking=True), len(good))
                for row, more in zip(good, columns, strict=True):
                    row.update(more)
            rows += batch["rows"]
            on_progress(len(batch["rows"]))
        yield part, rows


@contextmanager
def video_progress(
    name: str, data: ClipSource, plan: ViewPlan, mine: Sequence[int], num_parts: int, stop_asked: StopAsked = never
) -> Iterator[OnProgress]:
    """Yield an `on_progress` for `map_parts` over the parts `mine`, which are this rank's of all `num_parts`.

    It shows the progress, assuming that all ranks are equally fast, and raises EvaluationStopped once `stop_asked`
    returns True.
    """
    parts = plan.parts(data)
    here = sum(len(parts[part]) for part in mine)
    total = here if len(mine) == num_parts else round(here * num_parts / max(1, len(mine)))
    done = 0
    with ProgressLine(name, total, unit="videos") as progress:

        def on_progress(num_videos: int) -> None:
            nonlocal done
            done += num_videos
            progress.update(round(total * done / here))
            stop_if(stop_asked())

        yield on_progress
