"""The two stages of the job on Ray Data: decode (tasks) -> tokenize (one actor per GPU). Each commits its output.

Frames pass from stage to stage through storage, where they are written anyway, so memory is bounded by (workers x one
part).
"""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bevt_core.console.terminal import plain_messages
from bevt_core.dataset.extensions import plan_of_part
from bevt_core.dataset.frame_store import read_frame_commit
from bevt_core.dataset.token_set import read_token_commit
from bevt_core.storage.objects import AnyPath
from pipeline.cluster.session import cluster_amount, smallest_node_amount, threads_joined
from pipeline.job.actor_pool import ActorPool
from pipeline.job.commits import count_missing, lost_part_error
from pipeline.job.decode_part import make_frame_part
from pipeline.job.rows import PartMade, PartToMake
from schemas.errors import StorageError, UserError
from schemas.frames import Plan, VideoDecoder
from schemas.tokens import TokenPlan

if TYPE_CHECKING:
    from pipeline.job.tokenize_part import PartTokenizer

DECODE_BYTES = 768 << 20  # memory that Ray reserves to decode a part; 4K needs 560 MiB, with the child (docs/log.md)
MIN_TASKS, TASKS_PER_CPU = 1000, 64  # of a stage with more parts: a task costs Ray some 30 ms of CPU (docs/log.md)
TASK_RETRIES = 3  # per task, after the loss of a worker or node; Ray's own default is unlimited


@dataclass(frozen=True)
class WorkerSettings:
    """The settings with which workers make parts."""

    frames_dir: AnyPath
    tokens_dir: AnyPath | None  # None: frames only
    root: AnyPath
    plans: Sequence[Plan]  # of the store and of its extensions
    token_plan: TokenPlan | None
    tokenizer: Path | None  # its folder
    batch_frames: int  # frames per call of the tokenizer
    decode_timeout_s: float  # per source
    attempts: int  # per source
    allow_outside: bool  # sources may lead out of the root
    decoder: VideoDecoder  # tried before PyAV


def run_parts(settings: WorkerSettings, todo: Sequence[PartToMake], pool: ActorPool | None) -> Iterator[PartMade]:
    """Stream the parts through Ray and yield each one after it is committed. Without a `pool`, only frames are made.

    A task makes one part, or several in turn if there are very many, which are then yielded together. Raises the
    UserError or StorageError of a worker, JobError if Ray fails.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.util.annotations import RayDeprecationWarning

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", RayDeprecationWarning)  # max_retries: Ray 2.60 has no other way to bound them
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    blocks = num_tasks(len(todo), cluster_amount("CPU"))
    rows = ray.data.from_items([part.to_row() for part in todo], override_num_blocks=blocks)
    memory = min(DECODE_BYTES, smallest_node_amount("memory") // 2)
    cpus = 1 if pool is None else pool.decode_cpus
    rows = rows.map(
        decode_part, fn_kwargs={"settings": settings}, num_cpus=cpus, memory=memory, max_retries=TASK_RETRIES
    )
    if pool is not None:
        rows = rows.map_batches(
            TokenizePart,
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=pool.min_size,
                max_size=pool.max_size,
                max_tasks_in_flight_per_actor=4,
                max_concurrent_calls_per_actor=2,  # one part is prepared while another is on the device
                enable_true_multi_threading=True,
            ),
            fn_constructor_kwargs={"settings": settings, "gpus": pool.gpus, "threads": pool.threads},
            num_gpus=1 if pool.gpus else 0,
            num_cpus=pool.actor_cpus,
            max_restarts=TASK_RETRIES,
            max_task_retries=TASK_RETRIES,
        )
    with threads_joined():
        stream = iter(rows.iter_rows())
        try:
            for row in stream:
                made = PartMade.from_row(row)
                made.raise_error()
                yield made
        finally:
            del stream  # stops the tasks that still run


def num_tasks(parts: int, cpus: int) -> int:
    """The number of tasks per stage for `parts` parts: enough that CPUs hardly wait for the last ones to end."""
    return min(parts, max(MIN_TASKS, TASKS_PER_CPU * cpus))


def decode_part(row: dict[str, Any], settings: WorkerSettings) -> dict[str, Any]:
    """Ray task: commit the frame part of a `PartToMake`, unless it is committed, and return its `PartMade`."""
    plain_messages()
    todo = PartToMake.from_row(row)
    try:
        plan = plan_of_part(settings.plans, todo.part)
        commit = read_frame_commit(settings.frames_dir, todo.part, plan.digest())
        if commit is None:
            commit = make_frame_part(
                settings.frames_dir,
                settings.root,
                todo.part,
                todo.items,
                plan,
                settings.decode_timeout_s,
                settings.attempts,
                settings.allow_outside,
                settings.decoder,
            )
        return PartMade.of(todo.part, commit, count_missing(settings.frames_dir, commit)).to_row()
    except (UserError, StorageError) as error:
        return PartMade(todo.part).with_error(error).to_row()


class TokenizePart:
    """Ray actor: loads the tokenizer once, and commits the token part of each `PartMade` that it receives."""

    def __init__(self, settings: WorkerSettings, gpus: int, threads: int) -> None:
        plain_messages()
        self.settings = settings
        self.failure: UserError | None = None  # raised for the first part, since Ray hides why an actor failed to start
        try:
            threads = min(threads, os.cpu_count() or 1)  # this node may have fewer CPUs
            self.tokenizer = self._load(settings, gpus, threads)
        except UserError as error:
            self.failure = error

    @staticmethod
    def _load(settings: WorkerSettings, gpus: int, threads: int) -> "PartTokenizer":
        import torch

        from bevt_core.tokenizers import load_tokenizer
        from pipeline.job.tokenize_part import PartTokenizer

        assert settings.tokenizer is not None and settings.token_plan is not None
        torch.set_num_threads(threads)
        wanted = settings.token_plan.tokenizer
        device = "cuda" if gpus else "cpu"
        tokenizer = load_tokenizer(settings.tokenizer, device, wanted.dtype, wanted.frames_per_pass)
        if wanted.compiled:
            tokenizer.compile()
        here, there = tokenizer.identity().model_dump(), wanted.by_kind().model_dump()
        differing = [f"{key} {here[key]} here, {there[key]} in the set" for key in here if here[key] != there[key]]
        if differing:
            raise UserError(
                f"the tokenizer is not the token set's: {'; '.join(differing)}; use one kind of device for a token set"
            )
        return PartTokenizer(tokenizer, settings.batch_frames, threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        made = PartMade.from_batch(batch)
        if not made.error:
            try:
                if self.failure is not None:
                    raise self.failure
                made = self._tokenize(made)
            except (UserError, StorageError) as error:
                made = made.with_error(error)
        return made.to_batch()

    def _tokenize(self, made: PartMade) -> PartMade:
        settings = self.settings
        assert settings.tokens_dir is not None and settings.token_plan is not None
        plan = plan_of_part(settings.plans, made.part)
        frames = read_frame_commit(settings.frames_dir, made.part, plan.digest())
        if frames is None:
            raise lost_part_error(settings.frames_dir, made.part)
        if read_token_commit(settings.tokens_dir, frames, settings.token_plan.digest()) is not None:
            return made
        _, times = self.tokenizer.make_token_part(settings.frames_dir, settings.tokens_dir, frames, settings.token_plan)
        return replace(made, times=times)
