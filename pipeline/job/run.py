"""The tokenization job on Ray Data: parts -> decode (tasks) -> tokenize (one actor per GPU) -> commits.

One Ray row is one part. Frames go through storage, where they have to go anyway, so what moves through Ray is the
names of a part's sources, a few kB, and memory is bounded by (workers x one part). A part's content is a function of
its plan: retried, resumed or made twice, it has the same bytes.
"""

import errno
import json
import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bevt_core.console.terminal import warn
from bevt_core.dataset.frame_store import read_frame_commit, write_frame_manifest
from bevt_core.dataset.token_set import read_token_commit, read_token_plan, write_token_manifest
from bevt_core.storage.files import clean_staging, each
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.one_writer import writes
from bevt_core.tokenizers import find_tokenizer
from bevt_core.tokenizers.card import check_device
from pipeline.cluster.output import RayLog
from pipeline.cluster.session import await_gpu, cluster_has, ray_session, smallest_node_has, threads_ended
from pipeline.job.actor_pool import ActorPool
from pipeline.job.busy import bottleneck
from pipeline.job.decode_part import make_frame_part
from pipeline.job.part_size import check_grid
from pipeline.job.plan import (
    check_root,
    check_whole,
    count_missing,
    drop_broken_parts,
    find_token_plan,
    frame_commits,
    list_or_recall,
    lost_commit,
    make_token_plan,
    note_left_out,
    note_tokenizer,
    plan_of,
    read_left_out,
    settle_plan,
    settle_token_plan,
    token_commits,
    token_set_name,
    with_settled_tokenizer,
)
from pipeline.job.progress import Meter, ProgressMode, ProgressView, RejectionLimit, unit_of
from pipeline.sources import check_found
from schemas.errors import StorageError, UserError
from schemas.frames import FramePartCommit, FrameStoreManifest, Plan, SourceItem
from schemas.recipes import TokenizeRecipe
from schemas.text.json_text import json_text
from schemas.tokens import TokenPartCommit, TokenPlan

if TYPE_CHECKING:
    from pipeline.job.tokenize_part import PartTokenizer

DECODE_BYTES = 768 << 20  # that Ray sets aside for a part being decoded: 560 MiB for 4K, child included (docs/log.md)
ON_CPUS = (
    "no GPU in the cluster, so CPUs make all tokens of this set; for GPUs, bring a node with one up before the job "
    "starts, and make the set anew"
)
TASK_RETRIES = 3  # of a part, for a lost worker or node; Ray's own default is without end


@dataclass(frozen=True)
class Workplace:
    """What every worker must know."""

    frames_dir: AnyPath
    tokens_dir: AnyPath | None  # None: frames only
    root: AnyPath
    plan: Plan
    token_plan: TokenPlan | None
    tokenizer: Path | None
    batch_frames: int
    decode_timeout_s: float
    attempts: int
    allow_outside: bool  # sources may lead out of the root


@writes(lambda recipe, **_: as_path(recipe.out).absolute(), "bevt tokenize")
def tokenize(
    recipe: TokenizeRecipe,
    *,
    list_file: str | AnyPath | None = None,
    allow_outside: bool = False,
    planned: tuple[Plan, list[SourceItem]] | None = None,
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
    """Make the frame store and the token set of `recipe`; parts that are committed are kept. Returns a summary.

    `planned` is what `make_plan` gives, where it is known without listing the root; otherwise warnings say what is odd
    about the list. With `allow_outside` links and lists may lead out of the root.
    `meter`, a fresh one, has afterwards what came of each part that was made.
    `num_cpus` and `num_gpus` size the Ray that is started here; `ray_address` or RAY_ADDRESS name a cluster instead.
    `max_rejected`: the share of sources that may be rejected, those that are missing not counted, before the job stops.
    `ray_log` says whether the user sees Ray's own messages.
    Raises UserError for bad input, for another job's output in the same place, and while another process writes it;
    StorageError where the disk says no, JobError where Ray fails.
    """
    frames_dir = as_path(recipe.out).absolute() / "frames"
    listing = None
    if planned is None:
        listing = list_or_recall(recipe, list_file, allow_outside)
        planned = plan_of(recipe, listing), listing.items
        for warning in listing.warnings:
            warn(warning)
    plan, items = planned
    if not frames_only:
        recipe = with_settled_tokenizer(recipe)
    tokens_dir = None if frames_only else frames_dir.parent / "tokens" / token_set_name(recipe)
    frames_done = frame_commits(frames_dir, plan)
    check_root(as_path(recipe.root).absolute(), plan, frames_done)
    if listing is not None and len(frames_done) < plan.num_parts:
        check_found(listing, as_path(recipe.root), list_file)
    if tokens_dir is not None and read_token_plan(tokens_dir) is None:
        check_grid(recipe)
    settle_plan(frames_dir, plan, items, overwrite)
    if listing is not None:
        note_left_out(frames_dir, listing)
    tokens_done: dict[int, TokenPartCommit] = {}
    token_plan = None if tokens_dir is None else find_token_plan(tokens_dir, recipe, plan, overwrite)
    if tokens_dir is not None and token_plan is not None:
        tokens_done = token_commits(tokens_dir, frames_done.values(), token_plan)
    done: Collection[int] = frames_done if tokens_dir is None else tokens_done
    todo = [part for part in range(plan.num_parts) if part not in done]
    meter = meter or Meter()
    limit = RejectionLimit(max_rejected, plan.num_sources)
    if max_rejected is not None:
        counts = each(lambda commit: count_missing(frames_dir, commit), frames_done.values(), frames_dir)
        for commit, missing in zip(frames_done.values(), counts, strict=True):
            limit.add(commit.num_sources, commit.num_rejected - missing)
    if todo:
        drop_broken_parts(frames_dir, plan, frames_done)
        with ray_session(ray_address, num_cpus, num_gpus, ray_log) as session:
            gpus = 0 if tokens_dir is None else cluster_has("GPU")
            if tokens_dir is not None:
                if gpus:
                    await_gpu()
                device_kind = "cuda" if gpus else "cpu"
                check_device(device_kind, recipe.tokenizer_dtype, recipe.tokenizer_pass_frames)
                token_plan = settle_token_plan(tokens_dir, make_token_plan(recipe, plan, device_kind))
                note_tokenizer(tokens_dir, _tokenizer_folder(recipe.tokenizer))
                if session.may_grow and not gpus:
                    warn(ON_CPUS)
            place = Workplace(
                frames_dir=frames_dir,
                tokens_dir=tokens_dir,
                root=as_path(recipe.root).absolute(),
                plan=plan,
                token_plan=token_plan,
                tokenizer=_tokenizer_folder(recipe.tokenizer) if tokens_dir else None,
                batch_frames=recipe.batch_frames,
                decode_timeout_s=recipe.decode_timeout_s,
                attempts=recipe.attempts,
                allow_outside=allow_outside,
            )
            pool = None if frames_only else ActorPool.sized(len(todo), gpus, session.may_grow)
            waiting = [item for part in todo for item in _items_of(items, plan, part)]
            name = "store frames" if frames_only else "tokenize"
            with ProgressView(progress, name, len(waiting), unit_of(waiting)) as view:
                rows = [{"part": part, "items": _items_text(items, plan, part)} for part in todo]
                for row in _run(place, rows, pool):
                    meter.add(row)
                    view.update(meter)
                    if row["part"] not in frames_done:
                        limit.add(row["sources"], row["rejected"] - row["missing"])
    manifest = _finish(frames_dir, tokens_dir, plan, token_plan, frames_done, tokens_done)
    share = meter.busy_share()
    left_out = read_left_out(frames_dir)
    return {
        "sources": manifest.num_sources,
        "indexed": manifest.num_sources - sum(manifest.rejected.values()),
        "samples": manifest.num_samples,
        "rejected": sum(manifest.rejected.values()),
        "rejected_by_reason": manifest.rejected,
        "missing": manifest.rejected.get("missing", 0),
        "ignored": left_out.by_suffix,
        "warnings": list(left_out.warnings),
        "parts": plan.num_parts,
        "parts_done_before": plan.num_parts - len(todo),
        "frame_parts_done_before": len(frames_done),
        "frames": manifest.num_frames,
        "seconds": round(meter.seconds, 3),
        "videos_per_s": round(meter.sources / meter.seconds, 3) if todo else 0.0,
        "first_tokens_s": None if meter.first_tokens_s is None else round(meter.first_tokens_s, 3),
        "tokenizers": meter.workers,
        "actor_busy_share": None if share is None else share.busy,
        "bottleneck": None if share is None else bottleneck(share),
        "frames_dir": str(frames_dir),
        "tokens_dir": None if tokens_dir is None else str(tokens_dir),
    }


# ---- the Ray job -----------------------------------------------------------------------------------------------------


ERRORS: dict[str, Callable[[str], Exception]] = {
    "UserError": UserError,
    "StorageError": lambda message: StorageError(errno.EIO, message),
}  # that a user reads: they travel as rows, since Ray keeps of an exception in a worker only its text


def decode_part(row: dict[str, Any], place: Workplace) -> dict[str, Any]:
    """A task: commit the frame part of `row`, if it is not committed."""
    part = int(row["part"])
    done = {
        "part": part,
        "sources": 0,
        "frames": 0,
        "rejected": 0,
        "missing": 0,
        "worker": "",  # of the tokenizer; none has made it yet
        "started": 0.0,
        "first": 0.0,
        "ended": 0.0,
        "busy_s": 0.0,
        "error": "",
        "message": "",
    }
    try:
        commit = read_frame_commit(place.frames_dir, part, place.plan.digest())
        if commit is None:
            items = [SourceItem(**item) for item in json.loads(row["items"])]
            commit = make_frame_part(
                place.frames_dir,
                place.root,
                part,
                items,
                place.plan,
                place.decode_timeout_s,
                place.attempts,
                place.allow_outside,
            )
        missing = count_missing(place.frames_dir, commit)
    except (UserError, StorageError) as error:
        return {**done, "error": type(error).__name__, "message": str(error)}
    counts = {"sources": commit.num_sources, "frames": commit.num_frames, "rejected": commit.num_rejected}
    return {**done, **counts, "missing": missing}


class TokenizePart:
    """An actor: it holds the tokenizer, and commits the token part of each row that it is given."""

    def __init__(self, place: Workplace, gpus: int, threads: int) -> None:
        self.place = place
        self.failure: UserError | None = None  # told with the first part: an actor that fails to start says nothing
        try:
            self.parts = self._load(place, gpus, min(threads, os.cpu_count() or 1))  # another node may have more
        except UserError as error:
            self.failure = error

    @staticmethod
    def _load(place: Workplace, gpus: int, threads: int) -> "PartTokenizer":
        import torch

        from bevt_core.tokenizers import load_tokenizer
        from pipeline.job.tokenize_part import PartTokenizer

        assert place.tokenizer is not None and place.token_plan is not None
        torch.set_num_threads(threads)
        wanted = place.token_plan.tokenizer
        device = "cuda" if gpus else "cpu"
        tokenizer = load_tokenizer(place.tokenizer, device, wanted.dtype, wanted.frames_per_pass)
        if wanted.compiled:
            tokenizer.compile()
        here, there = tokenizer.identity().model_dump(), wanted.by_kind().model_dump()
        differing = [f"{key} {here[key]} here, {there[key]} in the set" for key in here if here[key] != there[key]]
        if differing:
            raise UserError(f"another tokenizer: {'; '.join(differing)}; use one kind of device for a token set")
        return PartTokenizer(tokenizer, place.batch_frames, threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["error"][0]:
            return batch
        try:
            if self.failure is not None:
                raise self.failure
            return self._tokenize(batch)
        except (UserError, StorageError) as error:
            return {**batch, "error": [type(error).__name__], "message": [str(error)]}

    def _tokenize(self, batch: dict[str, Any]) -> dict[str, Any]:
        place = self.place
        assert place.tokens_dir is not None and place.token_plan is not None
        part = int(batch["part"][0])
        frames = read_frame_commit(place.frames_dir, part, place.plan.digest())
        if frames is None:
            raise lost_commit(place.frames_dir, part)
        if read_token_commit(place.tokens_dir, frames, place.token_plan.digest()) is None:
            _, times = self.parts.make_token_part(place.frames_dir, place.tokens_dir, frames, place.token_plan)
            batch = {**batch, **{key: [value] for key, value in vars(times).items()}}
        return batch


def _run(place: Workplace, todo: list[dict[str, Any]], pool: ActorPool | None) -> Iterator[dict[str, Any]]:
    """Stream the parts through Ray, yielding a row as each one is committed. Raises what a worker had to tell."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.util.annotations import RayDeprecationWarning

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", RayDeprecationWarning)  # max_retries: Ray 2.60 has no other way to bound them
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    rows = ray.data.from_items(todo, override_num_blocks=len(todo))
    memory = min(DECODE_BYTES, smallest_node_has("memory") // 2)
    cpus = 1 if pool is None else pool.decode_cpus
    rows = rows.map(decode_part, fn_kwargs={"place": place}, num_cpus=cpus, memory=memory, max_retries=TASK_RETRIES)
    if pool is not None:
        rows = rows.map_batches(
            TokenizePart,
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=pool.min_size,
                max_size=pool.max_size,
                max_tasks_in_flight_per_actor=4,
                max_concurrent_calls_per_actor=2,  # one part is prepared while another has the device
                enable_true_multi_threading=True,
            ),
            fn_constructor_kwargs={"place": place, "gpus": pool.gpus, "threads": pool.threads},
            num_gpus=1 if pool.gpus else 0,
            num_cpus=pool.cpu_share,
            max_restarts=TASK_RETRIES,
            max_task_retries=TASK_RETRIES,
        )
    with threads_ended():
        stream = iter(rows.iter_rows())
        try:
            for row in stream:
                if row["error"]:
                    raise ERRORS[row["error"]](row["message"])
                yield row
        finally:
            del stream  # ends what still runs


# ---- plans and results -----------------------------------------------------------------------------------------------


def _tokenizer_folder(name: str) -> Path:
    return find_tokenizer(name).absolute()


def _items_of(items: Sequence[SourceItem], plan: Plan, part: int) -> Sequence[SourceItem]:
    start = part * plan.sources_per_part
    return items[start : start + plan.sources_per_part]


def _items_text(items: Sequence[SourceItem], plan: Plan, part: int) -> str:
    """The part's sources as JSON: a few kB, so that no worker has to read the list of all."""
    return json_text([item.model_dump() for item in _items_of(items, plan, part)])


def _finish(
    frames_dir: AnyPath,
    tokens_dir: AnyPath | None,
    plan: Plan,
    token_plan: TokenPlan | None,
    frames_done: dict[int, FramePartCommit],
    tokens_done: dict[int, TokenPartCommit],
) -> FrameStoreManifest:
    """Write the manifests from the commits: all are there now, and those that were before are not read again."""
    clean_staging(frames_dir)
    parts = range(plan.num_parts)
    frames = frames_done | frame_commits(frames_dir, plan, [part for part in parts if part not in frames_done])
    check_whole(frames_dir, frames, plan.num_parts)
    manifest = write_frame_manifest(frames_dir, plan, [frames[part] for part in parts])
    if tokens_dir is not None and token_plan is not None:
        clean_staging(tokens_dir)  # its locks too: a job killed at its end leaves them, and nothing to do
        new = [commit for part, commit in frames.items() if part not in tokens_done]
        tokens = tokens_done | token_commits(tokens_dir, new, token_plan)
        check_whole(tokens_dir, tokens, plan.num_parts)
        write_token_manifest(tokens_dir, token_plan, manifest, [tokens[part] for part in parts])
    return manifest
