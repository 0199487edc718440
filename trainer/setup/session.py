"""A session: one training run from its locks to its last checkpoint, the same for all stages.

A stage calls `open_session`, and of the session `read`, `plan`, `initialise`, `begin`, `fit` and `save`, in this order.
What it trains, on what, and what it evaluates is its own; a dry run is `show_plan` of trainer/setup/plan.py.
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
from bevt_core.console.terminal import note, show
from bevt_core.models.bevt import Bevt
from bevt_core.models.classifier import Classifier
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.one_writer import hold, reading
from bevt_core.weights.checkpoints import save_state
from schemas.recipes import FinetuneRecipe, PretrainRecipe
from schemas.runs import DatasetRef
from trainer.clips.lists import CLIPS, ClipLists, write_lists
from trainer.clips.sources import FileClips
from trainer.data.batches import Samples, StreamBatches
from trainer.data.clip_dataset import ClipDataset
from trainer.data.order import StreamOrder
from trainer.distributed.cpus import describe_workers, loader_workers, local_processes, usable_cpus
from trainer.distributed.ema import WithAverage
from trainer.distributed.sharding import whole
from trainer.distributed.world import World, join_world, micro_batches_of
from trainer.engine.checkpoint import CHECKPOINTS, Checkpoints, Identity
from trainer.engine.evaluations import Evaluation
from trainer.engine.loop import FitResult, Hook, fit
from trainer.engine.optim import LrShare, build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.engine.task import Task
from trainer.metrics.data_wait import DataWait, ReadFrom
from trainer.metrics.monitor import device_name
from trainer.runs.directory import WEIGHTS, identity_of, open_run, resume_command
from trainer.setup.memory import Memory
from trainer.setup.plan import DEFAULT_TFLOPS, Plan, R, Workload, describe, make_plan

N = TypeVar("N", bound=nn.Module)
M = TypeVar("M", Bevt, Classifier)


def no_lists(is_listed: bool) -> ClipLists | None:
    return None


@dataclass(frozen=True)
class Session:
    """One run: its processes, its directory, and what it holds while it goes on."""

    out: Path
    world: World
    resume: bool
    command: str
    locks: ExitStack  # of the directory and of what is read, until the session ends

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to go on from, so that initial weights are not needed."""
        return self.resume and bool(Checkpoints(self.out / CHECKPOINTS, 1).paths())

    def read(self, stores: Iterable[AnyPath]) -> None:
        """Keep other commands from removing parts of `stores` until the session ends."""
        self.world.on_main(lambda: self.locks.enter_context(reading(stores, self.command)))

    def plan(self, workload: Workload[R], memory: Memory = "recipe") -> Plan[R]:
        """Return the plan of a workload on these processes. Raises UserError where it does not fit them."""
        return make_plan(workload, self.world.size, memory, self.world.on_main)

    def initialise(
        self, recipe: PretrainRecipe | FinetuneRecipe, model: M, start: Callable[[M, str], list[str]]
    ) -> None:
        """Start `model` from the recipe's `init`, if it has one and there is no checkpoint to resume from.

        `start` loads weights and returns the names of the parameters that stay fresh.
        """
        if recipe.init is not None and not self.resumes:
            fresh = start(model, recipe.init)
            if self.world.is_main:
                show(one_line(f"starting from {recipe.init}; fresh: {', '.join(fresh) or 'nothing'}"))

    def begin(
        self,
        plan: Plan[R],
        datasets: Mapping[str, DatasetRef],
        tflops: float = DEFAULT_TFLOPS,
        lists: Callable[[bool], ClipLists | None] = no_lists,
    ) -> Identity:
        """Print the plan and make the run directory, or note the resume in it; every rank calls this.

        Returns the identity of the run; `datasets` are what is read from disk and decides its numbers. `lists`, given
        whether the directory has a list of clips, returns the one to write, on rank 0. Raises UserError on all ranks
        where another run is in the directory.
        """
        world, loop, schedule = self.world, plan.recipe.loop, plan.schedule
        if world.is_main:
            show(describe(plan, tflops, world.device.type))
        clips = lists(world.from_main((self.out / CLIPS).is_file()))
        if loop.max_steps is not None and loop.max_steps > schedule.total_steps:
            epochs = f"loop.epochs={loop.epochs:g} gives {schedule.total_steps} steps"
            note(f"loop.max_steps={loop.max_steps} has no effect: {epochs}; set loop.epochs higher for more")
        options: dict[str, Any] = {"resume": self.resume, "command": self.command, "world_size": world.size}
        options |= {"total_steps": schedule.total_steps, "device": device_name(world.device)}
        world.on_main(lambda: open_run(self.out, plan.recipe, datasets, **options))
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
    ) -> FitResult:
        """Train `task.model` on the samples of the plan's streams; every rank calls this.

        `identity` is what `begin` returned. A run that a signal stopped says how to go on. After a Ctrl-C it raises
        KeyboardInterrupt, with the checkpoint written.
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
            data_wait=DataWait(workers, usable_cpus() // local_processes(), read_from(streams)),
        )
        if world.is_main and not result.finished:
            go_on = resume_command(self.command)
            say(f"stopped at step {result.step}; go on with: {go_on}")
        if not result.finished and any(world.gather(result.interrupted)):
            raise KeyboardInterrupt
        return result

    def save(self, model: Bevt | Classifier, result: FitResult) -> str | None:
        """Write the weights of a finished run and return their path; every rank calls this."""
        final = whole(model.state_dict())
        if not result.finished:
            return None
        if self.world.is_main:
            save_state(self.out / WEIGHTS, final, model.config)
        return str(self.out / WEIGHTS)

    def summary(self, plan: Plan[R], result: FitResult) -> dict[str, Any]:
        """Return what the summaries of all stages have."""
        return {"run": str(self.out), **ending(result, plan.schedule), "metrics": result.metrics}


@contextmanager
def open_session(out: Path, *, resume: bool, command: str) -> Iterator[Session]:
    """Join the other processes and hold the directory `out` for the block; every process calls this.

    Raises UserError where another command writes to `out`.
    """
    with join_world() as world, ExitStack() as locks:
        world.on_main(lambda: locks.enter_context(hold(out, command)))
        yield Session(out, world, resume, command, locks)


def build(seed: int, make: Callable[[], N]) -> N:
    """Return the module that `make` builds, with the initial weights that `seed` decides."""
    torch.manual_seed(seed)
    return make()


def averaged(model: M, decay: float | None) -> tuple[nn.Module, M, list[Hook]]:
    """Return what is trained, what is tested and stored, and the hooks that follow a step.

    With a `decay` the second is an exponential moving average of the weights.
    """
    if decay is None:
        return model, model, []
    both = WithAverage(model, decay)
    return both, cast(M, both.average), [both.update]


def read_from(streams: Mapping[str, tuple[Samples, StreamOrder]]) -> ReadFrom:
    """Return where samples come from, the slowest kind of place among the streams'."""
    datasets = [dataset for dataset, _ in streams.values()]
    if any(isinstance(getattr(dataset, "source", None), FileClips) for dataset in datasets):
        return "files"
    stores = [store for dataset in datasets if isinstance(dataset, ClipDataset) for store in dataset.stores]
    return "objects" if any(storage_of(store.path).is_remote for store in stores) else "frames"


def ending(result: FitResult, schedule: CosineSchedule) -> dict[str, Any]:
    """Return how a run ended: `step`, `finished` (the whole schedule), and `state`, the same in words."""
    is_whole = result.finished and result.step >= schedule.total_steps
    cause = "loop.max_steps" if result.finished else "a signal"
    state = "finished" if is_whole else f"stopped by {cause} at {result.step} of {schedule.total_steps} steps"
    return {"step": result.step, "finished": is_whole, "state": state}
