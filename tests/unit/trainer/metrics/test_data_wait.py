"""A run that waits for data prints once which option helps."""

import pytest

from bevt_core.storage.objects import ObjectPath
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.toy_run import ToySource, run
from trainer.clips.sources import FileClips
from trainer.data.clip_dataset import TokenDataset
from trainer.metrics import data_wait as data_wait_module
from trainer.metrics.data_wait import PERSISTS_S, DataWait, advice
from trainer.recipes import TRAINER_RECIPES
from trainer.setup.session import read_from


@pytest.mark.parametrize(
    ("workers", "cpus", "busy", "read_from", "expected"),
    [
        (4, 16, 0.4, "frames", "set loop.num_workers=12 (now 4, 16 CPUs per rank)"),
        (0, 2, 0.4, "frames", "set loop.num_workers=1 (now 0"),
        (0, 8, None, "files", "set loop.num_workers=7 "),
        (12, 16, 0.3, "frames", "local disk"),
        (12, 16, 0.3, "objects", "BEVT_CACHE"),
        (4, 16, 0.95, "files", "--frames-only"),
        (12, 16, 0.95, "frames", "more CPUs per GPU"),
    ],
)
def test_the_option_that_helps(workers, cpus, busy, read_from, expected):
    assert expected in advice(workers, cpus, busy, read_from)


class Dataset:
    def __init__(self, source=None):
        self.source = source


def test_the_kind_of_storage_that_a_run_reads(tmp_path):
    files, store = FileClips(tmp_path, (), ()), make_token_set(tmp_path / "data", num_samples=2)
    assert read_from({"class": (Dataset(files), None)}) == "files"
    assert read_from({"video": (Dataset(store), None)}) == "frames"
    mask = load_recipe("nano_video", TRAINER_RECIPES).streams["video"].mask
    clips = TokenDataset(store, name="video", seed=0, clip_frames=4, tubelet=2, mask=mask, cached_parts=1)
    assert read_from({"video": (clips, None)}) == "frames"
    clips.frames.path = ObjectPath("s3://bucket/frames")
    assert read_from({"image": (Dataset(), None), "video": (clips, None)}) == "objects"


def counted(steps, wait_s, step_s):
    printed: list[str] = []
    wait = DataWait(4, 16, "frames", printed.append)
    for _ in range(steps):
        wait.add(wait_s, step_s)
    return printed, wait


def test_the_note_is_printed_once_when_waiting_persists_or_at_the_end(monkeypatch):
    monkeypatch.setattr(data_wait_module, "_cpu_times", lambda: None)
    printed, wait = counted(int(PERSISTS_S) + 100, 0.87, 1.0)
    assert len(printed) == 1 and printed[0].startswith(
        "note: on average, steps waited for data for 87.0% of their time: set loop.num_workers=12"
    )
    wait.finish()
    assert len(printed) == 1
    printed, wait = counted(20, 0.87, 1.0)
    assert printed == []
    wait.finish()
    assert len(printed) == 1


def test_little_waiting_and_short_runs_give_no_note():
    for steps, wait_s, step_s in ((1000, 0.05, 1.0), (100, 0.009, 0.01)):
        printed, wait = counted(steps, wait_s, step_s)
        wait.finish()
        assert printed == []


def test_a_run_prints_the_note_at_its_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data_wait_module, "LEAST_S", 0.0)
    monkeypatch.setattr(data_wait_module, "WAITING", 0.0)
    run(tmp_path, source=ToySource(), data_wait=DataWait(0, 8, "frames"))
    assert capsys.readouterr().err.count("steps waited for data") == 1
