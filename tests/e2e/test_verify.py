"""`bevt verify` finds a flipped byte, a missing part, a swapped file, a stale token set; `bevt repair` repairs them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bevt_core.dataset.frame_store import read_frame_commit
from bevt_core.dataset.source_list import read_plan
from bevt_core.dataset.token_set import (
    PartView,
    TokenSet,
    read_token_plan,
    write_token_manifest,
    write_token_part,
    write_token_plan,
)
from bevt_core.tokenizers import load_tokenizer
from pipeline.check.repair import repair
from pipeline.check.repair_jobs import read_jobs
from pipeline.check.verify import verify
from pipeline.job.run import tokenize
from schemas.errors import UserError
from schemas.tokens import TOKENIZER_PLACE, TokenPlan
from tests.support.builders import make_token_set
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import digests, save_tiny_tokenizer, tiny_recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts with random tokens: enough for every check except that of the tokens themselves."""
    root = tmp_path_factory.mktemp("whole")
    make_token_set(root)
    return root


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    third = one.with_name("third")
    one.rename(third)
    other.rename(one)
    third.rename(other)


def edit_json(path: Path, key: str, value: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def tokens(dataset: Path) -> Path:
    """The folder of the dataset's only token set."""
    (folder,) = (dataset / "tokens").iterdir()
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte in the frames": (lambda d: flip_byte(d / "frames/part-00001/frames.zarr/jpeg/c/0"), "part-00001"),
    "a flipped byte in the index": (lambda d: flip_byte(d / "frames/part-00000/index.parquet"), "part-00000"),
    "a flipped byte in the tokens": (
        lambda d: flip_byte(tokens(d) / "part-00002.parquet"),
        "part-00002.parquet",
    ),
    "a missing frame part": (lambda d: shutil.rmtree(d / "frames/part-00002"), "part-00002"),
    "a missing file of a part": (lambda d: (d / "frames/part-00002/rejected.parquet").unlink(), "part-00002"),
    "a missing token part": (lambda d: (tokens(d) / "part-00000.parquet").unlink(), "part-00000.parquet"),
    "a stray file": (lambda d: (d / "frames/part-00000/extra").write_text("x"), "part-00000"),
    "swapped frame parts": (lambda d: swap(d / "frames/part-00000", d / "frames/part-00001"), "part-00000"),
    "swapped token files": (
        lambda d: swap(tokens(d) / "part-00000.parquet", tokens(d) / "part-00001.parquet"),
        "part-00000.parquet",
    ),
    "another list of sources": (
        lambda d: shutil.copy(d / "frames/part-00000/rejected.parquet", d / "frames/sources.parquet"),
        "sources.parquet",
    ),
    "an unfinished store": (lambda d: (d / "frames/dataset.json").unlink(), "dataset.json"),
    "other counts": (lambda d: edit_json(d / "frames/dataset.json", "num_samples", 23), "dataset.json"),
    "a stale token set": (lambda d: edit_json(tokens(d) / "dataset.json", "frames_digest", "0"), "dataset.json"),
    "a commit that is no JSON": (lambda d: (d / "frames/part-00001/commit.json").write_text("{"), "part-00001"),
    "a commit that is no text": (lambda d: (d / "frames/part-00001/commit.json").write_bytes(b"\xff"), "part-00001"),
    "a flipped byte in a token commit": (lambda d: flip_byte(tokens(d) / "part-00000.json"), "part-00000"),
    "a token commit that is no JSON": (lambda d: truncate(tokens(d) / "part-00001.json"), "part-00001.json"),
    "both commits of a part": (
        lambda d: (truncate(d / "frames/part-00001/commit.json"), truncate(tokens(d) / "part-00001.json")),
        "part-00001.json",
    ),
    "a frame manifest that is no JSON": (lambda d: truncate(d / "frames/dataset.json"), "frames/dataset.json"),
    "a token manifest that is no JSON": (lambda d: truncate(tokens(d) / "dataset.json"), "dataset.json"),
    "other frames in a manifest": (lambda d: edit_json(tokens(d) / "dataset.json", "num_frames", 1), "dataset.json"),
    "a token plan that is no JSON": (lambda d: truncate(tokens(d) / "plan.json"), "plan.json"),
    "another token plan": (lambda d: edit_json(tokens(d) / "plan.json", "frames_plan", "0"), "plan.json"),
    "a missing token plan": (lambda d: (tokens(d) / "plan.json").unlink(), "plan.json"),
    "a damaged list of sources": (lambda d: truncate(d / "frames/sources.parquet"), "sources.parquet"),
    "a missing list of sources": (lambda d: (d / "frames/sources.parquet").unlink(), "sources.parquet"),
    "a stray frame part": (
        lambda d: shutil.copytree(d / "frames/part-00000", d / "frames/part-00007"),
        "frames/part-00007",
    ),
    "a stray token part": (
        lambda d: shutil.copy(tokens(d) / "part-00000.parquet", tokens(d) / "part-00007.parquet"),
        "part-00007.parquet",
    ),
}
PLAN_DAMAGE: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda d: truncate(d / "frames/plan.json"),
    "another plan": lambda d: edit_json(d / "frames/plan.json", "seed", 7),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_named(whole: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    inflict, place = DAMAGE[damage]
    inflict(tmp_path / "copy")
    report = verify(tmp_path / "copy", sample=0)
    assert not report["ok"]
    assert any(place in problem["path"] for problem in report["problems"])
    assert all(problem["mend"] for problem in report["problems"])


@pytest.mark.parametrize("damage", PLAN_DAMAGE)
def test_a_damaged_plan_is_the_problem_and_not_every_part(whole: Path, tmp_path: Path, damage: str) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    PLAN_DAMAGE[damage](copy)
    before = digests(copy)
    report = verify(copy, sample=0)
    assert [problem["path"] for problem in report["problems"]] == [str(copy / "frames/plan.json")]
    with pytest.raises(UserError, match=r"frames/plan.json: .*nothing was changed: remove it and run the same"):
        repair(copy, tmp_path)
    assert digests(copy) == before


def test_a_whole_dataset_has_no_problems(whole: Path) -> None:
    report = verify(whole, sample=0)
    assert report["problems"] == []
    assert (report["ok"], report["sources"], report["indexed"], report["rejected"]) == (True, 24, 24, 0)


def test_wrong_tokens_are_found(whole: Path, tmp_path: Path, tiny_tokenizer: Path) -> None:
    """A token set whose files match their commits, but whose tokens do not match its frames."""
    identity = load_tokenizer(tiny_tokenizer).identity()
    copy = tmp_path / "copy"
    make_token_set(copy, vocab_size=identity.vocab_size, grid=identity.grid[0])
    with pytest.raises(UserError, match="`tokenizer`"):
        verify(copy, sample=4, tokenizer=str(tiny_tokenizer))


def test_not_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frames/ in it"):
        verify(tmp_path)


def test_the_format_needs_nothing_but_pyarrow(whole: Path) -> None:
    table = pq.read_table(whole / "tokens/test-v2/part-00000.parquet")
    tokens = np.array(table["tokens"][0].as_py())
    assert tokens.shape == (10, 16)
    np.testing.assert_array_equal(tokens, TokenSet(whole / "tokens/test-v2").read_view(0, 0).tokens[0].reshape(10, 16))


# ---- repair ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos, a stub, and a list of five of the videos, the stub and a missing file."""
    root = tmp_path_factory.mktemp("raw")
    for i in range(6):
        write_video(root / f"{i}.mp4", moving_frames(4 + i, seed=i))
    (root / "stub.mp4").write_bytes(b"")
    names = ["0", "1", "gone", "2", "stub", "3", "4"]
    (root / "list.txt").write_text("".join(f"{name}.mp4 {i % 2}\n" for i, name in enumerate(names)))
    return root


@pytest.fixture(scope="module")
def listed(raw: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts, made from a list with the tokenizer that the checks use."""
    out = tmp_path_factory.mktemp("listed")
    recipe = tiny_recipe(raw, out, tiny_tokenizer, "dataset=list", "sources_per_part=3")
    with without_ray():
        summary = tokenize(recipe, list_file=raw / "list.txt", progress="off")
    assert (summary["indexed"], summary["rejected_by_reason"]) == (5, {"empty-file": 1, "missing": 1})
    return out


def list_for(damage: str, raw: Path) -> Path | None:
    return raw / "list.txt" if "list of sources" in damage else None


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("damage", DAMAGE)
def test_repair_gives_the_same_bytes_again(listed: Path, raw: Path, tmp_path: Path, damage: str) -> None:
    copy = Path(shutil.copytree(listed, tmp_path / "copy"))
    DAMAGE[damage][0](copy)
    repair(copy, raw, list_file=list_for(damage, raw), progress="off")
    assert digests(copy) == digests(listed)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_repair_fixes_many_kinds_of_damage_at_once(
    listed: Path, raw: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(listed, tmp_path / "copy"))
    together = [
        "a commit that is no text",
        "a frame manifest that is no JSON",
        "a token manifest that is no JSON",
        "a damaged list of sources",
        "a stray frame part",
    ]
    for damage in together:
        DAMAGE[damage][0](copy)
    truncate(tokens(copy) / TOKENIZER_PLACE)
    with pytest.raises(UserError, match=r"sources.parquet is damaged, and nothing was changed"):
        repair(copy, raw, progress="off")
    summary = repair(copy, raw, list_file=raw / "list.txt", tokenizer=str(tiny_tokenizer), progress="off")
    assert (summary["indexed"], summary["rejected"], summary["parts"]) == (5, 2, 3)
    assert summary["removed"][0] == "frames/part-00001"
    assert digests(copy) == digests(listed)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_derived_records_are_repaired_without_the_raw_files(listed: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(listed, tmp_path / "copy"))
    for path in (tokens(copy) / "plan.json", tokens(copy) / TOKENIZER_PLACE, copy / "frames/dataset.json"):
        truncate(path)
    assert len(verify(copy)["problems"]) == 2  # the tokenizer's path is in no digest
    repair(copy, tmp_path / "nothing", tokenizer=str(tiny_tokenizer), progress="off")
    assert digests(copy) == digests(listed)


def make_tokens_anew(dataset: Path, plan: TokenPlan, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Rewrite the token set with other tokens or another plan; its files are consistent."""
    token_set = TokenSet(tokens(dataset))
    frames_plan = read_plan(dataset / "frames")
    assert frames_plan is not None
    write_token_plan(token_set.path, plan)
    commits = []
    for part in range(token_set.manifest.num_parts):
        frames = read_frame_commit(dataset / "frames", part, frames_plan.digest())
        assert frames is not None
        stored = [token_set.read_view(part, view) for view in range(plan.views.num_views)]
        rows = [PartView(views=view.views, tokens=[change(t) for t in view.tokens]) for view in stored]
        ids = token_set.frames.read_index(part)["sample_id"].to_pylist()
        commits.append(write_token_part(token_set.path, frames, ids, rows, plan))
    write_token_manifest(token_set.path, plan, token_set.frames.manifest, commits)


@pytest.fixture
def wrong(listed: Path, tmp_path: Path) -> Path:
    """Files match their commits, but all tokens are zero: only tokenizing again detects it."""
    copy = Path(shutil.copytree(listed, tmp_path / "wrong"))
    plan = read_token_plan(tokens(copy))
    assert plan is not None
    make_tokens_anew(copy, plan, np.zeros_like)
    return copy


def test_verify_names_the_parts_whose_tokens_are_wrong(wrong: Path) -> None:
    assert verify(wrong, sample=0)["ok"]
    problems = verify(wrong, deep=True)["problems"]
    assert [Path(problem["path"]).name for problem in problems] == [f"part-0000{part}.parquet" for part in range(3)]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_repair_makes_wrong_tokens_again(listed: Path, wrong: Path, raw: Path) -> None:
    repair(wrong, raw, progress="off")
    assert digests(wrong) == digests(listed)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_nothing_is_removed_that_cannot_be_made_again(
    listed: Path, raw: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(listed, tmp_path / "copy"))
    plan = read_token_plan(tokens(copy))
    assert plan is not None
    elsewhere = plan.model_copy(update={"tokenizer": plan.tokenizer.model_copy(update={"device_kind": "NVIDIA H200"})})
    make_tokens_anew(copy, elsewhere, lambda t: t)
    for damage in ("a flipped byte in the frames", "a flipped byte in the tokens"):
        DAMAGE[damage][0](copy)
    before = digests(copy)
    (tmp_path / "half").mkdir()
    shutil.copy(raw / "0.mp4", tmp_path / "half")
    for root, message in (
        (tmp_path / "nowhere", "no such folder; nothing was changed"),
        (tmp_path / "half", r"sources to be read again are not in it, such as .*nothing was changed"),
        (raw, r"made on 'NVIDIA H200', this machine has 'cpu'; nothing was changed"),
    ):
        with pytest.raises(UserError, match=message):
            repair(copy, root, progress="off")
        assert digests(copy) == before


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_other_files_under_the_old_names_are_not_taken(listed: Path, raw: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(listed, tmp_path / "copy"))
    other = Path(shutil.copytree(raw, tmp_path / "other"))
    for i in range(5):
        shutil.copy(raw / "5.mp4", other / f"{i}.mp4")
    DAMAGE["a flipped byte in the frames"][0](copy)
    with pytest.raises(UserError, match=r"do not reproduce the dataset's frames, so parts 1 are left out"):
        repair(copy, other, progress="off")
    assert not (copy / "frames/part-00001").exists()
    repair(copy, raw, progress="off")
    assert digests(copy) == digests(listed)


def test_repair_looks_for_the_tokenizer_first(listed: Path, raw: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(listed, tmp_path / "copy"))
    edit_json(tokens(copy) / TOKENIZER_PLACE, "folder", str(tmp_path))
    flip_byte(tokens(copy) / "part-00000.parquet")
    before = digests(copy)
    other = save_tiny_tokenizer(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="give its folder as `tokenizer`"):
        repair(copy, raw, tokenizer=str(other))
    assert digests(copy) == before


def test_repair_takes_over_how_a_set_was_made(listed: Path, raw: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(listed, tmp_path / "copy"))
    plan = read_token_plan(tokens(copy))
    assert plan is not None
    identity = plan.tokenizer.model_copy(update={"dtype": "bfloat16", "compiled": True})
    make_tokens_anew(copy, plan.model_copy(update={"tokenizer": identity}), lambda t: t)
    jobs = read_jobs(copy, raw, None, None, allow_outside=False)
    ((_, recipe),) = jobs.token_sets.values()
    assert (recipe.tokenizer_dtype, recipe.tokenizer_compiled, recipe.views) == ("bfloat16", True, plan.views)
    assert sorted(item.source for item in jobs.items) == sorted(
        line.split()[0] for line in (raw / "list.txt").read_text().splitlines()
    )
