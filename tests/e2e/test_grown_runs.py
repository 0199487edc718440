"""A run that goes on with a data set that was extended after it had started."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from bevt_core.storage.files import read_record
from schemas.errors import UserError
from schemas.runs import RunRecord
from tests.support.builders import extend_token_set, make_token_set
from tests.support.pretraining import recipe_of
from trainer.clips.lists import read_lists
from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import pretrain

VIDEO = {"stage": "video", "streams": ("video",)}


def losses(run: Path) -> list[float | None]:
    return [line["loss"] for line in read_metrics(run)]


def test_it_ends_its_epoch_and_reads_all_from_the_next_one(tmp_path: Path) -> None:
    """24 samples in batches of 4 are 6 steps an epoch, 36 samples 9: the run stops at step 5 of the first epoch."""
    data = {"video": make_token_set(tmp_path / "videos")}
    digest = data["video"].digest
    run = tmp_path / "run"
    common = ("loop.epochs=3", "loop.checkpoint_every=5", "loop.keep_checkpoints=9")
    pretrain(recipe_of(data, *common, "loop.max_steps=5", **VIDEO), run)
    extend_token_set(data["video"], 12)
    recipe = recipe_of(data, *common, "loop.max_steps=15", **VIDEO)
    with pytest.raises(UserError, match=r"extended from 3 to 4 parts .*; give `grown` to go on with all of them"):
        pretrain(recipe, run, resume=True)
    pretrain(recipe, run, resume=True, grown=True)
    record = read_record(run / "run.json", RunRecord)
    assert record is not None and record.total_steps == 6 + 9 + 9 and record.datasets["video"].digest == digest
    growths = [(growth.first_epoch, growth.num_parts, growth.before) for growth in record.grown["video"]]
    assert growths == [(1, 3, digest)]
    lists = read_lists(run)
    assert lists is not None and len(lists.table) == 36
    whole = losses(run)
    assert len(whole) == 15

    again = shutil.copytree(run, tmp_path / "again")
    for path in (again / "checkpoints").glob("step-*"):
        if path.name != "step-00000005":  # from before the extension: the flag is not needed again
            shutil.rmtree(path)
    pretrain(recipe, again, resume=True)
    assert losses(again) == whole

    extend_token_set(data["video"], 8)
    pretrain(recipe_of(data, *common, **VIDEO), run, resume=True, grown=True)
    record = read_record(run / "run.json", RunRecord)
    assert record is not None and [growth.first_epoch for growth in record.grown["video"]] == [1, 2]
    assert len(losses(run)) == record.total_steps == 6 + 9 + 11


def test_the_flag_needs_a_resume() -> None:
    result = CliRunner().invoke(cli.app, ["train", "video", "--grown"])
    assert isinstance(result.exception, UserError) and "give --resume too" in str(result.exception)
