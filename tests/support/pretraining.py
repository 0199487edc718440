"""Pretraining small enough for tests: recipes, datasets and runs."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from bevt_core.dataset.token_set import TokenSet
from bevt_core.models.bevt import Bevt
from bevt_core.weights.model_files import save_weights
from schemas.models import TubeMask
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from trainer.data.clip_dataset import TokenDataset
from trainer.runs.directory import open_run
from trainer.setup.models import build_model

RECIPES = Path(__file__).parents[2] / "trainer" / "recipes"
TINY = ["model.vocab_size=64", "model.encoder.embed_dim=16", "model.encoder.num_heads=[1,2,4]", "loop.log_every=100"]
TINY += ["model.encoder.depths=[1,1,1]", "loop.num_workers=0", "loop.checkpoint_every=5"]
TINY += ["streams.video.global_batch=4", "streams.image.global_batch=6"]
TUBE = TubeMask(kind="tube", ratio=0.5, min_block=2)
MASKS = {
    "video": "streams.video.mask={kind: tube, ratio: 0.5, min_block: 2}",
    "image": "streams.image.mask={kind: block, ratio: 0.5, min_block: 2}",
}


def for_4x4_tokens(*streams: str) -> list[str]:
    """Overrides of a nano recipe for crops of 64 px with 4 x 4 tokens: three stages, and blocks of two positions."""
    model = ["embed_dim=48", "depths=[2,2,2]", "num_heads=[2,4,8]"]
    steps = ["optim.lr=1.0e-3", "optim.betas=[0.9,0.999]"]
    return [*(f"model.encoder.{size}" for size in model), *steps, *(MASKS[stream] for stream in streams)]


def settings(data: Mapping[str, TokenSet], *extra: str, streams: Collection[str] = ("video", "image")) -> list[str]:
    """Overrides for the token sets of `data`, by stream."""
    chosen = [s for s in TINY if not s.startswith("streams.") or s.split(".")[1] in streams]
    return [
        *for_4x4_tokens(*streams),
        *chosen,
        *(f"streams.{name}.tokens={data[name].path}" for name in streams),
        *extra,
    ]


def recipe_of(
    data: Mapping[str, TokenSet], *extra: str, stage: str = "joint", streams: Collection[str] = ("video", "image")
) -> PretrainRecipe:
    """`nano_<stage>` with a smaller model, on the token sets of `data`."""
    return load_recipe_of(PretrainRecipe, f"nano_{stage}", RECIPES, settings(data, *extra, streams=streams))


def dataset_of(tokens: TokenSet, **changes: Any) -> TokenDataset:
    """The video stream's clips of 8 frames under a tube mask, but for `changes`."""
    arguments: dict[str, Any] = {
        "name": "video",
        "seed": 0,
        "clip_frames": 8,
        "tubelet": 2,
        "mask": TUBE,
        "cached_parts": 2,
    }
    return TokenDataset(tokens, **(arguments | changes))


def pretraining_run(folder: Path, tokens: TokenSet) -> Bevt:
    """Leave a run directory in `folder` as pretraining on `tokens` would, with random weights."""
    small = ["model.encoder.embed_dim=16", "model.encoder.num_heads=[1,2,4]", "model.encoder.depths=[1,1,1]"]
    small += ["model.vocab_size=64", f"streams.video.tokens={tokens.path}", "streams.video.clip_frames=4"]
    small += ["streams.video.global_batch=2"]
    recipe = load_recipe_of(PretrainRecipe, "nano_video", RECIPES, [*for_4x4_tokens("video"), *small])
    torch.manual_seed(0)
    model = build_model(recipe.model, ("video",)).eval()
    open_run(folder, recipe, {}, resume=False, command="bevt train", world_size=1)
    save_weights(folder / "weights.safetensors", model)
    return model
