"""Tests on unseen clips: held-out clips, overlaps along the chain of runs, and where they are reported."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

import cli
from bevt_core.weights.model_files import load_weights
from schemas.frames import SourceItem
from tests.support.builders import make_token_set, smooth_frame
from tests.support.media import moving_frames, write_image, write_video
from trainer.clips.content_digest import EDGE_BYTES, content_digest
from trainer.clips.lists import (
    CLIPS,
    clip_rows,
    digests_of,
    lists_before,
    make_lists,
    read_lists,
    store_rows,
    write_lists,
)
from trainer.clips.overlap import overlap_text, overlap_with
from trainer.clips.sources import FileClips, StoreClips
from trainer.distributed.world import World, join_world
from trainer.metrics.log import read_metrics
from trainer.show.model_card import model_card
from trainer.show.run_facts import FINE_TUNING, UNLABELLED, facts_of

TINY = ["encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]", "loop.num_workers=0"]
TINY += ["global_batch=4", "sampling.frames=4", "encoder.window=[2,4,4]", "loop.epochs=1", "init=null", "val_share=0.3"]
RUN = Path("run")


@pytest.fixture
def world() -> Any:
    with join_world() as world:
        yield world


def bevt(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def done(*arguments: object) -> tuple[dict[str, Any], str]:
    result = bevt(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def refused(*arguments: object) -> str:
    result = bevt(*arguments)
    assert result.exit_code != 0
    return f"{result.output} {result.exception}"


def finetune(root: Path, out: Path, *settings: str) -> tuple[dict[str, Any], str]:
    chosen = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return done("finetune", "folder", "--root", root, "--out", out, *chosen)


def pictures(root: Path, first: int, count: int = 3) -> Path:
    """A folder of pictures of the classes a and b, which differ by their number."""
    for label in "ab":
        for i in range(first, first + count):
            write_image(root / label / f"{i}.png", smooth_frame((label, i)))
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clips`, six pictures of two classes, and `run`, which trained on four of them and held out two."""
    place = tmp_path_factory.mktemp("place")
    summary, _ = finetune(pictures(place / "clips", 0), place / "run")
    assert (summary["num_train"], summary["num_val"]) == (4, 2)
    return place


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    long.write_bytes(os.urandom(3 * EDGE_BYTES))
    found = content_digest(long)
    assert found is not None and content_digest(tmp_path / "gone.mp4") is None
    (tmp_path / "moved").mkdir()
    assert content_digest(Path(shutil.copy(long, tmp_path / "moved" / "other.mp4"))) == found
    for at in (0, 3 * EDGE_BYTES - 1):
        changed = bytearray(long.read_bytes())
        changed[at] ^= 1
        (tmp_path / "changed.mp4").write_bytes(changed)
        assert content_digest(tmp_path / "changed.mp4") not in (found, None)
    frames = tmp_path / "frames"
    for i in range(3):
        write_image(frames / f"{i}.jpg", smooth_frame(i))
    folder = content_digest(frames)
    assert content_digest(Path(shutil.copytree(frames, tmp_path / "copy"))) == folder
    (tmp_path / "copy" / "2.jpg").unlink()
    assert content_digest(tmp_path / "copy") not in (folder, None)


def test_names_are_examples_if_there_are_more() -> None:
    few = {"count": 2, "share": 0.5, "by_run": {"runs/a": 2}, "first": ["a", "b"]}
    assert overlap_text(few, "tested") == "2 of 4 tested clips (by runs/a; a, b)"
    assert overlap_text(few | {"count": 3, "share": 0.75}, "tested") == "3 of 4 tested clips (by runs/a; such as a, b)"


def test_the_split_val_is_what_a_run_held_out(place: Path, tmp_path: Path) -> None:
    rows = pq.read_table(place / "run" / CLIPS).to_pylist()
    held_out = {os.fsdecode(row["source"]) for row in rows if row["use"] == "val"}
    assert len(rows) == 6 and len(held_out) == 2
    result, said = done(
        "evaluate", place / "run", "--split", "val", "--clips", 1, "--crops", 1, "--out", tmp_path / "e"
    )
    assert set(pq.read_table(tmp_path / "e" / "scores.parquet")["video"].to_pylist()) == held_out
    assert result["overlap_with_training"] == {"count": 0, "share": 0.0} and "warning" not in said
    assert result["top1"] == read_metrics(place / "run")[-1]["val_top1"]
    moved = Path(shutil.copytree(place / "clips", tmp_path / "moved"))
    assert done("evaluate", place / "run", "--split", "val", "--root", moved)[0]["num_videos"] == 2
    assert "give --root, or neither" in refused("evaluate", place / "run", "--split", "val", "--frames", moved)
    changed = moved / sorted(held_out)[0]
    changed.write_bytes(changed.read_bytes() + b"\0")
    said = refused("evaluate", place / "run", "--split", "val", "--root", moved)
    assert f"1 of the 2 clips that {place / 'run'} held out are missing" in said and changed.name in said


def test_accuracy_on_training_clips_is_no_test(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also under another root and other names."""
    renamed = tmp_path / "all"
    for path in (place / "clips").rglob("*.png"):
        (renamed / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, renamed / path.parent.name / f"copy-{path.name}")
    result, said = done("evaluate", place / "run", "--root", renamed, "--out", tmp_path / "seen")
    overlap = result["overlap_with_training"]
    assert (overlap["count"], overlap["by_run"]) == (4, {str(place / "run"): 4})
    assert overlap["share"] == pytest.approx(2 / 3)
    assert "warning: 4 of 6 tested clips" in said and "not a test result" in said
    assert json.loads((tmp_path / "seen" / "evaluation.json").read_text())["overlap_with_training"] == overlap
    _, again = done("evaluate", place / "run", "--root", renamed, "--out", tmp_path / "seen")
    assert "stored result of" in again and "warning: 4 of 6 tested clips" in again
    (facts,) = facts_of([place / "run", tmp_path])
    assert not facts.evaluated and facts.tested == "validation during training"
    assert f"{tmp_path / 'seen'} is left out: 4 of its videos were trained on" in capsys.readouterr().err
    done("evaluate", place / "run", "--root", pictures(tmp_path / "fresh", 10), "--out", tmp_path / "test")
    (facts,) = facts_of([place / "run", tmp_path])
    assert facts.tested == str(tmp_path / "test") and facts.num_videos == 6
    assert facts.overlaps == {FINE_TUNING: "none", UNLABELLED: "none"}
    weights = place / "run" / "weights.safetensors"
    assert model_card(weights, load_weights(weights), [tmp_path]).count("| top-1 |") == 1


def test_clips_of_a_run_before_are_found_when_it_is_gone(place: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(place / "run", tmp_path / "first"))
    finetune(pictures(tmp_path / "more", 20), tmp_path / "second", f"init={first}")
    shutil.rmtree(first)
    result, _ = done("evaluate", tmp_path / "second", "--root", place / "clips", "--out", tmp_path / "e")
    assert result["overlap_with_training"]["by_run"] == {str(first): 4}
    assert not facts_of([tmp_path])[0].evaluated


def test_a_run_without_lists_is_tested_with_a_note(place: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(place / "run", tmp_path / "old"))
    (old / CLIPS).unlink()
    result, said = done("evaluate", old, "--root", place / "clips", "--out", tmp_path / "e")
    assert result["overlap_with_training"] == {"count": None, "share": None, "unlisted": [str(old)]}
    assert "unknown" in said and facts_of([tmp_path])[0].overlaps[FINE_TUNING] == "unknown"
    assert f"{old} has no {CLIPS}" in refused("evaluate", old, "--split", "val")
    assert lists_before(str(old)).unlisted == {"train": [str(old)], "pretrain": []}
    (old / CLIPS).write_bytes(b"PAR1")
    assert "not the list of a run's clips" in refused("evaluate", old, "--split", "val")


def test_validating_on_training_clips_is_named_and_no_accuracy(place: Path, tmp_path: Path) -> None:
    chosen = [word for setting in TINY for word in ("--set", setting)]
    arguments = ["finetune", "folder", "--root", place / "clips", "--val-root", place / "clips", *chosen]
    _, said = done(*arguments, "--out", tmp_path / "run")
    assert "warning: 6 of 6 validation clips" in said
    (facts,) = facts_of([tmp_path])
    assert facts.top1 is None and facts.overlaps == {FINE_TUNING: "6 validation clips"}
    before = (tmp_path / "run" / CLIPS).read_bytes()
    done(*arguments, "--out", tmp_path / "run", "--resume")
    assert (tmp_path / "run" / CLIPS).read_bytes() == before
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as after a kill before the first checkpoint
    arguments[3] = pictures(tmp_path / "others", 10, count=4)
    said = refused(*arguments, "--out", tmp_path / "run", "--resume")
    assert "6 of those in its clips.parquet are no longer given and 8 are new, e.g. a/0.png (train)" in said


def test_files_and_a_store_of_them_are_compared_by_their_pictures(tmp_path: Path, world: World) -> None:
    store = StoreClips(make_token_set(tmp_path / "set", num_samples=4).frames.path)
    tables = [clip_rows(store, "train", digests_of(store, world)), store_rows(store.store)]
    lists = make_lists(tables, None)
    items = tuple(SourceItem(source=f"{i:04d}.mp4", kind="video", label=0) for i in range(2))
    for item in items:
        write_video(tmp_path / "same" / item.source, [smooth_frame((item.source, i)) for i in range(10)])
        write_video(tmp_path / "other" / item.source, moving_frames(10))

    def count(data: Any, use: Any = "train") -> tuple[int, int]:
        overlap = overlap_with(lists, use, data, digests_of(data, world), RUN)
        return overlap["count"], overlap.get("unchecked", 0)

    same, other = (FileClips(tmp_path / name, items, ("no", "yes")) for name in ("same", "other"))
    assert [count(same), count(other), count(same, "pretrain")] == [(2, 0), (0, 0), (2, 0)]
    assert count(store.subset(store.items[:3])) == (3, 0)
    of_files = make_lists([clip_rows(same, "train", digests_of(same, world))], None)
    assert overlap_with(of_files, "train", store, digests_of(store, world), RUN)["first"] == ["0000.mp4", "0001.mp4"]
    grown = StoreClips(make_token_set(tmp_path / "grown", num_samples=6).frames.path)
    assert count(grown) == (4, 0)  # another store of the same videos
    shutil.rmtree(tmp_path / "set")
    assert [count(same), count(grown)] == [(0, 2), (0, 4)]


def test_every_run_of_the_chain_that_used_a_clip_is_named(tmp_path: Path, world: World) -> None:
    """Also if the stages read different stores of the same videos, or the tested clips are files."""
    image, joint = (StoreClips(make_token_set(tmp_path / name, num_samples=4).frames.path) for name in ("i", "j"))
    write_lists(tmp_path / "image", make_lists([store_rows(image.store)], None))
    write_lists(tmp_path / "joint", make_lists([store_rows(joint.store)], str(tmp_path / "image")))
    lists = make_lists([clip_rows(joint, "train", digests_of(joint, world))], str(tmp_path / "joint"))
    items = tuple(SourceItem(source=f"{i:04d}.mp4", kind="video", label=0) for i in range(2))
    for item in items:
        write_video(tmp_path / "files" / item.source, [smooth_frame((item.source, i)) for i in range(10)])
    for data in (image, joint, FileClips(tmp_path / "files", items, ("no", "yes"))):
        overlap = overlap_with(lists, "pretrain", data, digests_of(data, world), RUN)
        assert list(overlap["by_run"]) == [str(tmp_path / "image"), str(tmp_path / "joint")]
        assert set(overlap["by_run"].values()) == {overlap["count"]} == {len(data.items)}


def test_a_probe_of_a_fine_tuned_encoder_names_them_too(place: Path, tmp_path: Path) -> None:
    arguments = ["probe", place / "run", "--root", place / "clips", "--val-root", place / "clips", "--kind", "knn"]
    result, said = done(*arguments, "--clips", 1, "--crops", 1, "--out", tmp_path / "probe")
    assert result["knn"]["overlap_with_training"]["count"] == 4 and "warning: 4 of 6 tested clips" in said


def test_missing_clips_end_before_training(place: Path, tmp_path: Path) -> None:
    lists = tmp_path / "train.txt"
    lists.write_text("".join(f"gone/{i}.png {i % 2}\n" for i in range(8)))
    chosen = [word for setting in TINY for word in ("--set", setting)]
    said = refused("finetune", "list", "--root", place / "clips", "--list", lists, "--out", tmp_path / "run", *chosen)
    assert "gone/" in said and not (tmp_path / "run").exists()
    for i in range(8):
        (tmp_path / "broken" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "broken" / "ab"[i % 2] / f"{i}.png").write_bytes(b"no picture" + bytes([i]))
    said = refused("finetune", "folder", "--root", tmp_path / "broken", "--out", tmp_path / "broken-run", *chosen)
    assert "none of the 4 training clips" in said and not (tmp_path / "broken-run" / "weights.safetensors").exists()


def test_lists_go_through_a_file(place: Path) -> None:
    lists = read_lists(place / "run")
    assert lists is not None and lists.unlisted == {"train": [], "pretrain": []} and lists.val_trained_on == 0
