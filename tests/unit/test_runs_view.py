"""Run directories, read back: what was run, how far it came, and what differs."""

import io
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from bevt_core.charts import curves_png
from schemas.errors import UserError
from schemas.recipe_io import load_recipe
from schemas.runs import DatasetRef
from trainer.commands import TRAINER_RECIPES
from trainer.run import WEIGHTS, open_run
from trainer.runs_view import POINTS, averaged, compare_runs, list_runs, show_run

DATA = {"video": DatasetRef(path="somewhere", digest="abc")}


def make_run(folder, losses, *settings, total_steps=None):
    recipe = load_recipe("nano_video", TRAINER_RECIPES, settings)
    open_run(folder, recipe, DATA, resume=False, command="bevt train video", world_size=2, total_steps=total_steps)
    lines = [json.dumps({"step": step, "loss": loss, "lr": 0.1}) for step, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines) + '{"step": 99')
    return folder


@pytest.fixture
def runs(tmp_path):
    done = make_run(tmp_path / "done", [3.0, 2.0, None, 1.0])
    (done / WEIGHTS).write_bytes(b"")
    make_run(tmp_path / "deep" / "going", [3.0, 2.5], "optim.lr=1e-4", "streams.video.mask.ratio=0.3")
    make_run(tmp_path / "begun", [])
    return tmp_path


def test_runs_are_listed_with_what_became_of_them(runs):
    rows = {row["run"].rpartition("/")[2]: row for row in list_runs(runs)}
    assert {name: (row["step"], row["finished"]) for name, row in rows.items()} == {
        "done": (4, True),
        "going": (2, False),
        "begun": (0, False),
    }
    assert rows["going"]["metrics"] == {"loss": 2.5, "lr": 0.1} and rows["begun"]["logged"] is None
    with pytest.raises(UserError, match="no runs below it"):
        list_runs(runs / "nowhere")


def test_a_run_that_max_steps_cut_short_is_not_finished(tmp_path):
    for name, losses, total in (("cut", [3.0, 2.0], 40), ("whole", [3.0, 2.0], 2), ("old", [3.0, 2.0], None)):
        run = make_run(tmp_path / name, losses, "loop.max_steps=2", total_steps=total)
        (run / WEIGHTS).write_bytes(b"")
    rows = {row["run"].rpartition("/")[2]: (row["finished"], row["state"]) for row in list_runs(tmp_path)}
    assert rows == {
        "cut": (False, "stopped by loop.max_steps at 2 of 40 steps"),
        "whole": (True, "finished"),
        "old": (False, "stopped by loop.max_steps at 2 steps"),
    }
    shown = CliRunner().invoke(cli.app, ["runs", "list", str(tmp_path)]).output
    assert "; stopped by loop.max_steps at 2 of 40 steps" in shown and shown.count("finished") == 1


def test_a_run_whose_recipe_was_edited_does_not_hide_the_others(runs):
    (runs / "begun" / "recipe.yaml").write_text((runs / "begun" / "recipe.yaml").read_text().replace("0.001", "0.002"))
    rows = list_runs(runs)
    assert len(rows) == 3 and ["edited after the run" in row.get("error", "") for row in rows].count(True) == 1


def test_a_run_is_shown_with_its_record(runs):
    shown = show_run(runs / "done")
    assert shown["command"] == "bevt train video" and shown["processes"] == 2 and shown["checkpoints"] == []
    assert shown["datasets"] == {"video": "somewhere"}
    with pytest.raises(UserError, match="expected the directory of a run"):
        show_run(runs)


def test_runs_are_compared_by_curve_and_by_setting(runs):
    pair = [runs / "done", runs / "deep" / "going"]
    compared = compare_runs(pair, ["loss"], runs / "curves.png")
    assert set(compared["different"]) == {"optim.lr", "streams.video.mask.ratio"}
    assert compared["last"] == {str(pair[0]): 1.0, str(pair[1]): 2.5}
    assert Image.open(io.BytesIO((runs / "curves.png").read_bytes())).format == "PNG"
    with pytest.raises(UserError, match=r"no run has 'los'.*did you mean 'loss'"):
        compare_runs(pair, ["los"], runs / "curves.png")


def test_a_name_with_dollar_signs_is_no_formula():
    assert curves_png({r"cost $\frac$": ([0.0, 1.0], [0.0, 1.0])}, "step", "loss").startswith(b"\x89PNG")


def test_long_curves_are_averaged_down():
    steps, values = averaged([(step, 2.0 * step) for step in range(10 * POINTS)])
    assert len(steps) == POINTS and steps[0] == 4.5 and values[-1] == 2 * steps[-1]
    assert averaged([(3, 1.0)]) == ([3.0], [1.0])
