"""Training of a discrete VAE on the frames of frame stores, by the same loop as everything else.

Legend: N frames, H W pixels, C channels (RGB), V vocabulary, h w token grid.
"""

import functools
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bevt_core.rng import rng_for
from bevt_core.shards import FrameStore
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.dvae import DVAE_PRESETS, DvaeTrainingModule, dvae_lr_share, perplexity
from bevt_core.tokenizers.dvae_loss import guide_weight_at, kl_weight_at, temperature_at
from bevt_core.tokenizers.networks import STRIDE
from bevt_core.tokenizers.storage import read_card
from bevt_core.tokenizers.warm_start import PATCHES_PER_CODE
from bevt_core.views import decode_jpeg
from schemas.errors import UserError
from schemas.recipe_io import nearest
from schemas.recipes import TokenizerRecipe
from schemas.runs import DatasetRef
from trainer.augment import Box, resize
from trainer.checkpoint import CHECKPOINTS, Checkpoints
from trainer.clips import read_jpegs
from trainer.data import StreamBatches
from trainer.distributed import join_world
from trainer.loop import fit
from trainer.optim import build_optimizer
from trainer.order import StreamOrder
from trainer.run import identity_of, open_run, resume_command
from trainer.schedule import CosineSchedule, schedule_of
from trainer.tasks import Batch, Term

TERM = "dvae"
HELD_OUT_SHARE = 0.05  # of the sources, by name: no frame of theirs is trained on
HELD_OUT_CROPS = 256  # random crops of them that the final figures are taken from
FLIP_SHARE = 0.5


class TokenizerTask:
    """The evidence bound; the temperature and the terms' weights follow the progress of the run."""

    def __init__(self, model: DvaeTrainingModule, recipe: TokenizerRecipe, total_steps: int) -> None:
        self.model = model
        self.temperature, self.kl_weight, self.guide_weight = recipe.temperature, recipe.kl_weight, recipe.guide_weight
        self.total_steps = total_steps

    def counts(self, batch: Batch) -> dict[str, int]:
        return {TERM: len(batch[TERM]["frame"])}

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        frames_NHWC = batch[TERM]["frame"]
        progress = step / self.total_steps
        kl_weight = kl_weight_at(progress, *self.kl_weight)
        guide_weight = guide_weight_at(progress, self.guide_weight)
        out = model(frames_NHWC, temperature_at(progress, *self.temperature), kl_weight, guide_weight)
        sums = {name: out[name] * len(frames_NHWC) for name in ("recon", "kl", "guide", "perplexity")}
        return {TERM: Term(out["loss"] * len(frames_NHWC), sums=sums)}


@dataclass(frozen=True)
class FrameCrops:
    """Random square crops of random stored frames: a function of (seed, epoch, number)."""

    folders: tuple[Path, ...]
    input_px: int
    key: tuple[object, ...]
    held_out: bool  # crops of the sources that are held out, or of all others

    @functools.cached_property
    def _stores(self) -> list[FrameStore]:
        return [FrameStore(folder) for folder in self.folders]

    @functools.cached_property
    def _pools(self) -> list[tuple[int, int, int, int, str]]:
        """(store, part, first frame, number of frames, source) of every sample on this side of the split."""
        pools = []
        for number, store in enumerate(self._stores):
            columns = store.index.select(["part", "frame_start", "num_frames", "source"]).to_pydict()
            sources = held_out_sources(columns["source"])
            pools += [
                (number, part, first, count, source)
                for part, first, count, source in zip(*columns.values(), strict=True)
                if (source in sources) == self.held_out
            ]
        return pools

    def __len__(self) -> int:
        return len(self._pools)

    def __getitem__(self, at: tuple[object, int]) -> dict[str, Any]:
        """Return `frame` uint8 (input_px, input_px, C) and `sample_id`."""
        rng = rng_for("tokenizer-crop", *self.key, *at)
        number, part, first, count, source = self._pools[rng.integers(len(self._pools))]
        jpeg = read_jpegs(self._stores[number], part, first + int(rng.integers(count)), 1)[0]
        return {"frame": random_crop(decode_jpeg(jpeg), self.input_px, rng), "sample_id": source}

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def random_crop(frame_HWC: np.ndarray, size_px: int, rng: np.random.Generator) -> Tensor:
    """Cut a random square, between `size_px` and the frame's short side wide, and scale it to `size_px`.

    So the network sees frames from their own resolution up to those scaled down to fit.
    """
    height, width, _ = frame_HWC.shape
    short = min(height, width)
    side = int(rng.integers(min(size_px, short), short, endpoint=True))
    top, left = rng.integers((height - side, width - side), endpoint=True)
    box = Box(int(top), int(left), side, side)
    crop_HWC = resize(box.of(torch.from_numpy(frame_HWC)[None]), size_px, size_px)[0]
    return (crop_HWC.flip(1) if rng.random() < FLIP_SHARE else crop_HWC).contiguous()


def held_out_sources(sources: Sequence[str]) -> frozenset[str]:
    """Choose HELD_OUT_SHARE of the sources, at least one, by their names."""
    drawn = sorted(sources, key=lambda source: rng_for("tokenizer-held-out", source).random())
    return frozenset(drawn[: max(1, round(HELD_OUT_SHARE * len(sources)))])


def train_tokenizer(
    recipe: TokenizerRecipe, out: Path, *, resume: bool = False, command: str = "bevt tokenizer train"
) -> dict[str, Any]:
    """Train a dVAE into the run directory `out`, the tokenizer into `out/tokenizer`; every process calls this.

    Returns a summary with psnr_db, perplexity and codebook_used_share on crops of held-out sources. Raises UserError
    for an unknown preset, frame stores that are not there or too small, or a directory that does not fit.
    """
    if recipe.preset not in DVAE_PRESETS:
        known = list(DVAE_PRESETS)
        raise UserError(f"preset {recipe.preset!r}: {nearest(recipe.preset, known)}known: {', '.join(known)}")
    with join_world() as world:
        folders = tuple(Path(folder) for folder in recipe.frames)
        key = (recipe.loop.seed,)
        crops = FrameCrops(folders, recipe.input_px, key, held_out=False)
        if not len(crops):
            raise UserError(f"{', '.join(recipe.frames)}: one source each; two or more are needed, one is held out")
        order = StreamOrder(
            np.ones(recipe.samples_per_epoch, np.int64), recipe.global_batch, recipe.samples_per_epoch, (*key, "crops")
        )
        schedule = schedule_of(recipe.optim, recipe.loop.epochs, order.steps_per_epoch)
        torch.manual_seed(recipe.loop.seed)  # the initial weights
        model = DvaeTrainingModule(DVAE_PRESETS[recipe.preset], recipe.recon)
        datasets = {
            f"frames.{number}": DatasetRef(path=str(folder), digest=FrameStore(folder).digest)
            for number, folder in enumerate(folders)
        }
        if world.is_main:
            print(_describe(recipe, model, len(crops), schedule), flush=True)
            open_run(out, recipe, datasets, resume=resume, command=command, world_size=world.size)
        if not (resume and Checkpoints(out / CHECKPOINTS, 1).paths()):
            _warm_start(model, crops, recipe)
        result = fit(
            TokenizerTask(model, recipe, schedule.total_steps),
            StreamBatches(
                {TERM: (crops, order)},
                rank=world.rank,
                world_size=world.size,
                num_workers=recipe.loop.num_workers,
                pin_memory=world.device.type == "cuda",
            ),
            build_optimizer(model, recipe.optim, dvae_lr_share),
            schedule,
            optim=recipe.optim,
            loop=recipe.loop,
            world=world,
            run_dir=out,
            identity=identity_of(recipe, datasets),
            resume=resume,
        )
        summary: dict[str, Any] = {
            "run": str(out),
            "step": result.step,
            "finished": result.finished,
            "metrics": result.metrics,
            "tokenizer": str(out / "tokenizer") if result.finished else None,
        }
        if world.is_main and not result.finished:
            print(f"stopped at step {result.step}; go on with: {resume_command(command)}", file=sys.stderr, flush=True)
        if world.is_main and result.finished:
            _store(model, out / "tokenizer", recipe, result.step)
            held_out = FrameCrops(folders, recipe.input_px, key, held_out=True)
            summary |= tested(out / "tokenizer", held_out, world.device)
            print("  ".join(f"{name} {summary[name]:.4g}" for name in METRICS), flush=True)
        world.barrier()
        return summary


def _warm_start(model: DvaeTrainingModule, crops: FrameCrops, recipe: TokenizerRecipe) -> None:
    """Begin with the codes of some crops, the same on every rank."""
    tokens_per_crop = (recipe.input_px // STRIDE) ** 2
    count = -(-PATCHES_PER_CODE * model.sizes.vocab_size // tokens_per_crop)
    frames_NHWC = torch.stack([crops["warm-start", number]["frame"] for number in range(count)])
    seed = int(rng_for("warm-start", recipe.loop.seed).integers(2**63))
    model.warm_start(frames_NHWC, torch.Generator().manual_seed(seed))


def _store(model: DvaeTrainingModule, folder: Path, recipe: TokenizerRecipe, step: int) -> None:
    """Write the tokenizer; one that an earlier end of this run left there, at another step, makes room for it."""
    if folder.exists() and read_card(folder).origin["step"] != step:
        shutil.rmtree(folder)
    if not folder.exists():
        origin: dict[str, str | int | float] = {"recipe": recipe.digest(), "title": recipe.title, "step": step}
        model.save(folder, input_px=recipe.input_px, origin=origin)


METRICS = ("psnr_db", "perplexity", "codebook_used_share")


def tested(folder: Path, crops: FrameCrops, device: torch.device) -> dict[str, float]:
    """Return what the stored tokenizer does to HELD_OUT_CROPS crops.

    `psnr_db` of tokens decoded back, over all pixels; `perplexity` and `codebook_used_share` of the tokens.
    """
    tokenizer = load_tokenizer(folder, device)
    frames_NHWC = torch.stack([crops[0, number]["frame"] for number in range(HELD_OUT_CROPS)])
    tokens_Nhw = tokenizer.encode(frames_NHWC)
    decoded_NHWC = tokenizer.decode(tokens_Nhw).cpu()
    error = ((decoded_NHWC.double() - frames_NHWC.double()) / 255).square().mean()
    counts_V = torch.bincount(tokens_Nhw.flatten().cpu(), minlength=tokenizer.vocab_size)
    return {
        "psnr_db": -10 * math.log10(float(error)),
        "perplexity": float(perplexity(counts_V)),
        "codebook_used_share": float((counts_V > 0).double().mean()),
    }


def _describe(recipe: TokenizerRecipe, model: DvaeTrainingModule, num_pools: int, schedule: CosineSchedule) -> str:
    """What a person should check before the GPUs start."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    crops = schedule.total_steps * recipe.global_batch
    return (
        f"{recipe.title}\n  {millions:.1f} M parameters, {model.sizes.vocab_size} tokens; "
        f"{schedule.total_steps} steps, {crops} crops of {recipe.input_px} px from the frames of {num_pools} sources"
    )
