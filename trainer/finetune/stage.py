"""Fine-tuning: the pretrained encoder and video stem under a new head, on labelled clips (paper, section 4)."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevt_core.console.inert import one_line
from bevt_core.console.progress import say
from bevt_core.console.terminal import show
from bevt_core.media.errors import MediaError
from bevt_core.models.build import build_classifier
from bevt_core.models.classifier import Classifier
from bevt_core.rng import rng_for
from bevt_core.storage.files import write_record
from bevt_core.storage.one_writer import hold, reading
from bevt_core.weights.checkpoints import save_state
from schemas.errors import UserError
from schemas.recipes import EvalViews, FinetuneRecipe, MixConfig
from schemas.runs import DatasetRef
from trainer.clips.augment import augment_clip
from trainer.clips.lists import CLIPS, write_lists
from trainer.clips.mixing import check_pairs, draw_mix, mix_pairs
from trainer.clips.multi_view import ViewPlan
from trainer.clips.sampling import SAMPLERS
from trainer.clips.sources import ClipSource, check_classes, check_labels, interval_of, stores_of
from trainer.data.batches import normalise
from trainer.distributed.cpus import loader_workers
from trainer.distributed.ema import WithAverage
from trainer.distributed.sharding import whole
from trainer.distributed.world import World, join_world
from trainer.engine.evaluations import Evaluation, StopAsked, every
from trainer.engine.optim import LrShare, layer_decay_share, swin_layers, timesformer_layers
from trainer.engine.task import Batch, Term
from trainer.finetune.clips import check_listed, clips_of_run
from trainer.finetune.plan import (
    TERM,
    counted_finetune_cost,
    describe_finetune,
    finetune_facts,
    fit_finetune_recipe,
    make_finetune_plan,
)
from trainer.runs.directory import WEIGHTS
from trainer.setup.memory import Memory, memory_gb_of
from trainer.setup.models import checkpoint_encoder
from trainer.setup.plan import DEFAULT_TFLOPS
from trainer.setup.session import Job, ending
from trainer.setup.start_from import start_classifier
from trainer.testing.classifier_card import CARD, card_of
from trainer.testing.evaluate import run_views

UNREADABLE = -1  # the label of a clip that could not be read: it counts for nothing
LAYERS: dict[str, Callable[[Any], Mapping[str, int]]] = {  # of layer decay, by kind of encoder
    "swin": lambda encoder: swin_layers(encoder.depths),
    "timesformer": lambda encoder: timesformer_layers(encoder.depth),
}


class ClassifyTask:
    """Cross-entropy of the clips' classes, which Mixup and CutMix blend. What is mixed follows (seed, step)."""

    def __init__(
        self, model: nn.Module, num_classes: int, label_smoothing: float, mix: MixConfig | None, seed: int
    ) -> None:
        self.model, self.num_classes, self.label_smoothing = model, num_classes, label_smoothing
        self.mix, self.seed = mix, seed
        self.unreadable: dict[str, str] = {}  # clip -> why, as far as this rank has met them
        self.num_read = 0  # clips

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return how many clips could be read; warn of each other one when it is met first."""
        clips = batch[TERM]
        for name, error in zip(clips["sample_id"], clips["error"], strict=True):
            if error is not None and name not in self.unreadable:
                self.unreadable[name] = error
                say(f"warning: {name} left out of training: {error}")
        readable = int((clips["label"] != UNREADABLE).sum())
        self.num_read += readable
        return {TERM: readable}

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        """Return the loss, and how often a clip's own class, however small its share of the mix, came first."""
        clip_BCTHW, label_B = normalise(batch[TERM]["clip"]), batch[TERM]["label"]
        readable_B = label_B != UNREADABLE
        target_BV = F.one_hot(label_B.clamp(min=0), self.num_classes) * readable_B[:, None].float()
        if self.mix is not None:
            height, width = clip_BCTHW.shape[-2:]
            drawn = draw_mix(self.mix, height, width, rng_for("mix", self.seed, step))
            clip_BCTHW, target_BV = mix_pairs(clip_BCTHW, target_BV, drawn)
        logits_BV: Tensor = model(clip_BCTHW).float()
        loss_B = F.cross_entropy(logits_BV, target_BV, label_smoothing=self.label_smoothing, reduction="none")
        loss_sum = torch.where(readable_B, loss_B, 0.0).sum()
        return {TERM: Term(loss_sum, sums={"top1": (logits_BV.argmax(dim=1) == label_B).sum()})}


class TrainingClips:
    """Augmented clips by (epoch, position): what is drawn follows (seed, epoch, video)."""

    def __init__(self, source: ClipSource, recipe: FinetuneRecipe) -> None:
        self.source, self.recipe = source, recipe
        self.interval = interval_of(source, recipe.sampling)

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        """Return `clip` uint8 (T, H, W, C), `label`, `sample_id`, and `error` for a video that cannot be read."""
        epoch, position = at
        item, sampling, augment = self.source.items[position], self.recipe.sampling, self.recipe.augment
        rng = rng_for("finetune", self.recipe.loop.seed, epoch, item.source)
        choose = SAMPLERS[sampling.kind].train
        label, error = item.label, None
        try:
            frames_THWC = self.source.read(position, lambda n: choose(n, sampling.frames, self.interval, rng))
            clip_THWC = augment_clip(torch.from_numpy(np.stack(frames_THWC)), augment, rng)
        except MediaError as media_error:
            label, error = UNREADABLE, str(media_error)
            clip_THWC = torch.zeros(sampling.frames, augment.crop_px, augment.crop_px, 3, dtype=torch.uint8)
        return {"clip": clip_THWC, "label": torch.tensor(label), "sample_id": item.source, "error": error}


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
    """Train a classifier on `train`, validating on `val`, into the run directory `out`; every process calls this.

    Validation on the way takes one clip and its centre crop; `evaluate` gives the figures to quote. `tflops` is for the
    plan's arithmetic; micro-batches are those that fit `memory`. Returns a summary.
    Raises UserError for data, checkpoints or a directory that do not fit.
    """
    _check(recipe, train, val)
    with join_world() as world, ExitStack() as locks:
        world.on_main(lambda: locks.enter_context(hold(out, command)))
        world.on_main(lambda: locks.enter_context(reading(stores_of(train, val), command)))
        clips = TrainingClips(train, recipe)
        counted, why = counted_finetune_cost(recipe, lambda: build_from_recipe(recipe, len(train.classes))), None
        memory_gb = memory_gb_of(memory)
        if memory_gb is not None:
            gb, given = memory_gb, recipe
            recipe, why = world.on_main(lambda: fit_finetune_recipe(given, counted, gb, world.size))
        plan = make_finetune_plan(recipe, len(train.items), world.size, why)
        order, steps = plan.order, plan.steps
        if recipe.mix is not None:
            check_pairs(recipe.global_batch, plan.micro_batches, world.size)
        torch.manual_seed(recipe.loop.seed)  # the initial weights
        model = build_from_recipe(recipe, len(train.classes))
        datasets = {
            "train": DatasetRef(path=train.path, digest=train.digest),
            "val": DatasetRef(path=val.path, digest=val.digest),
        }
        job = Job(recipe, datasets, out, world, resume, command)
        if recipe.init is not None and not job.resumes:
            fresh = start_classifier(model, recipe.init)
            if world.is_main:
                show(one_line(f"starting from {recipe.init}; fresh: {', '.join(fresh)}"))
        if recipe.loop.activation_checkpointing:
            checkpoint_encoder(model.encoder)
        cost = plan.cost(counted) if world.is_main else None
        if cost is not None:
            show(describe_finetune(plan, train, val, cost, tflops, world.device.type))
        is_listed = world.from_main((out / CLIPS).is_file())
        lists = None if is_listed else clips_of_run(train, val, recipe.init, out, world)
        if is_listed and resume and not job.resumes:  # a checkpoint has the digests of its data
            check_listed(out, train, val)
        job.open(plan.schedule)
        if lists is not None and world.is_main:
            write_lists(out, lists)
        averaged = None if recipe.ema_decay is None else WithAverage(model, recipe.ema_decay)
        tested = model if averaged is None else cast(Classifier, averaged.average)
        validate_every = every(max(1, round(recipe.validate_every_epochs * order.steps_per_epoch)), last=steps)
        trained = model if averaged is None else averaged
        task = ClassifyTask(trained, len(train.classes), recipe.label_smoothing, recipe.mix, recipe.loop.seed)
        result = job.fit(
            task,
            {TERM: (clips, order)},
            plan.schedule,
            step_flops=None if cost is None else cost.step_flops,
            lr_share=lr_share(recipe),
            hooks=[] if averaged is None else [averaged.update],
            evaluations=[Evaluation(validate_every, _Validation(tested, val, recipe, world))],
        )
        unreadable = sorted({name for names in world.gather(list(task.unreadable)) for name in names})
        if unreadable and not sum(world.gather(task.num_read)):
            name = unreadable[0]
            raise UserError(
                f"{train.path}: none of the {len(unreadable)} training clips that were tried could be read, e.g. "
                f"{name}: {task.unreadable.get(name, 'see above')}; no weights were written"
            )
        final = whole(tested.state_dict())
        if world.is_main and result.finished:
            write_record(out / CARD, card_of(recipe, train.classes))
            save_state(out / WEIGHTS, final, tested.config)
        return {
            "run": str(out),
            "steps": steps,
            **ending(result, plan.schedule),
            "metrics": result.metrics,
            "num_train": len(train.items),
            "num_val": len(val.items),
            "unreadable": unreadable,
            "weights": str(out / WEIGHTS) if result.finished else None,
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
    """Print the plan of `recipe` on so many processes, starting none and writing nothing; return its numbers.

    Raises UserError for data that does not fit, as `finetune` would.
    """
    _check(recipe, train, val)
    counted, why = counted_finetune_cost(recipe, lambda: build_from_recipe(recipe, len(train.classes))), None
    memory_gb = memory_gb_of(memory)
    if memory_gb is not None:
        recipe, why = fit_finetune_recipe(recipe, counted, memory_gb, processes)
    plan = make_finetune_plan(recipe, len(train.items), processes, why)
    cost = plan.cost(counted)
    show(describe_finetune(plan, train, val, cost, tflops, "any device"))
    return {"dry_run": True, **finetune_facts(plan, cost, tflops)}


def _check(recipe: FinetuneRecipe, train: ClipSource, val: ClipSource) -> None:
    """Raise UserError for data that the recipe cannot train on: now, not when the first validation comes."""
    for source in (train, val):
        check_labels(source)
        interval_of(source, recipe.sampling)
    check_classes(val.classes, train.classes, val.path, train.path)


class _Validation:
    """One clip and its centre crop of every held-out video."""

    def __init__(self, model: nn.Module, val: ClipSource, recipe: FinetuneRecipe, world: World) -> None:
        self.model, self.val, self.world = model, val, world
        self.precision = recipe.loop.precision
        self.num_workers = loader_workers(recipe.loop.num_workers)
        views = EvalViews(clips=1, crops=1, short_side_px=recipe.views.short_side_px)
        self.plan = ViewPlan(recipe.sampling, recipe.augment.crop_px, views, "normal", seed=0)

    def __call__(self, steps_done: int, stop_asked: StopAsked) -> Mapping[str, float]:
        how: dict[str, Any] = {"precision": self.precision, "num_workers": self.num_workers}
        how |= {"name": "  validate", "stop_asked": stop_asked}
        tested = run_views(self.model, self.val, self.plan, self.world, **how)
        values = {f"val_{name}": tested[name] for name in ("top1", "top5", "mean_class")}
        return values | {"val_videos": tested["num_videos"]}


def build_from_recipe(recipe: FinetuneRecipe, num_classes: int) -> Classifier:
    """The recipe's encoder under a head of `num_classes`."""
    return build_classifier(
        encoder=recipe.encoder.kind,
        **recipe.encoder.model_dump(exclude={"kind"}),
        num_classes=num_classes,
        dropout=recipe.head_dropout,
    )


def lr_share(recipe: FinetuneRecipe) -> LrShare:
    """The share of the learning rate that each parameter gets, by name."""
    optim, layers = recipe.optim, LAYERS[recipe.encoder.kind](recipe.encoder)
    share = layer_decay_share(layers, optim.layer_decay, optim.backbone_lr_share)

    def share_of(name: str) -> float:
        name = name.removeprefix("model.")  # where the weights are averaged as well
        # the original's final norm is part of its backbone, which has a key of its own where its rate differs
        in_backbone = optim.param_groups == "mmcv" and name.startswith("norm.")
        return optim.backbone_lr_share if in_backbone else share(name)

    return share_of
