"""Reading the log of a run: its end, and lines that are refused."""

import json
from pathlib import Path

import pytest

from schemas.errors import UserError
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from trainer.metrics.log import METRICS_FILE, MetricsLog, last_step, read_metrics, recent_metrics
from trainer.runs.browse import list_runs, show_run
from trainer.runs.directory import open_run

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"


@pytest.mark.parametrize(
    "line, problem",
    [
        ('{"loss": 1.0}', "no step, expected one in every line"),
        ('{"step": "1"}', "step is '1', expected a whole number"),
        ('{"step": null, "loss": 1.0}', "step is None, expected a whole number"),
        ('{"step": 1, "loss": "low"}', "'loss' is 'low', expected a number or null"),
        ('{"step": 1, "step_s": [1]}', r"'step_s' is \[1\], expected a number or null"),
    ],
)
def test_a_line_of_a_log_that_is_no_step_is_named(tmp_path: Path, line: str, problem: str) -> None:
    """Both when a run is resumed and when it is shown."""
    open_run(
        tmp_path,
        load_recipe_of(PretrainRecipe, "nano_video", RECIPES),
        {},
        resume=False,
        command="x",
        world_size=1,
    )
    (tmp_path / METRICS_FILE).write_text(f'{{"step": 0, "loss": null}}\n{line}\n{{"step": 2}}\n')
    for read in (read_metrics, last_step, show_run, lambda run: MetricsLog(run, 2)):
        with pytest.raises(UserError, match=rf"metrics\.jsonl, line 2: {problem}"):
            read(tmp_path)
    (row,) = list_runs(tmp_path)
    assert "line 2" in row["error"]


@pytest.mark.parametrize("steps", [0, 1, 50, 51, 300, 5000])
@pytest.mark.parametrize("torn", ["", '{"step": 9', "x" * 70_000])
def test_the_end_of_a_log_is_that_of_the_whole(tmp_path: Path, steps: int, torn: str) -> None:
    lines = [json.dumps({"step": step, "loss": step / 7, "x" * (step % 900): 1.0}) for step in range(steps)]
    (tmp_path / METRICS_FILE).write_text("".join(f"{line}\n" for line in lines) + torn)
    for count in (1, 50, 4000):
        assert recent_metrics(tmp_path, count) == read_metrics(tmp_path)[-count:]


def test_the_start_of_a_long_log_is_not_read(tmp_path: Path) -> None:
    good = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(20_000))
    (tmp_path / METRICS_FILE).write_text("not JSON\n" + good)
    assert [line["step"] for line in recent_metrics(tmp_path, 3)] == [19_997, 19_998, 19_999]
    (tmp_path / METRICS_FILE).write_text(good + "not JSON\n")
    with pytest.raises(UserError, match=rf"the end of {tmp_path}/metrics\.jsonl, line \d+, line 1, column 1: not JSON"):
        recent_metrics(tmp_path, 3)
    (tmp_path / METRICS_FILE).unlink()
    assert recent_metrics(tmp_path, 3) == []
