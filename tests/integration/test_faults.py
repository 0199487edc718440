"""kill -9 and full disks at every point of what is written: the rerun gives the bytes of an undisturbed run."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bevt_core.dataset.source_list import read_plan, read_sources
from bevt_core.models.build import build_classifier
from bevt_core.storage.one_writer import hold
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.training import DvaeTrainingModule
from bevt_core.weights.export import save_hub_folder
from bevt_core.weights.model_files import load_weights
from pipeline.job.plan import write_or_check_plan
from schemas.errors import UserError
from schemas.recipes import TokenizerRecipe
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.faults import CALLS, calls_of, copy_of, full_at, killed_at, left_over, limited_to
from tests.support.tiny_jobs import digests
from trainer.engine.checkpoint import Checkpoints, state_of
from trainer.recipes import TRAINER_RECIPES
from trainer.show import paper_report
from trainer.tokenizer.stage import _store

SIZES: dict[str, Any] = {"embed_dim": 8, "depths": (1,), "num_heads": (1,), "window": (2, 2, 2), "patch": (2, 8, 8)}


@dataclass(frozen=True)
class Case:
    """What is there before, what is done, and a check that what is there can be used, whatever happened."""

    before: Callable[[Path], object]
    job: Callable[[Path], object]
    check: Callable[[Path], object]


def save(step: int) -> Callable[[Path], object]:
    def job(place: Path) -> None:
        torch.manual_seed(step)
        checkpoints = Checkpoints(place / "checkpoints", keep=1)
        checkpoints.newest(print)  # as a resumed run would
        checkpoints.save(step, state_of(nn.Linear(64, 64)), {"step": step}, {"loop.seed": 0})

    return job


def newest_is_whole(place: Path) -> None:
    assert Checkpoints(place / "checkpoints", 1).newest(print) is not None


def export(place: Path) -> None:
    torch.manual_seed(0)
    with contextlib.suppress(UserError):  # it exists
        save_hub_folder(place / "hub", build_classifier(**SIZES, num_classes=2), {"README.md": "# card\n"})


def hub_is_whole_or_absent(place: Path) -> None:
    if (place / "hub").exists():
        load_weights(place / "hub" / "model.safetensors")


def store(step: int) -> Callable[[Path], object]:
    recipe = load_recipe("nano_tokenizer", TRAINER_RECIPES, ['frames=["x"]', "input_px=32"])
    assert isinstance(recipe, TokenizerRecipe)

    def job(place: Path) -> None:
        torch.manual_seed(step)
        module = DvaeTrainingModule(DvaeSizes(n_hid=8, n_blk_per_group=1, n_init=16, vocab_size=32), "mse")
        with hold(place, "bevt tokenizer train"):
            _store(module, place / "tokenizer", recipe, step)

    return job


def tokenizer_is_whole_or_absent(place: Path) -> None:
    if (place / "tokenizer").exists():
        load_tokenizer(place / "tokenizer")


def report(place: Path) -> None:
    paper_report.write_report([], place / "report")


def no_file_is_cut(place: Path) -> None:
    assert all(file.stat().st_size > 100 for file in (place / "report").glob("report.*"))


def dataset(place: Path) -> None:
    make_token_set(place, num_samples=4, sources_per_part=2, kind="image")


def overwrite(place: Path) -> None:
    """With the plan and the sources of the same pictures under another seed."""
    frames = place.with_name("before") / "frames"
    plan, items = read_plan(frames), read_sources(frames)
    assert plan is not None
    write_or_check_plan(place / "frames", plan.model_copy(update={"seed": 7}), items, overwrite=True)


def nothing(place: Path) -> None:
    pass


CASES = {
    "checkpoint": Case(save(1), save(2), newest_is_whole),
    "export": Case(nothing, export, hub_is_whole_or_absent),
    "tokenizer of another step": Case(store(1), store(2), tokenizer_is_whole_or_absent),
    "report": Case(nothing, report, no_file_is_cut),
    "overwrite": Case(dataset, overwrite, nothing),
}


COMMITS = ("rename", "replace", "link")  # what the quick test tries of all calls


def cases(*quick: str) -> list[Any]:
    """All of them, slow but for `quick`."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in CASES]


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(paper_report, "facts_of", lambda directories: [])
    (tmp_path / "before").mkdir()
    CASES[request.param].before(tmp_path / "before")
    return CASES[request.param]


@pytest.fixture
def undisturbed(case: Case, tmp_path: Path) -> dict[str, str]:
    case.job(copy_of(tmp_path / "before", tmp_path / "undisturbed"))
    return digests(tmp_path / "undisturbed")


@pytest.mark.parametrize("case", ["checkpoint", "overwrite"], indirect=True)
def test_killed_at_a_commit_and_run_again(case: Case, undisturbed: dict[str, str], tmp_path: Path) -> None:
    killed_and_run_again(case, undisturbed, tmp_path, COMMITS)


@pytest.mark.parametrize("case", cases(), indirect=True)
def test_killed_anywhere_and_run_again(case: Case, undisturbed: dict[str, str], tmp_path: Path) -> None:
    killed_and_run_again(case, undisturbed, tmp_path, CALLS)


def killed_and_run_again(case: Case, undisturbed: dict[str, str], tmp_path: Path, names: tuple[str, ...]) -> None:
    """At each of these calls."""
    calls = calls_of(case.job, copy_of(tmp_path / "before", tmp_path / "place"))
    points = [point for point, name in enumerate(calls) if name in names]
    assert points
    for point in points:
        place = copy_of(tmp_path / "before", tmp_path / "place")
        killed_at(case.job, place, point)
        case.check(place)
        case.job(place)
        assert digests(place) == undisturbed and not left_over(place), f"killed at {calls[point]}, point {point}"


@pytest.mark.parametrize("case", cases("checkpoint", "overwrite"), indirect=True)
def test_a_disk_that_fills_up_anywhere(case: Case, undisturbed: dict[str, str], tmp_path: Path) -> None:
    point = 0
    while said := full_at(case.job, place := copy_of(tmp_path / "before", tmp_path / "place"), point):
        assert str(place) in said and "the disk is full (" in said and " free); free some space" in said
        case.check(place)
        case.job(place)
        assert digests(place) == undisturbed and not left_over(place), f"full at fsync {point}"
        point += 1
    assert point > 1


@pytest.mark.parametrize("case", cases("checkpoint"), indirect=True)
def test_files_that_may_not_grow(case: Case, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """A real limit of the kernel, of the size of files."""
    met = 0
    for num_bytes in (0, 1000, 10_000):
        place = copy_of(tmp_path / "before", tmp_path / "place")
        said = limited_to(case.job, place, num_bytes)
        if said:
            met += 1
            assert str(place) in said and "larger than this process may write (`ulimit -f`)" in said
            case.check(place)
            case.job(place)
        assert digests(place) == undisturbed and not left_over(place)
    assert met


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_files_have_the_users_umask(case: Case, tmp_path: Path) -> None:
    place = copy_of(tmp_path / "before", tmp_path / "place")
    old = {path: path.stat().st_ino for path in place.rglob("*")}
    before = os.umask(0o027)
    try:
        case.job(place)
    finally:
        os.umask(before)
    new = [path for path in place.rglob("*") if old.get(path) != path.stat().st_ino]
    modes = {oct(path.stat().st_mode & 0o777) for path in new if path.is_file()}
    assert modes == {"0o640"} and {oct(path.stat().st_mode & 0o777) for path in new if path.is_dir()} <= {"0o750"}
