"""Every command that writes a directory is refused beside another one, and removes nothing that somebody reads."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bevt_core.dataset.source_list import read_plan, read_sources
from bevt_core.storage.locks.writers import hold_file
from bevt_core.storage.one_writer import hold, owner, reading, removing
from pipeline.check.repair import repair
from pipeline.export.run import export_data
from pipeline.job.plan import find_token_plan, write_or_check_plan
from pipeline.job.run import tokenize
from pipeline.synthetic.camera_motion import make_camera_motion_set
from schemas.errors import UserError
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.pretraining import for_4x4_tokens
from tests.support.processes import elsewhere, refusal
from tests.support.tiny_jobs import save_tiny_tokenizer, tiny_recipe
from trainer.clips.sources import StoreClips
from trainer.demo.run import demo
from trainer.finetune.stage import finetune
from trainer.pretrain.stage import pretrain
from trainer.probes.probe import probe
from trainer.recipes import TRAINER_RECIPES
from trainer.setup import session
from trainer.show import paper_report
from trainer.testing.temporal import analyse_temporal
from trainer.tokenizer.stage import train_tokenizer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames and tokens of four images."""
    root = tmp_path_factory.mktemp("dataset")
    make_token_set(root, num_samples=4, sources_per_part=2, kind="image")
    return root


def recipe_of(stage: str, dataset: Path) -> Any:
    frames, tokens = dataset / "frames", dataset / "tokens" / "test-v2"
    data = {"image": f"streams.image.tokens={tokens}", "tokenizer": f'frames=["{frames}"]', "finetune": "title=x"}
    small = ["global_batch=2"]
    if stage == "image":
        small = [*for_4x4_tokens("image"), "model.vocab_size=64", "streams.image.global_batch=2"]
    return load_recipe(f"nano_{stage}", TRAINER_RECIPES, [data[stage], *small, "loop.num_workers=0"])


def start_training(stage: str, dataset: Path, out: Path, **options: Any) -> None:
    if stage == "finetune":
        clips = StoreClips(dataset / "frames")
        finetune(recipe_of(stage, dataset), clips, clips, out, **options)
    else:
        run = {"image": pretrain, "tokenizer": train_tokenizer}[stage]
        run(recipe_of(stage, dataset), out, **options)  # type: ignore[operator]


TRAININGS = ["image", "finetune", "tokenizer"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("stage", TRAININGS)
def test_a_run_that_is_going_on_is_neither_resumed_nor_begun(
    stage: str, resume: bool, dataset: Path, tmp_path: Path
) -> None:
    with elsewhere(hold(tmp_path, "bevt train joint")):
        with pytest.raises(
            UserError, match=rf"^{tmp_path}: `bevt train joint` \(process \d+ on .*\) is writing it; wait"
        ):
            start_training(stage, dataset, tmp_path, resume=resume, command="mine")
        assert [path.name for path in tmp_path.iterdir()] == [".writer"]


class StartedError(Exception):
    pass


@pytest.mark.parametrize("stage", TRAININGS)
def test_a_run_holds_its_directory_and_what_it_reads(
    stage: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*args: object) -> None:
        found = owner(tmp_path / "run")
        assert found is not None and found.command == "mine"
        stores = [dataset / "frames", *([dataset / "tokens" / "test-v2"] if stage == "image" else [])]
        for store in stores:
            assert refusal(removing([store], "bevt repair")).startswith(f"{store}: `mine`")
        raise StartedError

    monkeypatch.setattr(session, "make_plan", look)
    with pytest.raises(StartedError):
        start_training(stage, dataset, tmp_path / "run", command="mine")
    assert not (tmp_path / "run").exists() and refusal(removing([dataset / "frames"], "bevt repair")) == ""


def nothing(*args: object) -> list[Any]:
    return []


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "probe": lambda out, data: probe(out, StoreClips(data / "frames"), StoreClips(data / "frames"), out),
    "analyse temporal": lambda out, data: analyse_temporal(out, StoreClips(data / "frames"), out),
    "report": lambda out, data: paper_report.write_report([], out),
    "demo": lambda out, data: demo(out),
    "demo-videos": lambda out, data: make_camera_motion_set(out),
    "tokenize": lambda out, data: tokenize(tiny_recipe(data, out, data)),
    "tokenize --overwrite": lambda out, data: tokenize(tiny_recipe(data, out, data), overwrite=True),
    "repair": lambda out, data: repair(out, data),
    "export-data": lambda out, data: export_data(data, out, "webdataset"),
}


@pytest.mark.parametrize("command", WRITERS)
def test_a_directory_has_one_writer(
    command: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_report, "facts_of", nothing)
    with elsewhere(hold(tmp_path, "first")):
        with pytest.raises(UserError, match=r"`first` .* is writing it; wait until it ends"):
            WRITERS[command](tmp_path, dataset)
        assert [path.name for path in tmp_path.iterdir()] == [".writer"]


def test_what_appears_whole_has_one_writer(tmp_path: Path) -> None:
    with elsewhere(hold_file(tmp_path / "new", "first")), pytest.raises(UserError, match="new: `first`"):
        save_tiny_tokenizer(tmp_path / "new")
    save_tiny_tokenizer(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


# ---- removing what is read -------------------------------------------------------------------------------------------


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".readers")


@pytest.mark.parametrize("read", ["frames", "tokens/test-v2"])
def test_overwrite_removes_no_dataset_that_is_read(read: str, dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    before = files_of(copy)
    make_token_set(tmp_path / "other", num_samples=2)
    other, items = plans_of(tmp_path / "other")
    with elsewhere(reading([copy / read], "bevt train image")):
        with pytest.raises(UserError, match=r"`bevt train image` .* is reading it; wait until it ends, or stop it"):
            write_or_check_plan(copy / "frames", other, items, overwrite=True)
        assert files_of(copy) == before
    write_or_check_plan(copy / "frames", other, items, overwrite=True)
    assert sorted(path.name for path in files_of(copy)) == ["plan.json", "sources.parquet"]
    assert not list(copy.rglob(".*"))


def plans_of(dataset: Path) -> Any:
    """The plan of a dataset's frames, and their sources."""
    return read_plan(dataset / "frames"), read_sources(dataset / "frames")


def test_overwrite_removes_no_tokens_that_are_read(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    tokenizer, (plan, _) = save_tiny_tokenizer(tmp_path / "tiny"), plans_of(copy)
    recipe, tokens = tiny_recipe(tmp_path, copy, tokenizer), copy / "tokens" / "test-v2"
    with elsewhere(reading([tokens], "bevt train image")), pytest.raises(UserError, match="`bevt train image`"):
        find_token_plan(tokens, recipe, plan, overwrite=True)
    assert (tokens / "dataset.json").is_file()
    with elsewhere(reading([copy / "frames"], "bevt finetune")):  # other tokens are none of its business
        assert find_token_plan(tokens, recipe, plan, overwrite=True) is None
    assert not tokens.exists()
