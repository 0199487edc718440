"""The smallest tokenizer and recipes, for tests of the pipeline."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.training import DvaeTrainingModule
from pipeline.recipes import PIPELINE_RECIPES
from schemas.recipes import TokenizeRecipe
from schemas.recipes.loading import load_recipe


def save_tiny_tokenizer(folder: Path, seed: int = 0) -> Path:
    """A dVAE with random weights: 32 px in, a 4x4 grid of 32 ids out."""
    torch.manual_seed(seed)
    sizes = DvaeSizes(n_hid=8, n_blk_per_group=1, n_init=16, vocab_size=32)
    DvaeTrainingModule(sizes, "mse").save(folder, input_px=32, origin={"made_by": "a test"})
    return folder


def tiny_recipe(root: Path, out: Path, tokenizer: Path, *overrides: str) -> TokenizeRecipe:
    """`nano_video` on a folder with two views, four sources per part."""
    small = ["sources_per_part=4", "min_parts=1", "views.num_views=2", "pool.max_frames=6", "decode_timeout_s=10"]
    places = [f"root={root}", f"out={out}", f"tokenizer={tokenizer}"]
    recipe = load_recipe("nano_video", PIPELINE_RECIPES, [*places, *small, *overrides])
    assert isinstance(recipe, TokenizeRecipe)
    return recipe


def digests(folder: Path) -> dict[str, str]:
    """path -> sha256 of every file below `folder`, without temporary files, whose names start with a dot."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def only(summary: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: summary[key] for key in keys}
