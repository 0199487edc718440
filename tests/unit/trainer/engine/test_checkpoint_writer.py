"""Asynchronous checkpoints: complete, in order, and with errors raised as if the loop had waited for them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import trainer.engine.checkpoint as checkpoint_module
from tests.support.toy_run import losses, run
from trainer.engine.checkpoint import Checkpoints, fault_of
from trainer.engine.checkpoint_writer import CheckpointWriter
from trainer.metrics.log import read_metrics

WEIGHTS = {"w": torch.zeros(2)}
KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
import trainer.engine.checkpoint as module
from trainer.engine.checkpoint_writer import CheckpointWriter

weights, written = {"w": torch.zeros(2)}, module.write_record

def killed(path, record):
    if record.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written(path, record)

module.write_record = killed
with CheckpointWriter(module.Checkpoints(Path(sys.argv[1]), 5)) as writer:
    writer.save(1, weights, {}, {}, 0)
    writer.save(2, weights, {}, {}, 0)
"""


def test_the_loop_continues_while_a_checkpoint_is_written_and_the_next_one_waits(tmp_path, monkeypatch):
    begun, release, order = threading.Event(), threading.Event(), []
    save = Checkpoints.save

    def slow(self, step, *rest):
        begun.set()
        assert release.wait(30)
        order.append(step)
        return save(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", slow)
    with CheckpointWriter(Checkpoints(tmp_path, 5)) as writer:
        writer.save(1, WEIGHTS, {}, {}, 0)
        assert begun.wait(30) and not list(tmp_path.glob("step-*"))  # `save` has returned, nothing is written yet
        writer.check()  # does not wait either
        second = threading.Thread(target=writer.save, args=(2, WEIGHTS, {}, {}, 0))
        second.start()
        second.join(0.2)
        assert second.is_alive() and order == []
        release.set()
        second.join()
    assert order == [1, 2] and fault_of(tmp_path / "step-00000002") is None


def test_a_failure_of_the_writer_ends_the_run_and_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    written = checkpoint_module.write_record

    def full_disk(path, record):
        if record.step == 6:
            raise OSError(28, "No space left on device")
        written(path, record)

    monkeypatch.setattr(checkpoint_module, "write_record", full_disk)
    with pytest.raises(OSError, match="disk is full"):
        run(tmp_path, max_steps=8)
    assert len(read_metrics(tmp_path)) in (6, 7, 8)  # the error is raised at a later step, or at the end
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "checkpoints", 2).newest(pytest.fail).name == "step-00000003"
    run(tmp_path, resume=True)
    run(tmp_path / "straight")
    assert losses(tmp_path) == losses(tmp_path / "straight")


def test_the_saved_step_is_written_even_if_training_continues(tmp_path, monkeypatch):
    """The next step changes weights and optimizer while the thread still writes."""
    serialize, release = checkpoint_module.serialize, threading.Event()
    monkeypatch.setattr(checkpoint_module, "serialize", lambda tensors: release.wait(30) and serialize(tensors))
    run(tmp_path, hooks=[lambda done: release.set() or {} if done == 5 else {}], keep_checkpoints=5)
    monkeypatch.undo()
    for late in ("step-00000006", "step-00000008"):
        shutil.rmtree(tmp_path / "checkpoints" / late)
    run(tmp_path, resume=True)  # from step 3, which was serialized after step 5
    run(tmp_path / "straight")
    assert losses(tmp_path) == losses(tmp_path / "straight")


def test_kill_9_while_writing_leaves_the_previous_checkpoint(tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)], cwd=Path(__file__).parents[4], env=os.environ
    )
    assert killed.returncode == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path, 5)
    assert [path.name for path in checkpoints.paths()] == ["step-00000001"]
    assert checkpoints.newest(pytest.fail) == checkpoints.path_of(1)  # and the half-written one is removed
    assert not (tmp_path / ".staging").exists()
