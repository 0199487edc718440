"""Logging to Weights & Biases with the real package, offline, read back from the file that it writes."""

import json
import sys
import time

import pytest

from schemas.errors import UserError
from tests.support.toy_run import run
from trainer.metrics.log import read_metrics

wandb = pytest.importorskip("wandb", reason="pip install 'bevt[wandb]'")

BLOCK, HEADER = 32768, 7  # bytes; after its own header, a .wandb file is a LevelDB log
LOGGED = ("run", "history")
FULL, LAST = 1, 4  # types of the chunks that end a record


@pytest.fixture(autouse=True)
def nothing_stays():
    """The package keeps its settings, and a process, from one run to the next."""
    yield
    wandb.teardown()


def records(path):
    """The records of a .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, held, found = path.read_bytes(), HEADER, b"", []
    while at + HEADER <= len(content):
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        held += content[at + HEADER : at + HEADER + size]
        if kind in (FULL, LAST):
            found.append(Record.FromString(held))
            held = b""
        at += HEADER + size
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
    return found


@pytest.mark.slow
def test_a_run_and_its_resume_are_one_with_the_losses_of_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(sys, "argv", ["bevt", "--api-key", "planted-in-option"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("optim: {lr: 0.5}\n")
    run(tmp_path / "run", max_steps=1)
    assert not (tmp_path / "run" / "wandb").exists()
    for max_steps in (2, 4):
        run(tmp_path / "run", resume=True, max_steps=max_steps, wandb="bevt")
        wandb.teardown()  # before this its process may still be writing
        time.sleep(1)  # its folder names have a resolution of one second
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    first, second = ([r for r in records(path) if r.WhichOneof("record_type") in LOGGED] for path in files)
    ids = {record.run.run_id for record in first + second if record.run.run_id}
    assert len(ids) == 1
    begun = next(record.run for record in first if record.run.run_id)
    assert (begun.project, begun.display_name) == ("bevt", "run")
    assert [json.loads(u.value_json) for u in begun.config.update if u.key == "optim"] == [{"lr": 0.5}]
    logged = [(r.history.step.num, loss_of(r.history)) for r in first + second if r.HasField("history")]
    assert not any(b"planted" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert logged == [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "run")[1:]]


def loss_of(history):
    return next(json.loads(i.value_json) for i in history.item if "loss" in (i.key, *i.nested_key))


def test_without_a_key_the_error_names_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"'bevt': .*No API key.*WANDB_MODE=offline"):
        run(tmp_path / "run", max_steps=1, wandb="bevt")
