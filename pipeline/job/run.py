"""`bevt tokenize`: plan the job (plan), run its parts on Ray (stages), write its manifests (finish).

A part is the unit of work, retries and commits. Its content is a function of the plan, so a part that is retried,
resumed or made twice has the same bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from bevt_core.console.terminal import warn
from bevt_core.dataset.source_list import kinds_of
from bevt_core.storage.files import map_in_threads
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.one_writer import writes
from bevt_core.tokenizers import find_tokenizer
from bevt_core.tokenizers.description import check_device
from pipeline.cluster.output import RayLog
from pipeline.cluster.session import await_gpu, cluster_amount, ray_session
from pipeline.job.actor_pool import ActorPool
from pipeline.job.commits import (
    JOURNAL_PARTS,
    add_to_frame_journal,
    add_to_token_journal,
    count_missing,
    drop_broken_parts,
)
from pipeline.job.finish import summarize, write_manifests
from pipeline.job.plan import Job, make_token_plan, plan_job, record_tokenizer_folder, write_or_check_token_plan
from pipeline.job.progress import Meter, ProgressMode, ProgressView, RejectionLimit, unit_of
from pipeline.job.rows import PartToMake
from pipeline.job.stages import WorkerSettings, run_parts
from schemas.frames import Plan, SourceItem
from schemas.recipes import TokenizeRecipe

ON_CPUS = (
    "no GPU in the cluster, so this whole token set is made on CPUs; to use GPUs, start a GPU node before the job, "
    "and make the token set again"
)


class RunOptions(TypedDict, total=False):
    """The options of `tokenize` for Ray and for progress, for callers that pass them on."""

    ray_address: str | None
    num_cpus: int | None
    num_gpus: int | None
    ray_log: RayLog
    progress: ProgressMode


@writes(lambda recipe, **_: as_path(recipe.out).absolute(), "bevt tokenize")
def tokenize(
    recipe: TokenizeRecipe,
    *,
    list_file: str | AnyPath | None = None,
    allow_outside: bool = False,
    planned: tuple[Plan, Sequence[SourceItem]] | None = None,
    overwrite: bool = False,
    frames_only: bool = False,
    max_rejected: float | None = None,
    ray_address: str | None = None,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    ray_log: RayLog = "hidden",
    progress: ProgressMode = "auto",
    meter: Meter | None = None,
) -> dict[str, Any]:
    """Make the frame store and the token set of `recipe`; committed parts are kept. Returns a summary.

    `list_file` is a list of the sources, as for `--list`. `planned` is the result of `make_plan`, for callers that have
    it; otherwise the root is listed, with warnings about likely mistakes. With `allow_outside`, links and lists may
    lead out of the root. `overwrite` deletes another job's output. `max_rejected` is the share of sources, not counting
    missing ones, that may be rejected before the job stops.
    `num_cpus` and `num_gpus` size the Ray that is started here; `ray_address` or RAY_ADDRESS selects a cluster instead.
    `ray_log` shows or hides Ray's own messages. `meter`, if given, must be new; it counts and times the parts made.
    Raises UserError for bad input, for another job's output in the same folder, and while another process writes it;
    StorageError if the disk or object store fails, JobError if Ray fails.
    """
    job = plan_job(recipe, list_file, allow_outside, planned, overwrite, frames_only)
    meter = meter or Meter()
    limit = _limit(job, max_rejected)
    if job.todo:
        for plan in job.plans:
            drop_broken_parts(job.frames_dir, plan, job.frames_done)
        with ray_session(ray_address, num_cpus, num_gpus, ray_log) as session:
            gpus = 0 if frames_only else cluster_amount("GPU")
            job = _with_token_plan(job, gpus)
            if session.may_grow and not gpus and not frames_only:
                warn(ON_CPUS)
            pool = None if frames_only else ActorPool.sized(len(job.todo), gpus, session.may_grow)
            _make_parts(job, pool, meter, limit, progress)
    return summarize(job, write_manifests(job), meter)


def _limit(job: Job, max_rejected: float | None) -> RejectionLimit:
    """The limit, with the committed parts already counted. Raises UserError if they exceed it."""
    limit = RejectionLimit(max_rejected, sum(plan.num_sources for plan in job.plans))
    if max_rejected is not None:
        done = job.frames_done.values()
        counts = map_in_threads(lambda commit: count_missing(job.frames_dir, commit), done, job.frames_dir)
        for commit, missing in zip(done, counts, strict=True):
            limit.add(commit.num_sources, commit.num_rejected - missing)
    return limit


def _with_token_plan(job: Job, gpus: int) -> Job:
    """Return the job with the plan of its token set, which names the kind of device. Writes a new plan."""
    if job.tokens_dir is None:
        return job
    if gpus:
        await_gpu()
    device_kind = "cuda" if gpus else "cpu"
    check_device(device_kind, job.recipe.tokenizer_dtype, job.recipe.tokenizer_pass_frames)
    token_plan = write_or_check_token_plan(job.tokens_dir, make_token_plan(job.recipe, job.plan, device_kind))
    record_tokenizer_folder(job.tokens_dir, _tokenizer_folder(job))
    return replace(job, token_plan=token_plan)


def _make_parts(job: Job, pool: ActorPool | None, meter: Meter, limit: RejectionLimit, progress: ProgressMode) -> None:
    """Make the parts that are not committed. Raises a worker's error, and UserError if too many are rejected."""
    recipe = job.recipe
    settings = WorkerSettings(
        frames_dir=job.frames_dir,
        tokens_dir=job.tokens_dir,
        root=as_path(recipe.root).absolute(),
        plans=job.plans,
        token_plan=job.token_plan,
        tokenizer=None if job.tokens_dir is None else _tokenizer_folder(job),
        batch_frames=recipe.batch_frames,
        decode_timeout_s=recipe.decode_timeout_s,
        attempts=recipe.attempts,
        allow_outside=job.allow_outside,
        decoder=recipe.decoder,
    )
    todo = [PartToMake(part, job.items_of(part)) for part in job.todo]
    kinds = set().union(*(kinds_of(part.items) for part in todo))
    name = "store frames" if pool is None else "tokenize"
    unwritten: list[int] = []  # parts that are not in the journals yet
    with ProgressView(progress, name, sum(len(part.items) for part in todo), unit_of(kinds)) as view:
        for made in run_parts(settings, todo, pool):
            meter.add(made)
            view.update(meter)
            unwritten.append(made.part)
            if len(unwritten) == JOURNAL_PARTS:
                _journal(job, unwritten)
                unwritten.clear()
            if made.part not in job.frames_done:
                limit.add(made.sources, made.rejected - made.missing)


def _journal(job: Job, parts: Sequence[int]) -> None:
    """Add parts made just now to the journals of commits. Those on an object store have none."""
    if storage_of(job.frames_dir).is_remote:
        return
    done = [job.frames_done[part] for part in parts if part in job.frames_done]
    new = set(parts) - job.frames_done.keys()
    frames = [*done, *(part for plan in job.plans for part in add_to_frame_journal(job.frames_dir, plan, new))]
    if job.tokens_dir is not None and job.token_plan is not None:
        add_to_token_journal(job.tokens_dir, frames, job.token_plan)


def _tokenizer_folder(job: Job) -> Path:
    return find_tokenizer(job.recipe.tokenizer).absolute()
