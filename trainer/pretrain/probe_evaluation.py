"""Probe the encoder during pretraining: simple classifiers on its features of a labelled frame store.

Legend: N videos, C channels, V classes.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bevt_core.models.bevt import Bevt, Stream
from bevt_core.models.stems import normalise
from schemas.errors import UserError
from schemas.recipes import ClipSampling, EvalViews, PretrainRecipe, ProbeConfig
from trainer.clips.multi_view import Row, ViewPlan, map_parts, video_progress
from trainer.clips.sources import ClipSource, StoreClips, check_labels
from trainer.clips.split import split_items
from trainer.distributed.cpus import loader_workers
from trainer.distributed.sharding import parts_of_rank
from trainer.distributed.world import World
from trainer.engine.evaluations import StopAsked, StopTogether, asked_together, never, stop_if
from trainer.pretrain.streams import frames_of
from trainer.probes.knn import knn_predict
from trainer.probes.linear import held_out_mask, linear_predict


def _knn(
    train_NC: Tensor,
    train_N: Tensor,
    test_NC: Tensor,
    num_classes: int,
    config: ProbeConfig,
    before_fit: Callable[[], None],
) -> Tensor:
    before_fit()
    return knn_predict(train_NC, train_N, test_NC, num_classes, config.neighbours, config.temperature)


def _linear(
    train_NC: Tensor,
    train_N: Tensor,
    test_NC: Tensor,
    num_classes: int,
    config: ProbeConfig,
    before_fit: Callable[[], None],
) -> Tensor:
    return linear_predict(train_NC, train_N, test_NC, num_classes, before_fit=before_fit)


# (features (N, C), labels (N), test features (N, C), V, settings, callback before each fit) -> predicted classes (N)
KINDS: dict[str, Callable[[Tensor, Tensor, Tensor, int, ProbeConfig, Callable[[], None]], Tensor]] = {
    "knn": _knn,
    "linear": _linear,
}


class ProbeEvaluation:
    """An evaluation: the accuracy of classifiers on the features of one centre-cropped clip per video."""

    def __init__(self, model: Bevt, recipe: PretrainRecipe, world: World) -> None:
        """Raises UserError for a store without labels, with too few videos per class or with other frame intervals."""
        assert recipe.probe is not None
        self.model, self.config, self.world = model, recipe.probe, world
        self.stream: Stream = "video" if "video" in recipe.streams else "image"
        self.precision = recipe.loop.precision
        self.num_workers = loader_workers(recipe.loop.num_workers)
        videos = StoreClips(Path(self.config.frames))
        check_labels(videos)
        self.num_classes = len(videos.classes)
        split = split_items(videos.items, self.config.val_share, seed=0, classes=videos.classes)
        self.splits = [videos.subset(items) for items in split]
        if "linear" in self.config.kinds:
            _check_linear(self.splits[0])
        stream = recipe.streams[self.stream]
        interval = videos.stride if stream.clip_frames == 1 else frames_of(stream).manifest.pool.stride
        _check_interval(videos, interval)
        self.plan = ViewPlan(
            ClipSampling(kind="dense", frames=stream.clip_frames, interval=interval),
            self.config.crop_px,
            EvalViews(clips=1, crops=1, short_side_px=self.config.short_side_px),
            "normal",
            seed=0,
        )

    def __call__(self, steps_done: int, stop_asked: StopAsked = never) -> Mapping[str, float]:
        """Return, on rank 0, `KIND_top1` of every kind: its accuracy on held-out videos."""
        self.model.eval()  # the loop restores training mode
        (train_NC, train_N), (test_NC, test_N) = (self._features(split, stop_asked) for split in self.splits)
        train_NC, train_N, test_NC, test_N = (x.to(self.world.device) for x in (train_NC, train_N, test_NC, test_N))
        accuracies: dict[str, float] = {}
        with StopTogether(self.world) as ranks:
            for kind in self.config.kinds if self.world.is_main else ():
                predicted_N = KINDS[kind](
                    train_NC, train_N, test_NC, self.num_classes, self.config, lambda: stop_if(stop_asked())
                )
                accuracies[f"{kind}_top1"] = float((predicted_N == test_N).double().mean())
        ranks.gather(None)  # a signal may stop rank 0 during a fit
        return accuracies

    def _features(self, videos: ClipSource, stop_asked: StopAsked = never) -> tuple[Tensor, Tensor]:
        """Return features (N, C) and labels (N), the same on all ranks, which share the work."""
        parts = range(len(self.plan.parts(videos)))
        mine = parts_of_rank(parts, self.model, self.world)
        work = functools.partial(_pooled, self.model, self.stream)
        options: dict[str, Any] = {"precision": self.precision, "num_workers": self.num_workers}
        good: dict[int, list[Row]] = {}
        asked = asked_together(stop_asked, self.model, self.world)
        with (
            StopTogether(self.world) as ranks,
            video_progress("  probe", videos, self.plan, mine, len(parts), asked) as on_progress,
        ):
            for part, rows in map_parts(
                work, videos, self.plan, mine, device=self.world.device, on_progress=on_progress, **options
            ):
                good[part] = [row for row in rows if row["error"] is None]
        by_part = {part: rows for by_rank in ranks.gather(good) for part, rows in by_rank.items()}
        rows = [row for part in parts for row in by_part[part]]
        return torch.stack([row["features"] for row in rows]), torch.tensor([row["label"] for row in rows])


def _check_interval(videos: StoreClips, interval: int) -> None:
    """Raise UserError if the frames are not `interval` apart, as in pretraining; called before training starts."""
    if interval % videos.stride:
        raise UserError(
            f"probe of {videos.path}: pool.stride={videos.stride} does not divide the interval of the frames in "
            f"pretraining, {interval}; store the probe's frames with `bevt tokenize --set pool.stride={interval}`"
        )
    if videos.uneven_item is not None:
        raise UserError(
            f"probe of {videos.path}: the frames of {videos.uneven_item} were thinned to pool.max_frames and are more "
            f"than {videos.stride} apart; store them with a larger pool.max_frames"
        )


def _check_linear(train: ClipSource) -> None:
    """Raise UserError if a linear probe cannot choose its weight decay; called before training starts."""
    try:
        held_out_mask(torch.tensor([item.label for item in train.items]), seed=0)
    except UserError as error:
        raise UserError(f"probe of {train.path}: {error}; or leave linear out of probe.kinds") from None


def _pooled(model: Bevt, stream: Stream, views_BTHWC: Tensor, num_videos: int) -> list[Row]:
    return [{"features": row_C} for row_C in model.pooled(normalise(views_BTHWC), stream).float().cpu()]
