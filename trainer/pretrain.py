"""Masked token prediction on stored tokens: BEVT-I (images), BEVT-V (videos), or both streams jointly."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from bevt_core.bevt import Bevt, StreamBatch, stretch_mask
from bevt_core.build import build_bevt
from bevt_core.shards import TokenSet
from bevt_core.swin import VideoSwin
from bevt_core.weights import save_weights
from schemas.errors import UserError
from schemas.recipes import BevtConfig, BlockMask, LoopConfig, PretrainRecipe, StreamConfig
from schemas.runs import DatasetRef, RunRecord
from trainer.checkpoint import CHECKPOINTS, Checkpoints
from trainer.data import StreamBatches, TokenDataset, normalise
from trainer.distributed import World, join_world
from trainer.initialise import start_from
from trainer.loop import fit
from trainer.optim import build_optimizer
from trainer.order import StreamOrder
from trainer.run import WEIGHTS, check_datasets, identity_of, open_run, resume_command
from trainer.schedule import CosineSchedule
from trainer.tasks import Batch, Term

TERMS = {"image": "mim", "video": "mvm"}  # the paper's L_MIM and L_MVM


class PretrainTask:
    """L = L_MIM + lambda L_MVM (paper section 3.3) over the streams of a batch."""

    def __init__(self, model: Bevt, weights: Mapping[str, float]) -> None:
        self.model, self.weights = model, dict(weights)
        self.vocab_size = int(model.config["vocab_size"])

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return how many tokens are to be predicted: a hidden tubelet hides all its frames."""
        return {
            TERMS[name]: int(part["mask"].sum()) * (part["tokens"].shape[1] // part["mask"].shape[1])
            for name, part in batch.items()
        }

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        inputs = {
            name: StreamBatch(normalise(part["clip"]), part["tokens"], part["mask"]) for name, part in batch.items()
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

    def _targets(self, part: StreamBatch) -> torch.Tensor:
        """Count the hidden tokens by class, without waiting for the device."""
        hidden_BTHW = stretch_mask(part.mask_BTHW, tuple(part.tokens_BTHW.shape[1:]))
        counts_V = torch.zeros(self.vocab_size, device=hidden_BTHW.device)
        return counts_V.index_add_(0, part.tokens_BTHW.flatten(), hidden_BTHW.flatten().float())


@dataclass(frozen=True)
class PretrainPlan:
    """The arithmetic of a run: what it will read, in how many steps."""

    orders: Mapping[str, StreamOrder]
    schedule: CosineSchedule
    steps: int  # that will be taken; fewer than the schedule's with loop.max_steps

    def describe(self, recipe: PretrainRecipe, world: World, model: Bevt) -> str:
        """Return what a person should check before the GPUs start."""
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        lines = [
            recipe.title,
            f"  {world.size} process(es) on {world.device.type}, {recipe.loop.precision}, {millions:.1f} M parameters",
            f"  {self.steps} steps of {self.schedule.total_steps} ({recipe.loop.epochs:g} epochs), warm-up "
            f"{self.schedule.warmup_steps}, peak learning rate {recipe.optim.lr:g}",
        ]
        for name, order in self.orders.items():
            per_rank = order.global_batch / world.size
            lines.append(
                f"  {name}: {order.num_samples} samples, {order.dropped_per_epoch} left out per epoch; batch "
                f"{order.global_batch} = {world.size} x {per_rank:g} in {recipe.loop.micro_batches} micro-batch(es); "
                f"{self.steps * order.global_batch} clips in {self.steps / order.steps_per_epoch:.4g} epochs"
            )
        return "\n".join(lines)


def pretrain(
    recipe: PretrainRecipe,
    out: Path,
    *,
    resume: bool = False,
    command: str = "bevt train",
    dry_run: bool = False,
    repeats: RunRecord | None = None,
) -> dict[str, Any]:
    """Train on the streams of `recipe` into the run directory `out`; every process of the job calls this.

    `dry_run` prints the plan and stops. `repeats` is the record of a run whose data this one must equal. Returns a
    summary. Raises UserError for data, checkpoints or a directory that do not fit.
    """
    with join_world() as world:
        token_sets: dict[str, TokenSet] = {name: TokenSet(stream.tokens) for name, stream in recipe.streams.items()}
        for name, stream in recipe.streams.items():
            check_fit(name, stream, recipe.model, token_sets[name])
        datasets: dict[str, DatasetRef] = {
            n: DatasetRef(path=str(t.path), digest=t.digest) for n, t in token_sets.items()
        }
        if repeats is not None:
            check_datasets(repeats.datasets, datasets, "the run that is repeated")
        streams = open_streams(recipe, token_sets)
        plan = make_plan(recipe, {name: order for name, (_, order) in streams.items()})
        check_batches(plan.orders, recipe.loop, world.size)
        torch.manual_seed(recipe.loop.seed)  # the initial weights
        model = build_model(recipe.model, tuple(recipe.streams))
        if recipe.init is not None and not (resume and Checkpoints(out / CHECKPOINTS, 1).paths()):
            fresh = start_from(model, recipe.init)
            if world.is_main:
                print(f"starting from {recipe.init}; fresh: {', '.join(fresh) or 'nothing'}", flush=True)
        if recipe.loop.activation_checkpointing:
            for encoder in model.encoders.values():
                cast(VideoSwin, encoder).checkpoint_activations(range(len(recipe.model.encoder.depths)))
        if world.is_main:
            print(plan.describe(recipe, world, model), flush=True)
        if dry_run:
            return {"run": None, "steps": plan.steps, "dry_run": True}
        if world.is_main:
            open_run(out, recipe, datasets, resume=resume, command=command, world_size=world.size)
        source = StreamBatches(
            streams,
            rank=world.rank,
            world_size=world.size,
            num_workers=recipe.loop.num_workers,
            pin_memory=world.device.type == "cuda",
        )
        result = fit(
            PretrainTask(model, {name: stream.loss_weight for name, stream in recipe.streams.items()}),
            source,
            build_optimizer(model, recipe.optim),
            plan.schedule,
            optim=recipe.optim,
            loop=recipe.loop,
            world=world,
            run_dir=out,
            identity=identity_of(recipe, datasets),
            resume=resume,
        )
        if world.is_main and result.finished:
            save_weights(out / WEIGHTS, model)
        if world.is_main and not result.finished:
            print(f"stopped at step {result.step}; go on with: {resume_command(command)}", file=sys.stderr, flush=True)
        return {
            "run": str(out),
            "step": result.step,
            "steps": plan.steps,
            "finished": result.finished,
            "metrics": result.metrics,
            "weights": str(out / WEIGHTS) if result.finished else None,
        }


def build_model(config: BevtConfig, streams: tuple[str, ...]) -> Bevt:
    encoder = config.encoder
    return build_bevt(
        embed_dim=encoder.embed_dim,
        depths=encoder.depths,
        num_heads=encoder.num_heads,
        window=encoder.window,
        patch=encoder.patch,
        drop_path=encoder.drop_path,
        vocab_size=config.vocab_size,
        share_encoder=config.share_encoder,
        streams=streams,  # type: ignore[arg-type]
    )


def open_streams(
    recipe: PretrainRecipe, token_sets: Mapping[str, TokenSet]
) -> dict[str, tuple[TokenDataset, StreamOrder]]:
    """Return the dataset and the order of every stream."""
    streams: dict[str, tuple[TokenDataset, StreamOrder]] = {}
    for name, stream in recipe.streams.items():
        dataset = TokenDataset(
            token_sets[name],
            name=name,
            seed=recipe.loop.seed,
            clip_frames=stream.clip_frames,
            tubelet=tubelet_of(name, recipe.model),
            mask=stream.mask,
            cached_parts=2 * stream.window_parts,
        )
        order = StreamOrder(dataset.part_sizes, stream.global_batch, stream.window_parts, (recipe.loop.seed, name))
        streams[name] = (dataset, order)
    return streams


def make_plan(recipe: PretrainRecipe, orders: Mapping[str, StreamOrder]) -> PretrainPlan:
    """Count the steps. An epoch is one of the video stream, where there is one."""
    leading = orders["video" if "video" in orders else "image"]
    total = max(1, round(recipe.loop.epochs * leading.steps_per_epoch))
    schedule = CosineSchedule(
        total_steps=total,
        warmup_steps=round(recipe.optim.warmup_epochs * leading.steps_per_epoch),
        warmup_start=recipe.optim.warmup_start,
        final_share=recipe.optim.final_lr_share,
    )
    return PretrainPlan(orders, schedule, min(total, recipe.loop.max_steps or total))


def tubelet_of(stream: str, model: BevtConfig) -> int:
    """Return how many frames one mask position covers: an image is one frame."""
    return model.encoder.patch[0] if stream == "video" else 1


def check_fit(name: str, stream: StreamConfig, model: BevtConfig, tokens: TokenSet) -> None:
    """Raise UserError, naming both values and the mend, where a token set does not fit the recipe."""
    where, manifest = f"{name} stream, {tokens.path}", tokens.manifest
    if manifest.tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"{where}: the vocabulary has {manifest.tokenizer.vocab_size} tokens, the recipe's model.vocab_size "
            f"is {model.vocab_size}; set model.vocab_size={manifest.tokenizer.vocab_size}, or use another tokenizer"
        )
    stride_px = [side * 2 ** (len(model.encoder.depths) - 2) for side in model.encoder.patch[1:]]
    crop_px = manifest.views.crop_px
    grid = tuple(crop_px / stride for stride in stride_px)
    if manifest.tokenizer.grid != grid:
        raise UserError(
            f"{where}: crops of {crop_px} px have {manifest.tokenizer.grid[0]} x {manifest.tokenizer.grid[1]} "
            f"tokens, but the recipe's encoder predicts {grid[0]:g} x {grid[1]:g} of them; change "
            "model.encoder.patch or the tokenizer"
        )
    tubelet = tubelet_of(name, model)
    if stream.clip_frames % tubelet:
        raise UserError(
            f"{where}: streams.{name}.clip_frames is {stream.clip_frames}, not a multiple of the encoder's "
            f"{tubelet} frames per tubelet (model.encoder.patch)"
        )
    if name == "image" and stream.clip_frames != 1:
        raise UserError(f"{where}: streams.image.clip_frames is {stream.clip_frames}; an image is a clip of 1 frame")
    if name == "video" and isinstance(stream.mask, BlockMask):
        raise UserError(f"{where}: streams.video.mask.kind is 'block', which is for images; use 'tube'")


def check_batches(orders: Mapping[str, StreamOrder], loop: LoopConfig, world_size: int) -> None:
    """Raise UserError where a micro-batch would be empty on some rank."""
    for name, order in orders.items():
        if order.global_batch // world_size < loop.micro_batches:
            raise UserError(
                f"{name} stream: a global batch of {order.global_batch} on {world_size} process(es) in "
                f"{loop.micro_batches} micro-batches leaves some of them empty; use fewer processes or micro-batches"
            )
