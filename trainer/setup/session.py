"""One run of the loop: what pretraining, fine-tuning and the training of tokenizers have in common around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevt_core.console.progress import say
from bevt_core.console.terminal import note, show
from bevt_core.storage.objects import ObjectPath
from schemas.recipes import FinetuneRecipe, PretrainRecipe, TokenizerRecipe
from schemas.runs import DatasetRef
from trainer.clips.sources import FileClips
from trainer.data.batches import Samples, StreamBatches
from trainer.data.clip_dataset import ClipDataset
from trainer.data.order import StreamOrder
from trainer.distributed.cpus import describe_workers, loader_workers, local_processes, usable_cpus
from trainer.distributed.world import World, micro_batches_of
from trainer.engine.checkpoint import CHECKPOINTS, Checkpoints
from trainer.engine.evaluations import Evaluation
from trainer.engine.loop import FitResult, Hook, fit
from trainer.engine.optim import LrShare, build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.engine.task import Task
from trainer.metrics.data_wait import DataWait, ReadFrom
from trainer.metrics.monitor import StepFlops, device_name
from trainer.runs.directory import identity_of, open_run, resume_command


@dataclass(frozen=True)
class Job:
    """A recipe, its data and the run directory that it is trained into."""

    recipe: PretrainRecipe | FinetuneRecipe | TokenizerRecipe
    datasets: Mapping[str, DatasetRef]
    out: Path
    world: World
    resume: bool
    command: str

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to go on from, so that initial weights are not needed."""
        return self.resume and bool(Checkpoints(self.out / CHECKPOINTS, 1).paths())

    def open(self, schedule: CosineSchedule) -> None:
        """Make the run directory, on rank 0. Raises UserError on all ranks where another run is in it."""
        most = self.recipe.loop.max_steps
        if most is not None and most > schedule.total_steps:
            epochs = f"loop.epochs={self.recipe.loop.epochs:g} gives {schedule.total_steps} steps"
            note(f"loop.max_steps={most} has no effect: {epochs}; set loop.epochs higher for more")
        options: dict[str, Any] = {"resume": self.resume, "command": self.command, "world_size": self.world.size}
        options |= {"total_steps": schedule.total_steps, "device": device_name(self.world.device)}
        self.world.on_main(lambda: open_run(self.out, self.recipe, self.datasets, **options))

    def fit(
        self,
        task: Task,
        streams: Mapping[str, tuple[Samples, StreamOrder]],
        schedule: CosineSchedule,
        *,
        lr_share: LrShare = lambda name: 1.0,
        hooks: Sequence[Hook] = (),
        evaluations: Sequence[Evaluation] = (),
        step_flops: StepFlops | None = None,
    ) -> FitResult:
        """Train `task.model` on the streams; every rank calls this. A run that a signal stopped says how to go on.

        After a Ctrl-C it raises KeyboardInterrupt, with the checkpoint written. Rank 0 needs `step_flops` to log the
        rate of operations.
        """
        recipe, world = self.recipe, self.world
        if world.is_main:
            show(f"  loading: {describe_workers(recipe.loop.num_workers)}")
        workers = loader_workers(recipe.loop.num_workers)
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
            schedule,
            optim=recipe.optim,
            loop=recipe.loop,
            world=world,
            run_dir=self.out,
            identity=identity_of(recipe, self.datasets),
            resume=self.resume,
            hooks=hooks,
            evaluations=evaluations,
            step_flops=step_flops,
            data_wait=DataWait(workers, usable_cpus() // local_processes(), read_from(streams)),
        )
        if world.is_main and not result.finished:
            go_on = resume_command(self.command)
            say(f"stopped at step {result.step}; go on with: {go_on}")
        if not result.finished and any(world.gather(result.interrupted)):
            raise KeyboardInterrupt
        return result


def read_from(streams: Mapping[str, tuple[Samples, StreamOrder]]) -> ReadFrom:
    """Return where samples come from, the slowest kind of place among the streams'."""
    datasets = [dataset for dataset, _ in streams.values()]
    if any(isinstance(getattr(dataset, "source", None), FileClips) for dataset in datasets):
        return "files"
    stores = [store for dataset in datasets if isinstance(dataset, ClipDataset) for store in dataset.stores]
    return "objects" if any(isinstance(store.path, ObjectPath) for store in stores) else "frames"


def ending(result: FitResult, schedule: CosineSchedule) -> dict[str, Any]:
    """Return how a run ended: `step`, `finished` (the whole schedule), and `state`, the same in words."""
    is_whole = result.finished and result.step >= schedule.total_steps
    cause = "loop.max_steps" if result.finished else "a signal"
    state = "finished" if is_whole else f"stopped by {cause} at {result.step} of {schedule.total_steps} steps"
    return {"step": result.step, "finished": is_whole, "state": state}
