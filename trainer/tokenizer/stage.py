"""Train a tokenizer on the frames of frame stores, with the same session and loop as the other stages.

Legend: N frames, H W pixels, C channels (RGB), h w token grid.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from bevt_core.console.readable import count
from bevt_core.console.terminal import show
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.models.counting import num_parameters
from bevt_core.reporting.pictures import save_png, sheet
from bevt_core.rng import rng_for
from bevt_core.storage.files import remove, sha256_of
from bevt_core.storage.objects import as_path
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.description import read_description
from bevt_core.tokenizers.quality import measure
from schemas.errors import UserError
from schemas.recipes import PecoTraining, TokenizerRecipe
from schemas.recipes.loading import nearest
from schemas.runs import DatasetRef
from trainer.data.order import StreamOrder
from trainer.engine.evaluations import Evaluation, every, on_main
from trainer.setup.plan import Plan, Workload
from trainer.setup.session import build, open_session
from trainer.tokenizer.frame_crops import FrameCrops
from trainer.tokenizer.reconstructions import Reconstructions
from trainer.tokenizer.tasks import ARCHITECTURES, FRAMES, Sizes, TokenizerModule

HELD_OUT_CROPS = 256  # random crops of held-out sources, for the final figures
SHOWN_CROPS = 8  # of those, in the pictures


def train_tokenizer(
    recipe: TokenizerRecipe, out: Path, *, resume: bool = False, command: str = "bevt tokenizer train"
) -> dict[str, Any]:
    """Train a tokenizer, write the run directory `out` and the tokenizer to `out/tokenizer`. Every process calls this.

    Returns a summary with METRICS on crops of held-out sources. Raises UserError for an unknown preset, missing or too
    small frame stores, or a directory that does not fit.
    """
    architecture = ARCHITECTURES[recipe.architecture.kind]
    sizes = sizes_of(recipe)
    with open_session(out, kind=recipe.kind, resume=resume, command=command) as session:
        world, key = session.world, (recipe.loop.seed,)
        folders = tuple(as_path(folder) for folder in recipe.frames)
        session.lock_for_reading(folders)
        crops, held_out = (FrameCrops(folders, recipe.input_px, key, held_out=held) for held in (False, True))
        if not len(crops):
            raise UserError(
                f"{', '.join(recipe.frames)}: only one source per store, which is held out; add sources to train on"
            )
        model = build(recipe.loop.seed, lambda: architecture.build(sizes, recipe.architecture))
        tokenizer = cast(TokenizerModule, model)
        plan = session.plan(tokenizer_workload(recipe, num_parameters(model), sizes, len(crops)))
        task = architecture.task(model, recipe.architecture, plan.schedule.total_steps, world, recipe.loop.seed)
        identity = session.begin(plan, _datasets(recipe))
        if not session.from_checkpoint:
            _warm_start(tokenizer, sizes, crops, recipe)
        evaluations: list[Evaluation] = []
        if recipe.loop.picture_every:
            shown = held_out.first(SHOWN_CROPS, 0) if world.is_main else None
            draw = None if shown is None else Reconstructions(tokenizer, shown, out, world.device)
            evaluations.append(Evaluation(every(recipe.loop.picture_every), on_main(draw)))
        options: dict[str, Any] = {"lr_share": architecture.lr_share, "hooks": task.hooks, "evaluations": evaluations}
        result = session.fit(plan, identity, task, {FRAMES: crops}, **options)
        summary = session.summary(plan, result)
        summary["tokenizer"] = str(out / "tokenizer") if result.finished else None
        if world.is_main and result.finished:
            _store(tokenizer, out / "tokenizer", recipe, result.step)
            summary |= _tested(out, held_out, world.device)
            show("  ".join(f"{name} {summary[name]:.4g}" for name in METRICS))
        world.barrier()
        return summary


METRICS = ("psnr_db", "ssim", "perplexity", "codebook_used_share", "dead_codes")


def sizes_of(recipe: TokenizerRecipe) -> Sizes:
    """Return the recipe's sizes. Raises UserError if the preset is unknown or does not fit `input_px`."""
    preset, presets = recipe.architecture.preset, ARCHITECTURES[recipe.architecture.kind].presets
    if preset not in presets:
        known = list(presets)
        raise UserError(f"preset {preset!r}: {nearest(preset, known)}known: {', '.join(known)}")
    sizes = presets[preset]
    if recipe.input_px % sizes.stride:
        raise UserError(
            f"input_px {recipe.input_px} is not a multiple of the {sizes.stride} px of a token of preset {preset!r}; "
            f"set input_px={sizes.stride * max(1, round(recipe.input_px / sizes.stride))}"
        )
    vocab_size = recipe.architecture.vocab_size
    return sizes if vocab_size is None else sizes.model_copy(update={"vocab_size": vocab_size})


def _datasets(recipe: TokenizerRecipe) -> dict[str, DatasetRef]:
    """Return all data read from disk that decides the weights."""
    datasets = {
        f"frames.{number}": DatasetRef(path=folder, digest=FrameStore(folder).digest)
        for number, folder in enumerate(recipe.frames)
    }
    training = recipe.architecture
    if isinstance(training, PecoTraining) and training.perceptual is not None and training.perceptual.weights:
        weights = training.perceptual.weights
        datasets["perceptual"] = DatasetRef(path=weights, digest=sha256_of(Path(weights)))
    return datasets


def _warm_start(tokenizer: TokenizerModule, sizes: Sizes, crops: FrameCrops, recipe: TokenizerRecipe) -> None:
    """Initialise the codes from the vectors of some crops, the same on every rank."""
    tokens_per_crop = (recipe.input_px // sizes.stride) ** 2
    frames_NHWC = crops.first(-(-tokenizer.vectors_per_code * sizes.vocab_size // tokens_per_crop), "warm-start")
    seed = int(rng_for("warm-start", recipe.loop.seed).integers(2**63))
    tokenizer.warm_start(frames_NHWC, torch.Generator().manual_seed(seed))


def _store(tokenizer: TokenizerModule, folder: Path, recipe: TokenizerRecipe, step: int) -> None:
    """Write the tokenizer, replacing one that this run wrote when it ended at another step."""
    if folder.exists() and read_description(folder).origin.get("step") != step:
        remove(folder)
    if not folder.exists():
        origin: dict[str, str | int | float] = {"recipe": recipe.digest(), "title": recipe.title, "step": step}
        tokenizer.save(folder, input_px=recipe.input_px, origin=origin)


def _tested(out: Path, crops: FrameCrops, device: torch.device) -> dict[str, float | None]:
    """Measure the stored tokenizer on HELD_OUT_CROPS crops (`measure`) and write some to `reconstructions.png`."""
    tokenizer = load_tokenizer(out / "tokenizer", device)
    frames_NHWC = crops.first(HELD_OUT_CROPS, 0)
    shown_NHWC = frames_NHWC[:SHOWN_CROPS]
    decoded_NHWC = tokenizer.decode(tokenizer.encode(shown_NHWC)).cpu()
    save_png(out / "reconstructions.png", sheet([list(shown_NHWC.numpy()), list(decoded_NHWC.numpy())]))
    return measure(tokenizer, frames_NHWC)


def tokenizer_workload(
    recipe: TokenizerRecipe, parameters: int, sizes: Sizes, num_sources: int
) -> Workload[TokenizerRecipe]:
    """Return the workload of `recipe`, whose networks have `parameters`, on crops of `num_sources` sources.

    Its cost is not counted.
    """
    num_crops = recipe.samples_per_epoch
    order = StreamOrder(np.ones(num_crops, np.int64), recipe.global_batch, num_crops, (recipe.loop.seed, "crops"))

    def describe(plan: Plan[TokenizerRecipe], device: str) -> list[str]:
        total = plan.schedule.total_steps
        return [
            f"  {parameters / 1e6:.1f} M parameters, {sizes.vocab_size} tokens; {count(total, 'step')}, "
            f"{total * recipe.global_batch} crops of {recipe.input_px} px from the frames of "
            f"{count(num_sources, 'source')}"
        ]

    return Workload(recipe, {FRAMES: order}, None, describe)
