"""kill -9 and full disks in whole commands: run again, they give the files of an undisturbed run."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bevt_core.models.build import build_classifier
from bevt_core.storage.files import write_record
from bevt_core.weights.model_files import save_weights
from schemas.evaluation import ClassifierCard
from schemas.recipes import ClipSampling, EvalViews, TokenizerRecipe
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.faults import calls_of, copy_of, full_at, killed_at, left_over, limited_to
from tests.support.tiny_jobs import digests
from trainer.clips.sources import StoreClips
from trainer.probes.probe import probe
from trainer.recipes import TRAINER_RECIPES
from trainer.testing.evaluate import evaluate
from trainer.tokenizer import stage as tokenizing
from trainer.tokenizer.stage import train_tokenizer

pytestmark = pytest.mark.slow

TIMED = ("metrics.jsonl", "run.json", "resumes.jsonl", "evaluation.json", "tensorboard")  # files with times in them
KILLS, FULL = 8, 4  # points that are tried, of all


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a classifier with random weights."""
    place = tmp_path_factory.mktemp("given")
    make_token_set(place / "data", num_samples=6, frames=4)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embed_dim": 8, "depths": (1,), "num_heads": (1,), "window": (2, 2, 2), "patch": (2, 8, 8)}
    model = build_classifier(**sizes, num_classes=2)
    torch.nn.init.normal_(model.fc.weight)
    save_weights(place / "run" / "weights.safetensors", model)
    views, sampling = EvalViews(clips=1, crops=1, short_side_px=32), ClipSampling(kind="dense", frames=4, interval=1)
    card = ClassifierCard(title="test", classes=("no", "yes"), sampling=sampling, crop_px=32, views=views)
    write_record(place / "run" / "classifier.json", card)
    return place


def run_evaluate(given: Path, place: Path) -> None:
    evaluate(given / "run", StoreClips(given / "data" / "frames"), out=place / "out")


def run_probe(given: Path, place: Path) -> None:
    clips = StoreClips(given / "data" / "frames")
    probe(given / "run", clips, clips, place / "out", kinds=["knn"])


def run_train_tokenizer(given: Path, place: Path) -> None:
    small = ["global_batch=2", "samples_per_epoch=4", "loop.epochs=2", "loop.checkpoint_every=1", "loop.num_workers=0"]
    settings = [*small, "loop.picture_every=2", "loop.keep_checkpoints=2", "optim.warmup_epochs=0"]
    recipe = load_recipe("nano_tokenizer", TRAINER_RECIPES, [f'frames=["{given / "data" / "frames"}"]', *settings])
    assert isinstance(recipe, TokenizerRecipe)
    train_tokenizer(recipe, place / "out", resume=True)


JOBS: dict[str, Callable[[Path, Path], None]] = {
    "evaluate": run_evaluate,
    "probe": run_probe,
    "tokenizer train": run_train_tokenizer,
}


@pytest.fixture(params=JOBS)
def job(request: pytest.FixtureRequest, given: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    monkeypatch.setattr(tokenizing, "HELD_OUT_CROPS", 16)
    return lambda place: JOBS[request.param](given, place)


def result_of(place: Path) -> dict[str, str]:
    """The digests of the files, less what is a time or was measured; of a checkpoint's record what it says."""
    found = {name: sha256 for name, sha256 in digests(place).items() if not set(TIMED) & set(Path(name).parts)}
    for checkpoint in place.rglob("checkpoint.json"):
        record = json.loads(checkpoint.read_text())
        found[str(checkpoint.relative_to(place))] = str({**record, "line": record["line"] and record["line"]["loss"]})
    evaluation = place / "out" / "evaluation.json"
    if evaluation.is_file():
        figures = json.loads(evaluation.read_text())
        found |= {key: str(value) for key, value in figures.items() if key not in ("seconds", "videos_per_second")}
    return found


def some(count: int, points: int) -> list[int]:
    return sorted(random.Random(points).sample(range(points), min(count, points)))


def test_killed_and_run_again(job: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    points = len(calls_of(job, copy_of(tmp_path / "empty", tmp_path / "whole")))
    whole = result_of(tmp_path / "whole")
    for point in some(KILLS, points):
        place = copy_of(tmp_path / "empty", tmp_path / "place")
        killed_at(job, place, point)
        job(place)
        assert result_of(place) == whole and not left_over(place), f"killed at point {point} of {points}"


def test_a_disk_that_fills_up(job: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    job(copy_of(tmp_path / "empty", tmp_path / "whole"))
    whole = result_of(tmp_path / "whole")
    for point in range(0, 10 * FULL, 10):
        place = copy_of(tmp_path / "empty", tmp_path / "place")
        said = full_at(job, place, point)
        assert not said or (str(place) in said and "the disk is full (" in said), said
        job(place)
        assert result_of(place) == whole and not left_over(place), f"full at fsync {point}"


def test_files_that_may_not_grow(job: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    job(copy_of(tmp_path / "empty", tmp_path / "whole"))
    whole = result_of(tmp_path / "whole")
    for num_bytes in (0, 200, 2000, 20_000):
        place = copy_of(tmp_path / "empty", tmp_path / "place")
        said = limited_to(job, place, num_bytes)
        assert not said or (str(place) in said and "larger than this process may write" in said), said
        job(place)
        assert result_of(place) == whole and not left_over(place), f"at most {num_bytes} bytes"
