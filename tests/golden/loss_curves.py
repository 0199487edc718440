"""Twenty steps of each stage on made data, with their losses: the numbers that a refactoring must not change.

`python -m tests.golden.loss_curves` writes loss-curves.json anew.
"""

import json
import platform
import tempfile
from pathlib import Path

import torch

from schemas.recipes import FinetuneRecipe, PretrainRecipe
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from trainer.clips.sources import StoreClips
from trainer.clips.split import split_items
from trainer.finetune.stage import finetune
from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import pretrain

FILE = Path(__file__).parent / "loss-curves.json"
RECIPES = Path(__file__).parents[2] / "trainer" / "recipes"
STEPS = 20
LOOP = [f"loop.max_steps={STEPS}", "loop.epochs=40", "loop.num_workers=0", "loop.checkpoint_every=100"]
LOOP += ["loop.log_every=100", "loop.micro_batches=2"]
OPTIM = ["optim.lr=1.0e-3", "optim.betas=[0.9,0.999]"]
BLOCK = "{kind: block, ratio: 0.5, min_block: 2}"
TUBE = "{kind: tube, ratio: 0.5, min_block: 2, length_share: [0.5, 1.0]}"
# windows of 4 x 7 x 7 on a grid of 4 x 8 x 8 are padded and shifted, and large enough for the CPU's own attention
ENCODER = ["patch=[2,8,8]", "embed_dim=16", "depths=[2,2,1]", "num_heads=[1,2,4]", "window=[4,7,7]", "drop_path=0.1"]


def machine() -> dict[str, str]:
    """What decides the bits of a float: other processors and versions may round otherwise."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"torch": torch.__version__, "cpu": model, "capability": torch.backends.cpu.get_cpu_capability()}


def loss_curves(folder: Path) -> dict[str, list[list[float]]]:
    """Train image, joint and fine-tuning stages below `folder`: [loss, gradient norm] of every step, by stage."""
    videos = make_token_set(folder / "videos")
    images = make_token_set(folder / "images", kind="image", num_samples=40, num_views=3)
    model = ["model.vocab_size=64", *(f"model.encoder.{setting}" for setting in ENCODER)]
    image = [f"streams.image.tokens={images.path}", "streams.image.global_batch=6", f"streams.image.mask={BLOCK}"]
    video = [f"streams.video.tokens={videos.path}", "streams.video.global_batch=4", f"streams.video.mask={TUBE}"]
    stages = {"image": image, "joint": [*image, *video]}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for stage, streams in stages.items():
            recipe = load_recipe(f"nano_{stage}", RECIPES, [*model, *streams, *OPTIM, *LOOP])
            assert isinstance(recipe, PretrainRecipe)
            pretrain(recipe, folder / stage)
        encoder = [f"encoder.{setting}" for setting in ENCODER]
        recipe = load_recipe("nano_finetune", RECIPES, [*encoder, "global_batch=4", "head_dropout=0.1", *LOOP])
        assert isinstance(recipe, FinetuneRecipe)
        source = StoreClips(videos.frames.path)
        train, val = (source.subset(items) for items in split_items(source.items, 0.25, seed=0))
        finetune(recipe, train, val, folder / "finetune")
    finally:
        torch.set_num_threads(threads)
    logs = {stage: read_metrics(folder / stage) for stage in (*stages, "finetune")}
    return {stage: [[line["loss"], line["grad_norm"]] for line in lines] for stage, lines in logs.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        record = {"made_on": machine(), "curves": loss_curves(Path(made))}
    FILE.write_text(json.dumps(record, indent=1) + "\n")
