"""Extract features of videos from a fine-tuned or pretrained model to a Parquet file; an interrupted call resumes.

Legend: N videos, B views, T H W grid, C channels, D width of a stage.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from bevt_core.models.classifier import Classifier
from bevt_core.models.stems import normalise
from bevt_core.storage.files import clean_staging, read_record, sha256_of, write_record
from bevt_core.storage.locks.writers import hold_file
from bevt_core.storage.one_writer import reading
from bevt_core.untrusted.parquet_file import read_table
from schemas.errors import UserError
from schemas.evaluation import FEATURES_SCHEMA, ExtractionPlan, FeatureLevel
from schemas.recipes import FinetuneRecipe, Precision
from trainer.clips.multi_view import Row, ViewPlan, map_parts, video_progress
from trainer.clips.sources import ClipSource, stores_of
from trainer.distributed.world import World, join_world
from trainer.engine.precision import resolve
from trainer.runs.directory import weights_of
from trainer.testing.evaluate import check_some_read
from trainer.testing.frozen import open_frozen
from trainer.testing.parts import PartFiles, changes, note_stored, stored_since

COMMAND = "bevt extract"


def _pooled(model: Classifier, clip_BCTHW: Tensor) -> list[Tensor]:
    """The head's input: the last stage, mean over time and space: [(B, D)]."""
    return [model.features(clip_BCTHW)]


def _frames(model: Classifier, clip_BCTHW: Tensor) -> list[Tensor]:
    """The last stage, mean over space: T times (B, D)."""
    last_BTHWC = model.norm(model.encoder(model.stem(clip_BCTHW))[-1])
    return list(last_BTHWC.mean(dim=(2, 3)).unbind(dim=1))


def _stages(model: Classifier, clip_BCTHW: Tensor) -> list[Tensor]:
    """Every stage's output, mean over time and space: one (B, D) per stage."""
    return [stage_BTHWC.mean(dim=(1, 2, 3)) for stage_BTHWC in model.encoder(model.stem(clip_BCTHW))]


def _positions(model: Classifier, clip_BCTHW: Tensor) -> list[Tensor]:
    """The last stage at every position, time outermost: T * H * W times (B, D)."""
    last_BTHWC = model.norm(model.encoder(model.stem(clip_BCTHW))[-1])
    return list(last_BTHWC.flatten(1, 3).unbind(dim=1))


LEVELS: dict[FeatureLevel, Callable[[Classifier, Tensor], list[Tensor]]] = {
    "pooled": _pooled,
    "frames": _frames,
    "stages": _stages,
    "positions": _positions,
}


def extract(
    checkpoint: Path | str,
    data: ClipSource,
    out: Path,
    *,
    level: FeatureLevel = "pooled",
    recipe: FinetuneRecipe | None = None,
    clips: int | None = None,
    crops: int | None = None,
    precision: str = "auto",
    num_workers: int = 0,
) -> dict[str, Any]:
    """Write the features of every video of `data` to the Parquet file `out`, mean over views; every process calls this.

    `checkpoint` is a fine-tuned or pretrained run, or its weights. `recipe` sets the clips of a pretrained encoder; by
    default they are like those of its pretraining. `precision` is as in `evaluate`. A repeated call resumes an
    interrupted one, or reports that the file exists. Returns num_videos, num_failed, failed, precision, out, and, if
    the file existed, `stored_since`. Raises UserError if `out` is from another extraction, or for pretrained weights
    that have neither a run nor `recipe`.
    """
    with join_world() as world, ExitStack() as locks:
        model, plan = open_frozen(checkpoint, recipe, clips, crops)
        if level == "frames" and plan.views.clips != 1:
            raise UserError(f"{plan.views.clips} clips: features per frame need a single clip; ask for 1")
        if level == "positions" and plan.views_per_video != 1:
            raise UserError(
                f"{plan.views.clips} clips x {plan.views.crops} crops: features per position need a single view; "
                "ask for 1 clip and 1 crop"
            )
        chosen, weights = world.from_main(resolve(precision, world.device)), weights_of(checkpoint)
        world.on_main(lambda: locks.enter_context(reading(stores_of(data), COMMAND)))
        done = world.on_main(lambda: _prepare(out, locks, _plan_of(weights, data, plan, level, chosen)))
        if not done:
            _extract(model.to(world.device).eval(), data, plan, level, chosen, world, out, num_workers)
        world.barrier()
        columns = read_table(out, columns=["video", "error"]).to_pylist()
        failed = {row["video"]: row["error"] for row in columns if row["error"] is not None}
        return {
            "num_videos": len(columns) - len(failed),
            "num_failed": len(failed),
            "failed": failed,
            "precision": chosen,
            "out": str(out),
            **(stored_since(out) if done else {}),
        }


def _extract(
    model: Classifier,
    data: ClipSource,
    plan: ViewPlan,
    level: FeatureLevel,
    precision: Precision,
    world: World,
    out: Path,
    num_workers: int,
) -> None:
    files = PartFiles(out, FEATURES_SCHEMA)
    sizes = plan.part_sizes(data)
    todo = files.todo(sizes)
    world.barrier()  # every rank lists the parts before any rank writes
    mine = todo[world.rank :: world.size]
    work = functools.partial(features, model, level)
    options: dict[str, Any] = {"device": world.device, "precision": precision, "num_workers": num_workers}
    with video_progress(f"extract {out.stem}", data, plan, mine, len(todo)) as on_progress:
        for part, rows in map_parts(work, data, plan, mine, on_progress=on_progress, **options):
            files.write(part, [{"features": None, **row} for row in rows])
    world.barrier()
    failed = world.on_main(lambda: _failed(files))
    check_some_read(data, len(data.items) - len(failed), failed)
    if world.is_main:
        files.merge(sizes)
        files.clear()


def _failed(files: PartFiles) -> dict[str, str]:
    rows = [row for part in files.existing() for row in files.read(part, ["video", "error"])]
    return {row["video"]: row["error"] for row in rows if row["error"] is not None}


def features(model: Classifier, level: FeatureLevel, views_BTHWC: Tensor, num_videos: int) -> list[Row]:
    """Return the features of each video, mean over its views: one list per vector of the level."""
    vectors = LEVELS[level](model, normalise(views_BTHWC))
    means = [vector_BD.float().unflatten(0, (num_videos, -1)).mean(dim=1).cpu().numpy() for vector_BD in vectors]
    return [{"features": [mean_ND[video] for mean_ND in means]} for video in range(num_videos)]


def _plan_of(
    weights: Path, data: ClipSource, plan: ViewPlan, level: FeatureLevel, precision: Precision
) -> ExtractionPlan:
    """The identity of an extraction. Raises UserError for views that `data` does not support."""
    plan.check(data)  # before claiming a folder, which would then refuse other options
    return ExtractionPlan(
        weights_sha256=sha256_of(weights),
        data_digest=data.digest,
        sampling=plan.sampling,
        crop_px=plan.crop_px,
        views=plan.views,
        level=level,
        precision=precision,
    )


def _prepare(out: Path, locks: ExitStack, now: ExtractionPlan) -> bool:
    """Claim `out` for this extraction; return whether it is finished already.

    Raises UserError if `out` is from another extraction, or another process is writing it.
    """
    parts = PartFiles(out, FEATURES_SCHEMA)
    if not out.exists() or parts.folder.exists():  # no lock for a finished one: its disk may be read-only
        locks.enter_context(hold_file(out, COMMAND))
    record = out.with_name(f"{out.name}.json")
    then = read_record(record, ExtractionPlan)
    if then is None:
        if out.exists():
            raise UserError(f"{out} exists and is not from an extraction; give another `out`")
        write_record(record, now)
    elif then != now:
        raise UserError(f"{out} contains other features ({changes(then, now)}); give another `out`")
    if not out.exists():
        return False
    parts.clear()
    clean_staging(out.parent)
    errors = read_table(out, columns=["error"])["error"]
    note_stored(out, out, len(errors) - errors.null_count)
    return True
