"""Settings at the edges give what the plain ones give, or one error that says why not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bevt_core.weights.model_files import load_weights
from schemas.errors import UserError
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from trainer.distributed.launch import launch
from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import pretrain
from trainer.recipes import TRAINER_RECIPES

TINY = ["model.vocab_size=64", "model.encoder.embed_dim=16", "model.encoder.depths=[1,1,1]", "ema_decay=0.5"]
TINY += ["model.encoder.num_heads=[1,2,4]", "loop.num_workers=0", "loop.log_every=100", "loop.checkpoint_every=100"]


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images: in batches of three an epoch ends in the middle of the third."""
    return make_token_set(tmp_path_factory.mktemp("seven"), kind="image", num_samples=7, sources_per_part=3).path


@pytest.fixture(scope="module")
def straight(seven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps, in two and a half epochs."""
    run = tmp_path_factory.mktemp("straight") / "run"
    pretrain(recipe(seven), run)
    return run


def recipe(tokens: Path, *settings: str) -> PretrainRecipe:
    plain = [f"streams.image.tokens={tokens}", "streams.image.global_batch=3", "loop.max_steps=5", *TINY]
    loaded = load_recipe("nano_image", TRAINER_RECIPES, [*plain, *settings])
    assert isinstance(loaded, PretrainRecipe)
    return loaded


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run)]


def weights(run: Path) -> dict[str, Tensor]:
    return load_weights(run / "weights.safetensors").state_dict()


def test_an_epoch_ends_in_the_middle_of_a_batch_and_of_a_run(seven: Path, straight: Path, tmp_path: Path) -> None:
    """Resumed there, with other numbers of loader processes, to the bit, averaged weights included."""
    pretrain(recipe(seven, "loop.max_steps=3", "loop.num_workers=1"), tmp_path / "run")
    pretrain(recipe(seven), tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(straight)
    then, now = weights(straight), weights(tmp_path / "run")
    assert all(torch.equal(then[key], now[key]) for key in then)


def test_micro_batches_that_do_not_divide_the_batch_may_change_at_a_resume(
    seven: Path, straight: Path, tmp_path: Path
) -> None:
    pretrain(recipe(seven, "loop.max_steps=2", "loop.micro_batches=2"), tmp_path / "run")
    pretrain(recipe(seven, "loop.micro_batches=3", "loop.activation_checkpointing=true"), tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == pytest.approx(losses(straight), rel=1e-5)  # the order of float additions


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_cpu_resumes_to_the_bit(
    seven: Path, straight: Path, tmp_path: Path, precision: str
) -> None:
    """Its first loss is the plain one's; then fp16 skips steps until its loss scale, which checkpoints have, is low."""
    half = f"loop.precision={precision}"
    pretrain(recipe(seven, half), tmp_path / "whole")
    pretrain(recipe(seven, half, "loop.max_steps=2"), tmp_path / "cut")
    pretrain(recipe(seven, half), tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert losses(tmp_path / "whole")[0] == pytest.approx(losses(straight)[0], rel=1e-2)
    then, now = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(then[key], now[key]) for key in then)


def test_one_sample_is_an_epoch(tmp_path: Path) -> None:
    one = make_token_set(tmp_path / "one", kind="image", num_samples=1).path
    alone = recipe(one, "streams.image.global_batch=1", "loop.max_steps=3", "loop.num_workers=2")
    summary = pretrain(alone, tmp_path / "run")
    assert summary["step"] == 3 and len(set(losses(tmp_path / "run"))) == 3
    with pytest.raises(
        UserError, match=r"1 sample, fewer than one global batch of 3; lower it with `streams.image.global_batch=1`"
    ):
        pretrain(recipe(one), tmp_path / "batch")


@pytest.mark.slow
def test_fewer_samples_in_a_batch_than_ranks_are_refused_before_a_run(seven: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a global batch of 1 on 2 processes.*leaves some of them empty"):
        launch(pretrain, 2, recipe(seven, "streams.image.global_batch=1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
