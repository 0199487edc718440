"""Reading run directories: listing, status, progress and comparison."""

import errno
import io
import json
import os
import re
import shlex
import signal
import socket
import time
from datetime import UTC, datetime

import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from bevt_core.reporting.charts import curves_png
from bevt_core.storage.locks import file_locks
from bevt_core.storage.one_writer import hold
from bevt_core.storage.staging import WRITER
from schemas.errors import UserError
from schemas.recipes.loading import load_recipe
from schemas.runs import DatasetRef
from tests.support.processes import Holder
from trainer.recipes import TRAINER_RECIPES
from trainer.runs.browse import POINTS, averaged, compare_runs, list_runs, show_run
from trainer.runs.directory import WEIGHTS, check_repeats, open_run, resume_command

DATA = {"video": DatasetRef(path="somewhere", digest="abc")}


def make_run(folder, losses, *settings, total_steps=None, device=None):
    recipe = load_recipe("nano_video", TRAINER_RECIPES, ["optim.lr=1.0e-3", *settings])
    facts = {"command": "bevt train video", "world_size": 2, "total_steps": total_steps, "device": device}
    open_run(folder, recipe, DATA, resume=False, **facts)
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


def test_runs_are_listed_with_their_progress(runs, json_keys):
    listed = list_runs(runs)
    json_keys("runs list", {"runs": listed})
    rows = {row["run"].rpartition("/")[2]: row for row in listed}
    assert {name: (row["step"], row["finished"]) for name, row in rows.items()} == {
        "done": (4, True),
        "going": (2, False),
        "begun": (0, False),
    }
    assert rows["going"]["metrics"] == {"loss": 2.5, "lr": 0.1} and rows["begun"]["logged"] is None
    (runs / "empty").mkdir()
    with pytest.raises(UserError, match="no runs below it"):
        list_runs(runs / "empty")
    with pytest.raises(UserError, match="a file; expected a folder that contains runs"):
        list_runs(runs / "done" / "metrics.jsonl")
    with pytest.raises(UserError, match="no such file or folder; expected a folder that contains runs"):
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
    assert "  stopped by loop.max_steps at 2 of 40 steps" in shown and shown.count("finished") == 1


def test_a_run_whose_recipe_was_edited_does_not_hide_the_others(runs):
    (runs / "begun" / "recipe.yaml").write_text((runs / "begun" / "recipe.yaml").read_text().replace("0.001", "0.002"))
    rows = list_runs(runs)
    assert len(rows) == 3 and ["edited after the run" in row.get("error", "") for row in rows].count(True) == 1


def test_a_run_is_shown_with_its_record(runs, json_keys):
    shown = show_run(runs / "done")
    json_keys("runs show", shown)
    assert shown["command"] == "bevt train video" and shown["processes"] == 2 and shown["checkpoints"] == []
    assert shown["datasets"] == {"video": "somewhere"}
    with pytest.raises(UserError, match="expected the directory of a run"):
        show_run(runs)


def test_runs_are_compared_by_curve_and_by_setting(runs, json_keys):
    pair = [runs / "done", runs / "deep" / "going"]
    compared = compare_runs(pair, ["loss"], runs / "curves.png")
    json_keys("runs compare", compared)
    assert set(compared["different"]) == {"optim.lr", "streams.video.mask.ratio"}
    assert compared["last"] == {str(pair[0]): 1.0, str(pair[1]): 2.5}
    assert Image.open(io.BytesIO((runs / "curves.png").read_bytes())).format == "PNG"
    with pytest.raises(UserError, match=r"no run has logged 'los'.*did you mean 'loss'"):
        compare_runs(pair, ["los"], runs / "curves.png")


def test_a_comparison_is_one_table_with_curves(tmp_path):
    losses = [4.0 - step / 16 for step in range(48)]
    long = make_run(tmp_path / "long" / "run", losses, "optim.lr=1e-4", total_steps=48, device="NVIDIA H100")
    short = make_run(tmp_path / "short" / "run", losses[:24], total_steps=24)
    command = ["runs", "compare", str(long), str(short), "--out", str(tmp_path / "c.png")]
    shown = CliRunner().invoke(cli.app, command).stdout
    lines = {line.split("  ")[0]: line for line in shown.splitlines()}
    assert lines[""].split() == ["long/run", "short/run"]
    assert lines["optim.lr"].split()[1:] == ["0.0001", "0.001"] and lines["device"].split()[1:3] == ["NVIDIA", "H100"]
    assert lines["step"].split()[1:] == ["48", "24"] and lines["loss"].split()[1:] == ["1.062", "2.562"]
    assert "streams.video.mask.ratio" not in shown and "{" not in shown
    curves = compare_runs([long, short], None, tmp_path / "c.png")["curves"]["loss"]
    assert [curves[str(run)].rstrip() for run in (long, short)] == [FALLING, FALLING[:12]]
    found = json.loads(CliRunner().invoke(cli.app, [*command, "--json"]).stdout)
    assert {"picture", "different", "last"} <= found.keys() and found["last"][str(long)] == losses[-1]


def test_runs_of_different_kinds_are_compared_by_what_both_have(runs):
    recipe = load_recipe("nano_finetune", TRAINER_RECIPES)
    open_run(runs / "tuned", recipe, {}, resume=False, command="bevt finetune", world_size=1)
    command = ["runs", "compare", str(runs / "done"), str(runs / "tuned"), "--out", str(runs / "c.png")]
    shown = CliRunner().invoke(cli.app, command).stdout
    lines = {line.split("  ")[0]: line for line in shown.splitlines()}
    assert lines["kind"].split()[1:] == ["pretrain", "finetune"] and "loop.epochs" in lines
    assert "streams.video.mask.ratio" not in shown and "label_smoothing" not in shown
    assert "the runs are of different kinds, finetune and pretrain: their losses and steps" in shown
    assert re.search(r"\n\d+ settings that only one kind has are not shown \(all with --json\)\n", shown)


def test_a_shown_run_has_one_state_and_no_empty_values(runs):
    shown = CliRunner().invoke(cli.app, ["runs", "show", str(runs / "done")]).stdout
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert lines["state"] == ["finished"] and lines["steps"][:2] == ["4", "of"]
    assert not lines.keys() & {"status", "finished", "left_s", "writer", "total_steps"}


FALLING = "".join(map(chr, [0x2588] * 2 + [0x2587] * 3 + [0x2586] * 4 + [0x2585] * 3 + [0x2584] * 3 + [0x2583] * 4))
FALLING += "".join(map(chr, [0x2582] * 3 + [0x2581] * 2))
STEP_S = 2.0


def silent_run(folder, silent_s, *, steps=10, saved=None, opened_s=10_000.0):
    """Write a run of 40 steps, started `opened_s` ago, silent for `silent_s`, with a checkpoint of step `saved`.

    Its lock file names another host, whose locks may not be visible here.
    """
    run = make_run(folder, [], total_steps=40)
    now = time.time()
    record = json.loads((run / "run.json").read_text())
    record["started"] = datetime.fromtimestamp(now - opened_s, UTC).isoformat(timespec="seconds")
    (run / "run.json").write_text(json.dumps(record))
    lines = [json.dumps({"step": step, "loss": 3.0, "step_s": STEP_S}) for step in range(steps)]
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    os.utime(run / "metrics.jsonl", (now - silent_s, now - silent_s))
    owner = {"host": "another", "pid": 1, "command": "bevt train", "since": "2026-01-01T00:00:00Z"}
    (run / WRITER).write_text(json.dumps(owner) + "\n")
    if saved is not None:
        (run / "checkpoints" / f"step-{saved:08d}").mkdir(parents=True)
    return run


def test_the_last_log_line_decides_whether_a_run_is_alive_stopped_or_dead(tmp_path):
    silent_run(tmp_path / "alive", 5)
    silent_run(tmp_path / "dead", 3600, saved=8)
    silent_run(tmp_path / "stopped", 3600, saved=10)
    silent_run(tmp_path / "stopped-in-validation", 3600, saved=11)
    silent_run(tmp_path / "resumed", 8000, saved=10, opened_s=60)
    silent_run(tmp_path / "starting", 0, steps=0, opened_s=60)
    silent_run(tmp_path / "never-began", 0, steps=0, opened_s=7200)
    rows = {row["run"].rpartition("/")[2]: row for row in list_runs(tmp_path)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "alive": "alive",
        "dead": "dead",
        "stopped": "stopped",
        "stopped-in-validation": "stopped",
        "resumed": "alive",
        "starting": "alive",
        "never-began": "dead",
    }
    assert rows["alive"]["total_steps"] == 40 and rows["alive"]["left_s"] == pytest.approx(30 * STEP_S)
    assert rows["dead"]["left_s"] is None and 3600 <= rows["dead"]["silent_s"] < 3700
    shown = CliRunner().invoke(cli.app, ["runs", "list", str(tmp_path)]).stdout
    assert "10/40  25.0%  3.000" in shown and "0:01:00  alive" in shown and "dead, last step 1:00:0" in shown


def test_a_killed_run_is_dead_at_once(tmp_path):
    run = silent_run(tmp_path / "run", 5)
    with Holder("hold", run, "bevt train video") as writer:
        shown = show_run(run)
        assert shown["status"] == "alive"
        assert shown["writer"] == {"host": socket.gethostname(), "pid": writer.pid, "since": shown["writer"]["since"]}
        os.kill(writer.pid, signal.SIGSTOP)
        assert show_run(run)["status"] == "alive"
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        assert (run / WRITER).exists()
        assert (show_run(run)["status"], show_run(run)["writer"]) == ("dead", None)


def test_a_run_that_ended_is_not_alive(tmp_path):
    run = silent_run(tmp_path / "run", 5, saved=10)
    (run / WRITER).unlink()
    assert show_run(run)["status"] == "stopped"


def test_the_log_decides_if_locks_are_unavailable(tmp_path, monkeypatch):
    runs = {name: silent_run(tmp_path / name, silent_s) for name, silent_s in (("alive", 5), ("dead", 3600))}

    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(file_locks.fcntl, "fcntl", refuse)
    for run in runs.values():
        with hold(run, "bevt train"):
            (run / WRITER).read_text()  # left for other hosts, which may see locks
        assert show_run(run)["status"] == run.name


def test_a_run_in_a_long_validation_is_alive(tmp_path):
    run = silent_run(tmp_path / "run", 900)
    log = run / "metrics.jsonl"
    written_s = log.stat().st_mtime
    log.write_text(log.read_text().replace('"step_s": 2.0', '"step_s": 2.0, "hook_s": 400.0', 1))
    os.utime(log, (written_s, written_s))
    assert show_run(run)["status"] == "alive"


def test_dollar_signs_in_a_name_are_not_parsed_as_a_formula():
    assert curves_png({r"cost $\frac$": ([0.0, 1.0], [0.0, 1.0])}, "step", "loss").startswith(b"\x89PNG")


def test_long_curves_are_averaged_down():
    steps, values = averaged([(step, 2.0 * step) for step in range(10 * POINTS)])
    assert len(steps) == POINTS and steps[0] == 4.5 and values[-1] == 2 * steps[-1]
    assert averaged([(3, 1.0)]) == ([3.0], [1.0])


def test_a_run_is_resumed_by_what_started_it():
    assert resume_command("bevt train video --out a") == "bevt train video --out a --resume"
    assert resume_command("bevt train video --resume --out a") == "bevt train video --resume --out a"
    assert resume_command("bevt_core.run_finetuning") == "bevt_core.run_finetuning(..., resume=True)"


def test_resuming_a_repetition_needs_a_repetition(tmp_path):
    recipe, facts = load_recipe("nano_video", TRAINER_RECIPES, ()), {"resume": False, "world_size": 1}
    first, again = tmp_path / "first run", tmp_path / "again"
    open_run(first, recipe, DATA, command="bevt train video", **facts)
    open_run(again, recipe, DATA, command=shlex.join(["bevt", "train", "--from", str(first)]), **facts)
    check_repeats(again, first)
    check_repeats(tmp_path / "new", first)
    with pytest.raises(UserError, match=r"first run does not repeat .*its own command, .bevt train video --resume"):
        check_repeats(first, again)
