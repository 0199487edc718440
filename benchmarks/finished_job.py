"""`bevt tokenize` on a finished job of 1,000 parts: `python benchmarks/finished_job.py [PARTS]`.

One picture makes a part; frames and tokens are written by the real writers, the tokens are random. Then the command is
timed, from the shell's point of view, as often as ROUNDS says.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bevt_core.dataset.frame_store import FrameSample, write_frame_manifest, write_frame_part
from bevt_core.dataset.source_list import write_plan
from bevt_core.dataset.token_set import PartView, write_token_manifest, write_token_part, write_token_plan
from bevt_core.rng import rng_for
from bevt_core.views.replay import draw_view, encode_jpeg
from pipeline.job.plan import make_plan, make_token_plan
from pipeline.recipes import PIPELINE_RECIPES
from schemas.recipes import TokenizeRecipe
from schemas.recipes.loading import load_recipe_of

PARTS, ROUNDS, SIDE_PX = 1000, 3, 64
TOKENIZER = "dvae-small"


def main() -> None:
    parts = int(sys.argv[1]) if len(sys.argv) > 1 else PARTS
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "root", Path(folder) / "out"
        make_finished_job(root, out, parts)
        command = [sys.executable, "-m", "cli", "tokenize", "--dataset", "folder", "--root", str(root)]
        command += ["--out", str(out), "--tokenizer", TOKENIZER, "--set", "sources_per_part=1", "--json"]
        for _ in range(ROUNDS):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(f"{parts} parts, all there: {time.perf_counter() - began:.2f} s")


def make_finished_job(root: Path, out: Path, parts: int) -> None:
    """What `bevt tokenize --dataset folder --set sources_per_part=1` would leave, but for the tokens' values."""
    picture = encode_jpeg(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8), 90)
    for number in range(parts):
        path = root / "class" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    overrides = [f"root={root}", f"out={out}", f"tokenizer={TOKENIZER}", "sources_per_part=1"]
    recipe = load_recipe_of(TokenizeRecipe, "folder", PIPELINE_RECIPES, overrides)
    plan, items = make_plan(recipe, None, allow_outside=False)
    token_plan = make_token_plan(recipe, plan)
    frames_dir, tokens_dir = out / "frames", out / "tokens" / token_plan.name
    write_plan(frames_dir, plan, items)
    write_token_plan(tokens_dir, token_plan)
    shape = (1, *token_plan.tokenizer.grid)
    frames, tokens = [], []
    for part, item in enumerate(items):
        sample = FrameSample(item.source, item.label, [picture], [0], [0.0], SIDE_PX, SIDE_PX, "none", "0", [])
        frames.append(write_frame_part(frames_dir, part, [sample], [], plan))
        rows = [
            PartView(
                [draw_view(recipe.views, sample.sample_id, view, SIDE_PX, SIDE_PX)],
                [rng_for(part, view).integers(0, token_plan.tokenizer.vocab_size, shape).astype(np.uint16)],
            )
            for view in range(recipe.views.num_views)
        ]
        tokens.append(write_token_part(tokens_dir, frames[-1], [sample.sample_id], rows, token_plan))
    write_token_manifest(tokens_dir, token_plan, write_frame_manifest(frames_dir, plan, frames), tokens)


if __name__ == "__main__":
    main()
