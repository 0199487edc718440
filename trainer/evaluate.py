"""Multi-view testing: several clips and crops of every video, scores averaged; each video counted exactly once.

Videos are cut into parts of PART_VIDEOS. A part's scores do not depend on which process computes it, or how many there
are; with an output folder it is written when it is done, and a killed evaluation goes on from there.
Legend: N videos, K clips, S crops, B = N * K * S views, T frames, H W pixels, C channels, V classes.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from bevt_core.classifier import Classifier
from bevt_core.files import clean_staging, read_record, sha256_of, write_atomic, write_record
from bevt_core.probing import MediaError
from bevt_core.rng import rng_for
from bevt_core.weights import load_weights
from schemas.classifier import SCORES_SCHEMA, ClassifierCard, EvaluationPlan, Temporal
from schemas.errors import UserError
from schemas.recipes import ClipSampling, EvalViews
from trainer.augment import crop_views
from trainer.clips import ClipSource, check_classes, check_labels
from trainer.data import make_loader, normalise
from trainer.distributed import World, join_world
from trainer.evaluation_tables import write_tables
from trainer.run import WEIGHTS
from trainer.sampling import SAMPLERS, Positions, interval_in_pool

CARD = "classifier.json"
PLAN, RESULT, SCORES, PARTS = "evaluation-plan.json", "evaluation.json", "scores.parquet", "parts"
PART_VIDEOS = 32  # the unit of work and of resuming
CHUNK_BYTES = 64 << 20  # of uint8 views that go through the model at once
TOP = 5

Row = dict[str, Any]  # by SCORES_SCHEMA


# ---- temporal dependency (paper, Table 2) ---------------------------------------------------------


def _as_is(positions_KT: Positions, rng: np.random.Generator) -> Positions:
    return positions_KT


def _single_frame(positions_KT: Positions, rng: np.random.Generator) -> Positions:
    """One frame of each clip, drawn at random, T times."""
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
    """Which frames and pixels of a video are looked at."""

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
        return min(PART_VIDEOS, max(1, CHUNK_BYTES // (view_bytes * self.views_per_video)))

    def num_parts(self, data: ClipSource) -> int:
        return -(-len(data.items) // PART_VIDEOS)


@dataclass(frozen=True)
class Chunk:
    """Consecutive videos of one part."""

    part: int
    first: int
    stop: int


class ViewChunks(Dataset):
    """The views of `chunks`, by their number in the list. Picklable, for the loader's workers."""

    def __init__(self, source: ClipSource, plan: ViewPlan, chunks: Sequence[Chunk]) -> None:
        self.source, self.plan, self.chunks = source, plan, list(chunks)
        self.interval = interval_in_pool(plan.sampling, source.stride)

    def __getitem__(self, at: int) -> dict[str, Any]:
        """Return `views` uint8 (B, T, H, W, C) of the videos that could be read, and `rows`, one per video."""
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


# ---- testing --------------------------------------------------------------------------------------


def evaluate(
    checkpoint: Path,
    data: ClipSource,
    *,
    clips: int | None = None,
    crops: int | None = None,
    temporal: Temporal = "normal",
    seed: int = 0,
    out: Path | None = None,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Test a fine-tuned model on `data` with `clips` x `crops` views per video; every process of the job calls this.

    `checkpoint` is a fine-tuning run or its weights; views that are not given are those of its recipe. With `out`, the
    scores go to `scores.parquet` and the result to `evaluation.json`; a repeated call goes on, or returns what is
    there. Returns top1, top5, mean_class (shares), num_videos, num_failed, failed (by video), views, seconds. Raises
    UserError for a model without a head, data with other classes, or an `out` of another evaluation.
    """
    begun = time.monotonic()
    path = weights_of(checkpoint)
    card = read_card(path)
    check_labels(data)
    check_classes(data.classes, card.classes, data.path, str(checkpoint))
    plan = ViewPlan(card.sampling, card.crop_px, chosen_views(card, clips, crops), temporal, seed)
    with join_world() as world:
        if out is not None and world.from_main(_prepare(out, path, data, plan) if world.is_main else None):
            return json.loads((out / RESULT).read_text())
        model = load_weights(path)
        assert isinstance(model, Classifier)  # the card lies beside nothing else
        model.to(world.device)
        result = run_views(model, data, plan, world, num_workers=num_workers, out=out)
        result |= {"temporal": temporal, "seed": seed, "seconds": round(time.monotonic() - begun, 2)}
        if out is not None and world.is_main:
            _merge_parts(out)
            result["calibration_error"] = write_tables(out / SCORES, data.classes, out)
            write_atomic(out / RESULT, (json.dumps(result, indent=1) + "\n").encode())
        world.barrier()
        return result


def run_views(
    model: nn.Module,
    data: ClipSource,
    plan: ViewPlan,
    world: World,
    *,
    num_workers: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Test `model`, which is on the world's device, on every video of `data` once; all ranks get the same result.

    With `out`, parts that lie there are not computed again. The model is left in evaluation mode.
    """
    num_parts = plan.num_parts(data)
    done = {part for part in range(num_parts) if out is not None and _part_path(out, part).is_file()}
    world.barrier()  # every rank has looked before any writes
    todo = [part for part in range(num_parts) if part not in done]
    mine = todo[world.rank :: world.size]
    model.eval()
    rows: list[Row] = []
    for part, part_rows in score_parts(model, data, plan, mine, world.device, num_workers):
        if out is not None:
            _write_part(_part_path(out, part), part_rows)
        rows += [{key: row[key] for key in ("video", "label", "prediction", "rank", "error")} for row in part_rows]
    everyone = [row for rows_of_rank in world.gather(rows) for row in rows_of_rank]
    for part in sorted(done):
        assert out is not None
        columns = ["video", "label", "prediction", "rank", "error"]
        everyone += pq.read_table(_part_path(out, part), columns=columns).to_pylist()
    return {**accuracies(everyone, len(data.classes)), "views": f"{plan.views.clips}x{plan.views.crops}"}


def accuracies(rows: Sequence[Row], num_classes: int) -> dict[str, Any]:
    """Return top1, top5 and mean_class over the videos that could be read, and the others by name.

    `mean_class` is the mean over the classes that occur of the share of their videos that is recognised.
    """
    good = [row for row in rows if row["error"] is None]
    label = np.array([row["label"] for row in good], dtype=np.int64)
    rank = np.array([row["rank"] for row in good], dtype=np.int64)
    videos_V = np.bincount(label, minlength=num_classes)
    right_V = np.bincount(label[rank == 0], minlength=num_classes)
    occurs_V = videos_V > 0
    failed = {row["video"]: row["error"] for row in rows if row["error"] is not None}
    return {
        "top1": float((rank == 0).mean()) if good else 0.0,
        "top5": float((rank < TOP).mean()) if good else 0.0,
        "mean_class": float((right_V[occurs_V] / videos_V[occurs_V]).mean()) if good else 0.0,
        "num_videos": len(good),
        "num_failed": len(failed),
        "failed": dict(sorted(failed.items())),
    }


def chosen_views(card: ClassifierCard, clips: int | None, crops: int | None) -> EvalViews:
    """Return the card's views with other numbers where they are given. Raises UserError for what cannot be."""
    if clips is not None and clips < 1:
        raise UserError(f"{clips} clips: expected at least 1")
    if crops not in (None, 1, 3):
        raise UserError(f"{crops} crops: expected 1 (centre) or 3 (along the long side)")
    given = {name: value for name, value in (("clips", clips), ("crops", crops)) if value is not None}
    return card.views.model_copy(update=given)


def weights_of(checkpoint: Path) -> Path:
    """A run directory's weights, or the weights themselves."""
    return checkpoint / WEIGHTS if checkpoint.is_dir() else checkpoint


def read_card(weights: Path) -> ClassifierCard:
    """Return the card beside the weights of a fine-tuned model. Raises UserError where there is none."""
    card = read_record(weights.parent / CARD, ClassifierCard)
    if card is None or not weights.is_file():
        missing = CARD if card is None else weights.name
        raise UserError(
            f"{weights.parent}: no {missing}, so this is not a finished fine-tuning run; "
            "make one with `bevt finetune`, or go on with it by --resume"
        )
    return card


@torch.no_grad()  # inference mode would leave its mark on tensors that the model caches for training
def score_parts(
    model: nn.Module, data: ClipSource, plan: ViewPlan, parts: Sequence[int], device: torch.device, num_workers: int
) -> Iterator[tuple[int, list[Row]]]:
    """Yield (part, rows) of each part, in order; rows have the columns of SCORES_SCHEMA."""
    step, total = plan.videos_per_chunk, len(data.items)
    chunks = [
        Chunk(part, first, min(first + step, (part + 1) * PART_VIDEOS, total))
        for part in parts
        for first in range(part * PART_VIDEOS, min((part + 1) * PART_VIDEOS, total), step)
    ]
    dataset = ViewChunks(data, plan, chunks)
    loader = make_loader(dataset, 0, len(chunks), num_workers=num_workers, pin_memory=device.type == "cuda")
    for part, batches in groupby(loader, key=lambda batch: batch["part"]):
        rows: list[Row] = []
        for batch in batches:
            rows += _score(model, batch["views"], batch["rows"], plan.views_per_video, device)
        yield part, rows


def _score(
    model: nn.Module, views_BTHWC: Tensor | None, rows: Sequence[Row], views_per_video: int, device: torch.device
) -> list[Row]:
    """Add prediction, rank of the true class, and scores to the rows of videos that could be read."""
    empty = {"prediction": None, "rank": None, "scores": None}
    if views_BTHWC is None:
        return [{**row, **empty} for row in rows]
    logits_BV = model(normalise(views_BTHWC.to(device, non_blocking=True)))
    scores_NV = logits_BV.float().softmax(dim=1).unflatten(0, (-1, views_per_video)).mean(dim=1).cpu().numpy()
    scored, good = [], iter(scores_NV)
    for row in rows:
        if row["error"] is not None:
            scored.append({**row, **empty})
            continue
        scores_V = next(good)
        best_first_V = np.argsort(-scores_V, kind="stable")
        at = np.flatnonzero(best_first_V == row["label"])
        rank = int(at[0]) if len(at) else None  # of a video without a label
        scored.append({**row, "prediction": int(best_first_V[0]), "rank": rank, "scores": scores_V})
    return scored


# ---- files ----------------------------------------------------------------------------------------


def _prepare(out: Path, weights: Path, data: ClipSource, plan: ViewPlan) -> bool:
    """Claim `out` for this evaluation; return whether it is finished already. UserError for another one's folder."""
    now = EvaluationPlan(
        weights_sha256=sha256_of(weights),
        data_digest=data.digest,
        sampling=plan.sampling,
        crop_px=plan.crop_px,
        views=plan.views,
        temporal=plan.temporal,
        seed=plan.seed,
    )
    then = read_record(out / PLAN, EvaluationPlan)
    if then is None:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} is not empty and holds no evaluation; give another --out")
        write_record(out / PLAN, now)
        return False
    if then != now:
        old, new = then.model_dump(), now.model_dump()
        changed = "; ".join(f"{key}: {old[key]} there, {new[key]} now" for key in old if old[key] != new[key])
        raise UserError(f"{out} holds another evaluation ({changed}); give another --out")
    clean_staging(out / PARTS)
    if (out / RESULT).is_file():
        print(f"{out}: done already", file=sys.stderr)
        return True
    return False


def _part_path(out: Path, part: int) -> Path:
    return out / PARTS / f"part-{part:05d}.parquet"


def _write_part(path: Path, rows: Sequence[Row]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCORES_SCHEMA), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def _merge_parts(out: Path) -> None:
    """Put the parts together as `scores.parquet`, one row group each, and remove them."""
    parts = sorted((out / PARTS).glob("part-*.parquet"))
    staged = out / f".{SCORES}.tmp"
    with pq.ParquetWriter(staged, SCORES_SCHEMA, compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))
    staged.replace(out / SCORES)
    for part in parts:
        part.unlink()
    (out / PARTS).rmdir()
