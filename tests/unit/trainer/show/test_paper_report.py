"""The report: the paper's figures from our notes, and a run's setting from its directories."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bevt_core.storage.files import write_record
from bevt_core.weights.model_files import load_weights, save_weights
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe
from schemas.recipes.loading import load_recipe
from schemas.runs import DatasetRef
from tests.support.builders import make_token_set
from tests.support.json_keys import CheckKeys
from tests.support.pretraining import pretraining_run
from trainer.clips.lists import make_lists, store_rows, write_lists
from trainer.clips.sources import StoreClips
from trainer.finetune.model import build_from_recipe
from trainer.runs.directory import open_run
from trainer.show.model_card import export_hub, model_card
from trainer.show.paper_report import differences, nearest_row, write_report
from trainer.show.paper_tables import BY_DATA, TABLES
from trainer.show.run_facts import check_evaluations, encoder_name, facts_of, stages_of
from trainer.testing.classifier_card import CARD, card_of
from trainer.testing.evaluate import evaluate

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"


def tuned_run(folder: Path, *overrides: str, train: str = "0") -> None:
    small = ["encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]", "sampling.frames=4"]
    recipe = load_recipe("nano_finetune", RECIPES, [*small, *overrides])
    assert isinstance(recipe, FinetuneRecipe)
    torch.manual_seed(0)
    data = {"train": DatasetRef(path="set", digest=train), "val": DatasetRef(path="held/out", digest="1")}
    open_run(folder, recipe, data, resume=False, command="bevt finetune", world_size=1)
    save_weights(folder / "weights.safetensors", build_from_recipe(recipe, 2))
    write_record(folder / CARD, card_of(recipe, ("no", "yes")))


def test_a_runs_setting_is_read_along_its_chain(tmp_path: Path, json_keys: CheckKeys) -> None:
    tokens = make_token_set(tmp_path / "set", num_samples=4)
    pretraining_run(tmp_path / "video", tokens)
    tuned_run(tmp_path / "runs" / "tuned", f"init={tmp_path / 'video'}", "loop.max_steps=7")
    data = StoreClips(tokens.frames.path)
    tested = evaluate(tmp_path / "runs" / "tuned", data, crops=3, out=tmp_path / "runs" / "three")
    evaluate(tmp_path / "runs" / "tuned", data, temporal="shuffle", out=tmp_path / "runs" / "shuffled")
    (facts,) = facts_of([tmp_path / "runs"])
    setting = facts.setting
    assert (setting.pretraining, setting.tokenizer, setting.views) == ("video", "test", "1x3")
    assert setting.epochs == "3, stopped after 7 steps" and setting.frames == "4 every 1" and setting.image_epochs == ""
    assert facts.top1 == tested["top1"] and facts.num_videos == 4 and facts.multiply_adds_per_view

    made = write_report([tmp_path / "runs"], tmp_path / "report")
    assert made["runs"] == 1
    json_keys("report", made)
    lines = list(csv.DictReader((tmp_path / "report" / "report.csv").open()))
    mine = [at for at, line in enumerate(lines) if line["run"]]
    assert len(mine) == 1 and lines[mine[0] - 1]["row"] == "videos alone, Kinetics-400"
    assert "data: folder, not k400" in lines[mine[0]]["the same setting?"]
    assert "not in our notes" in (tmp_path / "report" / "report.md").read_text()
    assert "80.6" in (tmp_path / "report" / "report.html").read_text()


def test_each_test_set_is_told_and_what_was_trained_on_is_none(tmp_path: Path) -> None:
    seen, first, second = (
        StoreClips(make_token_set(tmp_path / name, num_samples=samples).frames.path)
        for name, samples in (("seen", 4), ("first", 3), ("second", 2))
    )
    tuned_run(tmp_path / "run", "init=null", train=seen.digest)
    (before,) = facts_of([tmp_path / "run"])
    assert (before.evaluated, before.data, before.top1) == (False, "held/out", None)
    evaluate(tmp_path / "run", seen, crops=3, out=tmp_path / "on-training")
    assert facts_of([tmp_path]) == [before]
    for name, data in (("a", first), ("b", second)):
        evaluate(tmp_path / "run", data, crops=1, out=tmp_path / name)
    assert [(facts.num_videos, facts.data) for facts in facts_of([tmp_path])] == [(3, first.path), (2, second.path)]
    weights = tmp_path / "run" / "weights.safetensors"
    card = model_card(weights, load_weights(weights), [tmp_path])
    assert card.count("| top-1 |") == 2 and str(tmp_path) not in card
    assert "| overlap with fine-tuning (labelled) | unknown |" in card  # without a list of the run's clips
    check_evaluations(tmp_path / "run", weights, [tmp_path / "a", tmp_path])
    with pytest.raises(UserError, match=r"nope: no such file or folder; expected the directory of a run"):
        facts_of([tmp_path, tmp_path / "nope"])


def test_a_model_card_tells_pretraining_clips_from_those_of_fine_tuning(tmp_path: Path) -> None:
    data = StoreClips(make_token_set(tmp_path / "data", num_samples=2).frames.path)
    stages = [tmp_path / "image", tmp_path / "joint"]
    for stage, before in zip(stages, (None, str(stages[0])), strict=True):
        write_lists(stage, make_lists([store_rows(data.store)], before))
    tuned_run(tmp_path / "run", "init=null")
    write_lists(tmp_path / "run", make_lists([], str(stages[1])))
    evaluate(tmp_path / "run", data, crops=1, out=tmp_path / "test")
    weights = tmp_path / "run" / "weights.safetensors"
    card = model_card(weights, load_weights(weights), [tmp_path / "test"])
    assert "| overlap with fine-tuning (labelled) | none |" in card
    assert "| overlap with pretraining (unlabelled) | 2 of 2 tested clips, by .../image, .../joint |" in card


def test_an_evaluation_that_a_model_card_cannot_quote_is_an_error(tmp_path: Path) -> None:
    data = StoreClips(make_token_set(tmp_path / "data", num_samples=2).frames.path)
    tuned_run(tmp_path / "run", "init=null")
    tuned_run(tmp_path / "other", "init=null", "encoder.depths=[1,1,2]")
    evaluate(tmp_path / "run", data, temporal="shuffle", out=tmp_path / "shuffled")
    evaluate(tmp_path / "other", data, out=tmp_path / "others")
    for name, what in (
        ("nope", "no such file or folder"),
        ("run", "a fine-tuning run"),
        ("shuffled", "an evaluation"),
        ("others", "evaluations of other weights"),
    ):
        with pytest.raises(UserError, match=rf"`evaluation` .*{name}: {what}; expected a folder that `bevt evaluate"):
            export_hub(tmp_path / "run", tmp_path / "hub", [tmp_path / name])
    save_weights(tmp_path / "bare" / "weights.safetensors", load_weights(tmp_path / "run" / "weights.safetensors"))
    with pytest.raises(UserError, match=r"bare is not a fine-tuning run; drop `evaluation`"):
        export_hub(tmp_path / "bare", tmp_path / "hub", [tmp_path / "others"])
    assert not (tmp_path / "hub").exists()


def test_a_run_without_its_pretraining_stands_apart(tmp_path: Path) -> None:
    tuned_run(tmp_path / "tuned", "init=gone")
    assert facts_of([tmp_path])[0].setting.pretraining == "unknown"
    write_report([tmp_path], tmp_path / "report")
    assert "Runs whose pretraining is in no table" in (tmp_path / "report" / "report.md").read_text()
    with pytest.raises(UserError, match="no finished fine-tuning run"):
        facts_of([tmp_path / "report"])


def test_the_papers_own_setting_is_the_same() -> None:
    for setting in BY_DATA.values():
        rows = [nearest_row(table, setting) for table in TABLES]
        assert [row is not None and row.top1 is not None for row in rows].count(True) == 3  # tables 1, 6, one of 3 to 5
        assert all(row is None or differences(row.setting, setting) == [] for row in rows)
    assert differences(BY_DATA["k400"], replace(BY_DATA["k400"], epochs="30")) == ["fine-tuning epochs: 30, not 60"]


def test_shipped_recipes_are_of_the_papers_encoder_and_views() -> None:
    for name, setting in BY_DATA.items():
        recipe = load_recipe(f"finetune_{name}_swin_base", RECIPES)
        assert isinstance(recipe, FinetuneRecipe) and encoder_name(recipe.encoder) == setting.encoder
        if name != "diving48":
            assert f"{recipe.views.clips}x{recipe.views.crops}" == setting.views
            assert f"{recipe.loop.epochs:g}" == setting.epochs


def test_a_recipe_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """Some files of the kernel are endless or block on reading; a run's folder may link to them."""
    tuned_run(tmp_path / "tuned")
    (tmp_path / "tuned" / "recipe.yaml").unlink()
    (tmp_path / "tuned" / "recipe.yaml").symlink_to("/proc/self/status")
    with pytest.raises(UserError, match=r"recipe\.yaml: a device or pipe, expected a file"):
        facts_of([tmp_path])
    with pytest.raises(UserError, match=r"recipe\.yaml: a device or pipe, expected a file"):
        stages_of(str(tmp_path / "tuned"))


def test_a_recipe_that_is_a_list_is_of_no_run(tmp_path: Path) -> None:
    tuned_run(tmp_path / "tuned")
    (tmp_path / "tuned" / "recipe.yaml").write_text("[1]")
    with pytest.raises(UserError, match="no finished fine-tuning run"):
        facts_of([tmp_path])
