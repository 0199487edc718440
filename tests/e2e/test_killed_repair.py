"""`bevt repair` and `tokenize --overwrite`, killed at their calls to the disk, or beside one who reads the dataset."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bevt_core.storage.one_writer import reading
from bevt_core.storage.staging import READERS
from pipeline.check import repair as repairing
from pipeline.check.repair import repair
from pipeline.job.run import tokenize
from schemas.errors import UserError
from tests.support.faults import calls_of, copy_of, killed_at, left_over
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_video
from tests.support.processes import elsewhere
from tests.support.tiny_jobs import digests, save_tiny_tokenizer, tiny_recipe

MOMENTS = ("rename", "replace", "link")  # calls that remove something whole, or commit it
TOKENS = "tokens/dvae-v2"


@dataclass(frozen=True)
class Made:
    """Raw videos, a tokenizer, a dataset of them in three parts, and a damaged copy of it."""

    raw: Path
    tokenizer: Path
    dataset: Path
    damaged: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    place = tmp_path_factory.mktemp("made")
    made = Made(place / "raw", save_tiny_tokenizer(place / "tokenizer"), place / "dataset", place / "damaged")
    for i in range(6):
        write_video(made.raw / f"{i}.mp4", moving_frames(4, 64, 64, seed=i))
    with without_ray():
        make(made, made.dataset)
        copy_of(made.dataset, made.damaged)
        for name in ("frames/part-00001/frames.zarr/jpeg/c/0", f"{TOKENS}/part-00002.parquet", "frames/dataset.json"):
            (made.damaged / name).write_bytes(b"x")
        yield made


def make(made: Made, out: Path, seed: int = 0, *, overwrite: bool = False) -> None:
    recipe = tiny_recipe(made.raw, out, made.tokenizer, "sources_per_part=2", f"seed={seed}")
    tokenize(recipe, overwrite=overwrite, progress="off")


JOBS: dict[str, Callable[[Made, Path], object]] = {
    "repair": lambda made, place: repair(place, made.raw, progress="off"),
    "tokenize --overwrite": lambda made, place: make(made, place, seed=7, overwrite=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", JOBS)
def test_killed_and_run_again(command: str, made: Made, tmp_path: Path) -> None:
    def job(place: Path) -> None:
        JOBS[command](made, place)

    calls = calls_of(job, copy_of(made.damaged, tmp_path / "undisturbed"))
    undisturbed = digests(tmp_path / "undisturbed")
    assert command != "repair" or undisturbed == digests(made.dataset)
    for point in [point for point, name in enumerate(calls) if name in MOMENTS]:
        place = copy_of(made.damaged, tmp_path / "place")
        killed_at(job, place, point)
        job(place)
        assert digests(place) == undisturbed and not left_over(place), f"killed at {calls[point]}, point {point}"


@pytest.mark.parametrize("command", ["repair", "tokenize"])
def test_locks_of_killed_ones_go_although_nothing_is_to_do(command: str, made: Made, tmp_path: Path) -> None:
    place = copy_of(made.dataset, tmp_path / "place")
    for folder in (place / "frames", place / TOKENS):
        (folder / READERS).write_text("{}\n")
    JOBS["repair"](made, place) if command == "repair" else make(made, place)
    assert digests(place) == digests(made.dataset)


@pytest.mark.parametrize("read", ["frames", TOKENS])
def test_repair_removes_nothing_that_is_read(
    read: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not the tokens whose frames are read. The refusal comes before Ray is started."""
    place = copy_of(made.damaged, tmp_path / "place")
    before = digests(place)
    with elsewhere(reading([place / read], "bevt train image")), monkeypatch.context() as patch:
        patch.setattr(repairing, "ray_session", lambda *args: pytest.fail("Ray was started"))
        with pytest.raises(
            UserError, match=rf"^{place / read}: `bevt train image` .* is reading it; wait until it ends"
        ):
            repair(place, made.raw, progress="off")
        assert {name: sha256 for name, sha256 in digests(place).items() if READERS not in name} == before
    repair(place, made.raw, progress="off")
    assert digests(place) == digests(made.dataset)
