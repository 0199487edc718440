"""Multi-view testing: several clips and crops of every video, scores averaged; each video counted exactly once.

Videos are grouped into parts. A part's scores do not depend on which process computes it, or on the number of
processes. With an output folder each finished part is written, and an interrupted evaluation resumes from there.
Legend: N videos, B views, T frames, H W pixels, C channels, V classes.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from bevt_core.console.readable import count
from bevt_core.console.terminal import note, warn
from bevt_core.models.build import build_classifier
from bevt_core.models.classifier import Classifier
from bevt_core.models.counting import model_info
from bevt_core.models.stems import normalise
from bevt_core.storage.files import clean_staging, read_json_file, read_record, sha256_of, write_atomic, write_record
from bevt_core.storage.local import content_of
from bevt_core.storage.one_writer import hold, reading
from bevt_core.weights.model_files import load_weights
from schemas.errors import UserError
from schemas.evaluation import SCORES_SCHEMA, ClassifierCard, EvaluationPlan, Temporal
from schemas.recipes import EvalViews, Precision
from schemas.text.json_text import json_text
from trainer.clips.lists import digests_of
from trainer.clips.multi_view import Row, ViewPlan, map_parts, video_progress
from trainer.clips.overlap import TRAINING, overlaps, warn_of_overlap
from trainer.clips.sources import ClipSource, check_classes, check_labels, stores_of
from trainer.distributed.sharding import parts_of_rank
from trainer.distributed.world import World, join_world
from trainer.engine.evaluations import StopAsked, StopTogether, asked_together, never
from trainer.engine.precision import resolve
from trainer.runs.directory import weights_of
from trainer.testing.classifier_card import read_card
from trainer.testing.parts import PartFiles, changes, note_stored, stored_since
from trainer.testing.tables import write_tables

COMMAND = "bevt evaluate"
PLAN, RESULT, SCORES = "evaluation-plan.json", "evaluation.json", "scores.parquet"
COUNTED = ("video", "label", "prediction", "rank", "error")  # the columns that the accuracies need
TOP = 5

# prints what a reader must know of a result: the clips, the overlaps (or the whole result), and its folder if stored
Announce = Callable[[ClipSource, Mapping[str, Any], Path | None], None]


def announce_test(data: ClipSource, facts: Mapping[str, Any], stored_in: Path | None) -> None:
    """Print that a result is stored, overlaps of `data` with training clips, and classes without clips, to stderr."""
    if stored_in is not None:
        note_stored(stored_in, stored_in / RESULT, facts["num_failed"])
    if TRAINING in facts:  # older versions did not write it
        warn_of_overlap(facts)
    note_classes(data)


def evaluate(
    checkpoint: Path | str,
    data: ClipSource,
    *,
    clips: int | None = None,
    crops: int | None = None,
    temporal: Temporal = "normal",
    seed: int = 0,
    precision: str = "auto",
    out: Path | None = None,
    num_workers: int = 0,
    announce: Announce = announce_test,
) -> dict[str, Any]:
    """Test a fine-tuned model on `data` with `clips` x `crops` views per video; every process of the job calls this.

    `checkpoint` is a fine-tuning run or its weights; `clips` and `crops` default to those of its recipe. `precision` is
    auto, fp32, bf16 or fp16 (see `trainer.engine.precision`), the same on all processes. With `out`, the scores go to
    `scores.parquet` and the result to `evaluation.json`; a repeated call resumes, or reports that the result exists and
    returns it with `stored_since`. Returns top1, top5, mean_class (shares), num_videos, num_failed, failed (by video),
    views, precision, seconds, videos_per_second (of the videos that this call scored), multiply_adds_per_view and
    per_video (counted as in the paper's tables), and the overlaps of `data` with the clips of the model's training
    (`trainer.clips.overlap`), which rank 0 prints by `announce`.
    Raises UserError for a model without a head, data with other classes, or an `out` of another evaluation.
    """
    begun = time.monotonic()
    path = weights_of(checkpoint)
    card = read_card(path)
    check_labels(data)
    check_classes(data.classes, card.classes, data.path, str(checkpoint))
    plan = ViewPlan(card.sampling, card.crop_px, chosen_views(card, clips, crops), temporal, seed)
    with join_world() as world, ExitStack() as locks:
        chosen = world.from_main(resolve(precision, world.device))
        world.on_main(lambda: locks.enter_context(reading(stores_of(data), COMMAND)))
        if out is not None and world.on_main(lambda: _prepare(out, locks, _plan_of(path, data, plan, chosen))):
            stored: dict[str, Any] = read_json_file(out / RESULT, dict)
            if world.is_main:
                announce(data, stored, out)
            return stored | stored_since(out / RESULT)
        model = load_weights(path)
        assert isinstance(model, Classifier)  # only classifiers have a classifier.json
        model.to(world.device)
        digests = digests_of(data, world)
        overlap = world.on_main(lambda: overlaps(path.parent, data, digests))
        if world.is_main:
            announce(data, overlap, None)
        result = run_views(model, data, plan, world, precision=chosen, num_workers=num_workers, out=out)
        check_some_read(data, result["num_videos"], result["failed"])
        result |= overlap | cost_of_views(model, plan)
        result |= {"data": data.path, "temporal": temporal, "seed": seed, "precision": chosen}
        result["seconds"] = round(time.monotonic() - begun, 2)
        if out is not None and world.is_main:
            files = PartFiles(out / SCORES, SCORES_SCHEMA)
            files.merge(plan.part_sizes(data))
            result["calibration_error"] = write_tables(out / SCORES, data.classes, out)
            write_atomic(out / RESULT, (json_text(result, indent=1) + "\n").encode())
            files.clear()  # last: until then, an interrupted evaluation resumes from the parts
        world.barrier()
        return result


def run_views(
    model: nn.Module,
    data: ClipSource,
    plan: ViewPlan,
    world: World,
    *,
    precision: Precision,
    num_workers: int = 0,
    out: Path | None = None,
    name: str = "evaluate",
    stop_asked: StopAsked = never,
) -> dict[str, Any]:
    """Test `model`, which is on the world's device, on every video of `data` once; all ranks get the same result.

    With `out`, finished parts without errors are not computed again. The model is left in evaluation mode. Progress is
    shown under `name`. Raises EvaluationStopped on all ranks once `stop_asked` returns True on one of them.
    """
    begun = time.monotonic()
    files = None if out is None else PartFiles(out / SCORES, SCORES_SCHEMA)
    sizes = plan.part_sizes(data)
    parts = range(len(sizes))
    todo = list(parts) if files is None else files.todo(sizes)
    world.barrier()  # every rank lists the parts before any rank writes
    mine = parts_of_rank(todo, model, world)
    work = functools.partial(score, model.eval())
    scored_here: dict[int, list[Row]] = {}
    options: dict[str, Any] = {"device": world.device, "precision": precision, "num_workers": num_workers}
    asked = asked_together(stop_asked, model, world)
    with StopTogether(world) as ranks, video_progress(name, data, plan, mine, len(todo), asked) as on_progress:
        for part, rows in map_parts(work, data, plan, mine, on_progress=on_progress, **options):
            part_rows = [ranked(row) for row in rows]
            if files is not None:
                files.write(part, part_rows)
            scored_here[part] = [{key: row[key] for key in COUNTED} for row in part_rows]
    by_part = {part: rows for scored in ranks.gather(scored_here) for part, rows in scored.items()}
    all_rows = [row for rows in by_part.values() for row in rows]
    videos_per_second = len(all_rows) / (time.monotonic() - begun)
    if files is not None:
        all_rows += [row for part in sorted(set(parts) - set(todo)) for row in files.read(part, COUNTED)]
    return {
        **accuracies(all_rows, len(data.classes)),
        "views": f"{plan.views.clips}x{plan.views.crops}",
        "videos_per_second": round(videos_per_second, 3),
    }


def cost_of_views(model: Classifier, plan: ViewPlan) -> dict[str, int]:
    """Return the multiply-adds of one view and of all views of a video, counted as the paper's tables do."""
    config = {key: value for key, value in model.config.items() if key != "kind"}
    build = functools.partial(build_classifier, **config)
    per_view = model_info(build, frames=plan.sampling.frames, size_px=plan.crop_px)["paper_flops"]
    return {"multiply_adds_per_view": per_view, "multiply_adds_per_video": per_view * plan.views_per_video}


def accuracies(rows: Sequence[Row], num_classes: int) -> dict[str, Any]:
    """Return top1, top5, mean_class (shares) and num_videos of the readable videos, num_failed, and failed by name.

    `mean_class` is the top-1 accuracy of each class, averaged over the classes that occur.
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


def note_classes(data: ClipSource) -> None:
    """Note how many of the classifier's classes have clips in `data`, if that is not all, or if there is one class."""
    found, total = len({item.label for item in data.items}), len(data.classes)
    if found < total:
        note(f"{data.path}: clips of {found} of the classifier's {count(total, 'class')}; the figures are of those")
    if total == 1:
        warn(f"{data.path}: the classifier has one class, {data.classes[0]!r}, so every answer is right")


def check_some_read(data: ClipSource, num_read: int, failed: Mapping[str, str]) -> None:
    """Raise UserError if no video could be read, for example because the root is wrong or not mounted."""
    if not data.items:
        raise UserError(f"{data.path}: no clips found")
    if not num_read:
        name, error = next(iter(failed.items()))
        raise UserError(
            f"{data.path}: none of the {len(failed)} videos could be read, first {name}: {error}; give the root that "
            "the list's names are relative to, or mount it. Repeat with the same `out` to try all of them again"
        )


def chosen_views(card: ClassifierCard, clips: int | None, crops: int | None) -> EvalViews:
    """Return a classifier's views, with `clips` and `crops` if given. Raises UserError for unsupported numbers."""
    if clips is not None and clips < 1:
        raise UserError(f"{clips} clips: expected at least 1")
    if crops not in (None, 1, 3):
        raise UserError(f"{crops} crops: expected 1 (centre) or 3 (along the long side)")
    given = {name: value for name, value in (("clips", clips), ("crops", crops)) if value is not None}
    return card.views.model_copy(update=given)


def score(model: nn.Module, views_BTHWC: Tensor, num_videos: int) -> list[Row]:
    """Return the softmax scores of each video, mean over its views."""
    logits_BV = model(normalise(views_BTHWC))
    scores_NV = logits_BV.float().softmax(dim=1).unflatten(0, (num_videos, -1)).mean(dim=1).cpu().numpy()
    return [{"scores": scores_V} for scores_V in scores_NV]


def ranked(row: Row) -> Row:
    """Add the prediction and the number of classes ranked before the true one; None if they are undefined."""
    if row["error"] is not None:
        return {**row, "prediction": None, "rank": None, "scores": None}
    best_first_V = np.argsort(-row["scores"], kind="stable")
    at = np.flatnonzero(best_first_V == row["label"])
    return {**row, "prediction": int(best_first_V[0]), "rank": int(at[0]) if len(at) else None}


def _plan_of(weights: Path, data: ClipSource, plan: ViewPlan, precision: Precision) -> EvaluationPlan:
    """The identity of an evaluation. Raises UserError for views that `data` does not support."""
    plan.check(data)  # before claiming a folder, which would then refuse other options
    return EvaluationPlan(
        weights_sha256=sha256_of(weights),
        data_digest=data.digest,
        sampling=plan.sampling,
        crop_px=plan.crop_px,
        views=plan.views,
        temporal=plan.temporal,
        seed=plan.seed,
        precision=precision,
    )


def _prepare(out: Path, locks: ExitStack, now: EvaluationPlan) -> bool:
    """Claim `out` for this evaluation; return whether it is finished already.

    Raises UserError if `out` is from another evaluation, or another process is writing it.
    """
    parts = PartFiles(out / SCORES, SCORES_SCHEMA)
    if not (out / RESULT).is_file() or parts.folder.exists():  # no lock for a finished one: its disk may be read-only
        locks.enter_context(hold(out, COMMAND))
    then = read_record(out / PLAN, EvaluationPlan)
    if then is None:
        if out.is_dir() and content_of(out):
            raise UserError(f"{out} is not empty and contains no evaluation; give another `out`")
        write_record(out / PLAN, now)
        return False
    if then != now:
        raise UserError(f"{out} contains another evaluation ({changes(then, now)}); give another `out`")
    if (out / RESULT).is_file():
        parts.clear()
        clean_staging(out)
        return True
    return False
