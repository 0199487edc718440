"""`bevt extend`: new sources become new parts; nothing of the old parts changes."""

import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.storage.one_writer import hold
from pipeline.bench.store import bench_store
from pipeline.check.repair import repair
from pipeline.check.verify import verify
from pipeline.growth.extend import extend
from pipeline.job.run import tokenize
from pipeline.look.sample import inspect_dataset
from schemas.errors import UserError
from tests.support.faults import calls_of, copy_of, killed_at
from tests.support.inline_jobs import without_ray
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_video
from tests.support.processes import elsewhere
from tests.support.tiny_jobs import digests, save_tiny_tokenizer, tiny_recipe

SETS = ("a", "b")
MOMENTS = ("rename", "replace", "link")  # calls that commit something


@dataclass(frozen=True)
class Made:
    """Raw videos, old and new, and the dataset of the old ones before and after an extension by the new ones."""

    old_root: Path
    root: Path
    tokenizer: Path
    before: Path
    after: Path
    summary: dict[str, object]

    def add_set(self, name: str, out: Path) -> None:
        recipe = tiny_recipe(
            self.old_root, out, self.tokenizer, "sources_per_part=2", f"token_set={name}", "dataset=folder"
        )
        tokenize(recipe, progress="off")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    place = tmp_path_factory.mktemp("made")
    tokenizer = save_tiny_tokenizer(place / "tokenizer")
    for i in range(5):
        write_video(place / f"old/{'xy'[i % 2]}/{i}.mp4", moving_frames(4, 64, 64, seed=i))
    made = Made(place / "old", place / "all", tokenizer, place / "before", place / "after", {})
    with without_ray():
        for name in SETS:
            made.add_set(name, made.before)
        shutil.copytree(made.old_root, made.root)
        for i in range(5, 8):
            write_video(made.root / f"{'yaz'[i - 5]}/{i}.mp4", moving_frames(4, 64, 64, seed=i))
        shutil.copy(made.root / "x/0.mp4", made.root / "x/copy.mp4")
        (made.root / "x/broken.mp4").write_bytes(b"no video")
        copy_of(made.before, made.after)
        made.summary.update(extend(made.after, made.root, progress="off"))
        yield made


def test_old_parts_are_unchanged_and_new_ones_follow_them(made: Made) -> None:
    before, after = digests(made.before), digests(made.after)
    replaced = {name for name in before if after.get(name) != before[name]}
    assert all(name.endswith(("dataset.json", "samples.arrow", "samples.json", "report.html")) for name in replaced)
    added = {name.split("/")[1] for name in after.keys() - before.keys() if name.startswith("frames/")}
    assert added == {"plan-0001.json", "sources-0001.parquet", "part-00003", "part-00004", "part-00005"}
    store, old = FrameStore(made.after / "frames"), FrameStore(made.before / "frames")
    assert store.samples.slice(0, 5).equals(old.samples)
    assert store.manifest.classes == ("x", "y", "a", "z")
    by_name = dict(zip(store.samples["sample_id"].to_pylist(), store.samples["label"].to_pylist(), strict=True))
    assert [by_name[name] for name in ("x/0.mp4", "y/5.mp4", "a/6.mp4", "z/7.mp4")] == [0, 1, 2, 3]
    assert store.manifest.num_sources == 10 and store.manifest.rejected == {"not-media": 1}
    for name in SETS:
        tokens, old_tokens = TokenSet(made.after / "tokens" / name), TokenSet(made.before / "tokens" / name)
        assert tokens.manifest.num_parts == 6
        assert [generation.manifest_digest for generation in tokens.manifest.generations] == [old_tokens.digest]
    assert [generation.manifest_digest for generation in store.manifest.generations] == [old.digest]


def test_summary_names_what_was_known_and_the_same_content(made: Made, json_keys: CheckKeys) -> None:
    json_keys("extend", made.summary)
    facts = {key: made.summary[key] for key in ("known", "new", "parts_before", "parts", "sources", "rejected")}
    assert facts == {"known": 5, "new": 5, "parts_before": 3, "parts": 6, "sources": 10, "rejected": 1}
    assert made.summary["same_content"] == [{"source": "x/copy.mp4", "same_as": "x/0.mp4"}]
    assert made.summary["token_sets"] == list(SETS)


def test_verify_inspect_and_bench(made: Made, tmp_path: Path) -> None:
    report = verify(made.after, deep=True)
    assert report["ok"] and report["token_agreement"] == 1.0 and report["parts"] == 6, report["problems"]
    assert inspect_dataset(made.after, sample_id="z/7.mp4")["sample"]["class"] == "z"
    assert bench_store(made.after)["samples"] == 9


def test_extended_twice_and_again_without_new_files(made: Made, tmp_path: Path) -> None:
    place = copy_of(made.after, tmp_path / "place")
    again = digests(place)
    assert extend(place, made.root, progress="off")["new"] == 0
    assert digests(place) == again
    write_video(tmp_path / "more/a/9.mp4", moving_frames(4, 64, 64, seed=9))
    assert extend(place, tmp_path / "more", progress="off")["new"] == 1
    store, first = FrameStore(place / "frames"), FrameStore(made.after / "frames")
    digest = FrameStore(made.before / "frames").digest
    assert [generation.manifest_digest for generation in store.manifest.generations] == [digest, first.digest]
    assert verify(place)["ok"]


def test_another_token_set_and_a_repair_of_an_extended_dataset(made: Made, tmp_path: Path) -> None:
    place = copy_of(made.after, tmp_path / "place")
    made.add_set("c", place)
    assert TokenSet(place / "tokens/c").manifest.num_parts == 6
    whole = digests(place)
    for name in ("frames/part-00001/index.parquet", "frames/part-00004/index.parquet", "tokens/b/part-00005.parquet"):
        (place / name).write_bytes(b"x")
    (place / "frames/samples.arrow").unlink()
    repair(place, made.root, progress="off")
    assert digests(place) == whole


@pytest.mark.parametrize("name", ["plan-0001.json", "sources-0001.parquet"])
@pytest.mark.parametrize("fault", ["lost", "damaged"])
def test_a_lost_plan_or_list_of_an_extension_costs_no_part(made: Made, tmp_path: Path, name: str, fault: str) -> None:
    place = copy_of(made.after, tmp_path / "place")
    if fault == "lost":
        (place / "frames" / name).unlink()
    else:
        (place / "frames" / name).write_bytes(b"x")
    damaged = digests(place)
    problems = verify(place)["problems"]
    assert [problem for problem in problems if name in problem["path"] + problem["problem"]]
    with pytest.raises(UserError, match=r"nothing was changed: restore it from a copy"):
        repair(place, made.root, progress="off")
    if (name, fault) == ("plan-0001.json", "damaged"):
        with pytest.raises(UserError, match=r"plan-0001\.json\b.* cannot be made again: restore it from a copy"):
            extend(place, made.root, progress="off")
    assert digests(place) == damaged


def test_sources_that_did_not_exist_are_tried_again(made: Made, tmp_path: Path) -> None:
    """Once they exist, and only once; while they do not, they are known."""
    root = tmp_path / "root"
    shutil.copytree(made.old_root, root)
    (root / "list.txt").write_text("x/0.mp4 0\ny/1.mp4 1\nx/late.mp4 0\nx/never.mp4 0\n")
    recipe = tiny_recipe(root, tmp_path / "out", made.tokenizer, "sources_per_part=2", "dataset=list")
    tokenize(recipe, list_file=root / "list.txt", frames_only=True, progress="off")
    out, options = tmp_path / "out", {"list_file": root / "list.txt", "progress": "off"}
    assert extend(out, root, **options)["new"] == 0
    shutil.copy(root / "x/2.mp4", root / "x/late.mp4")
    summary = extend(out, root, **options)
    assert (summary["new"], summary["known"], summary["samples"], summary["rejected"]) == (1, 3, 3, 2)
    assert extend(out, root, **options)["new"] == 0
    assert verify(out)["ok"]


def test_a_token_set_behind_its_frames_is_refused(made: Made, tmp_path: Path) -> None:
    place = copy_of(made.after, tmp_path / "place")
    shutil.copy(made.before / "tokens/b/dataset.json", place / "tokens/b/dataset.json")
    with pytest.raises(UserError, match=r"tokens of 3 parts, but .* extended to 6; run the same `bevt extend` command"):
        TokenSet(place / "tokens/b")
    extend(place, made.root, progress="off")
    assert digests(place) == digests(made.after)


def test_tokenize_names_extend_for_new_files(made: Made, tmp_path: Path) -> None:
    place = copy_of(made.before, tmp_path / "place")
    recipe = tiny_recipe(made.root, place, made.tokenizer, "sources_per_part=2", "token_set=a", "dataset=folder")
    with pytest.raises(UserError, match=r"To add files to it, use `bevt extend`"):
        tokenize(recipe, progress="off")


def test_an_unfinished_dataset_is_not_extended(made: Made, tmp_path: Path) -> None:
    place = copy_of(made.before, tmp_path / "place")
    (place / "frames/dataset.json").unlink()
    with pytest.raises(UserError, match=r"not finished; run the same `bevt tokenize`"):
        extend(place, made.root, progress="off")


def test_an_unfinished_extension_needs_its_own_root(made: Made, tmp_path: Path) -> None:
    place = copy_of(made.after, tmp_path / "place")
    for name in ("frames", *(f"tokens/{name}" for name in SETS)):
        shutil.copy(made.before / name / "dataset.json", place / name / "dataset.json")
    shutil.rmtree(place / "frames/part-00004")
    write_video(tmp_path / "more/a/9.mp4", moving_frames(4, 64, 64, seed=9))
    with pytest.raises(UserError, match=r"none of the 5 sources of an extension that is not finished"):
        extend(place, tmp_path / "more", progress="off")
    extend(place, made.root, progress="off")
    assert digests(place) == digests(made.after)


def test_options_that_the_dataset_cannot_have_change_nothing(made: Made, tmp_path: Path) -> None:
    """A list of label numbers among them, which count another list's classes."""
    place = copy_of(made.before, tmp_path / "place")
    (tmp_path / "list.txt").write_text("y/5.mp4 0\n")
    numbered = {"dataset": "list", "list_file": tmp_path / "list.txt"}
    for options, error in (
        ({"weight": 3.0}, "`weight` 3: .* does not mix data sets, so its samples have no weights"),
        ({"prefix": "a"}, "its sample ids have no prefix"),
        (numbered, "its labels are numbers without class names, but the dataset has 2 classes such as 'x'"),
    ):
        with pytest.raises(UserError, match=error):
            extend(place, made.root, progress="off", **options)
    assert digests(place) == digests(made.before)
    (tmp_path / "classes.txt").write_text("y\nx\n")
    extend(place, made.root, progress="off", **numbered)
    store = FrameStore(place / "frames")
    assert store.manifest.classes == ("x", "y") and store.samples["label"].to_pylist()[-1] == 1


def test_one_writer(made: Made, tmp_path: Path) -> None:
    place = copy_of(made.before, tmp_path / "place")
    with elsewhere(hold(place, "bevt tokenize")), pytest.raises(UserError, match="`bevt tokenize`"):
        extend(place, made.root, progress="off")


@pytest.mark.slow
def test_killed_and_run_again(made: Made, tmp_path: Path) -> None:
    def job(place: Path) -> None:
        extend(place, made.root, progress="off")

    calls = calls_of(job, copy_of(made.before, tmp_path / "undisturbed"))
    assert digests(tmp_path / "undisturbed") == digests(made.after)
    for point in [point for point, name in enumerate(calls) if name in MOMENTS]:
        place = copy_of(made.before, tmp_path / "place")
        killed_at(job, place, point)
        old = {name: sha for name, sha in digests(made.before).items() if "/part-" in name}
        assert old.items() <= digests(place).items(), point
        job(place)
        assert digests(place) == digests(made.after), point
        shutil.rmtree(place)


def test_new_files_in_an_archive(made: Made, tmp_path: Path) -> None:
    """Known ones are recognised by their names in it; the old dataset has its files outside of archives."""
    place, root = copy_of(made.before, tmp_path / "place"), tmp_path / "root"
    root.mkdir()
    for folder in made.root.iterdir():
        with tarfile.open(root / f"{folder.name}.tar", "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
    summary = extend(place, root, progress="off")
    assert (summary["known"], summary["new"]) == (5, 5)
    assert (place / "frames/archives-00003.parquet").is_file() and not (place / "frames/archives.parquet").exists()
    assert FrameStore(place / "frames").manifest.parts_digest == FrameStore(made.after / "frames").manifest.parts_digest
    assert verify(place)["ok"]
    whole = digests(place)
    (place / "frames/part-00004/index.parquet").write_bytes(b"x")
    repair(place, root, progress="off")
    assert digests(place) == whole
