"""Evaluations between steps run after the checkpoint, outside the step's time; a stopped one is repeated."""

import os
import signal
import time

import pytest
import torch

from tests.support.toy_run import STEPS, losses, run
from trainer.distributed.launch import launch
from trainer.distributed.world import join_world
from trainer.engine.checkpoint import CheckpointRecord
from trainer.engine.evaluations import Evaluation, StopTogether, every, stop_if
from trainer.metrics.log import read_metrics

SLOW_S = 0.1


class Judge:
    """Returns `val`. In the steps `signalled` a signal arrives, which is checked once per batch."""

    def __init__(self, signalled=(), signum=signal.SIGTERM, batches=3, slow_s=0.0):
        self.signalled, self.signum, self.batches, self.slow_s = signalled, signum, batches, slow_s
        self.begun: list[int] = []

    def __call__(self, steps_done, stop_asked):
        self.begun.append(steps_done)
        for batch in range(self.batches):
            time.sleep(self.slow_s)
            if batch == 0 and steps_done in self.signalled:
                os.kill(os.getpid(), self.signum)
            stop_if(stop_asked())
        return {"val": float(steps_done)}


def evaluation(judge, steps=4):
    return [Evaluation(every(steps, last=STEPS), judge)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    task, _ = run(folder, evaluations=evaluation(Judge()))
    return task.model.state_dict(), [(line["step"], line["loss"], line.get("val")) for line in read_metrics(folder)]


def logged(folder):
    return [(line["step"], line["loss"], line.get("val")) for line in read_metrics(folder)]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [4, 6, STEPS], ids=["a checkpoint is not due", "it is due", "the last step"])
def test_a_signal_ends_an_evaluation_which_runs_again(tmp_path, straight, signum, at):
    steps = 4 if at != 6 else 6
    judge = Judge(signalled=(at,), signum=signum)
    _, result = run(tmp_path, evaluations=evaluation(judge, steps))
    assert not result.finished and result.step == at and result.interrupted == (signum == signal.SIGINT)
    assert result.checkpoint == tmp_path / "checkpoints" / f"step-{at:08d}"
    assert len(read_metrics(tmp_path)) == at - 1
    again = Judge()
    task, result = run(tmp_path, resume=True, evaluations=evaluation(again, steps))
    assert result.finished and again.begun[0] == at
    assert [(step, loss) for step, loss, _ in logged(tmp_path)] == [(step, loss) for step, loss, _ in straight[1]]
    assert [step for step, _, val in logged(tmp_path) if val is not None] == [steps - 1, STEPS - 1]
    assert all(torch.equal(value, straight[0][key]) for key, value in task.model.state_dict().items())


def test_a_signal_before_an_evaluation_leaves_it_for_later(tmp_path, straight):
    def interrupt(done):
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    judge = Judge()
    _, result = run(tmp_path, hooks=[interrupt], evaluations=evaluation(judge))
    assert result.step == 4 and judge.begun == []
    run(tmp_path, resume=True, evaluations=evaluation(judge))
    assert judge.begun == [4, 8] and logged(tmp_path) == straight[1]


def test_a_crash_in_an_evaluation_loses_no_step(tmp_path, straight):
    """The checkpoint is written first: kill -9 during a long validation loses only the validation."""

    def crash(steps_done, stop_asked):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, evaluations=evaluation(crash, 6))
    again = Judge()
    run(tmp_path, resume=True, evaluations=evaluation(again, 6))
    assert again.begun == [6, 8] and losses(tmp_path) == [loss for _, loss, _ in straight[1]]


def test_a_completed_evaluation_does_not_run_again(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, evaluations=evaluation(Judge(), 6), hooks=[lambda done: {} if done < 7 else {"x": 1 / 0}])
    judge = Judge()
    run(tmp_path, resume=True, evaluations=evaluation(judge, 6))
    assert judge.begun == [8]
    _, result = run(tmp_path, resume=True, evaluations=evaluation(judge, 6))
    assert result.finished and judge.begun == [8]


def test_a_repeated_evaluation_that_is_stopped_runs_again(tmp_path, straight):
    run(tmp_path, evaluations=evaluation(Judge(signalled=(4,))))
    _, result = run(tmp_path, resume=True, evaluations=evaluation(Judge(signalled=(4,))))
    assert (result.step, result.finished) == (4, False)
    run(tmp_path, resume=True, evaluations=evaluation(Judge()))
    assert logged(tmp_path) == straight[1]


@pytest.mark.parametrize("ahead", [False, True], ids=["reads each step", "queues the next first"])
def test_the_time_of_an_evaluation_is_not_part_of_a_step(tmp_path, monkeypatch, ahead):
    monkeypatch.setattr("trainer.engine.loop.runs_ahead", lambda device: ahead)
    run(tmp_path, evaluations=evaluation(Judge(slow_s=SLOW_S)))
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if "hook_s" in line] == [3, 7]
    assert all(line["hook_s"] > 3 * SLOW_S for line in lines if "hook_s" in line)
    assert all(line["step_s"] < SLOW_S and line["samples_per_s"] > 6 / SLOW_S for line in lines)


def test_a_loss_that_is_not_a_number_survives_the_checkpoint(tmp_path):
    record = CheckpointRecord(step=1, bad_steps=0, identity={}, files={}, line={"loss": None, "lr": 0.1})
    assert CheckpointRecord.model_validate_json(record.model_dump_json()).line == {"loss": None, "lr": 0.1}


def stopped_on_one_rank(folder):
    """Runs in each of two processes: only rank 1 receives a signal, in an evaluation that the ranks share."""
    with join_world() as world:
        judge = Judge(signalled=(4,) if world.rank else (), batches=3 + world.rank)

        def shared(steps_done, stop_asked):
            with StopTogether(world) as ranks:
                judge(steps_done, stop_asked)
            return {"ranks": float(len(ranks.gather(None)))}

        _, result = run(folder, evaluations=evaluation(shared), world=world)
        return world.gather((result.step, result.finished))


@pytest.mark.slow
def test_ranks_stop_together(tmp_path, straight):
    assert launch(stopped_on_one_rank, 2, tmp_path) == [(4, False)] * 2
    assert len(read_metrics(tmp_path)) == 3
