"""Several targets of a stream: which token sets fit together, how they are named, and what a batch of them has."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bevt_core.dataset.token_set import TokenSet
from bevt_core.known_sets import known_sets
from schemas.errors import UserError
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from tests.support.builders import add_token_set, make_token_set
from tests.support.pretraining import RECIPES, recipe_of
from trainer.data.batches import make_batch
from trainer.data.errors import SampleError
from trainer.engine.tally import Tally
from trainer.pretrain.follow_tokens import follow_tokens
from trainer.pretrain.plan import plan_pretraining
from trainer.pretrain.stage import dry_run, task_of
from trainer.pretrain.streams import datasets_of, open_sources, open_streams
from trainer.pretrain.targets import with_targets
from trainer.setup.cost import pretrain_cost
from trainer.setup.estimate import Machine
from trainer.setup.models import build_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return make_token_set(tmp_path_factory.mktemp("data") / "videos", num_samples=8, sources_per_part=4)


@pytest.fixture(scope="module")
def other(videos: TokenSet) -> TokenSet:
    return add_token_set(videos, "other-v2")


def video_recipe(videos: TokenSet, *settings: str) -> PretrainRecipe:
    return recipe_of({"video": videos}, *settings, stage="video", streams=("video",))


def settings_of(other: TokenSet, vocab_size: int = 48) -> list[str]:
    return [f"streams.video.more_targets.other.tokens={other.path}", f"model.more_heads.other={vocab_size}"]


def test_a_batch_has_the_tokens_of_every_target(videos: TokenSet, other: TokenSet) -> None:
    recipe = video_recipe(videos, *settings_of(other), "streams.video.more_targets.other.loss_weight=0.5")
    sources = open_sources(recipe, CPU)
    dataset, _ = open_streams(recipe, sources)["video"]
    assert {store.path for store in dataset.stores} == {videos.frames.path, videos.path, other.path}
    assert {name: ref.digest for name, ref in datasets_of(sources).items()} == {
        "video": videos.digest,
        "video.other": other.digest,
    }
    for position in range(3):
        sample = dataset[1, position]
        part, start, count, view = dataset.locate(1, position)
        number = next(v for v in range(2) if other.read_view(part, v).views[position] == view)
        for key, tokens in (("tokens", videos), ("tokens/other", other)):
            stored = tokens.read_view(part, number).tokens[position][start : start + count]
            assert np.array_equal(sample[key].numpy(), stored)

    task = task_of(recipe, build_model(recipe.model, ("video",)), {})
    batch = {"video": make_batch(dataset, [dataset[0, position] for position in range(4)])}
    hidden = int((batch["video"]["hidden"] >= 0).sum())
    assert task.counts(batch) == {"mvm": hidden, "mvm_other": hidden}
    terms = task.losses(task.model, batch, 0)
    assert {name: term.weight for name, term in terms.items()} == {"mvm": 1.0, "mvm_other": 0.5}
    assert [float(term.histograms["target"].sum()) for term in terms.values()] == [hidden, hidden]
    tally = Tally({name: torch.tensor(float(hidden)) for name in terms})
    tally.add_terms(terms)
    named = ("loss", "acc", "target_perplexity")
    assert tally.sums.keys() == {f"{term}_{each}" for term in ("mvm", "mvm_other") for each in named}


def test_weights_multiply_those_of_the_stream(videos: TokenSet, other: TokenSet) -> None:
    weights = ["streams.video.loss_weight=0.5", "streams.video.more_targets.other.loss_weight=0.5"]
    recipe = video_recipe(videos, *settings_of(other), *weights)
    dataset, _ = open_streams(recipe, open_sources(recipe, CPU))["video"]
    task = task_of(recipe, build_model(recipe.model, ("video",)), {})
    terms = task.losses(task.model, {"video": make_batch(dataset, [dataset[0, 0]])}, 0)
    assert [term.weight for term in terms.values()] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 3, "flip_share": 0.0},
            r"target other, \S+: views.flip_share is 0.0, but 0.5 in \S+; views.seed is 3, but 0 in \S+; targets need "
            r"the same views: tokenize it again with `views.flip_share=0.5` `views.seed=0`",
        ),
        ({"num_views": 1}, r"views.num_views is 1, but 2 in .* with `views.num_views=2`"),
        ({"grid": 8}, "8 x 8 tokens per frame, but 4 x 4 in .*; use tokenizers with the same grid"),
        (
            {"vocab_size": 50},
            r"50 tokens, but the recipe's model.more_heads.other is 48; set model.more_heads.other=50",
        ),
    ],
)
def test_token_sets_that_do_not_fit_together(
    videos: TokenSet, changes: dict[str, Any], message: str, request: pytest.FixtureRequest
) -> None:
    wrong = add_token_set(videos, f"wrong-{'-'.join(changes)}", **changes)
    with pytest.raises(UserError, match=message):
        open_sources(video_recipe(videos, *settings_of(wrong)), CPU)


def test_token_sets_of_other_frames(videos: TokenSet, tmp_path: Path) -> None:
    elsewhere = make_token_set(tmp_path, num_samples=9)
    with pytest.raises(UserError, match=r"target other, .*: made from the frame store .*; give token sets of one"):
        open_sources(video_recipe(videos, *settings_of(elsewhere, 64)), CPU)
    with pytest.raises(UserError, match=r"video stream: target other: nowhere/tokens/x: no such token set"):
        open_sources(video_recipe(videos, "streams.video.more_targets.other.tokens=nowhere/tokens/x"), CPU)


def test_views_are_compared_row_by_row(videos: TokenSet, other: TokenSet) -> None:
    """A manifest may claim views that another version drew differently."""
    recipe = video_recipe(videos, *settings_of(other))
    dataset, _ = open_streams(recipe, open_sources(recipe, CPU))["video"]
    moved = add_token_set(videos, "moved", seed=1)
    dataset.more = {"other": moved}  # type: ignore[attr-defined]
    with pytest.raises(SampleError, match=r"view \d differs from that in"):
        [dataset[epoch, 0] for epoch in range(2)]


def test_heads_and_targets_belong_together(videos: TokenSet, other: TokenSet) -> None:
    with pytest.raises(UserError, match=r"model.more_heads has no other; set model.more_heads.other=48"):
        open_sources(video_recipe(videos, settings_of(other)[0]), CPU)
    with pytest.raises(UserError, match=r"model.more_heads has unused, but no stream has such a target"):
        video_recipe(videos, "model.more_heads.unused=48")
    with pytest.raises(UserError, match=r"tokens are computed in the step; give a token set as tokens"):
        load_recipe_of(PretrainRecipe, "ablations/online_joint", RECIPES, [settings_of(other)[0]])


def test_targets_are_found_beside_the_stream_s_tokens(videos: TokenSet, other: TokenSet) -> None:
    recipe = video_recipe(videos)
    chosen, lines = follow_tokens(with_targets(recipe, "test,other:0.5"), [])
    assert chosen.streams["video"].token_sets == (str(videos.path), str(other.path))
    assert chosen.streams["video"].more_targets["other"].loss_weight == 0.5
    assert (chosen.model.first_target, chosen.model.more_heads) == ("test", {"other": 48})
    assert "model.more_heads.other is 48, as the tokens require" in lines
    swapped, _ = follow_tokens(with_targets(chosen, "other, test-v2"), [])
    assert swapped.model.vocab_size == 48 and swapped.streams["video"].tokens == str(other.path)
    assert list(swapped.streams["video"].more_targets) == ["test-v2"]
    alone, _ = follow_tokens(with_targets(swapped, "test"), [])
    assert alone == recipe.model_copy(update={"model": recipe.model.model_copy(update={"first_target": "test"})})
    with pytest.raises(UserError, match="first_target other is also in more_heads"):
        video_recipe(videos, *settings_of(other), "model.first_target=other")
    for names, message in {
        "test,none": r"targets` none: \S+ has no token set none or none-vN, only .*other-v2, test-v2",
        "test:2,other": r"test is the first target, whose weight is streams.\*.loss_weight",
        "test,other,other:2": "other appears twice",
        "test,": r"''; expected names of token sets, such as dalle,vqkd",
        "test,other:much": "'other:much'; expected names",
    }.items():
        with pytest.raises(UserError, match=message):
            with_targets(recipe, names)


def test_of_several_numbers_of_views_the_stream_s_is_taken(videos: TokenSet, tmp_path: Path) -> None:
    made = make_token_set(tmp_path / "set", num_samples=2, frames=2)
    for name, views in (("test-v1", 1), ("second-v1", 1), ("second-v2", 2)):
        add_token_set(made, name, num_views=views)
    chosen = with_targets(video_recipe(made), "test,second")
    assert [Path(path).name for path in chosen.streams["video"].token_sets] == ["test-v2", "second-v2"]
    with pytest.raises(UserError, match=r"several token sets of that name, test-v1, test-v2; give the full name"):
        with_targets(video_recipe(TokenSet(made.path.parent / "second-v1")), "test,second")


def test_the_plan_counts_the_heads(videos: TokenSet, other: TokenSet, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = video_recipe(videos), video_recipe(videos, *settings_of(other))
    costs = [pretrain_cost(recipe, {"video": 64}, False) for recipe in (one, two)]
    dim = 16 * 2**2  # of the last stage, whose width the decoders have
    assert costs[1].state_bytes - costs[0].state_bytes == 4 * 4 * 48 * (dim + 1)
    flops = [cost.samples["video"].flops for cost in costs]
    logits = [cost.samples["video"].peak_bytes for cost in costs]
    assert (flops[1] - flops[0]) * 64 == pytest.approx(48 * (flops[0] - flops_without_heads(one)), rel=1e-6) and logits[
        1
    ] > logits[0]
    dry_run(two, processes=1)
    assert "video: further targets: other (48 tokens, weight 1)" in capsys.readouterr().out
    more = ["streams.video.more_targets.vqkd.tokens=datasets/k400/tokens/vqkd-v8"]
    assumed = load_recipe_of(PretrainRecipe, "nano_video", RECIPES, more)
    with pytest.raises(UserError, match=r"model.more_heads has no vqkd; set model.more_heads.vqkd to its vocab"):
        plan_pretraining(assumed, known_sets("k400"), Machine(1, 100.0, "recipe"))


def flops_without_heads(recipe: PretrainRecipe) -> float:
    """Extrapolate the operations of a sample to an empty vocabulary."""
    larger = recipe.model_copy(update={"model": recipe.model.model_copy(update={"vocab_size": 128})})
    flops = [pretrain_cost(each, {"video": 64}, False).samples["video"].flops for each in (recipe, larger)]
    return 2 * flops[0] - flops[1]
