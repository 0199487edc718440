"""A session: one training run of any stage, from its locks to its last checkpoint.

A stage calls `open_session`, then the session's `lock_for_reading`, `plan`, `initialise`, `begin`, `fit` and `save`, in
this order. The stage provides the model, the data and the evaluations. Dry runs are in trainer/setup/plan.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from bevt_core.console.inert import one_line
from bevt_core.console.progress import say
from bevt_core.console.readable import count
from bevt_core.console.terminal import note, show
from bevt_core.cpus import usable_cpus
from bevt_core.models.bevt import Bevt
from bevt_core.models.classifier import Classifier
from bevt_core.storage.descriptions import RECORD
from bevt_core.storage.files import read_record
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.one_writer import hold, reading
from bevt_core.weights.model_files import save_state
from schemas.recipes import FinetuneRecipe, PretrainRecipe
from schemas.runs import DatasetRef, RunRecord
from trainer.clips.lists import CLIPS, ClipLists, write_lists
from trainer.clips.sources import FileClips
from trainer.data.batches import Samples, StreamBatches
from trainer.data.clip_dataset import ClipDataset
from trainer.data.order import StreamOrder
from trainer.distributed.cpus import describe_workers, loader_workers, local_processes
from trainer.distributed.ema import WithAverage
from trainer.distributed.sharding import unsharded
from trainer.distributed.world import World, join_world, micro_batches_of
from trainer.engine.checkpoint import CHECKPOINTS, Checkpoints, Identity
from trainer.engine.evaluations import Evaluation
from trainer.engine.loop import FitResult, Hook, fit
from trainer.engine.optim import LrShare, build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.engine.task import Task
from trainer.metrics.data_wait import DataWait, ReadFrom
from trainer.metrics.monitor import device_name
from trainer.runs.directory import (
    WEIGHTS,
    check_init_digest,
    check_run_dir,
    identity_of,
    init_digest,
    open_run,
    pinned_init,
    resume_command,
)
from trainer.setup.memory import Memory
from trainer.setup.plan import DEFAULT_TFLOPS, Plan, R, Workload, describe, make_plan

N = TypeVar("N", bound=nn.Module)
M = TypeVar("M", Bevt, Classifier)
S = TypeVar("S", PretrainRecipe, FinetuneRecipe)


def no_lists(is_listed: bool) -> ClipLists | None:
    """Return None: the default for `Session.begin`, for stages without lists of clips."""
    return None


@dataclass(frozen=True)
class Session:
    """A run in progress: its processes, its directory and its locks."""

    out: Path
    world: World
    resume: bool
    command: str
    locks: ExitStack  # on the run directory and on the data it reads, until the session ends

    @property
    def from_checkpoint(self) -> bool:
        """Whether the run continues from a checkpoint, so that no initial weights are needed."""
        return self.resume and bool(Checkpoints(self.out / CHECKPOINTS, 1).paths())

    def lock_for_reading(self, stores: Iterable[AnyPath]) -> None:
        """Prevent other commands from removing parts of `stores` until the session ends."""
        self.world.on_main(lambda: self.locks.enter_context(reading(stores, self.command)))

    def pinned(self, recipe: S) -> S:
        """Return `recipe` with the commit of its `init` if that is a repository on the Hub. Every rank calls this.

        A resumed run keeps the commit that it started from. Raises UserError if the repository cannot be read.
        """
        init = self.world.on_main(lambda: pinned_init(self.out, recipe.init))
        return recipe if init == recipe.init else recipe.model_copy(update={"init": init})

    def plan(self, workload: Workload[R], memory: Memory = "recipe") -> Plan[R]:
        """Return the plan of a workload on the session's processes. Raises UserError if it does not fit them."""
        return make_plan(workload, self.world.size, memory, self.world.on_main)

    def initialise(
        self, recipe: PretrainRecipe | FinetuneRecipe, model: M, start: Callable[[M, str], list[str]]
    ) -> None:
        """Load the recipe's `init` into `model`, unless it is null or the run resumes from a checkpoint.

        `start` loads the weights and returns the names of the parameters that keep their initial values. Raises
        UserError if the run is resumed without a checkpoint and its initial weights have changed.
        """
        if self.from_checkpoint:
            return
        path = self.out / RECORD  # exists if the run ended before its first checkpoint
        self.world.on_main(lambda: check_init_digest(recipe, read_record(path, RunRecord), str(self.out)))
        if recipe.init is not None:
            fresh = start(model, recipe.init)
            if self.world.is_main:
                show(one_line(f"starting from {recipe.init}; newly initialised: {', '.join(fresh) or 'nothing'}"))

    def begin(
        self,
        plan: Plan[R],
        datasets: Mapping[str, DatasetRef],
        tflops: float = DEFAULT_TFLOPS,
        lists: Callable[[bool], ClipLists | None] = no_lists,
    ) -> Identity:
        """Print the plan and create the run directory, or record the resume in it. Every rank calls this.

        `datasets` are all data on disk that affect the results. `lists` is called with whether the directory already
        has lists of clips; on rank 0 it returns the lists to write, if any. Returns the run's identity.
        """
        world, loop, schedule = self.world, plan.recipe.loop, plan.schedule
        if world.is_main:
            show(describe(plan, tflops, world.device.type))
        clips = lists(world.from_main((self.out / CLIPS).is_file()))
        if loop.max_steps is not None and loop.max_steps > schedule.total_steps:
            epochs = f"loop.epochs={loop.epochs:g} is only {count(schedule.total_steps, 'step')}"
            note(f"loop.max_steps={loop.max_steps} has no effect: {epochs}; increase loop.epochs to train longer")
        options: dict[str, Any] = {"resume": self.resume, "command": self.command, "world_size": world.size}
        options |= {"total_steps": schedule.total_steps, "device": device_name(world.device)}

        def open_directory() -> None:
            started_from = None if self.from_checkpoint else init_digest(plan.recipe)
            open_run(self.out, plan.recipe, datasets, init_sha256=started_from, **options)

        world.on_main(open_directory)
        if clips is not None and world.is_main:
            write_lists(self.out, clips)
        return identity_of(plan.recipe, datasets)

    def fit(
        self,
        plan: Plan[R],
        identity: Identity,
        task: Task,
        samples: Mapping[str, Samples],
        *,
        lr_share: LrShare = lambda name: 1.0,
        hooks: Sequence[Hook] = (),
        evaluations: Sequence[Evaluation] = (),
        carried: Callable[[Identity], Identity] = dict,
    ) -> FitResult:
        """Train `task.model` on the samples of the plan's streams. Every rank calls this.

        `identity` comes from `begin`; for `carried`, see `trainer.engine.loop.fit`. If a signal stops the run, the
        command that resumes it is printed. After Ctrl-C KeyboardInterrupt is raised, once the checkpoint is written.
        """
        recipe, world = plan.recipe, self.world
        cost = plan.cost() if world.is_main else None
        if world.is_main:
            show(f"  loading: {describe_workers(recipe.loop.num_workers)}")
        workers = loader_workers(recipe.loop.num_workers)
        streams = {name: (samples[name], order) for name, order in plan.orders.items()}
        batches = StreamBatches(
            streams,
            rank=world.rank,
            world_size=world.size,
            num_workers=workers,
            pin_memory=world.device.type == "cuda",
            micro_batches=micro_batches_of(recipe.loop, world.size),
        )
        result = fit(
            task,
            batches,
            build_optimizer(task.model, recipe.optim, lr_share),
            plan.schedule,
            optim=recipe.optim,
            loop=recipe.loop,
            world=world,
            run_dir=self.out,
            identity=identity,
            resume=self.resume,
            hooks=hooks,
            evaluations=evaluations,
            step_flops=None if cost is None else cost.step_flops,
            carried=carried,
            data_wait=DataWait(workers, usable_cpus() // local_processes(), read_from(streams)),
        )
        if world.is_main and not result.finished:
            say(f"stopped at step {result.step}; resume with: {resume_command(self.command)}")
        if not result.finished and any(world.gather(result.interrupted)):
            raise KeyboardInterrupt
        return result

    def save(self, model: Bevt | Classifier, result: FitResult) -> str | None:
        """Write the weights of a finished run and return their path; None if unfinished. Every rank calls this."""
        final = unsharded(model.state_dict())
        if not result.finished:
            return None
        if self.world.is_main:
            save_state(self.out / WEIGHTS, final, model.config)
        return str(self.out / WEIGHTS)

    def summary(self, plan: Plan[R], result: FitResult) -> dict[str, Any]:
        """Return the facts that the summaries of all stages have in common."""
        return {"run": str(self.out), **ending(result, plan.schedule), "metrics": result.metrics}


@contextmanager
def open_session(out: Path, *, kind: str, resume: bool, command: str) -> Iterator[Session]:
    """Join the other processes and lock the directory `out` for the block. Every process calls this.

    `kind` is the recipe's. Raises UserError if another command writes to `out`, or if it contains another run or other
    files.
    """
    with join_world() as world, ExitStack() as locks:
        world.on_main(lambda: locks.enter_context(hold(out, command)))
        world.on_main(lambda: check_run_dir(out, kind, resume))
        yield Session(out, world, resume, command, locks)


def build(seed: int, make: Callable[[], N]) -> N:
    """Return the module that `make` builds, with initial weights determined by `seed`."""
    torch.manual_seed(seed)
    return make()


def averaged(model: M, decay: float | None) -> tuple[nn.Module, M, list[Hook]]:
    """Return the module to train, the model to test and store, and the hooks to call after each step.

    With a `decay`, the tested model has an exponential moving average of the weights.
    """
    if decay is None:
        return model, model, []
    both = WithAverage(model, decay)
    return both, cast(M, both.average), [both.update]


def read_from(streams: Mapping[str, tuple[Samples, StreamOrder]]) -> ReadFrom:
    """Return the kind of storage that samples are read from, the slowest one if the streams differ."""
    datasets = [dataset for dataset, _ in streams.values()]
    if any(isinstance(getattr(dataset, "source", None), FileClips) for dataset in datasets):
        return "files"
    stores = [store for dataset in datasets if isinstance(dataset, ClipDataset) for store in dataset.stores]
    return "objects" if any(storage_of(store.path).is_remote for store in stores) else "frames"


def ending(result: FitResult, schedule: CosineSchedule) -> dict[str, Any]:
    """Return how a run ended: `step`, `finished` (the whole schedule) and `state` (a phrase)."""
    is_whole = result.finished and result.step >= schedule.total_steps
    cause = "loop.max_steps" if result.finished else "a signal"
    state = "finished" if is_whole else f"stopped by {cause} at {result.step} of {count(schedule.total_steps, 'step')}"
    return {"step": result.step, "finished": is_whole, "state": state}
