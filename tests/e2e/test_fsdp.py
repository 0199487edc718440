"""Shards (FSDP2) compute what replicas (DDP) do, and a run may change between them."""

import pytest
import torch

from bevt_core.weights.model_files import load_weights
from tests.support.builders import make_token_set
from tests.support.finetuning import recipe_of as finetune_recipe_of
from tests.support.pretraining import recipe_of
from trainer.clips.sources import StoreClips
from trainer.distributed.launch import launch
from trainer.finetune.stage import finetune
from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import pretrain

pytestmark = pytest.mark.slow

STEPS = ("loop.epochs=5", "loop.micro_batches=2", "ema_decay=0.5", "model.encoder.drop_path=0.1")
FIRST, ALL = (*STEPS, "loop.max_steps=3"), (*STEPS, "loop.max_steps=6")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {
        "video": make_token_set(root / "videos", num_samples=8, sources_per_part=4),
        "image": make_token_set(root / "images", kind="image", num_samples=12, num_views=3),
    }


def losses(run):
    return torch.tensor([[line["loss"], line["grad_norm"]] for line in read_metrics(run)], dtype=torch.float64)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shards_compute_what_replicas_do(data, tmp_path, precision):
    settings = (*ALL, f"loop.precision={precision}")
    launch(pretrain, 2, recipe_of(data, *settings), tmp_path / "ddp")
    launch(pretrain, 2, recipe_of(data, *settings, "loop.parallel=fsdp"), tmp_path / "fsdp")
    assert losses(tmp_path / "fsdp").numpy() == pytest.approx(losses(tmp_path / "ddp").numpy(), abs=1e-6, rel=1e-6)


def test_a_run_changes_from_shards_to_a_replica(data, tmp_path):
    """The number of processes changes with it; averaged weights and optimizer go along."""
    pretrain(recipe_of(data, *ALL, "model.encoder.drop_path=0"), tmp_path / "one")
    settings = ("model.encoder.drop_path=0", "loop.parallel=fsdp")
    launch(pretrain, 2, recipe_of(data, *FIRST, *settings), tmp_path / "changed")
    assert not list((tmp_path / "changed" / "checkpoints").glob("step-00000006"))
    pretrain(recipe_of(data, *ALL, "model.encoder.drop_path=0"), tmp_path / "changed", resume=True)
    assert losses(tmp_path / "changed").numpy() == pytest.approx(losses(tmp_path / "one").numpy(), abs=1e-4)
    one, changed = (load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("one", "changed"))
    assert max(float((one[key] - changed[key]).abs().max()) for key in one) < 1e-4


def test_a_run_changes_from_replicas_to_shards(data, tmp_path):
    launch(pretrain, 2, recipe_of(data, *ALL), tmp_path / "ddp")
    launch(pretrain, 2, recipe_of(data, *FIRST), tmp_path / "changed")
    launch(pretrain, 2, recipe_of(data, *ALL, "loop.parallel=fsdp"), tmp_path / "changed", resume=True)
    assert losses(tmp_path / "changed").numpy() == pytest.approx(losses(tmp_path / "ddp").numpy(), abs=1e-6, rel=1e-6)
    weights = [load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("ddp", "changed")]
    assert max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0]) < 1e-6


def test_shards_are_validated_on_an_uneven_number_of_videos(tmp_path):
    """Every forward pass takes all ranks, so none may have fewer videos than another.

    The average, which no backward pass shards again, is tested between two steps and moved by the second.
    """
    videos = StoreClips(make_token_set(tmp_path / "set", num_samples=15, sources_per_part=5).frames.path)
    halves = videos.subset(videos.items[:8]), videos.subset(videos.items[8:])
    told = []
    for parallel in ("ddp", "fsdp"):
        settings = ("loop.max_steps=2", "ema_decay=0.5", "validate_every_epochs=0.5")
        recipe = finetune_recipe_of(*settings, f"loop.parallel={parallel}")
        launch(finetune, 2, recipe, *halves, tmp_path / parallel)
        told.append(read_metrics(tmp_path / parallel)[-1])
    assert told[0]["val_videos"] == told[1]["val_videos"] == 7
    assert told[0]["val_top1"] == told[1]["val_top1"]
