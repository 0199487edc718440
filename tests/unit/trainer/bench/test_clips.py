"""Fine-tuning clips from a frame store equal those from the files, except for the store's JPEG compression."""

from pathlib import Path

import pytest
import torch

from bevt_core.dataset.frame_store import write_frame_manifest, write_frame_part
from bevt_core.dataset.source_list import sources_digest, write_plan
from pipeline.job.decode_part import load_source
from schemas.errors import UserError
from schemas.frames import Plan, PoolSpec, SourceItem
from schemas.recipes import FinetuneRecipe
from schemas.recipes.loading import load_recipe_of
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_video
from trainer.bench.clips import bench_clips
from trainer.clips.sources import FileClips, StoreClips
from trainer.finetune.task import TrainingClips
from trainer.recipes import TRAINER_RECIPES

NAMES = ("a/0.mp4", "b/1.mp4", "b/2.mp4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`root/` with videos, `frames/` with a store of every frame, and `sparse/` with one of every second frame."""
    data = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(NAMES):
        write_video(data / "root" / name, moving_frames(20 + seed, 96, 128, seed=seed))
    items = [SourceItem(source=name, kind="video", label=at % 2) for at, name in enumerate(NAMES)]
    for folder, stride in (("frames", 1), ("sparse", 2)):
        pool = PoolSpec(stride=stride, phase="zero", max_frames=100, short_side_px=256)
        plan = Plan(
            dataset="folder",
            split="train",
            classes=("a", "b"),
            pool=pool,
            seed=0,
            sources_per_part=3,
            num_sources=3,
            sources_digest=sources_digest(items),
        )
        write_plan(data / folder, plan, items)
        samples = [sample for item in items for sample in load_source(data / "root", item, pool, 0)]
        write_frame_manifest(data / folder, plan, [write_frame_part(data / folder, 0, samples, [], plan)])
    return data


def recipe_of(*overrides: str) -> FinetuneRecipe:
    return load_recipe_of(FinetuneRecipe, "nano_finetune", TRAINER_RECIPES, ["sampling.frames=4", *overrides])


def test_both_sources_give_the_same_clips(data: Path) -> None:
    recipe, store = recipe_of("sampling.kind=dense", "sampling.interval=2"), StoreClips(data / "frames")
    files = FileClips(data / "root", store.items, store.classes)
    for epoch in range(2):
        for at in range(len(NAMES)):
            one, other = (TrainingClips(source, recipe)[epoch, at] for source in (files, store))
            difference = (one["clip"].float() - other["clip"].float()).abs()
            assert one["label"] == other["label"] and one["sample_id"] == other["sample_id"]
            assert difference.mean() < 3 and difference.median() <= 2  # JPEG of quality 90
            others = (TrainingClips(store, recipe)[later, at]["clip"].float() for later in range(2, 6))
            assert max((one["clip"].float() - other).abs().mean() for other in others) > 2 * difference.mean()
    assert torch.equal(one["clip"], TrainingClips(files, recipe)[epoch, at]["clip"])


def test_the_benchmark_returns_rates_and_differences(data: Path, json_keys: CheckKeys) -> None:
    recipe = recipe_of("sampling.kind=dense", "sampling.interval=2")
    figures = bench_clips(data / "frames", data / "root", recipe, clips=2, repeats=1)
    json_keys("bench loader --finetune", figures)
    assert figures["clips"] == 2 and 0 < figures["mean_difference"] < 3
    ratio = figures["store_clips_per_cpu_s"] / figures["file_clips_per_cpu_s"]
    assert figures["ratio_store_vs_files"] == pytest.approx(ratio) and ratio > 0
    sparse = bench_clips(data / "sparse", data / "root", recipe, clips=2, repeats=1)
    assert sparse["mean_difference"] is None
    with pytest.raises(UserError, match="a source of the dataset; give the same `root`"):
        bench_clips(data / "frames", data, recipe)
