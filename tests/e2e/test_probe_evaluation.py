"""Pretraining judged while it runs: nearest neighbours and a linear layer on a labelled frame store."""

from typing import get_args

import pytest
import torch

from schemas.errors import UserError
from schemas.recipes import ProbeConfig
from tests.support.builders import make_token_set
from tests.support.pretraining import recipe_of
from trainer.distributed.world import World
from trainer.engine.evaluations import EvaluationStopped
from trainer.metrics.log import read_metrics
from trainer.pretrain.probe_evaluation import KINDS, ProbeEvaluation
from trainer.pretrain.stage import pretrain
from trainer.probes.knn import knn_predict
from trainer.probes.linear import WEIGHT_DECAYS, linear_predict
from trainer.setup.models import build_model

CPU = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return {"video": make_token_set(tmp_path_factory.mktemp("data") / "videos", num_samples=16)}


def probe_settings(store, every, *extra):
    places = f"frames: {store.frames.path}, every: {every}, crop_px: 64, short_side_px: 64"
    return f"probe={{{', '.join([places, 'neighbours: 3', *extra])}}}"


def test_it_is_logged_every_so_often_and_changes_nothing(data, tmp_path):
    steps = ("loop.max_steps=4", "loop.epochs=2")
    plain = recipe_of(data, *steps, stage="video", streams=("video",))
    judged = recipe_of(data, *steps, probe_settings(data["video"], 2), stage="video", streams=("video",))
    pretrain(plain, tmp_path / "plain")
    pretrain(judged, tmp_path / "judged")
    lines = read_metrics(tmp_path / "judged")
    for name in ("knn_top1", "linear_top1"):
        assert [line["step"] for line in lines if name in line] == [1, 3]
        assert all(0 <= line[name] <= 1 for line in lines if name in line)
    without = [[line["loss"], line["grad_norm"]] for line in read_metrics(tmp_path / "plain")]
    assert [[line["loss"], line["grad_norm"]] for line in lines] == without


def test_every_kind_of_the_recipe_is_there():
    assert KINDS.keys() == set(get_args(get_args(ProbeConfig.model_fields["kinds"].annotation)[0]))


def test_ranks_share_the_videos_and_count_each_once(data, monkeypatch):
    recipe = recipe_of(data, probe_settings(data["video"], 1), stage="video", streams=("video",))
    torch.manual_seed(0)
    model = build_model(recipe.model, ("video",)).eval()
    evaluation = ProbeEvaluation(model, recipe, CPU)
    assert [len(split.items) for split in evaluation.splits] == [12, 4]
    monkeypatch.setattr("trainer.clips.multi_view.MAX_PART_VIDEOS", 3)
    features_NC, labels_N = evaluation._features(evaluation.splits[0])
    assert features_NC.shape == (12, 64) and labels_N.tolist() == [item.label for item in evaluation.splits[0].items]
    ranks = []
    for rank in range(2):
        rank_evaluation = ProbeEvaluation(model, recipe, World(rank=rank, size=2, device=CPU.device))
        monkeypatch.setattr(World, "gather", lambda self, value: ranks.append(value) or [ranks[0], ranks[-1]])
        if rank == 0:
            with pytest.raises(KeyError):  # its own parts alone are not all
                rank_evaluation._features(evaluation.splits[0])
    assert torch.equal(rank_evaluation._features(evaluation.splits[0])[0], features_NC)
    test_NC, test_N = evaluation._features(evaluation.splits[1])
    predicted = [
        knn_predict(features_NC, labels_N, test_NC, 2, 3, 0.07),
        linear_predict(features_NC, labels_N, test_NC, 2),
    ]
    right = [float((predicted_N == test_N).double().mean()) for predicted_N in predicted]
    assert evaluation(1) == dict(zip(("knn_top1", "linear_top1"), right, strict=True))


def test_a_signal_ends_it_between_batches_and_between_fits(data):
    recipe = recipe_of(data, probe_settings(data["video"], 1), stage="video", streams=("video",))
    evaluation = ProbeEvaluation(build_model(recipe.model, ("video",)).eval(), recipe, CPU)
    asked = 0

    def stop_at(question):
        def stop_asked():
            nonlocal asked
            asked += 1
            return asked == question

        return stop_asked

    evaluation(1, stop_at(0))
    batches, fits = 16, len(evaluation.config.kinds) + len(WEIGHT_DECAYS)
    assert asked == batches + fits
    for question in (2, batches + 2, batches + fits):
        asked = 0
        with pytest.raises(EvaluationStopped):
            evaluation(1, stop_at(question))
        assert asked == question


def test_features_are_computed_in_the_recipes_precision(data):
    settings, features = probe_settings(data["video"], 1), {}
    for precision in ("fp32", "bf16"):
        recipe = recipe_of(data, settings, f"loop.precision={precision}", stage="video", streams=("video",))
        torch.manual_seed(0)
        evaluation = ProbeEvaluation(build_model(recipe.model, ("video",)).eval(), recipe, CPU)
        features[precision] = evaluation._features(evaluation.splits[1])[0]
        assert features[precision].dtype == torch.float32 and not features[precision].is_inference()
    apart = (features["bf16"] - features["fp32"]).norm() / features["fp32"].norm()
    assert 0.001 < apart < 0.02  # some 0.007: a few roundings, each to 2^-9 of a value


def test_a_store_that_cannot_be_judged_by_is_refused(tmp_path):
    for num_samples, message in ((1, "single item"), (4, "no class has two videos to train on.*or leave linear out")):
        store = make_token_set(tmp_path / str(num_samples), num_samples=num_samples)
        recipe = recipe_of({"video": store}, probe_settings(store, 1), stage="video", streams=("video",))
        model = build_model(recipe.model, ("video",))
        with pytest.raises(UserError, match=message):
            ProbeEvaluation(model, recipe, CPU)
    neighbours = recipe_of(
        {"video": store}, probe_settings(store, 1, "kinds: [knn]"), stage="video", streams=("video",)
    )
    assert ProbeEvaluation(model, neighbours, CPU)(1).keys() == {"knn_top1"}


def test_a_store_of_other_intervals_is_refused(tmp_path):
    stores = {stride: make_token_set(tmp_path / str(stride), num_samples=8, stride=stride) for stride in (1, 2, 3)}
    stores["thinned"] = make_token_set(tmp_path / "thinned", num_samples=8, frames=12, max_frames=6)

    def evaluation(pretrained_on, judged_by):
        settings = probe_settings(stores[judged_by], 1, "kinds: [knn]")
        recipe = recipe_of({"video": stores[pretrained_on]}, settings, stage="video", streams=("video",))
        return ProbeEvaluation(build_model(recipe.model, ("video",)), recipe, CPU)

    assert evaluation(2, 1).plan.sampling.interval == evaluation(2, 2).plan.sampling.interval == 2
    with pytest.raises(UserError, match=r"pool\.stride=3.*pretraining, 2;"):
        evaluation(2, 3)
    with pytest.raises(UserError, match=r"0000\.mp4 were thinned to pool\.max_frames"):
        evaluation(1, "thinned")
