"""Masked token prediction: BEVT-I (images), BEVT-V (videos), or both streams jointly."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from bevt_core.console.inert import one_line
from bevt_core.console.terminal import show
from bevt_core.models.bevt import Bevt, StreamBatch
from bevt_core.storage.one_writer import hold, reading
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.weights.checkpoints import save_state
from schemas.recipes import PretrainRecipe
from schemas.runs import DatasetRef, RunRecord
from trainer.clips.lists import CLIPS, listed_store, make_lists, write_lists
from trainer.data.batches import normalise
from trainer.data.online import OnlineSource, tokens_in_step
from trainer.distributed.ema import WithAverage
from trainer.distributed.sharding import whole
from trainer.distributed.world import join_world
from trainer.engine.evaluations import Evaluation, every, on_main
from trainer.engine.task import Batch, Term
from trainer.pretrain.pictures import PictureHook, check_tokenizer
from trainer.pretrain.plan import cost_of, counted_cost, describe, facts, fit_recipe, make_plan, orders_of
from trainer.pretrain.probe_hook import ProbeHook
from trainer.pretrain.streams import open_sources, open_streams, warn_of_odd
from trainer.runs.directory import WEIGHTS, check_datasets
from trainer.setup.memory import Memory, memory_gb_of
from trainer.setup.models import build_model, checkpoint_activations
from trainer.setup.plan import DEFAULT_TFLOPS
from trainer.setup.session import Job, ending
from trainer.setup.start_from import start_from

TERMS = {"image": "mim", "video": "mvm"}  # the paper's L_MIM and L_MVM
HIDDEN_MULTIPLE = 256  # of hidden positions on a GPU: whole tiles of the LM head's product, few sizes of its tensors


class PretrainTask:
    """L = L_MIM + lambda L_MVM (paper section 3.3) over the streams of a batch."""

    def __init__(
        self,
        model: Bevt | WithAverage,
        weights: Mapping[str, float],
        vocab_size: int,
        tokenizers: Mapping[str, Tokenizer],
    ) -> None:
        """`tokenizers` are those of the streams without stored tokens; they are no part of the model."""
        self.model: nn.Module = model
        self.weights, self.vocab_size, self.tokenizers = dict(weights), vocab_size, dict(tokenizers)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return how many tokens are to be predicted."""
        return {TERMS[name]: int((part["hidden"] >= 0).sum()) for name, part in batch.items()}

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        inputs = {
            name: StreamBatch(normalise(part["clip"]), self._tokens(name, part), part["mask"], part["hidden"])
            for name, part in batch.items()
        }
        terms = {}
        for name, result in model(inputs).items():
            terms[TERMS[name]] = Term(
                result.loss_sum,
                weight=self.weights[name],
                sums={"acc": result.num_correct},
                histograms={"target": self._targets(inputs[name])},
            )
        return terms

    def _tokens(self, stream: str, part: Batch) -> torch.Tensor:
        if stream not in self.tokenizers:
            return part["tokens"]
        return tokens_in_step(self.tokenizers[stream], part["frames"])

    def _targets(self, part: StreamBatch) -> torch.Tensor:
        """Count the hidden tokens by class, without waiting for the device."""
        targets_M = part.tokens_BTHW.flatten().index_select(0, part.hidden_M.clamp(min=0))
        counts_V = torch.zeros(self.vocab_size, device=targets_M.device)
        return counts_V.index_add_(0, targets_M, (part.hidden_M >= 0).float())


def pretrain(
    recipe: PretrainRecipe,
    out: Path,
    *,
    resume: bool = False,
    command: str = "bevt train",
    repeats: RunRecord | None = None,
    tflops: float = DEFAULT_TFLOPS,
    memory: Memory = "recipe",
) -> dict[str, Any]:
    """Train on the streams of `recipe` into the run directory `out`; every process of the job calls this.

    `repeats` is the record of a run whose data this one must equal; `tflops` is for the plan's arithmetic;
    micro-batches are those that fit `memory`. Returns a summary.
    Raises UserError for data, checkpoints or a directory that do not fit.
    """
    with join_world() as world, ExitStack() as locks:
        world.on_main(lambda: locks.enter_context(hold(out, command)))
        sources = open_sources(recipe, world.device)
        stores = [store.path for source in sources.values() for store in source.stores]
        world.on_main(lambda: locks.enter_context(reading(stores, command)))
        datasets: dict[str, DatasetRef] = {
            name: DatasetRef(path=str(source.path), digest=source.digest) for name, source in sources.items()
        }
        if repeats is not None:
            check_datasets(repeats.datasets, datasets, "the run that is repeated")
        streams = open_streams(recipe, sources, HIDDEN_MULTIPLE if world.device.type == "cuda" else 1)
        if world.is_main:
            warn_of_odd(recipe, sources)
        counted, why = counted_cost(recipe, sources), None
        memory_gb = memory_gb_of(memory)
        if memory_gb is not None:
            gb, given = memory_gb, recipe
            recipe, why = world.on_main(lambda: fit_recipe(given, counted, orders_of(streams), gb, world.size))
        plan = make_plan(recipe, orders_of(streams), world.size, why)
        tokenizer = None
        if recipe.loop.picture_every and recipe.tokenizer is not None:
            tokenizer = load_tokenizer(recipe.tokenizer)
            check_tokenizer(tokenizer, recipe.tokenizer, sources)
        torch.manual_seed(recipe.loop.seed)  # the initial weights
        model = build_model(recipe.model, tuple(recipe.streams))
        job = Job(recipe, datasets, out, world, resume, command)
        if recipe.init is not None and not job.resumes:
            fresh = start_from(model, recipe.init)
            if world.is_main:
                show(one_line(f"starting from {recipe.init}; fresh: {', '.join(fresh) or 'nothing'}"))
        if recipe.loop.activation_checkpointing:
            checkpoint_activations(model)
        cost = cost_of(plan, recipe, counted) if world.is_main else None
        if cost is not None:
            show(describe(plan, recipe, cost, tflops, world.device.type))
        job.open(plan.schedule)
        if world.is_main and not (out / CLIPS).is_file():
            write_lists(out, make_lists([listed_store(source.frames) for source in sources.values()], recipe.init))
        averaged = None if recipe.ema_decay is None else WithAverage(model, recipe.ema_decay)
        stored = model if averaged is None else cast(Bevt, averaged.average)
        evaluations: list[Evaluation] = []
        if tokenizer is not None:
            draw = PictureHook(stored, tokenizer, streams, out, recipe.loop.precision) if world.is_main else None
            evaluations.append(Evaluation(every(recipe.loop.picture_every), on_main(draw)))
        if recipe.probe is not None:
            evaluations.append(Evaluation(every(recipe.probe.every), ProbeHook(stored, recipe, world)))
        weights: dict[str, float] = {name: stream.loss_weight for name, stream in recipe.streams.items()}
        tokenizers = {name: source.tokenizer for name, source in sources.items() if isinstance(source, OnlineSource)}
        task = PretrainTask(averaged or model, weights, recipe.model.vocab_size, tokenizers)
        result = job.fit(
            task,
            streams,
            plan.schedule,
            hooks=[] if averaged is None else [averaged.update],
            evaluations=evaluations,
            step_flops=None if cost is None else cost.step_flops,
        )
        final = whole(stored.state_dict())
        if world.is_main and result.finished:
            save_state(out / WEIGHTS, final, stored.config)
        return {
            "run": str(out),
            "steps": plan.steps,
            **ending(result, plan.schedule),
            "metrics": result.metrics,
            "weights": str(out / WEIGHTS) if result.finished else None,
        }


def dry_run(
    recipe: PretrainRecipe, *, processes: int, tflops: float = DEFAULT_TFLOPS, memory: Memory = "recipe"
) -> dict[str, Any]:
    """Print the plan of `recipe` on so many processes, starting none and writing nothing; return its numbers.

    Raises UserError for data that does not fit, as `pretrain` would.
    """
    sources = open_sources(recipe, torch.device("meta"))  # a tokenizer may be for GPUs alone
    warn_of_odd(recipe, sources)
    orders = orders_of(open_streams(recipe, sources))
    counted, why = counted_cost(recipe, sources), None
    memory_gb = memory_gb_of(memory)
    if memory_gb is not None:
        recipe, why = fit_recipe(recipe, counted, orders, memory_gb, processes)
    plan = make_plan(recipe, orders, processes, why)
    cost = cost_of(plan, recipe, counted)
    show(describe(plan, recipe, cost, tflops, "any device"))
    return {"dry_run": True, **facts(plan, cost, tflops)}
