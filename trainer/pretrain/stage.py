"""Masked token prediction: BEVT-I (images), BEVT-V (videos), or both streams jointly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bevt_core.models.bevt import Bevt
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.mosaics import decoder_for
from schemas.recipes import LoopConfig, PretrainRecipe
from schemas.runs import RunRecord
from trainer.clips.lists import ClipLists, make_lists, store_rows
from trainer.data.online import OnlineSource
from trainer.distributed.world import World
from trainer.engine.evaluations import Evaluation, every, on_main
from trainer.pretrain.growth import growth_of, record_growth
from trainer.pretrain.pictures import PictureEvaluation, check_tokenizer, picture_data
from trainer.pretrain.plan import pretrain_workload
from trainer.pretrain.probe_evaluation import ProbeEvaluation
from trainer.pretrain.streams import Source, Streams, datasets_of, open_sources, open_streams, warn_of_unusual_frames
from trainer.pretrain.task import PretrainTask
from trainer.runs.directory import check_datasets, check_init_digest
from trainer.setup.memory import Memory
from trainer.setup.models import build_model, checkpoint_activations
from trainer.setup.plan import DEFAULT_TFLOPS, Workload, show_plan
from trainer.setup.session import averaged, build, open_session
from trainer.setup.start_from import check_init, pretrained_state, start_from

# pads hidden positions on a GPU and in compiled models: the LM head computes whole tiles, its tensors have few sizes
HIDDEN_MULTIPLE = 256


def pretrain(
    recipe: PretrainRecipe,
    out: Path,
    *,
    resume: bool = False,
    grown: bool = False,
    command: str = "bevt train",
    repeat_of: RunRecord | None = None,
    tflops: float = DEFAULT_TFLOPS,
    memory: Memory = "recipe",
) -> dict[str, Any]:
    """Train on the streams of `recipe` and write the run directory `out`. Every process calls this.

    With `grown`, a run whose data were extended goes on with the larger set from the next epoch of each stream.
    `repeat_of` is the record of the run that this one repeats; the data must be the same, and the initial
    weights if it has their digest. `tflops` is the rate assumed in the plan, and micro-batches are chosen to fit
    `memory`. Returns a summary. Raises UserError for data, checkpoints or a directory that do not fit.
    """
    with open_session(out, kind=recipe.kind, resume=resume, command=command) as session:
        world, recipe = session.world, session.pinned(recipe)
        sources = open_sources(recipe, world.device)
        session.lock_for_reading([store.path for source in sources.values() for store in source.stores])
        datasets = datasets_of(sources)
        if repeat_of is not None:
            check_datasets(repeat_of.datasets, datasets, "the repeated run")
            if not session.from_checkpoint:
                world.on_main(lambda: check_init_digest(recipe, repeat_of, "the repeated run"))
        growth = session.world.on_main(lambda: growth_of(recipe, sources, out, resume, grown))
        streams = open_streams(recipe, sources, hidden_multiple_of(recipe.loop, world.device), growth.grown)
        if world.is_main:
            warn_of_unusual_frames(recipe, sources)
        plan = session.plan(workload_of(recipe, sources, streams), memory)
        recipe = plan.recipe
        tokenizer = picture_tokenizer(recipe, sources)
        model = build(recipe.loop.seed, lambda: build_model(recipe.model, tuple(recipe.streams)))
        session.initialise(recipe, model, start_from)
        if recipe.loop.activation_checkpointing:
            checkpoint_activations(model)

        def lists(is_listed: bool) -> ClipLists | None:
            if (is_listed and not growth.is_new) or not world.is_main:
                return None
            return make_lists([store_rows(source.frames) for source in sources.values()], recipe.init)

        identity = session.begin(plan, datasets, tflops, lists) | growth.identity
        world.on_main(lambda: record_growth(out, growth, plan.schedule.total_steps))
        trained, stored, hooks = averaged(model, recipe.ema_decay)
        tokenizers = {name: source.tokenizer for name, source in sources.items() if isinstance(source, OnlineSource)}
        result = session.fit(
            plan,
            identity,
            task_of(recipe, trained, tokenizers),
            {name: dataset for name, (dataset, _) in streams.items()},
            hooks=hooks,
            evaluations=evaluations_of(recipe, stored, tokenizer, sources, streams, out, world),
            carried=growth.carried,
        )
        saved = session.save(stored, result)
        return {"run": str(out), "steps": plan.steps, **session.summary(plan, result), "weights": saved}


def hidden_multiple_of(loop: LoopConfig, device: torch.device) -> int:
    """Return to a multiple of what the hidden positions of a batch are padded. A new size compiles the model again."""
    return HIDDEN_MULTIPLE if device.type == "cuda" or loop.compile is True else 1


def task_of(recipe: PretrainRecipe, model: nn.Module, tokenizers: Mapping[str, Tokenizer]) -> PretrainTask:
    """Return the task of training `model`; `tokenizers` are those of the streams without stored tokens."""
    return PretrainTask(
        model,
        {name: stream.loss_weight for name, stream in recipe.streams.items()},
        recipe.model.vocab_size,
        tokenizers,
        more_weights={
            name: {target: config.loss_weight for target, config in stream.more_targets.items()}
            for name, stream in recipe.streams.items()
        },
        more_heads=recipe.model.more_heads,
    )


def dry_run(
    recipe: PretrainRecipe, *, processes: int, tflops: float = DEFAULT_TFLOPS, memory: Memory = "recipe"
) -> dict[str, Any]:
    """Print the plan of `recipe` on `processes` processes and return its numbers. Starts and writes nothing.

    Raises UserError for data or initial weights that do not fit, as `pretrain` does.
    """
    sources = open_sources(recipe, torch.device("meta"))  # without weights: a tokenizer may require a GPU
    warn_of_unusual_frames(recipe, sources)
    check_init(recipe.init, lambda: build_model(recipe.model, tuple(recipe.streams)), pretrained_state)
    workload = workload_of(recipe, sources, open_streams(recipe, sources))
    return show_plan(workload, processes=processes, tflops=tflops, memory=memory)


def workload_of(recipe: PretrainRecipe, sources: Mapping[str, Source], streams: Streams) -> Workload[PretrainRecipe]:
    orders = {name: order for name, (_, order) in streams.items()}
    crop_px = {name: source.crop_px for name, source in sources.items()}
    return pretrain_workload(recipe, orders, crop_px)


def picture_tokenizer(recipe: PretrainRecipe, sources: Mapping[str, Source]) -> Tokenizer | None:
    """Load the tokenizer that draws pictures, if any. Raises UserError if it did not make the streams' tokens."""
    if not recipe.loop.picture_every or recipe.tokenizer is None:
        return None
    tokenizer = load_tokenizer(recipe.tokenizer)
    check_tokenizer(tokenizer, recipe.tokenizer, sources)
    return tokenizer


def evaluations_of(
    recipe: PretrainRecipe,
    model: Bevt,
    tokenizer: Tokenizer | None,
    sources: Mapping[str, Source],
    streams: Streams,
    out: Path,
    world: World,
) -> list[Evaluation]:
    """Return the recipe's evaluations: pictures, if a tokenizer is given, and probes."""
    evaluations = []
    if tokenizer is not None:
        draw = None
        if world.is_main:
            decoder = decoder_for(tokenizer, picture_data(next(iter(sources.values()))))
            draw = PictureEvaluation(model, tokenizer, decoder, streams, out, recipe.loop.precision)
        evaluations.append(Evaluation(every(recipe.loop.picture_every), on_main(draw)))
    if recipe.probe is not None:
        evaluations.append(Evaluation(every(recipe.probe.every), ProbeEvaluation(model, recipe, world)))
    return evaluations
