"""Checkpoints are written atomically, record their run, and count as complete only if their digests match."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from schemas.errors import UserError
from trainer.engine.checkpoint import (
    RECORD,
    TRAINING,
    WEIGHTS,
    Checkpoints,
    check_identity,
    fault_of,
    read_checkpoint,
    state_of,
)


def saved(folder, steps, keep=5, keep_every=None):
    model = nn.Linear(3, 2)
    checkpoints = Checkpoints(folder, keep, keep_every)
    for step in steps:
        with torch.no_grad():
            model.weight.fill_(step)
        checkpoints.save(step, state_of(model), {"optimizer": {"step": torch.tensor(step)}}, {"loop.seed": 0})
    return checkpoints


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    checkpoints = saved(tmp_path, [7])
    model = nn.Linear(3, 2)
    record, training = read_checkpoint(checkpoints.path_of(7), model, lambda identity: None)
    assert record.step == 7 and record.identity == {"loop.seed": 0}
    assert torch.equal(model.weight, torch.full((2, 3), 7.0))
    assert training["optimizer"]["step"] == 7


def test_a_tensor_with_two_names_is_saved_once_and_stays_shared(tmp_path):
    def tied():
        model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        return model

    Checkpoints(tmp_path, 1).save(1, state_of(model := tied()), {}, {})
    read_checkpoint(tmp_path / "step-00000001", other := tied(), lambda identity: None)
    assert torch.equal(other["b"].weight, model["a"].weight) and other["b"].weight is other["a"].weight


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3, 4], keep=2)
    assert [path.name for path in checkpoints.paths()] == ["step-00000003", "step-00000004"]


def test_multiples_of_keep_every_are_never_removed(tmp_path):
    checkpoints = saved(tmp_path, range(2, 13, 2), keep=2, keep_every=4)
    assert [int(path.name[5:]) for path in checkpoints.paths()] == [4, 8, 10, 12]


@pytest.mark.parametrize("name", [WEIGHTS, TRAINING])
def test_a_truncated_checkpoint_is_skipped_with_a_warning(tmp_path, name):
    checkpoints = saved(tmp_path, [1, 2])
    truncated = checkpoints.path_of(2) / name
    truncated.write_bytes(truncated.read_bytes()[:-1])
    warnings = []
    assert checkpoints.newest(warnings.append) == checkpoints.path_of(1)
    assert len(warnings) == 1 and str(truncated.parent) in warnings[0] and "truncated" in warnings[0]


@pytest.mark.parametrize("name", ["checkpoint.json", WEIGHTS])
def test_a_missing_file_makes_a_checkpoint_incomplete(tmp_path, name):
    checkpoints = saved(tmp_path, [1])
    (checkpoints.path_of(1) / name).unlink()
    assert fault_of(checkpoints.path_of(1)) == f"{name} is missing"
    assert checkpoints.newest(lambda message: None) is None


def test_a_truncated_checkpoint_is_replaced_when_its_step_is_repeated(tmp_path):
    checkpoints = saved(tmp_path, [3])
    (checkpoints.path_of(3) / WEIGHTS).write_bytes(b"")
    saved(tmp_path, [3])
    assert fault_of(checkpoints.path_of(3)) is None


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [1])

    write_bytes = Path.write_bytes

    def full_disk(path, data):
        write_bytes(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="disk is full"):
        checkpoints.save(2, state_of(nn.Linear(3, 2)), {}, {})
    assert checkpoints.newest(pytest.fail) == checkpoints.path_of(1)
    assert not list(tmp_path.rglob("*00000002*"))


def test_another_runs_checkpoint_is_refused_naming_both_values(tmp_path):
    then = {"loop.seed": 0, "streams.video.global_batch": 256, "data.video": "abc"}
    check_identity(tmp_path, then, dict(then))
    with pytest.raises(UserError, match=r"data\.video: 'abc' in the checkpoint, 'def' now") as error:
        check_identity(tmp_path, then, {**then, "data.video": "def", "streams.video.global_batch": 128})
    assert "streams.video.global_batch: 256 in the checkpoint, 128 now" in str(error.value)


@pytest.mark.parametrize("files", [{}, {"../other": "0" * 64}, {WEIGHTS: "0" * 64}])
def test_a_record_of_other_files_is_incomplete(tmp_path, files):
    path = saved(tmp_path, [1]).path_of(1)
    record = json.loads((path / RECORD).read_text())
    (path / RECORD).write_text(json.dumps({**record, "files": files}))
    assert "lists other files" in (fault_of(path) or "")
