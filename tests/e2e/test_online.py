"""The tokenizer in the step: the same data, model and loop as with stored tokens, from views that never repeat."""

import json

import pytest
import torch

from bevt_core.tokenizers import load_tokenizer
from schemas.errors import UserError
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.pretraining import RECIPES, TINY, for_4x4_tokens
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer.data.batches import make_batch
from trainer.data.online import FreshViewDataset, tokens_in_step
from trainer.distributed.launch import launch
from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import dry_run, pretrain
from trainer.pretrain.streams import open_sources, open_streams
from trainer.pretrain.task import PretrainTask
from trainer.runs.directory import identity_of
from trainer.setup.models import build_model

CPU = torch.device("cpu")
VIEWS = "crop_px: 64, short_side_min_px: 64, short_side_max_px: 72, flip_share: 0.5, jitter: 0.0"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("online")
    tokenizer = save_tiny_tokenizer(root / "tokenizer")
    return make_token_set(root / "videos", num_samples=12, sources_per_part=6, tokenizer=load_tokenizer(tokenizer))


def recipes(stored, *extra):
    """The same run, its tokens stored, and computed in the step."""
    tokenizer = stored.path.parents[2] / "tokenizer"
    online = f"{{frames: {stored.frames.path}, tokenizer: {tokenizer}, views: {{{VIEWS}}}}}"
    small = [s for s in TINY if "streams.image" not in s and "vocab" not in s]
    small = [*for_4x4_tokens("video"), *small, "model.vocab_size=32", "streams.video.mask.min_block=1", *extra]
    return [
        load_recipe("nano_video", RECIPES, [*small, f"streams.video.tokens={tokens}"])
        for tokens in (stored.path, online)
    ]


def with_tokens(recipe, **changed):
    stream = recipe.streams["video"]
    tokens = stream.tokens.model_copy(update=changed)
    return recipe.model_copy(update={"streams": {"video": stream.model_copy(update={"tokens": tokens})}})


def losses(run):
    return [(line["step"], line["loss"]) for line in read_metrics(run)]


def test_under_a_stored_view_it_gives_the_stored_tokens_and_loss_to_the_bit(stored, monkeypatch):
    (tokens, order), (fresh, _) = (
        open_streams(recipe, open_sources(recipe, CPU))["video"] for recipe in recipes(stored)
    )
    monkeypatch.setattr(FreshViewDataset, "view", lambda self, epoch, position: tokens.view(epoch, position))
    recipe = recipes(stored)[1]
    torch.manual_seed(0)
    model = build_model(recipe.model, ("video",))
    tokenizer = open_sources(recipe, CPU)["video"].tokenizer
    results = []
    for dataset, tokenizers in ((tokens, {}), (fresh, {"video": tokenizer})):
        batch = make_batch(dataset, [dataset[1, int(position)] for position in order.batch(3)[1]])
        task = PretrainTask(model, {"video": 1.0}, 32, tokenizers)
        with torch.autocast("cpu", torch.bfloat16):  # which is the model's, not the tokenizer's
            seen = task._tokens("video", batch)
        results.append((seen, batch["mask"], task.losses(model, {"video": batch}, 0)["mvm"].loss_sum))
        assert task.counts({"video": batch}) == {"mvm": int(batch["mask"].sum()) * 2}
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][0].unique().numel() > 1
    results[1][2].backward()  # tokens may be saved for it
    assert model.lm_head.weight.grad is not None


def test_the_tokenizer_s_precision_is_the_recipe_s_and_part_of_the_run(stored):
    plain = recipes(stored)[1]
    half, compiled = with_tokens(plain, tokenizer_dtype="bfloat16"), with_tokens(plain, tokenizer_compiled=True)
    folder = stored.path.parents[2] / "tokenizer"
    dataset = open_streams(half, open_sources(half, CPU))["video"][0]
    part = {"frames": torch.stack([dataset[0, position]["frames"] for position in range(12)])}
    seen = {}
    for dtype, recipe in (("float32", plain), ("bfloat16", half)):
        source = open_sources(recipe, CPU)["video"]
        with torch.autocast("cpu", torch.float16):
            seen[dtype] = tokens_in_step(source.tokenizer, part["frames"])
        expected = load_tokenizer(folder, dtype=dtype).encode(part["frames"].flatten(0, 1))
        assert torch.equal(seen[dtype].flatten(0, 1), expected) and source.identity.dtype == dtype
    assert not torch.equal(seen["float32"], seen["bfloat16"])
    assert open_sources(compiled, CPU)["video"].identity.compiled
    assert len({json.dumps(identity_of(recipe, {})) for recipe in (plain, half, compiled)}) == 3


def test_views_never_repeat_and_follow_seed_epoch_and_sample(stored):
    recipe = recipes(stored)[1]
    dataset = open_streams(recipe, open_sources(recipe, CPU))["video"][0]
    views = [dataset.view(epoch, position) for epoch in range(20) for position in range(4)]
    assert len(set(views)) > 70  # of 9 x 9 boxes and more, at 9 scales, flipped or not
    assert dataset.view(7, 2) == open_streams(recipe, open_sources(recipe, CPU))["video"][0].view(7, 2)


def test_it_resumes_to_the_bit_with_loader_workers(stored, tmp_path):
    straight, part = recipes(stored, "loop.max_steps=4")[1], recipes(stored, "loop.max_steps=2")[1]
    pretrain(straight, tmp_path / "straight")
    pretrain(part, tmp_path / "resumed")
    workers = straight.model_copy(update={"loop": straight.loop.model_copy(update={"num_workers": 1})})
    pretrain(workers, tmp_path / "resumed", resume=True)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "straight")
    views = straight.streams["video"].tokens.views.model_copy(update={"flip_share": 0.0})
    with pytest.raises(UserError, match=r"flip_share: 0\.5 in the checkpoint, 0\.0 now"):
        pretrain(with_tokens(straight, views=views), tmp_path / "resumed", resume=True)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(stored, tmp_path):
    recipe = recipes(stored, "loop.max_steps=6")[1]
    pretrain(recipe, tmp_path / "one")
    launch(pretrain, 2, recipe, tmp_path / "two")
    for one, other in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_plan_for_gpus_needs_none(stored):
    recipe = with_tokens(recipes(stored)[1], tokenizer_dtype="tf32", tokenizer_pass_frames=64)
    assert dry_run(recipe, processes=1)["steps"] > 0
    with pytest.raises(UserError, match="'tf32' needs a GPU"):
        open_sources(recipe, CPU)


def test_the_plan_counts_the_tokenizer(stored):
    without, with_tokenizer = (dry_run(recipe, processes=1) for recipe in recipes(stored))
    assert with_tokenizer["steps"] == without["steps"]
    assert with_tokenizer["flops"] > without["flops"]
