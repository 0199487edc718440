"""The training loop on a toy task: resuming, stopping, accumulation, bad steps, hooks."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from schemas.errors import UserError
from tests.support.toy_run import CPU, LOOP, OPTIM, STEPS, ToySource, ToyTask, losses, run
from trainer.engine import loop as loop_module
from trainer.engine.loop import fit
from trainer.engine.optim import build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.engine.step_log import StepLog
from trainer.engine.tally import perplexity
from trainer.engine.task import split
from trainer.metrics.log import read_metrics


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    task, result = run(folder)
    assert result.finished and result.step == STEPS
    return task.model.state_dict(), losses(folder)


def test_the_log_has_a_line_per_step(tmp_path):
    run(tmp_path)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert lines[0]["loss"] == pytest.approx(lines[0]["all_loss"] + 0.5 * lines[0]["some_loss"])
    assert 0 <= lines[0]["all_big"] <= 1
    assert lines[0]["all_class_perplexity"] == pytest.approx(4)
    assert lines[0]["lr"] == pytest.approx(0.005)
    assert {"grad_norm", "data_wait_s", "data_wait_share", "step_s", "samples_per_s"} <= lines[0].keys()
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_resuming_gives_the_same_weights_and_losses_to_the_bit(tmp_path, straight, stop_at):
    run(tmp_path, max_steps=stop_at)
    task, result = run(tmp_path, resume=True)
    assert result.finished
    assert losses(tmp_path) == straight[1]
    assert all(torch.equal(value, straight[0][key]) for key, value in task.model.state_dict().items())


def test_steps_after_the_checkpoint_are_repeated_and_logged_once(tmp_path, straight):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, hooks=[lambda done: {} if done < 6 else {"x": 1 / 0}])
    assert len(read_metrics(tmp_path)) == 5  # the newest checkpoint is of step 3
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a line that the crash truncated
    run(tmp_path, resume=True)
    assert losses(tmp_path) == straight[1]


def test_a_truncated_checkpoint_costs_steps_and_not_the_run(tmp_path, straight, capsys):
    run(tmp_path, max_steps=5)
    torn = tmp_path / "checkpoints" / "step-00000005" / "training.pt"
    torn.write_bytes(torn.read_bytes()[:100])
    run(tmp_path, resume=True)
    assert losses(tmp_path) == straight[1]
    assert "step-00000005: skipped, training.pt is truncated" in capsys.readouterr().err


def test_no_complete_checkpoint_is_an_error_and_none_at_all_is_a_start(tmp_path, straight):
    run(tmp_path / "new", resume=True)
    assert losses(tmp_path / "new") == straight[1]
    run(tmp_path / "torn", max_steps=2)
    (tmp_path / "torn" / "checkpoints" / "step-00000002" / "checkpoint.json").unlink()
    with pytest.raises(UserError, match="none of the checkpoints is complete"):
        run(tmp_path / "torn", resume=True)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_ends_the_run(tmp_path, straight, signum):
    def interrupt(done):
        if done == 4:
            os.kill(os.getpid(), signum)
        return {}

    _, result = run(tmp_path, hooks=[interrupt])
    assert not result.finished and result.step == 5  # the step that was begun is finished
    assert result.interrupted == (signum == signal.SIGINT)
    assert result.checkpoint == tmp_path / "checkpoints" / "step-00000005"
    run(tmp_path, resume=True)
    assert losses(tmp_path) == straight[1]


def test_resuming_a_finished_run_does_nothing(tmp_path, straight):
    run(tmp_path)
    _, result = run(tmp_path, resume=True)
    assert result.finished and losses(tmp_path) == straight[1]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(tmp_path, max_steps=3, identity={"data.video": "abc"})
    with pytest.raises(UserError, match=r"data\.video: 'abc' in the checkpoint, 'xyz' now"):
        run(tmp_path, resume=True, identity={"data.video": "xyz"})


def test_accumulation_is_exact(tmp_path):
    """Without dropout, which depends on the split; 4 micro-batches of 6 samples have unequal sizes and targets."""
    for name, parts in (("whole", 1), ("cut", 4)):
        task = ToyTask()
        task.model[1].p = 0.0
        fit(
            task,
            ToySource(micro_batches=parts),
            build_optimizer(task.model, OPTIM),
            CosineSchedule(STEPS, 2, 0.1, 0.0),
            optim=OPTIM,
            loop=LOOP,
            world=CPU,
            run_dir=tmp_path / name,
            identity={},
            resume=False,
        )
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def test_a_bad_batch_is_skipped_and_its_samples_are_named(tmp_path, capsys):
    task, result = run(tmp_path, source=ToySource(poison=("4-1",), micro_batches=3))
    assert result.finished
    assert all(torch.isfinite(value).all() for value in task.model.state_dict().values())
    assert [line["step"] for line in read_metrics(tmp_path) if "skipped" in line] == [4]
    message = capsys.readouterr().err
    assert "step 4" in message and "4-0, 4-1" in message and "4-2" not in message


def test_bad_batches_in_a_row_stop_the_run_and_name_the_samples(tmp_path):
    poison = tuple(f"{step}-2" for step in range(2, STEPS))
    with pytest.raises(UserError, match=r"step 5: loss nan.*5-2.*4 such steps in a row, loop\.max_bad_steps is 3"):
        run(tmp_path, source=ToySource(poison))
    assert len(read_metrics(tmp_path)) == 6


def test_the_log_stays_valid_json_when_a_loss_is_not_a_number(tmp_path):
    run(tmp_path, source=ToySource(poison=("4-1",)))
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path, precision):
    run(tmp_path, precision=precision, max_steps=3)
    run(tmp_path, precision=precision, resume=True)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def test_a_hook_adds_to_the_log_and_cannot_leave_the_model_in_eval(tmp_path, straight):
    task = ToyTask()
    fit(
        task,
        ToySource(),
        build_optimizer(task.model, OPTIM),
        CosineSchedule(STEPS, 2, 0.1, 0.0),
        optim=OPTIM,
        loop=LOOP,
        world=CPU,
        run_dir=tmp_path,
        identity={},
        resume=False,
        hooks=[lambda done: {"val": float(done)} if task.model.eval() and done % 4 == 0 else {}],
    )
    assert {line["step"]: line["val"] for line in read_metrics(tmp_path) if "val" in line} == {3: 4.0, 7: 8.0}
    assert losses(tmp_path) == straight[1]


@pytest.mark.parametrize("ahead", [False, True], ids=["reads each step", "queues the next first"])
def test_a_step_may_be_read_while_the_next_one_runs(tmp_path, straight, monkeypatch, ahead):
    """As on a GPU: losses, weights, and the effect of a bad step, a signal and a resume are the same."""
    monkeypatch.setattr(loop_module, "runs_ahead", lambda device: ahead)
    task, result = run(tmp_path / "straight", checkpoint_every=100)
    assert result.finished and losses(tmp_path / "straight") == straight[1]
    assert all(torch.equal(value, straight[0][key]) for key, value in task.model.state_dict().items())

    task, _ = run(tmp_path / "bad", source=ToySource(poison=("4-1",)), checkpoint_every=100)
    assert [line["step"] for line in read_metrics(tmp_path / "bad") if "skipped" in line] == [4]
    assert all(torch.isfinite(value).all() for value in task.model.state_dict().values())

    def interrupt(done):
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    _, result = run(tmp_path / "stopped", hooks=[interrupt], checkpoint_every=100)
    assert not result.finished and result.step == (6 if ahead else 5)
    assert len(read_metrics(tmp_path / "stopped")) == result.step
    run(tmp_path / "stopped", resume=True)
    assert losses(tmp_path / "stopped") == straight[1]


def test_a_step_that_is_not_finite_changes_neither_weights_nor_the_optimizer(tmp_path):
    """The optimizer's own kernel skips the step: the reference makes the same steps without the bad one."""
    bad, good = tmp_path / "bad", tmp_path / "good"
    task, _ = run(bad, source=ToySource(poison=("0-1",)), max_steps=1)
    untouched = ToyTask()
    for key, value in task.model.state_dict().items():
        assert torch.equal(value, untouched.model.state_dict()[key])
    run(good, max_steps=1)
    state = torch.load(bad / "checkpoints" / "step-00000001" / "training.pt", weights_only=True)["optimizer"]["state"]
    assert all(slot["step"] == 0 and not slot["exp_avg"].any() for slot in state.values())


def test_split_cuts_into_pieces_of_nearly_one_size():
    assert split(list("abcde"), 2) == [["a", "b"], ["c", "d", "e"]]
    assert [len(piece) for piece in split(torch.arange(7), 3)] == [2, 2, 3]


def test_perplexity_counts_the_classes_in_use():
    assert perplexity(torch.tensor([5.0, 5.0, 0.0])) == pytest.approx(2)
    assert perplexity(torch.tensor([0.0, 7.0])) == pytest.approx(1)


def test_the_progress_line_learns_of_the_first_step_so_that_the_first_line_has_a_rate():
    shown = []
    progress = SimpleNamespace(on_terminal=False, update=lambda done, *texts: shown.append(done))
    log = SimpleNamespace(write=lambda step, values: None)
    steps = StepLog(LOOP.model_copy(update={"log_every": 20}), 5, 50, log, CPU, None, 0, progress, None)
    for step in range(5, 50):
        steps.step = step
        steps.write({})
    assert shown == [6, 20, 40, 50]
