"""Fine-tuning: the pretrained encoder and video stem with a new head, on labelled clips (paper, section 4)."""

from pathlib import Path
from typing import Any

from bevt_core.storage.files import write_record
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe
from schemas.runs import DatasetRef
from trainer.clips.augmentation.mixing import check_pairs
from trainer.clips.lists import ClipLists
from trainer.clips.sources import ClipSource, check_classes, check_labels, interval_of, stores_of
from trainer.distributed.world import World
from trainer.engine.evaluations import Evaluation, every
from trainer.finetune.clips import check_listed, clips_of_run
from trainer.finetune.model import build_from_recipe, lr_share
from trainer.finetune.plan import Videos, finetune_workload
from trainer.finetune.task import TERM, ClassifyTask, TrainingClips
from trainer.finetune.validation import Validation
from trainer.setup.memory import Memory
from trainer.setup.models import checkpoint_encoder
from trainer.setup.plan import DEFAULT_TFLOPS, Workload, show_plan
from trainer.setup.session import averaged, build, open_session
from trainer.setup.start_from import check_init, encoder_state, start_classifier
from trainer.testing.classifier_card import CARD, card_of


def finetune(
    recipe: FinetuneRecipe,
    train: ClipSource,
    val: ClipSource,
    out: Path,
    *,
    resume: bool = False,
    command: str = "bevt finetune",
    tflops: float = DEFAULT_TFLOPS,
    memory: Memory = "recipe",
) -> dict[str, Any]:
    """Train a classifier on `train`, validate on `val` and write the run directory `out`. Every process calls this.

    Validation uses the centre crop of one clip per video; `evaluate` gives the figures to quote. `tflops` is the rate
    assumed in the plan, and micro-batches are chosen to fit `memory`. Returns a summary. Raises UserError for data,
    checkpoints or a directory that do not fit.
    """
    check_data(recipe, train, val)
    with open_session(out, kind=recipe.kind, resume=resume, command=command) as session:
        world, recipe = session.world, session.pinned(recipe)
        session.lock_for_reading(stores_of(train, val))
        samples = TrainingClips(train, recipe)
        plan = session.plan(workload_of(recipe, train, val), memory)
        recipe = plan.recipe
        if recipe.mix is not None:
            check_pairs(recipe.global_batch, plan.micro_batches, world.size)
        model = build(recipe.loop.seed, lambda: build_from_recipe(recipe, len(train.classes)))
        session.initialise(recipe, model, start_classifier)
        if recipe.loop.activation_checkpointing:
            checkpoint_encoder(model.encoder)

        def lists(is_listed: bool) -> ClipLists | None:
            if not is_listed:
                return clips_of_run(train, val, recipe.init, out, world)
            if resume and not session.from_checkpoint:  # with a checkpoint, its identity is compared instead
                check_listed(out, train, val)
            return None

        identity = session.begin(plan, {"train": dataset_of(train), "val": dataset_of(val)}, tflops, lists)
        trained, tested, hooks = averaged(model, recipe.ema_decay)
        task = ClassifyTask(trained, len(train.classes), recipe.label_smoothing, recipe.mix, recipe.loop.seed)
        steps_between = max(1, round(recipe.validate_every_epochs * plan.orders[TERM].steps_per_epoch))
        validation = Evaluation(every(steps_between, last=plan.steps), Validation(tested, val, recipe, world))
        result = session.fit(
            plan, identity, task, {TERM: samples}, lr_share=lr_share(recipe), hooks=hooks, evaluations=[validation]
        )
        unreadable = unreadable_clips(task, train, world)
        if world.is_main and result.finished:
            write_record(out / CARD, card_of(recipe, train.classes))
        saved = session.save(tested, result)
        return {
            "run": str(out),
            "steps": plan.steps,
            **session.summary(plan, result),
            "num_train": len(train.items),
            "num_val": len(val.items),
            "unreadable": unreadable,
            "weights": saved,
        }


def dry_run(
    recipe: FinetuneRecipe,
    train: ClipSource,
    val: ClipSource,
    *,
    processes: int,
    tflops: float = DEFAULT_TFLOPS,
    memory: Memory = "recipe",
) -> dict[str, Any]:
    """Print the plan of `recipe` on `processes` processes and return its numbers. Starts and writes nothing.

    Raises UserError for data or initial weights that do not fit, as `finetune` does.
    """
    check_data(recipe, train, val)
    check_init(recipe.init, lambda: build_from_recipe(recipe, len(train.classes)), encoder_state)
    workload = workload_of(recipe, train, val)
    return show_plan(workload, processes=processes, tflops=tflops, memory=memory)


def check_data(recipe: FinetuneRecipe, train: ClipSource, val: ClipSource) -> None:
    """Raise UserError for data that the recipe cannot train on or validate on; called before training starts."""
    for source in (train, val):
        check_labels(source)
        interval_of(source, recipe.sampling)
    check_classes(val.classes, train.classes, val.path, train.path)


def dataset_of(clips: ClipSource) -> DatasetRef:
    return DatasetRef(path=clips.path, digest=clips.digest)


def workload_of(recipe: FinetuneRecipe, train: ClipSource, val: ClipSource) -> Workload[FinetuneRecipe]:
    return finetune_workload(recipe, Videos(len(train.items), len(val.items), len(train.classes)))


def unreadable_clips(task: ClassifyTask, train: ClipSource, world: World) -> list[str]:
    """Return the clips that could not be read on any rank. Every rank calls this.

    Raises UserError if no clip at all could be read.
    """
    unreadable = sorted({name for names in world.gather(list(task.unreadable)) for name in names})
    if unreadable and not sum(world.gather(task.num_read)):
        name = unreadable[0]
        raise UserError(
            f"{train.path}: none of the {len(unreadable)} training clips that were tried could be read, e.g. "
            f"{name}: {task.unreadable.get(name, 'see above')}; no weights were written"
        )
    return unreadable
